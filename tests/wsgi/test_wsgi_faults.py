"""What an application does wrong is 500, and one line of the log: what was given, and what to give instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from asking import PLAIN, Environ, StartResponse, ask, error_lines

from trio_wsgi import Outcome

pytestmark = pytest.mark.usefixtures("each_way")


def starting(*arguments: Any) -> Callable[..., Any]:
    """An application that calls start_response with these."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response(*arguments)
        return [b"never"]

    return app


def named(name: Any, value: Any = "b") -> Callable[..., Any]:
    """An application with this header."""
    return starting("200 OK", [(name, value)])


def returning(make: Callable[[], Any]) -> Callable[..., Any]:
    """An application whose body is made by this."""

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", PLAIN)
        return make()

    return app


def writing(data: Any) -> Callable[..., Any]:
    """An application that writes this."""
    return lambda environ, start: start("200 OK", PLAIN)(data) or []


def blocks_without_start(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    yield b"body first"
    start_response("200 OK", PLAIN)


def called_twice(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", PLAIN)
    start_response("404 Not Found", PLAIN)
    return [b"never"]


def never_called_file(environ: Environ, start_response: StartResponse) -> Any:
    return environ["wsgi.file_wrapper"](Path(__file__).open("rb"))


def never(body: Any) -> Callable[..., Any]:
    """An application that calls no start_response."""
    return lambda environ, start: body


RULE = "a space and a reason without control characters, got "
FAULTS: dict[str, tuple[Callable[..., Any], str, str]] = {  # the application, what was given, the fix
    "status as bytes": (starting(b"200 OK", []), "status must be str, got bytes: b'200 OK'", "write '200 OK'"),
    "status as a number": (starting(404, []), "status must be str, got int: 404", "write '404 Not Found'"),
    "status as an own number": (starting(299, []), "got int: 299", "write '299 Reason'"),
    "status of the enum": (starting(HTTPStatus.NOT_FOUND, []), "got HTTPStatus: ", "write '404 Not Found'"),
    "status None": (starting(None, []), "status must be str, got NoneType: None", "write '200 OK'"),
    "status without a reason": (starting("404", []), RULE + "'404'", "write '404 Not Found': gunicorn and waitress do"),
    "no code": (starting("OK", []), RULE + "'OK'", "such as '200 OK'"),
    "two digits": (starting("20 OK", []), RULE + "'20 OK'", "such as '200 OK'"),
    "1xx is the server's": (starting("100 Continue", []), RULE + "'100 Continue'", "such as '200 OK'"),
    "no such class": (starting("999 Many", []), "code from 200 to 599", "such as '200 OK'"),
    "CR LF in the status": (starting("200 OK\r\nX: y", []), RULE + r"'200 OK\r\nX: y'", "such as '200 OK'"),
    "a status beyond latin-1": (starting("200 \u20ac", []), r"latin-1, got '200 \u20ac'", "in plain English, or none"),
    "headers in a tuple": (starting("200 OK", (("A", "b"),)), "a list, got tuple: (('A', 'b'),)", "list(headers)"),
    "headers in a dict": (starting("200 OK", {"A": "b"}), "list, got dict: {'A': 'b'}", "list(headers.items())"),
    "d.items()": (starting("200 OK", {"A": "b"}.items()), "a list, got dict_items: ", "write list(headers)"),
    "headers None": (starting("200 OK", None), "a list, got NoneType: None", "or [] for none"),
    "headers as text": (starting("200 OK", "A: b"), "a list, got str: 'A: b'", "[('Content-Type', 'text/plain')]"),
    "a header in a list": (starting("200 OK", [["A", "b"]]), "got list: ['A', 'b']", "[tuple(header) for header in"),
    "three in a header": (starting("200 OK", [("A", "b", "c")]), "(name, value) tuple, got tuple: ", "write ('Content"),
    "a header as text": (starting("200 OK", ["A: b"]), "(name, value) tuple, got str: 'A: b'", "('Content-Type',"),
    "name as bytes": (named(b"A"), "header name must be str, got bytes: b'A'", "name.decode('latin-1')"),
    "value as bytes": (named("A", b"b"), "value of header A must be str, got bytes: b'b'", "value.decode('latin-1')"),
    "value None": (named("A", None), "value of header A must be str, got NoneType: None", "leave the header out"),
    "value as a number": (named("Content-Length", 5), "Content-Length must be str, got int: 5", "such as str(value)"),
    "a space in a name": (named("A b"), "'A b'", "letters, digits and hyphens"),
    "a colon in a name": (named("A:"), "'A:'", "letters, digits and hyphens"),
    "no name": (named(""), "not a token (RFC 9110 §5.1): ''", "such as 'X-Name'"),
    "a line break within": (named("A", "b\nC: d"), r"header A has a control character: 'b\nC: d'", "line break out"),
    "a line break behind it": (named("A", "b\r\n"), r"control character: 'b\r\n'", "write value.strip()"),
    "NUL in a value": (named("A", "b\x00"), r"control character: 'b\x00'", "take it out"),
    "beyond latin-1": (named("A", "\u20ac"), r"header A must be latin-1, got '\u20ac'", "filename*=UTF-8''"),
    "hop-by-hop": (named("Connection", "close"), "Connection is hop-by-hop", "leave it out"),
    "framing is ours": (named("Transfer-Encoding", "chunked"), "Transfer-Encoding is hop-by-hop", "leave it out"),
    "length below 0": (named("Content-Length", "-1"), "decimal number, got '-1'", "str(len(body)), of bytes"),
    "two lengths": (
        starting("200 OK", [("Content-Length", "1"), ("content-length", "2")]),
        "set more than once, the second time to '2'",
        "set it once",
    ),
    "called twice": (called_twice, "second time without exc_info, with '404 Not Found' after 200", "sys.exc_info()"),
    "never, a list": (never([b"body"]), "without calling start_response", "start_response('200 OK', headers)"),
    "never, a generator": (lambda environ, start: (yield from ()), "without calling start_response", "the first"),
    "never, a file": (never_called_file, "without calling start_response", "before the first block"),
    "a block first": (blocks_without_start, "b'body first', before it called start_response", "call that first"),
    "None returned": (never(None), "returned NoneType: it must be an iterable of bytes", "is a return missing?"),
    "str returned": (never("text"), "str: it must be an iterable of bytes, such as a list, got 'text'", "[text.encode"),
    "bytes returned": (never(b"bytes"), "returned bytes: it must be an iterable", "write return [body]"),
    "bytearray returned": (never(bytearray(b"b")), "returned bytearray: it must be", "write return [bytes(body)]"),
    "a number returned": (never(5), "returned int: it must be an iterable of bytes, such as a list, got 5", "[b'...']"),
    "a dict returned": (returning(lambda: {"a": 1, "b": 2}), "returned dict: ", "[json.dumps(result).encode()]"),
    "a list with str": (returning(lambda: ["text"]), "that the application returned must be bytes, got str: 'text'",
                        "write text.encode()"),
    "Flask's tuple": (returning(lambda: ("text", 200)), "the tuple that the application returned must be", "encode()"),
    "a list with None": (returning(lambda: [b"", None]), "must be bytes, got NoneType: None", "leave it out"),
    "with bytearray": (returning(lambda: [b"", bytearray(b"b")]), "got bytearray: bytearray(b'b')", "bytes(block)"),
    "with a list": (returning(lambda: [[b"a"]]), "must be bytes, got list: [b'a']", "json.dumps(value).encode()"),
    "str yielded": (returning(lambda: iter(["text"])), "the iterable must be bytes, got str: 'text'", "encode"),
    "None yielded": (returning(lambda: iter([None])), "of the iterable must be bytes, got NoneType: ", "or write b"),
    "numbers yielded": (returning(lambda: iter(b"ab")), "must be bytes, got int: 97", "[b'...'], not return b'...'"),
    "str written": (writing("text"), "what write() is given must be bytes, got str: 'text'", "write text.encode()"),
    "None written": (writing(None), "what write() is given must be bytes, got NoneType: None", "leave it out"),
}  # fmt: skip


@pytest.mark.parametrize(("app", "given", "fix"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("output_buffering", [0, 1000])
async def test_a_fault_is_500_and_the_log_says_what_was_given_and_the_fix(
    app: Any, given: str, fix: str, output_buffering: int, caplog: pytest.LogCaptureFixture
) -> None:
    """PAINS 13 (bjoern#165: an int in a header is a segfault), and of the WSGI layers: a status that is none ends all
    of granian, CR LF in a value, a name or the status splits cheroot's response, and without a call of start_response
    gunicorn answers "HTTP/1.1 None"."""
    asked = await ask(app, output_buffering=output_buffering)
    assert asked.answer.status == 500
    assert asked.record.outcome is Outcome.APP_ERROR
    (line,) = error_lines(caplog)
    told, _, advice = line.partition("AppError: ")[2].partition(" | ")[0].rpartition("; ")
    assert given in line
    assert fix in line[line.index(given) + len(given) :]
    assert told and advice


class Unspeakable(str):
    """A text that cannot be shown."""

    def __repr__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("value", "shown"),
    [("x" * 10_000 + "\n\n-", "xxx..."), (Unspeakable("a\nb"), "<Unspeakable>")],
    ids=["long", "odd"],
)
async def test_a_value_is_shown_in_short_whatever_it_is(
    value: str, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await ask(named("A", value))).answer.status == 500
    (line,) = error_lines(caplog)
    assert shown in line and len(line) < 1000


@pytest.mark.parametrize("given", [ValueError("x"), True, (None, None, None)], ids=["error", "True", "none handled"])
async def test_what_is_no_exc_info_is_named_where_it_would_be_raised(
    given: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It was told as an error of ours: an object that is not subscriptable, or None without an attribute."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        yield b"some"
        start_response("500 Sorry", PLAIN, given)

    assert (await ask(app)).record.outcome is Outcome.APP_ERROR
    (line,) = error_lines(caplog)
    assert f"exc_info must be what sys.exc_info() gives, got {type(given).__name__}: {given!r}; write sys.exc" in line


async def test_what_is_written_when_the_answer_is_complete_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """The answer stands, for it was right."""

    class Body(list[bytes]):
        def close(self) -> None:
            self.write(b"late")

    def app(environ: Environ, start_response: StartResponse) -> Body:
        body = Body([b"right"])
        body.write = start_response("200 OK", PLAIN)  # type: ignore[attr-defined]
        return body

    assert (await ask(app)).answer.body == b"right"
    (line,) = error_lines(caplog)
    assert "what write() is given came after the application had returned, with b'late'" in line
    assert "write before that" in line
