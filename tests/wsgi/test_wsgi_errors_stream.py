"""`wsgi.errors`: text into the error log, every character literally (PEP 3333, "Input and Error Streams")."""

from __future__ import annotations

import io
import logging
import signal
from pathlib import Path

import httpx
import pytest
from asking import PLAIN, Environ, StartResponse, ask, error_lines
from serving import command

from trio_wsgi.wsgi.errorlog import ErrorLog

# what is written, piece by piece, and the lines that the log has once the request is over
WRITTEN = [
    pytest.param(["one\n", "two\n"], ["one", "two"], id="line by line"),
    pytest.param(["o", "n", "e\ntw", "o\n"], ["one", "two"], id="lines in pieces"),
    pytest.param(
        ["100 % of %s %d %(x)s {} {0}\n"], ["100 % of %s %d %(x)s {} {0}"], id="formats are text (the seed's bug)"
    ),
    pytest.param(
        ["öäü €  \u2028 𐍈 \x00 \x1b[31m \ud800\n"], ["öäü €  \u2028 𐍈 \x00 \x1b[31m \ud800"], id="any character"
    ),
    pytest.param(["\n", "\n"], ["", ""], id="empty lines"),
    pytest.param([""], [], id="nothing"),
    pytest.param(["no newline"], ["no newline"], id="what was not flushed is logged at the end"),
    pytest.param(["whole\n", "part"], ["whole", "part"], id="a line and a part of one"),
]


