"""The rules of `start_response` and of the answer's head (PEP 3333, "The start_response() Callable")."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from asking import PLAIN, Environ, StartResponse, ask, error_lines

from trio_wsgi import Outcome

pytestmark = pytest.mark.usefixtures("each_way")


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
