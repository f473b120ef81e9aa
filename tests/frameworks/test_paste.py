"""PasteDeploy (issue 5): pserve starts the server, --paste loads an application, one [server:main] serves both."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from commandline import run
from serving import Command, command
from waiting import wait_until

import trio_wsgi
from trio_wsgi.errors import AppLoadError, ConfigError
from trio_wsgi.integrations import paste
from trio_wsgi.pasteini import name_app, read_server, read_settings
from trio_wsgi.wsgi.loading import load_app

APP = """
import logging
from pyramid.config import Configurator
from pyramid.response import FileResponse, Response
import trio_wsgi

def hello(request):
    logging.getLogger("paste_shop").info("somebody asked")
    return Response(f"hello from {request.registry.settings['shop']}")

def tree(request):
    return Response(trio_wsgi.__file__)

def report(request):
    return FileResponse(__file__, request=request)

def main(global_config, **settings):
    with Configurator(settings=settings) as config:
        for name, view in {"hello": hello, "report": report, "tree": tree}.items():
            config.add_route(name, f"/{name}")
            config.add_view(view, route_name=name)
        return config.make_wsgi_app()
"""

INI = """
[app:main]
paste.app_factory = paste_shop:main
shop = %(here)s

[app:other]
use = main
shop = the other shop

[server:main]
use = egg:trio-wsgi#main
listen = 127.0.0.1:%(http_port)s
threads = 3
write-timeout = 7s
access_logfile = -

