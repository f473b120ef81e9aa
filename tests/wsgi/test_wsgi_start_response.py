"""The rules of `start_response` and of the answer's head (PEP 3333, "The start_response() Callable")."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from asking import PLAIN, Environ, StartResponse, ask, error_lines

from trio_wsgi import Outcome

pytestmark = pytest.mark.usefixtures("each_way")

# start_response's arguments; what the log has to name
REFUSED: list[Any] = [
    pytest.param((b"200 OK", []), "status must be str, got bytes", id="status as bytes"),
    pytest.param((200, []), "status must be str, got int", id="status as a number"),
    pytest.param((None, []), "status must be str, got NoneType", id="status None"),
    pytest.param(("200", []), "'200'", id="no space after the code"),
    pytest.param(("OK", []), "'OK'", id="no code"),
    pytest.param(("20 OK", []), "'20 OK'", id="two digits"),
    pytest.param(("100 Continue", []), "'100 Continue'", id="1xx is the server's"),
    pytest.param(("999 Many", []), "'999 Many'", id="no such class"),
    pytest.param(("200 OK\r\nX: y", []), "control character", id="CR LF in the status splits no response"),
    pytest.param(("200 \u20ac", []), "status must be latin-1", id="beyond latin-1"),
    pytest.param(("200 OK", ()), "headers must be a list, got tuple", id="headers as a tuple"),
    pytest.param(("200 OK", {}), "headers must be a list, got dict", id="headers as a dict"),
    pytest.param(("200 OK", [["A", "b"]]), "must be a (name, value) tuple", id="a header as a list"),
    pytest.param(("200 OK", [("A", "b", "c")]), "must be a (name, value) tuple", id="three in a header"),
    pytest.param(("200 OK", [(b"A", "b")]), "header name must be str, got bytes", id="name as bytes"),
    pytest.param(("200 OK", [("A", b"b")]), "value of header A must be str, got bytes", id="value as bytes"),
    pytest.param(("200 OK", [("Content-Length", 5)]), "Content-Length must be str, got int", id="a length as a number"),
    pytest.param(("200 OK", [("A b", "c")]), "'A b'", id="a space in a name"),
    pytest.param(("200 OK", [("A:", "c")]), "'A:'", id="a colon in a name"),
    pytest.param(("200 OK", [("", "c")]), "not a token", id="no name"),
    pytest.param(("200 OK", [("A", "b\r\nC: d")]), "value of header A has a control character", id="CR LF in a value"),
    pytest.param(("200 OK", [("A", "b\x00")]), "value of header A has a control character", id="NUL in a value"),
    pytest.param(("200 OK", [("A", "\u20ac")]), "value of header A must be latin-1", id="a value beyond latin-1"),
    pytest.param(("200 OK", [("Connection", "close")]), "Connection is hop-by-hop", id="hop-by-hop"),
    pytest.param(
        ("200 OK", [("Transfer-Encoding", "chunked")]), "Transfer-Encoding is hop-by-hop", id="framing is ours"
    ),
    pytest.param(
        ("200 OK", [("Content-Length", "-1")]), "Content-Length must be a decimal number", id="length below 0"
    ),
    pytest.param(
        ("200 OK", [("Content-Length", "1"), ("content-length", "1")]), "set more than once", id="two lengths"
    ),
]


@pytest.mark.parametrize(("arguments", "named"), REFUSED)
async def test_a_wrong_head_is_500_and_the_log_names_the_culprit(
    arguments: tuple[Any, ...], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    """PAINS 13 (bjoern#165: an int in a header is a segfault), and of the WSGI layers: a status that is none ends all
    of granian, and CR LF in a value, a name or the status splits cheroot's response."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response(*arguments)
        return [b"never"]

    asked = await ask(app)
    assert asked.answer.status == 500
    assert asked.record.outcome is Outcome.APP_ERROR
    (line,) = error_lines(caplog)
    assert "AppError" in line and named in line


def blocks_without_start(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    yield b"body first"
    start_response("200 OK", PLAIN)


def called_twice(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", PLAIN)
    start_response("404 Not Found", PLAIN)
    return [b"never"]


def never_called_list(environ: Environ, start_response: StartResponse) -> list[bytes]:
    return [b"body"]


def never_called_generator(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    yield from ()


def never_called_file(environ: Environ, start_response: StartResponse) -> Any:
    from pathlib import Path

    return environ["wsgi.file_wrapper"](Path(__file__).open("rb"))


BROKEN = [
    pytest.param(called_twice, "second time without exc_info", id="called twice"),
    pytest.param(never_called_list, "without calling start_response", id="never, a list"),
    pytest.param(never_called_generator, "without calling start_response", id="never, a generator"),
    pytest.param(never_called_file, "without calling start_response", id="never, a file"),
    pytest.param(blocks_without_start, "before it called start_response", id="a block first"),
    pytest.param(lambda environ, start: None, "returned NoneType", id="None returned"),
    pytest.param(lambda environ, start: "text", "returned str", id="str returned"),
    pytest.param(lambda environ, start: b"bytes", "returned bytes", id="bytes returned"),
    pytest.param(lambda environ, start: bytearray(b"b"), "returned bytearray", id="bytearray returned"),
    pytest.param(lambda environ, start: 5, "returned int", id="a number returned"),
    pytest.param(lambda environ, start: start("200 OK", PLAIN) and ["text"], "holds str", id="a list with str"),
    pytest.param(
        lambda environ, start: start("200 OK", PLAIN) and [b"", bytearray(b"b")], "holds bytearray", id="with bytearray"
    ),
    pytest.param(lambda environ, start: start("200 OK", PLAIN) and iter(["text"]), "str", id="str yielded"),
    pytest.param(lambda environ, start: start("200 OK", PLAIN) and iter([None]), "NoneType", id="None yielded"),
    pytest.param(lambda environ, start: start("200 OK", PLAIN) and iter(b"ab"), "an int", id="numbers yielded"),
    pytest.param(lambda environ, start: start("200 OK", PLAIN)("text"), "write() gave str", id="str written"),
]


@pytest.mark.parametrize(("app", "named"), BROKEN)
@pytest.mark.parametrize("output_buffering", [0, 1000])
async def test_a_broken_rule_is_500_and_named_in_the_log(
    app: Any, named: str, output_buffering: int, caplog: pytest.LogCaptureFixture
) -> None:
    """PAINS (WSGI layers): without a call of start_response gunicorn answers "HTTP/1.1 None"."""
    asked = await ask(app, output_buffering=output_buffering)
    assert asked.answer.status == 500
    assert asked.record.outcome is Outcome.APP_ERROR
    (line,) = error_lines(caplog)
    assert named in line


class Error(Exception):
    """What went wrong in the app."""


class Late:
    """An iterable that calls start_response when its first block is asked for."""

    def __init__(self, start_response: StartResponse) -> None:
        self.start_response = start_response

    def __iter__(self) -> Iterator[bytes]:
        self.start_response("201 Created", PLAIN)
        yield b"late"


class OldStyle:
    """Iterable by `__getitem__` alone."""

    def __getitem__(self, number: int) -> bytes:
        return [b"old ", b"style"][number]


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        pytest.param(lambda environ, start: Late(start), (201, b"late"), id="late, on the first iteration"),
        pytest.param(
            lambda environ, start: start("200 OK", PLAIN) and OldStyle(), (200, b"old style"), id="__getitem__ only"
        ),
        pytest.param(lambda environ, start: start("200 OK", PLAIN) and (b"a", b"b"), (200, b"ab"), id="a tuple"),
        pytest.param(lambda environ, start: start("200 OK", PLAIN) and {b"a": 1}, (200, b"a"), id="any iterable"),
        pytest.param(lambda environ, start: start("200 ", []) and [], (200, b""), id="an empty reason"),
        pytest.param(lambda environ, start: start("200 \xd6K", []) and [], (200, b""), id="a reason in latin-1"),
        pytest.param(lambda environ, start: start("200 OK", PLAIN, None) and [b"x"], (200, b"x"), id="exc_info None"),
    ],
)
async def test_what_is_allowed(app: Any, expected: tuple[int, bytes]) -> None:
    answer = (await ask(app)).answer
    assert (answer.status, answer.body) == expected


FIRST = [("Content-Type", "text/html"), ("X-First", "1"), ("Content-Length", "5")]
SECOND = [("Content-Type", "text/plain"), ("X-Second", "2")]


def fails_and_replaces(how: str) -> Any:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        write = start_response("200 OK", list(FIRST))
        if how == "after empty writes":
            write(b"")
        try:
            raise Error("half-way")
        except Error:
            start_response("503 Sorry", list(SECOND), sys.exc_info())
        return [b"sorry, really"]

    def generator(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", list(FIRST))
        yield b""
        yield b""
        try:
            raise Error("half-way")
        except Error:
            start_response("503 Sorry", list(SECOND), sys.exc_info())
        yield b"sorry, "
        yield b"really"

    return generator if how == "after empty yields" else app


@pytest.mark.parametrize("how", ["at once", "after empty writes", "after empty yields"])
@pytest.mark.parametrize("write_policy", ["block", "raise", "buffer"])
async def test_exc_info_before_the_head_has_left_replaces_the_headers(how: str, write_policy: str) -> None:
    """PAINS: gunicorn adds the new headers to the old, and loses the response after empty yields."""
    answer = (await ask(fails_and_replaces(how), write_policy=write_policy)).answer
    assert (answer.status, answer.body) == (503, b"sorry, really")
    assert answer.values("content-type") == ["text/plain"]
    assert answer.values("x-second") == ["2"]
    assert answer.values("x-first") == []  # nor is the old length there, which would cut the new body


async def test_exc_info_replaces_what_was_only_buffered_of_the_body_too() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", PLAIN)
        write(b"x" * 5000)
        try:
            raise Error("half-way")
        except Error:
            start_response("500 Sorry", PLAIN, sys.exc_info())(b"sorry")
        return [b", really"]

    for size in (100, 100_000):  # it has gone to a file, and not
        answer = (await ask(app, write_policy="buffer", write_buffer_size=size)).answer
        assert (answer.status, answer.body, answer.value("content-length")) == (500, b"sorry, really", "13")


@pytest.mark.parametrize("by", ["write", "yield"])
async def test_exc_info_after_the_head_has_left_raises_the_apps_own_error(
    by: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    def tell(start_response: StartResponse) -> None:
        try:
            raise Error("half-way")
        except Error as original:
            try:
                start_response("500 Sorry", PLAIN, sys.exc_info())
            except Error as exc:
                seen.append(exc is original and exc.__traceback__ is not None)
                raise

    def app(environ: Environ, start_response: StartResponse) -> Any:
        write = start_response("200 OK", PLAIN)
        if by == "write":
            write(b"some")
            tell(start_response)
        return generate(start_response)

    def generate(start_response: StartResponse) -> Iterator[bytes]:
        yield b"some"
        tell(start_response)

    asked = await ask(app)
    assert seen == [True]
    assert b"some" in asked.raw and b"Sorry" not in asked.raw
    with pytest.raises(Exception, match="peer closed"):  # not whole, and the client can tell
        _ = asked.answer
    assert asked.record.outcome is Outcome.APP_ERROR
    (line,) = error_lines(caplog)
    assert "Error('half-way')" in line


async def test_a_second_start_response_that_the_app_lets_pass_changes_nothing() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", PLAIN)
        with pytest.raises(Exception, match="second time"):
            start_response("404 Not Found", [])
        return [b"first"]

    answer = (await ask(app)).answer
    assert (answer.status, answer.value("content-type")) == (200, "text/plain")


async def test_headers_that_the_app_changes_later_are_sent_as_they_were() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        headers = list(PLAIN)
        start_response("200 OK", headers)
        headers.append(("X-Late", "1"))
        return [b"x"]

    assert (await ask(app)).answer.values("x-late") == []


async def test_the_app_is_called_with_two_positional_arguments() -> None:
    def app(*arguments: Any) -> list[bytes]:
        environ, start_response = arguments
        assert type(environ) is dict
        start_response("200 OK", PLAIN)
        return [b"two"]

    assert (await ask(app)).answer.body == b"two"