@pytest.mark.parametrize(("pieces", "lines"), WRITTEN)
async def test_what_is_written_is_logged(pieces: list[str], lines: list[str], caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        for piece in pieces:
            environ["wsgi.errors"].write(piece)
        start_response("200 OK", PLAIN)
        return [b"ok"]

    assert (await ask(app)).answer.body == b"ok"
    assert error_lines(caplog) == lines


def test_a_line_is_logged_when_it_is_whole_and_flush_gives_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    errors = ErrorLog()
    errors.write("one\ntw")
    assert error_lines(caplog) == ["one"]
    errors.flush()
    errors.flush()
    assert error_lines(caplog) == ["one", "tw"]
    errors.write("o")
    errors.close()
    assert error_lines(caplog) == ["one", "tw", "o"]


def test_it_is_a_text_stream(caplog: pytest.LogCaptureFixture) -> None:
    errors = ErrorLog()
    assert isinstance(errors, io.TextIOBase)
    assert errors.writable() and not errors.readable() and not errors.seekable()
    errors.writelines(["a\n", "b\n"])
    print("%s", 1, file=errors)
    assert errors.write("c\n") == 2
    assert error_lines(caplog) == ["a", "b", "%s 1", "c"]


@pytest.mark.parametrize("wrong", [b"bytes", None, 1, ["list"]], ids=repr)
def test_what_is_no_text_is_a_type_error(wrong: object) -> None:
    errors = ErrorLog()
    with pytest.raises(TypeError, match=r"wsgi\.errors takes str"):
        errors.write(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        errors.writelines([wrong])  # type: ignore[list-item]


def test_a_logging_handler_of_the_app_can_write_to_it(caplog: pytest.LogCaptureFixture) -> None:
    mine = logging.getLogger("app.of.this.test")
    handler = logging.StreamHandler(ErrorLog())
    mine.addHandler(handler)
    try:
        mine.warning("%d %%", 5)
    finally:
        mine.removeHandler(handler)
    assert error_lines(caplog) == ["5 %"]


async def test_what_close_of_a_file_says_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    """The file is closed after the app's thread was given back."""

    def app(environ: Environ, start_response: StartResponse) -> object:
        class Saying(io.BytesIO):
            def close(self) -> None:
                if not self.closed:
                    environ["wsgi.errors"].write("closed, without a newline")
                super().close()

        start_response("200 OK", PLAIN)
        return environ["wsgi.file_wrapper"](Saying(b"content"))

    assert (await ask(app)).answer.body == b"content"
    assert error_lines(caplog) == ["closed, without a newline"]


@pytest.mark.slow
def test_every_character_comes_out_of_the_command(tmp_path: Path) -> None:
    """Whatever the terminal's encoding: no line is lost to it, and none brings a traceback of the logging's own."""
    (tmp_path / "said.py").write_text(
        "def app(environ, start_response):\n"
        "    environ['wsgi.errors'].write('100 % \\xf6 \\u20ac \\ud800 end\\n')\n"
        "    start_response('200 OK', [('Content-Type', 'text/plain')])\n"
        "    return [b'ok']\n"
    )
    for encoding in ("utf-8", "ascii"):
        with command("said:app", "-b", "127.0.0.1:0", cwd=tmp_path, PYTHONIOENCODING=encoding) as running:
            assert httpx.get(running.url).text == "ok"
            running.send_signal(signal.SIGTERM)
            running.wait()
            (line,) = [line for line in running.log.splitlines() if "100 % " in line]
            assert line.endswith(" end")
            assert "Traceback" not in running.log and "Logging error" not in running.log


# What Flask's documentation says of logging: everything to wsgi.errors, and, by dictConfig's default, no other logger.
FLASK_LOGS = """
from logging.config import dictConfig

from flask import Flask

app = Flask(__name__)


def configure():
    dictConfig({
        "version": 1,
        "handlers": {"wsgi": {"class": "logging.StreamHandler", "stream": "ext://flask.logging.wsgi_errors_stream"}},
        "root": {"level": "INFO", "handlers": ["wsgi"]},
    })


if not IN_REQUEST:
    configure()


@app.get("/")
def index():
    if IN_REQUEST:
        configure()
    app.logger.warning("a warning of the app")
    raise ValueError("the app failed")
"""


@pytest.mark.parametrize("in_request", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_the_logging_of_an_application_switches_nothing_off(tmp_path: Path, workers: int, in_request: bool) -> None:
    """Whatever `disable_existing_loggers` does to loggers that an application does not name, ours among them.

    Some set themselves up when they are imported, others in their first request.
    """
    (tmp_path / "flask_logs.py").write_text(f"IN_REQUEST = {in_request}\n{FLASK_LOGS}")
    with command(
        "flask_logs:app", "-b", "127.0.0.1:0", "--access-logfile", "-", cwd=tmp_path, workers=workers
    ) as running:
        assert httpx.get(running.url).status_code == 500
        running.send_signal(signal.SIGTERM)
        running.wait()
        log = running.log
    for once in ("a warning of the app", "ValueError: the app failed", "GET / HTTP/1.1"):
        assert log.count(once) == 1


def test_it_is_a_stream_whatever_becomes_of_loggers() -> None:
    """PEP 3333 knows of no level, and who watches loggers (Sentry's SDK does) has heard of it before."""
    written, watched = io.StringIO(), io.StringIO()
    own, watch = logging.StreamHandler(written), logging.StreamHandler(watched)
    log = logging.getLogger("trio_wsgi.error")
    log.addHandler(own)
    logging.getLogger().addHandler(watch)
    log.setLevel(logging.CRITICAL)
    log.disabled = True
    try:
        ErrorLog().write("100 %\n")
    finally:
        log.disabled = False
        log.setLevel(logging.NOTSET)
        logging.getLogger().removeHandler(watch)
        log.removeHandler(own)
    assert (written.getvalue(), watched.getvalue()) == ("100 %\n", "")


async def test_a_handler_of_all_logs_that_writes_to_it_does_not_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    """Inside another program our log has no handler of its own, and the root's may write to wsgi.errors, as Flask's."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        handler = logging.StreamHandler(environ["wsgi.errors"])
        logging.getLogger().addHandler(handler)
        try:
            logging.getLogger("app.of.this.test").warning("once")
        finally:
            logging.getLogger().removeHandler(handler)
        start_response("200 OK", PLAIN)
        return [b"ok"]

    assert (await ask(app)).answer.body == b"ok"
    assert capsys.readouterr().err.count("once") == 1