[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = plain
[logger_root]
level = INFO
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = plain
[formatter_plain]
format = of the file: %(levelname)s %(message)s
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("paste")
    (directory / "paste_shop.py").write_text(APP)
    (directory / "shop.ini").write_text(INI)
    quiet, _, _ = INI.partition("[loggers]")  # for what is loaded into the tests' own process
    (directory / "theirs.ini").write_text(quiet.replace("egg:trio-wsgi#main", "egg:waitress#main"))
    return directory


# -- processes ---------------------------------------------------------------------------------------------------------

STARTS = {
    "pserve": (("-m", "pyramid.scripts.pserve"), ("shop.ini", "http_port=0")),
    "--paste": (("-m", "trio_wsgi"), ("--paste", "shop.ini", "--paste-global", "http_port=0")),
}


@pytest.fixture(scope="module", params=STARTS)
def running(request: pytest.FixtureRequest, site: Path) -> Iterator[Command]:
    """Started in each way; in the end TERM drains it, and its exit code is 0."""
    program, words = STARTS[request.param]
    with command(*words, cwd=site, program=program, PYTHONPATH=str(site)) as started:
        yield started
        started.process.terminate()
        assert started.wait() == 0
        assert "stopped" in started.log


def test_it_serves_the_application_with_the_settings_of_the_file(running: Command, site: Path) -> None:
    """Variables and %(here)s are put in; the file's logging and its access log are set up."""
    answer = httpx.get(f"{running.url}/hello")
    assert (answer.status_code, answer.text) == (200, f"hello from {site}")
    part = httpx.get(f"{running.url}/report", headers={"Range": "bytes=1-14"})
    assert (part.status_code, part.text) == (206, "import logging")
    assert "of the file: INFO somebody asked" in running.log
    wait_until(lambda: '"GET /hello HTTP/1.1" 200' in running.log)  # a thread of its own writes it


def test_it_is_this_checkout_that_serves(running: Command) -> None:
    """And not another one that is installed, of which these tests would say nothing."""
    assert httpx.get(f"{running.url}/tree").text == trio_wsgi.__file__


# -- what the file says ------------------------------------------------------------------------------------------------


def test_the_section_is_read_as_pastedeploy_reads_it(tmp_path: Path) -> None:
    """[DEFAULT] stays out unless "get" brings it in, "set" is for it; what is given on the command line comes last."""
    (tmp_path / "a.ini").write_text(
        "[DEFAULT]\nport = 81\nlog = %(here)s/log\n"
        "[server:main]\nuse = egg:trio_wsgi\nset debug = true\nget error-logfile = log\nworkers = %(many)s\n"
    )
    read = read_server(f"config:{tmp_path}/a.ini#any", ["many=3", "port=99"])
    assert read == {"error_logfile": f"{tmp_path}/log", "workers": "3"}


def test_the_section_of_another_server_brings_nothing(site: Path) -> None:
    assert read_server(str(site / "theirs.ini"), ["http_port=0"]) == {}
    assert read_server(None) == {}


@pytest.mark.parametrize(
    ("local", "texts"),
    [
        ({"host": "0.0.0.0", "port": "81"}, {"bind": "0.0.0.0:81"}),
        ({"host": "::1"}, {"bind": "[::1]:8000"}),
        ({"port": "81"}, {"bind": "127.0.0.1:81"}),
        ({"listen": "*:8080 127.0.0.1:9000"}, {"bind": ":8080 127.0.0.1:9000"}),
        ({"bind": "a:1 unix:/run/a.sock"}, {"bind": "a:1 unix:/run/a.sock"}),
        ({"keep-alive": "5", "max_requests": "9"}, {"keep_alive": "5", "max_requests": "9"}),
    ],
)
def test_settings_may_be_written_as_others_write_them(local: dict[str, str], texts: dict[str, str]) -> None:
    """gunicorn's host and port, waitress' listen; dashes or underscores."""
    assert read_settings(local, "a.ini") == texts


@pytest.mark.parametrize(
    ("local", "told"),
    [
        ({"thread": "3"}, "thread in a.ini: there is no such setting (did you mean threads?)"),
        ({"worker_class": "gevent"}, "worker_class in a.ini: there is no such setting (there is one kind of worker"),
        ({"channel_timeout": "9"}, "(write --keep-alive)"),
        ({"keep-alive": "1", "keep_alive": "2"}, "keep_alive is written twice"),
        ({"listen": "a:1", "port": "2"}, "host and port are there, too"),
        ({"bind": "a:1", "port": "2"}, "bind is written twice"),
    ],
)
def test_a_mistake_in_the_section_is_told_with_the_file(local: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(local, "a.ini")
    assert told in str(caught.value)
    with pytest.raises(ConfigError) as caught:  # under pserve, too, before anything is served
        paste.serve_paste(lambda environ, start_response: [], {"__file__": "a.ini"}, **local)
    assert told in str(caught.value)


def test_pserve_has_no_workers_and_says_who_has() -> None:
    """The application lives in pserve's process: interpreters of their own have to import it themselves."""
    with pytest.raises(ConfigError, match=r"start trio-wsgi --paste a\.ini"):
        paste.serve_paste(lambda environ, start_response: [], {"__file__": "a.ini"}, workers="2")


def test_pserve_reloads_by_itself() -> None:
    with pytest.raises(ConfigError, match="write pserve --reload"):
        paste.serve_paste(lambda environ, start_response: [], {"__file__": "a.ini"}, **{"script-reloading": "yes"})


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_site(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for variable in ("TRIO_WSGI_THREADS", "PORT"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("in_site")
def test_flags_and_the_environment_beat_the_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIO_WSGI_THREADS", "5")
    words = ["--paste", "shop.ini", "--paste-global", "http_port=81", "--write-timeout", "8"]
    code, out, err = run(capsys, "--print-config", *words)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert 'bind = ["127.0.0.1:81"]  # [server:main]' in lines
    assert "threads = 5  # TRIO_WSGI_THREADS" in lines
    assert "write-timeout = 8.0  # --write-timeout" in lines
    assert 'access-logfile = "-"  # [server:main]' in lines


@pytest.mark.usefixtures("in_site")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--paste", "none.ini"], "--paste: there is no file "),
        (["--paste", "shop.ini"], "(a variable is given with --paste-global KEY=VALUE)"),
        (["--paste", "shop.ini", "--paste-global", "http_port"], "'http_port' has no equals sign; write KEY=VALUE"),
        (["--paste", "paste_shop.py"], "paste_shop.py cannot be read: "),
        (["--paste", "shop.ini", "--paste-global", "http_port=x"], "bind in [server:main]: "),
        (["--paste", "shop.ini", "a:b"], "it names the application, and so does 'a:b'"),
        (
            ["--paste", "theirs.ini", "--paste-global", "http_port=0", "--script-reloading"],
            "script_reloading: it follows one module, and this application is made by many (write --reload instead)",
        ),
        (["-c", "shop.ini", "a:b"], "--config: shop.ini is no TOML file (for a PasteDeploy file, write --paste FILE)"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--check-config", *words)
    assert (code, out) == (1, "")
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("in_site")
def test_a_section_is_named_behind_a_hash(site: Path) -> None:
    """As pserve and gunicorn take it; the name travels to the workers as a reference with literals."""
    reference = name_app("theirs.ini#other", ["http_port=0"])
    assert reference == (
        f"trio_wsgi.integrations.paste:load_app({str(site / 'theirs.ini')!r}, 'other', {{'http_port': '0'}})"
    )
    assert name_app("shop.ini").endswith("/shop.ini', 'main')")
    with pytest.raises(AppLoadError, match=r"theirs\.ini has no application 'admin'; it has main, other") as raised:
        load_app(name_app("theirs.ini#admin", ["http_port=0"]))
    assert raised.value.__cause__ is None  # no such application (exit code 4), and no failure of one


@pytest.mark.usefixtures("in_site")
@pytest.mark.parametrize(("file", "told"), [("theirs.ini", True), ("ours.ini", False)])
def test_a_section_that_is_passed_over_is_told(
    file: str, told: bool, site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (site / "ours.ini").write_text((site / "theirs.ini").read_text().replace("egg:waitress#main", "egg: Trio_WSGI"))
    sys.path.insert(0, str(site))
    with caplog.at_level("INFO", "trio_wsgi.error"):
        load_app(name_app(file, ["http_port=0"]))
    line = f"[server:main] of {site / file} is passed over: it says use = egg:waitress#main, not egg:trio-wsgi#main"
    assert caplog.messages == ([line] if told else [])


@pytest.mark.usefixtures("in_site")
def test_without_pastedeploy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paste, "loadapp", None)
    with pytest.raises(AppLoadError, match=r"^--paste needs PasteDeploy; write pip install 'trio-wsgi\[paste\]'$"):
        load_app(name_app("shop.ini"))
