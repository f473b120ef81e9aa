"""`wsgiref.validate` around the app, on every path (PEP 3333; PAINS 48)."""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest
from asking import PLAIN, Environ, StartResponse, error_lines, exchange_open, request
from serving import serving

from trio_wsgi import Outcome
from trio_wsgi.wsgi import filewrapper


def a_list(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", list(PLAIN))
    return [b"a ", b"list"]


def a_generator(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", list(PLAIN))
    yield b""
    yield b"a "
    yield b"generator"


def a_writer(environ: Environ, start_response: StartResponse) -> Any:
    write = start_response("200 OK", list(PLAIN))
    write(b"a ")
    write(b"writer")
    return []


def a_file(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", list(PLAIN))
    return environ["wsgi.file_wrapper"](Path(__file__).open("rb"))


def a_bytesio(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", list(PLAIN))
    return environ["wsgi.file_wrapper"](io.BytesIO(b"a bytesio"), 2)


def a_pipe(environ: Environ, start_response: StartResponse) -> Any:
    reading, writing = os.pipe()
    os.write(writing, b"a pipe")
    os.close(writing)
    start_response("200 OK", list(PLAIN))
    return environ["wsgi.file_wrapper"](os.fdopen(reading, "rb"))


def an_echo(environ: Environ, start_response: StartResponse) -> Any:
    body = environ["wsgi.input"]
    parts = [body.read(3), body.readline(), body.readline(5)]
    parts += body.readlines(10)
    parts += list(body)
    parts.append(body.read(100))
    start_response("200 OK", list(PLAIN))
    return parts


def with_exc_info(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", list(PLAIN))
    try:
        raise ValueError("replaced")
    except ValueError:
        start_response("503 Sorry", list(PLAIN), sys.exc_info())
    return [b"sorry"]


def nothing_here(environ: Environ, start_response: StartResponse) -> Any:
    start_response("204 No Content", [])
    return []


def says(environ: Environ, start_response: StartResponse) -> Any:
    errors = environ["wsgi.errors"]
    errors.write("%s\n")
    errors.writelines(["a line\n", "part"])
    errors.flush()
    start_response("200 OK", list(PLAIN))
    return [b"said"]


CONTENT = Path(__file__).read_bytes()

PATHS: list[Callable[..., Any]] = [
    a_list,
    a_generator,
    a_writer,
    a_file,
    a_bytesio,
    a_pipe,
    an_echo,
    with_exc_info,
    nothing_here,
    says,
]
REQUESTS = [
    pytest.param(request("GET", "/a%20path?x=1", "Cookie: a=b"), {}, id="GET"),
    pytest.param(request("HEAD"), {}, id="HEAD"),
    pytest.param(request("GET", version="1.0"), {}, id="HTTP/1.0"),
    pytest.param(request("GET", "/app/x"), {"url_prefix": "/app"}, id="below a prefix"),
    pytest.param(request("GET", "/app"), {"url_prefix": "/app"}, id="the prefix itself"),
    pytest.param(request("POST", body=b"one\ntwo three\nfour"), {}, id="POST buffered"),
    pytest.param(request("POST", body=b"one\ntwo three\nfour"), {"body_buffer_size": 2}, id="POST in a file"),
    pytest.param(request("POST", body=b"one\ntwo three\n"), {"request_buffering": False}, id="POST streamed"),
    pytest.param(request("PUT", body=b"one\ntwo", chunked=True), {"request_buffering": False}, id="PUT chunked"),
    pytest.param(request(), {"write_policy": "buffer"}, id="buffer"),
    pytest.param(request(), {"write_policy": "raise"}, id="raise"),
    pytest.param(request(), {"output_buffering": 1000}, id="output_buffering"),
    pytest.param(request(), {"sendfile": False}, id="no sendfile"),
    pytest.param(request(), {"threads": 1}, id="one thread"),
]


@pytest.mark.parametrize(("sent", "settings"), REQUESTS)
async def test_the_validator_has_nothing_to_say(
    sent: bytes, settings: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filewrapper, "_said_lost", {"wsgiref.validate"})
    present: Any = None

    def app(environ: Environ, start_response: StartResponse) -> Any:
        return present(environ, start_response)

    async with serving(validator(app), **settings) as served:
        for count, present in enumerate(PATHS, 1):
            raw = await exchange_open(served, sent)
            assert raw.startswith(b"HTTP/1.1 503" if present is with_exc_info else b"HTTP/1.1 20"), present
            assert (await served.record(count)).outcome is Outcome.FINISHED
    gc.collect(1)  # an iterator that was not closed complains when it is collected
    assert error_lines(caplog) == ["%s", "a line", "part"]  # of `says`


def fails_in_the_call(environ: Environ, start_response: StartResponse) -> Any:
    raise ValueError("the app's own")


def fails_in_iteration(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", list(PLAIN))
    yield b"some"
    raise ValueError("the app's own")


def fails_at_once(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", list(PLAIN))
    yield b""
    raise ValueError("the app's own")


@pytest.mark.parametrize("app", [fails_in_the_call, fails_in_iteration, fails_at_once], ids=lambda app: app.__name__)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_nor_when_the_app_fails(app: Any, method: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(validator(app)) as served:
        await exchange_open(served, request(method, body=b"body" if method == "POST" else b""))
        assert (await served.record()).outcome is Outcome.APP_ERROR
    gc.collect(1)
    (line,) = error_lines(caplog)
    assert line.endswith('ValueError("the app\'s own")')


async def test_nor_when_the_client_goes(caplog: pytest.LogCaptureFixture) -> None:
    def endless(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        while True:
            yield bytes(100_000)

    async with serving(validator(endless)) as served:
        async with await served.connect() as stream:
            await stream.send_all(request())
        assert (await served.record()).outcome is Outcome.CLIENT_GONE
    gc.collect(1)
    assert error_lines(caplog) == []


async def test_nor_when_a_streamed_body_is_cut_short(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(validator(an_echo), request_buffering=False) as served:
        async with await served.connect() as stream:
            await stream.send_all(request("POST", "/", "Content-Length: 100") + b"one\n")
            await stream.send_eof()
            await stream.receive_some()
        assert (await served.record()).outcome is Outcome.CLIENT_GONE
    gc.collect(1)
    assert error_lines(caplog) == []


# -- a middleware around a file --------------------------------------------------------------------------------------


def upper(app: Any) -> Any:
    """A middleware that iterates what the app returned."""

    def wrapped(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        result = app(environ, start_response)
        try:
            for block in result:
                yield block.upper()
        finally:
            result.close()

    return wrapped


async def test_a_middleware_around_a_file_works_and_the_log_says_once_what_it_costs(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PAINS 12: middleware that wraps a file silently disables sendfile."""
    monkeypatch.setattr(filewrapper, "_said_lost", set())
    async with serving(upper(a_file)) as served:
        for _ in range(3):
            assert (await served.exchange(request(version="1.0"))).endswith(CONTENT.upper())
    (line,) = error_lines(caplog)
    assert __name__ in line and "sendfile" in line
    async with serving(a_file) as served:  # without it, there is nothing to say
        assert (await served.exchange(request(version="1.0"))).endswith(CONTENT)
    assert len(error_lines(caplog)) == 1
