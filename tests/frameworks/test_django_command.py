"""`manage.py trio_wsgi` (issue 5): the project's application, found by its settings, served with the flags of ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from django.core.management.base import CommandError
from serving import Command as Running
from serving import command

from trio_wsgi.integrations.django.management.commands import trio_wsgi as trio_wsgi_command
from trio_wsgi.integrations.django.management.commands.trio_wsgi import Command, translate

MANAGE = """
import os, sys
from django.core.management import execute_from_command_line
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
execute_from_command_line(sys.argv)
"""

SETTINGS = """
SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
INSTALLED_APPS = ["trio_wsgi.integrations.django"]
"""

FILES = {
    "manage.py": MANAGE,
    "shop/__init__.py": "",
    "shop/settings.py": SETTINGS,
    "shop/bare.py": "from shop.settings import *\nWSGI_APPLICATION = None\n",
    "shop/broken.py": "from shop.settings import *\nINSTALLED_APPS.append('shop.broken_app')\n",
    "shop/wsgi.py": "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n",
    "shop/urls.py": """
import os
from django.http import HttpResponse
from django.urls import path

def show(request):
    return HttpResponse(f"{os.environ['DJANGO_SETTINGS_MODULE']} {request.get_host()}")

urlpatterns = [path("show", show)]
""",
    "static/style.css": "body { color: black }",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("django_command") / "site"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture(scope="module", params=[0, 1])
def running(request: pytest.FixtureRequest, site: Path) -> Iterator[Running]:
    """Served in one process, and by a worker that imports the project itself; started from another directory.

    In the end TERM drains it, and the exit code of manage.py is ours.
    """
    words = ("trio_wsgi", "127.0.0.1:0", "--static", f"/static={site / 'static'}", "--threads=2")
    program = (str(site / "manage.py"),)
    with command(*words, cwd=site.parent, program=program, workers=request.param) as started:
        yield started
        started.process.terminate()
        assert started.wait() == 0


def test_the_project_is_served(running: Running) -> None:
    answer = httpx.get(f"{running.url}/show")
    assert (answer.status_code, answer.text) == (200, f"shop.settings 127.0.0.1:{running.port}")


def test_static_files_need_no_application(running: Running) -> None:
    answer = httpx.get(f"{running.url}/static/style.css", headers={"Range": "bytes=0-3"})
    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (206, "body", "text/css; charset=utf-8")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--settings", "shop.bare"), 0, "application: django.core.wsgi:get_wsgi_application() is a "),
        (("80:80:80",), 1, "trio-wsgi: error: --bind: '80:80:80' has more than one colon"),
        (("--settings", "shop.broken"), 1, "No module named 'shop.broken_app'"),
    ],
)
def test_check_config(site: Path, words: tuple[str, ...], code: int, told: str) -> None:
    done = subprocess.run(
        [sys.executable, site / "manage.py", "trio_wsgi", *words, "--check-config"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=site,
    )
    assert done.returncode == code
    assert told in (done.stdout if code == 0 else done.stderr)


# -- words -------------------------------------------------------------------------------------------------------------


def translated(*words: str) -> list[str]:
    """What `manage.py trio_wsgi WORDS` gives to the command, but for the import path."""
    options = Command().create_parser("manage.py", "trio_wsgi").parse_args(words)
    return [word for word in translate(vars(options)) if not word.startswith("--pythonpath")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], []),
        (["8765"], ["--bind=8765"]),
        (["0.0.0.0:8000"], ["--bind=0.0.0.0:8000"]),
        (["[::1]:8000"], ["--bind=[::1]:8000"]),
        (["-b", "a:1", "--bind", "b:2"], ["--bind=a:1", "--bind=b:2"]),
        (["-v", "2", "--skip-checks", "--no-color", "--settings", "shop.bare"], []),
        (["--reload", "--no-sendfile", "-w4", "-e", "A=1"], ["--workers=4", "--reload", "--env=A=1", "--no-sendfile"]),
        (["-c", "a.toml", "--check-config"], ["--config=a.toml", "--check-config"]),
    ],
)
def test_words_mean_what_they_mean_elsewhere(words: list[str], expected: list[str]) -> None:
    """addrport as runserver takes it, Django's own options, and our flags."""
    assert sorted(translated(*words)) == sorted(expected)


def test_values_may_come_from_python() -> None:
    """call_command("trio_wsgi", threads=3, static=[...])."""
    assert translate({"threads": 3, "static": ["/a=b"], "pid": None, "pythonpath": None})[:2] == [
        "--threads=3",
        "--static=/a=b",
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["8000", "-b", ":81"], "Name where to listen as addrport or with --bind, not both."),
        (["--thread", "3"], "unrecognized arguments: --thread"),
        (["--pid"], "expected one argument"),
    ],
)
def test_a_mistake_is_a_command_error(words: list[str], told: str) -> None:
    with pytest.raises(CommandError, match=told):
        translated(*words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--worker-class", "gevent"], "--worker-class: there is no such flag (there is one kind of worker"),
        (["8000", "--harakiri=30"], "--harakiri: there is no such flag (write --app-timeout"),
        (["--thread", "3"], "--thread: there is no such flag (did you mean --threads?)"),
    ],
)
def test_an_unknown_flag_is_told_what_to_write_instead(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the command does: those of other servers, and the nearest of ours."""
    with pytest.raises(SystemExit) as ended:
        Command().run_from_argv(["manage.py", "trio_wsgi", *words])
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


def test_the_import_path_is_that_of_manage_py(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has put its directory first, Django's --pythonpath before it; the last of ours is put first."""
    monkeypatch.setattr(sys, "path", ["/srv/extra", "/srv/site", "/usr/lib/python"])
    assert translate({"pythonpath": "/srv/extra"}) == ["--pythonpath=/srv/site,/srv/extra"]
    monkeypatch.setattr(sys, "path", ["/srv/site", "/usr/lib/python"])
    assert translate({"pythonpath": None}) == ["--pythonpath=/srv/site"]


@pytest.mark.parametrize(
    ("dotted", "reference"),
    [("shop.wsgi.application", "shop.wsgi:application"), (None, "django.core.wsgi:get_wsgi_application()")],
)
def test_the_application_of_the_settings(dotted: str | None, reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio_wsgi_command, "settings", SimpleNamespace(WSGI_APPLICATION=dotted))
    assert trio_wsgi_command.name_application() == reference
