"""Rules of a path that is given in place of a module: what is said of it works as it is written."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import run

APP = """
def application(environ, start_response): ...
def other(environ, start_response): ...
def make(word): return other
"""
PACKAGED = "from shop import name\n" + APP


FILES = "' is a directory; write trio-wsgi files {0} for its files, MODULE:APP for an application"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A script, one by the name that mod_wsgi gives it, and a module of a package; some beside us, some elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for folder in (tmp_path, tmp_path / "far away"):
        folder.mkdir(exist_ok=True)
        for name in ("site.wsgi", "shop_app.py", "run"):
            (folder / name).write_text(APP)
        (folder / "shop").mkdir()
        (folder / "shop" / "__init__.py").write_text("name = 'shop'\n" + APP)
        (folder / "shop" / "wsgi.py").write_text(PACKAGED)
    yield tmp_path
    for name in ("shop_app", "shop", "shop.wsgi", "site_wsgi", "run"):
        sys.modules.pop(name, None)


def check(capsys: pytest.CaptureFixture[str], words: str) -> tuple[int, str, str]:
    """What the command says of the application that these words of a shell name."""
    return run(capsys, "--check-config", *shlex.split(words))


@pytest.mark.parametrize(
    ("words", "link", "instead"),
    [
        ("shop_app.py:other", "", "shop_app:other"),
        ("./shop_app.py", "", "shop_app"),
        ("'shop_app.py:make(1)'", "", "'shop_app:make(1)'"),
        ("'far away/shop_app.py:other'", "", "--chdir '{site}/far away' shop_app:other"),
        ("shop/wsgi.py", "", "shop.wsgi"),
        ("shop/", "", "shop"),
        ("'{site}/far away/shop/wsgi.py:other'", "", "--chdir '{site}/far away' shop.wsgi:other"),
        ("site.wsgi", "ln -s site.wsgi {site}/site_wsgi.py", "site_wsgi"),
        (
            "'{site}/far away/site.wsgi:other'",
            "ln -s site.wsgi '{site}/far away/site_wsgi.py'",
            "--chdir '{site}/far away' site_wsgi:other",
        ),
        ("./run", "ln -s run {site}/run.py", "run"),
    ],
)
def test_a_path_is_answered_with_words_that_work(
    words: str, link: str, instead: str, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They keep the attribute that was given, and make up none."""
    link, instead = link.format(site=site), instead.format(site=site)
    code, _, told = check(capsys, words.format(site=site))
    assert code == 4
    _, _, told = told.rpartition(" is a path")
    assert told == (f", and Python imports only .py; {link}, then" if link else ";") + f" write the module: {instead}\n"
    subprocess.run(["sh", "-c", link], cwd=site, check=True)
    importlib.invalidate_caches()  # as in a new process
    code, shown, told = check(capsys, instead)
    assert (code, told) == (0, "")
    assert f"application: {instead.split()[-1].strip(chr(39))} is a builtins.function" in shown


@pytest.mark.parametrize("name", [".", "..", "./", "/tmp", "far away", "here", "./here", "./here/"])
def test_a_directory_is_answered_with_the_command_for_its_files(
    name: str, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless it is a package: Python would take any for one."""
    (site / "here").mkdir()
    (site / "shop" / "__init__.py").write_text("")
    code, _, told = check(capsys, shlex.quote(name))
    assert code == 4
    assert told == f"trio-wsgi: error: '{name}{FILES.format(shlex.quote(name))}\n"
    code, _, told = check(capsys, "shop")
    assert told == "trio-wsgi: error: module 'shop' has neither application nor app; write shop:NAME\n"


@pytest.mark.parametrize("name", ["uwsgi.ini", "./uwsgi.ini", "{site}/uwsgi.ini"])
def test_a_file_of_settings_is_told_from_a_module(name: str, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """uWSGI's name is given so on its own command line."""
    (site / "uwsgi.ini").write_text("[uwsgi]\nmodule = shop_app\n")
    code, _, told = check(capsys, name.format(site=site))
    assert code == 4
    assert told.endswith(
        "uwsgi.ini' is no Python; write --paste FILE for PasteDeploy's, and what is in uWSGI's as flags or TOML\n"
    )
