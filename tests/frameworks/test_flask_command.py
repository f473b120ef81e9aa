"""`flask --app APP trio-wsgi` (issue 5): the application as Flask finds it, served with the flags of ours."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import flask
import httpx
import pytest
from flask.cli import ScriptInfo
from serving import Command, command

from trio_wsgi.errors import ConfigError
from trio_wsgi.integrations.flask import command as trio_wsgi_command
from trio_wsgi.integrations.flask import find_app, translate

APP = """
from flask import Flask

def create_app(greeting="hello"):
    app = Flask(__name__)

    @app.get("/")
    def show():
        return f"{greeting}, debug={app.debug}"

    @app.get("/fails")
    def fails():
        raise ValueError("the application's own")

    return app

app = create_app("module")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("flask_command")
    (site / "flask_shop.py").write_text(APP)
    (site / "app.py").write_text(APP.replace('"module"', '"app.py"'))
    return site


def flask_program(*words: str) -> tuple[str, ...]:
    return ("-m", "flask", *words, "trio-wsgi")


@pytest.fixture(scope="module", params=[0, 1])
def running(request: pytest.FixtureRequest, site: Path) -> Iterator[Command]:
    """A factory with an argument, in one process and in a worker; in the end TERM drains it, and the exit code is 0."""
    program = flask_program("--app", "flask_shop:create_app('factory')")
    with command("-p", "0", "--threads", "2", cwd=site, program=program, workers=request.param) as started:
        yield started
        started.process.terminate()
        assert started.wait() == 0


def test_a_factory_is_served(running: Command) -> None:
    assert httpx.get(f"{running.url}/").text == "factory, debug=False"
    assert running.url.startswith("http://127.0.0.1:")
    assert "ValueError" not in httpx.get(f"{running.url}/fails").text


def test_debug(site: Path) -> None:
    """Without --app it is wsgi.py or app.py, with --debug tracebacks are shown: as under `flask run`."""
    with command("--port=0", "--no-reload", cwd=site, program=flask_program("--debug")) as started:
        assert httpx.get(f"{started.url}/").text == "app.py, debug=True"
        assert "ValueError: the application's own" in httpx.get(f"{started.url}/fails").text


def test_the_command_is_among_flasks_own(site: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--help"], capture_output=True, text=True, timeout=60, cwd=site
    )
    assert "trio-wsgi  Serve the application with trio-wsgi." in done.stdout


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_site(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a command changes of the process is undone."""
    monkeypatch.chdir(site)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for variable in ("FLASK_DEBUG", "TRIO_WSGI_WORKERS", "PORT"):
        monkeypatch.delenv(variable, raising=False)
    yield
    for name in ("flask_shop", "app"):
        sys.modules.pop(name, None)


def run(capsys: pytest.CaptureFixture[str], *words: str, app: str = "flask_shop") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `flask --app APP trio-wsgi WORDS`, in this process."""
    with pytest.raises(SystemExit) as ended:
        trio_wsgi_command.main(list(words), "flask trio-wsgi", obj=ScriptInfo(app))
    assert isinstance(ended.value.code, int)
    return ended.value.code, *capsys.readouterr()


def test_help_shows_our_flags(in_site: None, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert re.search(r"-p( PORT)?, --port PORT", out)  # shorter since Python 3.13
    assert "--write-timeout SECONDS" in out
    assert "--pid FILE" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--thread", "3"), "--thread: there is no such flag (did you mean --threads?)"),
        (("--cert", "adhoc"), "--cert: there is no such flag (write --certfile)"),
        (("flask_shop:app",), "'flask_shop:app' is one word too many (name the application with flask --app)"),
        (("--port", "http"), "'127.0.0.1:http' has no port between 0 and 65535"),
        (("--script-reloading",), "script_reloading: it follows one module"),
        (("--port",), "argument -p/--port: expected one argument"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(
    in_site: None, words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "--check-config", *words)
    assert (code, out) == (1, "")
    assert told in err
    assert err.count("\n") == 1


def test_an_application_that_is_not_there_is_exit_code_4(in_site: None, capsys: pytest.CaptureFixture[str]) -> None:
    """With what Flask says of it."""
    code, _, err = run(capsys, "--check-config", app="flask_shop:nothing")
    assert code == 4
    assert "Failed to find attribute 'nothing' in 'flask_shop'" in err.splitlines()[-1]


REFERENCE = "trio_wsgi.integrations.flask:find_app('flask_shop')"


@pytest.mark.parametrize(
    ("words", "translated"),
    [
        ([], []),
        (["-h", "0.0.0.0"], ["--bind=0.0.0.0:8000"]),
        (["-p5000"], ["--bind=127.0.0.1:5000"]),
        (["--host", "::1", "--port=81"], ["--bind=[::1]:81"]),
        (["--host", "[::1]"], ["--bind=[::1]:8000"]),
        (["-b", "a:1", "--bind=unix:/b"], ["--bind=a:1", "--bind=unix:/b"]),
        (["-w", "4", "--no-sendfile"], ["--workers=4", "--no-sendfile"]),
        (["-c", "a.toml", "--print-config"], ["--config=a.toml", "--print-config"]),
    ],
)
def test_translation(words: list[str], translated: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLASK_DEBUG", raising=False)
    assert translate(words, ScriptInfo("flask_shop")) == [*translated, REFERENCE]


def test_debug_reloads_and_shows_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_DEBUG", "1")
    info = ScriptInfo("flask_shop")
    assert translate([], info) == ["--reload", "--expose-tracebacks", REFERENCE]
    assert translate(["--no-reload"], info) == ["--no-reload", "--expose-tracebacks", REFERENCE]


def test_two_places_in_two_ways_are_refused() -> None:
    with pytest.raises(ConfigError, match="--host or --port is there, too"):
        translate(["-p", "1", "-b", ":2"], ScriptInfo("flask_shop"))


def test_an_application_that_only_this_process_has_is_refused() -> None:
    """`FlaskGroup(create_app=...)`: a program of its own, whose function a worker cannot name."""
    with pytest.raises(ConfigError, match="no worker can import this application"):
        translate([], ScriptInfo(create_app=lambda: flask.Flask("here")))


def test_an_application_is_found_by_flasks_rules(in_site: None) -> None:
    for path, greeting in {
        "flask_shop": b"module",
        "flask_shop:create_app": b"hello",
        "flask_shop.py": b"module",
    }.items():
        assert greeting in find_app(path).test_client().get("/").data
