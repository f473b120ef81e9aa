"""What is refused: with the right status, `Connection: close`, and without the application (RFC 9112 §11, PAINS 46)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import trio
from answers import read_answer, read_answers
from asking import Environ
from serving import receive_all, serving

pytestmark = pytest.mark.usefixtures("each_engine")


class Counting:
    """An application that reads its body and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.calls += 1
        environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [b"ok"]


def _get(*lines: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: test") -> bytes:
    return b"\r\n".join([line, *([host] if host else []), *lines, b"", b""])


def _chunked(body: bytes) -> bytes:
    return _get(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.1") + body


CL, TE = b"Content-Length: 5", b"Transfer-Encoding: chunked"

REFUSED = [
    # framing: RFC 9112 §6.1 to §6.3, RFC 9110 §8.6
    (400, "CL and TE", _get(CL, TE) + b"0\r\n\r\n"),
    (400, "TE and CL", _get(TE, CL) + b"0\r\n\r\n"),
    (400, "differing CL", _get(CL, b"Content-Length: 6") + b"hello"),
    (400, "equal CL twice", _get(CL, CL) + b"hello"),
    (400, "listed CL", _get(b"Content-Length: 5, 5") + b"hello"),
    (400, "CL +5", _get(b"Content-Length: +5") + b"hello"),
    (400, "CL -5", _get(b"Content-Length: -5") + b"hello"),
    (400, "CL 0x5", _get(b"Content-Length: 0x5") + b"hello"),
    (400, "CL 5_0", _get(b"Content-Length: 5_0") + b"hello"),
    (400, "CL empty", _get(b"Content-Length:")),
    (400, "CL of 21 digits", _get(b"Content-Length: " + b"0" * 20 + b"5") + b"hello"),
    (400, "CL superscript", _get(b"Content-Length: \xb2")),
    (501, "TE gzip, chunked", _get(b"Transfer-Encoding: gzip, chunked")),
    (501, "TE identity", _get(b"Transfer-Encoding: identity")),
    (501, "TE xchunked", _get(b"Transfer-Encoding: xchunked")),
    (400, "TE chunked, chunked", _get(b"Transfer-Encoding: chunked, chunked")),
    (400, "TE chunked twice", _get(TE, TE)),
    (400, "TE chunked, identity", _get(b"Transfer-Encoding: chunked, identity")),
    (400, "TE with VT", _get(b"Transfer-Encoding:\x0bchunked")),
    (400, "TE in 1.0", _get(TE, line=b"POST / HTTP/1.0") + b"0\r\n\r\n"),
    # Host: RFC 9112 §3.2
    (400, "no Host", _get(host=b"")),
    (400, "two Hosts", _get(b"Host: test")),
    (400, "Host with blank", _get(host=b"Host: a b")),
    (400, "Host with path", _get(host=b"Host: a/b")),
    (400, "Host with userinfo", _get(host=b"Host: u@a")),
    (400, "Host with bad port", _get(host=b"Host: a:x")),
    (400, "Host with port 99999", _get(host=b"Host: a:99999")),
    (400, "Host with bad IPv6", _get(host=b"Host: [::g]")),
    (400, "Host list", _get(host=b"Host: a, b")),
    # target forms: RFC 9112 §3.2
    (400, "target without slash", _get(line=b"GET x HTTP/1.1")),
    (400, "fragment", _get(line=b"GET /a#b HTTP/1.1")),
    (400, "GET *", _get(line=b"GET * HTTP/1.1")),
    (400, "authority-form", _get(line=b"GET test:80 HTTP/1.1")),
    (501, "CONNECT", _get(line=b"CONNECT test:80 HTTP/1.1")),
    (400, "other scheme", _get(line=b"GET ftp://test/ HTTP/1.1")),
    (400, "absolute-form with userinfo", _get(line=b"GET http://u@test/ HTTP/1.1")),
    (400, "absolute-form without host", _get(line=b"GET http:///x HTTP/1.1")),
    (400, "raw high byte in target", _get(line=b"GET /\xff HTTP/1.1")),
    (400, "NUL, percent-encoded", _get(line=b"GET /%00 HTTP/1.1")),
    # request line: RFC 9112 §3
    (400, "two spaces", _get(line=b"GET  / HTTP/1.1")),
    (400, "no version", _get(line=b"GET /")),
    (400, "space at the end", _get(line=b"GET / HTTP/1.1 ")),
    (400, "method with colon", _get(line=b"GE:T / HTTP/1.1")),
    (400, "lower-case version", _get(line=b"GET / http/1.1")),
    (400, "version of two digits", _get(line=b"GET / HTTP/1.10")),
    (505, "HTTP/2.0", _get(line=b"GET / HTTP/2.0")),
    (505, "HTTP/3.0", _get(line=b"GET / HTTP/3.0")),
    (505, "HTTP/0.9", _get(line=b"GET / HTTP/0.9")),
    (505, "HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (400, "TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    # header fields: RFC 9110 §5, RFC 9112 §5
    (400, "blank before colon", _get(b"X : y")),
    (400, "bad name", _get(b"X(y): z")),
    (400, "empty name", _get(b": z")),
    (400, "name with high byte", _get(b"X\xe4: z")),
    (400, "no colon", _get(b"Xyz")),
    (400, "obs-fold", _get(b"X: y", b" z")),
    (400, "obs-fold by tab", _get(b"X: y", b"\tz")),
    (400, "blank line start", b"GET / HTTP/1.1\r\n Host: test\r\n\r\n"),
    (400, "NUL in a value", _get(b"X: a\x00b")),
    (400, "CR in a value", _get(b"X: a\rb")),
    (400, "LF in a value", _get(b"X: a\nY: b")),
    (400, "only LF", b"GET / HTTP/1.1\nHost: test\n\n"),
    (417, "other expectation", _get(b"Expect: the-unexpected")),
    # chunked framing: RFC 9112 §7.1
    (400, "chunk size is no number", _chunked(b"x\r\n")),
    (400, "chunk size 0x5", _chunked(b"0x5\r\nhello\r\n0\r\n\r\n")),
    (400, "chunk size +5", _chunked(b"+5\r\nhello\r\n0\r\n\r\n")),
    (400, "chunk size too large", _chunked(b"F" * 17 + b"\r\n")),
    (400, "blank before chunk size", _chunked(b" 5\r\nhello\r\n0\r\n\r\n")),
    (400, "no CRLF after chunk", _chunked(b"5\r\nhelloX\r\n0\r\n\r\n")),
    (400, "LF after chunk", _chunked(b"5\r\nhello\n0\r\n\r\n")),
    (400, "LF after size", _chunked(b"5\nhello\r\n0\r\n\r\n")),
    (400, "NUL in extension", _chunked(b"5;a\x00\r\nhello\r\n0\r\n\r\n")),
    (400, "CR in extension", _chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n")),
    (400, "forbidden trailer", _chunked(b"0\r\nContent-Length: 5\r\n\r\n")),
    (400, "bad trailer", _chunked(b"0\r\nX y\r\n\r\n")),
]

# limits are set to 200 bytes a line, 5 fields of 100 bytes, 1000 bytes of body
LIMITS = {
    "limit_request_line": 200,
    "limit_request_fields": 5,
    "limit_request_field_size": 100,
    "limit_request_body": 1000,
}
LIMITED = [
    (414, "request line", _get(line=b"GET /%b HTTP/1.1" % (b"x" * 187))),
    (414, "request line without end", b"GET /" + b"x" * 300),
    (431, "field", _get(b"X: " + b"y" * 98)),
    (431, "field without end", b"GET / HTTP/1.1\r\nX: " + b"y" * 200),
    (431, "fields", _get(*[b"X: y"] * 5)),
    (431, "fields without end", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 6),
    (431, "trailer", _chunked(b"0\r\nX: " + b"y" * 98 + b"\r\n\r\n")),
    (431, "trailers", _chunked(b"0\r\n" + b"X: y\r\n" * 6 + b"\r\n")),
    (413, "Content-Length", _get(b"Content-Length: 1001", line=b"POST / HTTP/1.1")),
    (413, "chunk size", _chunked(b"3E9\r\n")),
    (413, "sum of chunks", _chunked((b"1F4\r\n" + b"x" * 500 + b"\r\n") * 2 + b"1\r\nx\r\n0\r\n\r\n")),
]


def _ids(table: list[tuple[int, str, bytes]]) -> list[str]:
    return [f"{name} → {status}" for status, name, _ in table]


@pytest.mark.parametrize("step", [0, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(("status", "name", "raw"), REFUSED, ids=_ids(REFUSED))
async def test_wrong_requests_are_refused(status: int, name: str, raw: bytes, step: int) -> None:
    """PAINS 46 (gunicorn CVE-2024-1135, CVE-2024-6827; waitress CVE-2019-16785, -16786, -16789; h11 CVE-2025-43859),
    and what h11 alone lets through: NUL and bare CR in chunk extensions, HTTP/2.0, a Host that is none, CL and TE."""
    await _check_refused(status, raw, step, Counting(), {})


@pytest.mark.parametrize("step", [0, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(("status", "name", "raw"), LIMITED, ids=_ids(LIMITED))
async def test_limits(status: int, name: str, raw: bytes, step: int) -> None:
    """PAINS 32: more than `limit_request_body` is 413, however it is framed."""
    await _check_refused(status, raw, step, Counting(), LIMITS)


async def _check_refused(status: int, raw: bytes, step: int, app: Counting, settings: dict[str, Any]) -> None:
    async with serving(app, **settings) as served:
        with trio.fail_after(10):
            async with await served.connect() as stream:
                try:
                    # What follows a refused request is never taken for another one.
                    await _send(stream, raw, step)
                    await stream.send_all(_get(line=b"GET /next HTTP/1.1"))
                except trio.BrokenResourceError:
                    assert step == 1  # refused before all of it was there
                answer = read_answer(await receive_all(stream), "GET")
        record = await served.record()
    assert answer.status == status
    assert answer.closes
    assert len(answer.values("date")) == len(answer.values("server")) == 1
    assert answer.body.startswith(b"%d " % status)
    assert app.calls == 0
    assert (record.status, record.outcome.value) == (status, "refused")
    assert len(served.records) == 1


async def _send(stream: trio.SocketStream, raw: bytes, step: int) -> None:
    for start in range(0, len(raw), step or len(raw)):
        await stream.send_all(raw[start : start + (step or len(raw))])


AT_LIMITS = [
    _get(line=b"GET /%b HTTP/1.1" % (b"x" * 186)),
    _get(b"X: " + b"y" * 97),
    _get(*[b"X: y"] * 4),
    _get(b"Content-Length: 1000", line=b"POST / HTTP/1.1") + b"x" * 1000,
    _chunked((b"1F4\r\n" + b"x" * 500 + b"\r\n") * 2 + b"0\r\n\r\n"),
]


@pytest.mark.parametrize("raw", AT_LIMITS, ids=["line", "field", "fields", "body", "chunked body"])
async def test_what_just_fits_is_served(raw: bytes) -> None:
    app = Counting()
    async with serving(app, **LIMITS) as served:
        assert read_answer(await served.exchange(raw)).status == 200
    assert app.calls == 1


@pytest.mark.parametrize(
    ("status", "raw"),
    [
        (400, _get(line=b"HEAD / HTTP/1.1", host=b"Host: a b")),
        (417, _get(b"Expect: x", line=b"HEAD / HTTP/1.1")),
        (505, _get(line=b"HEAD / HTTP/2.0")),
        (413, _get(b"Content-Length: 9999999999", line=b"HEAD / HTTP/1.1")),
    ],
)
async def test_a_refused_head_request_gets_its_head(status: int, raw: bytes) -> None:
    # RFC 9110 §9.3.2: no body; and h11 would not frame one
    async with serving(Counting()) as served:
        answer = read_answer(await served.exchange(raw), "HEAD")
    assert (answer.status, answer.body, answer.closes) == (status, b"", True)
    assert int(answer.value("content-length")) > 0


@pytest.mark.parametrize(
    ("status", "raw"),
    [
        (501, _get(b"Transfer-Encoding: gzip", line=b"HEAD /x HTTP/1.1")),
        (400, _get(b"Content-Length: x", line=b"HEAD /x HTTP/1.1")),
        (431, _get(b"A: " + bytes(9000).replace(b"\0", b"a"), line=b"HEAD /x HTTP/1.1")),
        (431, _get(*[b"A: b"] * 200, line=b"HEAD /x HTTP/1.1")),
        (400, _get(line=b"HEAD /x HTTP/1.1", host=b"A: b")),
        (400, _get(b"A : b", line=b"HEAD /x HTTP/1.1")),
    ],
)
async def test_a_head_request_that_nobody_would_read_has_no_body_either(status: int, raw: bytes) -> None:
    """RFC 9110 §9.3.2, and §8.6: its length is that of GET's. The log has its method and target, so that one can see
    what was refused."""
    async with serving(Counting()) as served:
        got = read_answer(await served.exchange(raw.replace(b"HEAD", b"GET")))
        answer = read_answer(await served.exchange(raw), "HEAD")
        record = await served.record(2)
    assert (answer.status, answer.body, answer.closes) == (got.status, b"", True) == (status, b"", True)
    assert int(answer.value("content-length")) == len(got.body) > 0
    assert (record.method, record.target, record.version) == ("HEAD", "/x", "HTTP/1.1")


@pytest.mark.parametrize(
    ("status", "raw"),
    [
        (408, _get(line=b"HEAD /x HTTP/1.1")[:-2]),
        (408, b"HEAD /x HTTP/1."),
        (408, b"HEAD /x"),
        (414, b"HEAD /" + b"x" * 9000),
    ],
)
async def test_a_head_request_that_does_not_end_has_no_body_either(status: int, raw: bytes) -> None:
    """RFC 9110 §9.3.2: in how many packets it comes, if it ever does, makes no difference."""
    async with serving(Counting(), header_timeout=0.2) as served, await served.connect() as stream:
        await stream.send_all(raw)
        with trio.fail_after(10):
            answer = read_answer(await receive_all(stream), "HEAD")
        record = await served.record()
    assert (answer.status, answer.body, answer.closes) == (status, b"", True)
    assert int(answer.value("content-length")) > 0
    assert (record.method, record.target[:2]) == ("HEAD", "/x")


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        (b"FOO\r\n", b"malformed request line"),
        (b"GET /\r\n", b"malformed request line"),
        (b"GET / HTTP %\r\nHost: test\r", b"malformed request line"),
        (_get(b"X : y")[:-2], b"whitespace between header name and colon"),
    ],
)
async def test_a_wrong_line_is_not_waited_behind(raw: bytes, rule: bytes) -> None:
    """Nothing that follows it can make the head right: it is refused when it ends, long before `header_timeout`."""
    async with serving(Counting()) as served, await served.connect() as stream:
        await stream.send_all(raw)
        with trio.fail_after(10):
            answer = read_answer(await receive_all(stream))
    assert (answer.status, answer.closes, rule in answer.body) == (400, True, True)


@pytest.mark.parametrize("buffering", [True, False])
async def test_a_body_that_is_told_too_large_is_refused_before_it_is_read(buffering: bool) -> None:
    app = Counting()
    async with serving(app, limit_request_body=1000, request_buffering=buffering) as served:
        with trio.fail_after(5):
            async with await served.connect() as stream:
                await stream.send_all(_get(b"Content-Length: 1001", b"Expect: 100-continue", line=b"PUT /x HTTP/1.1"))
                answer = read_answer(await receive_all(stream), "PUT")
        record = await served.record()
    assert (answer.status, answer.interim, answer.closes) == (413, [], True)
    assert (record.method, record.target, record.version) == ("PUT", "/x", "HTTP/1.1")  # who is to be told of it
    assert app.calls == 0


async def test_a_streamed_body_that_grows_too_large_raises_in_the_app() -> None:
    # Without request buffering the app is running: it learns it where it reads; the client gets the 413 all the same.
    app = Counting()
    async with serving(app, limit_request_body=1000, request_buffering=False) as served:
        raw = await served.exchange(_chunked((b"1F4\r\n" + b"x" * 500 + b"\r\n") * 2 + b"1\r\nx"))
        record = await served.record()
    answer = read_answer(raw)
    assert (answer.status, answer.closes) == (413, True)
    assert record.outcome.value == "refused"
    assert app.calls == 1


async def test_an_app_that_answers_a_broken_body_itself_ends_the_connection() -> None:
    def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            environ["wsgi.input"].read()
        except Exception:
            start_response("400 Bad Request", [])
            return [b"mine"]
        raise AssertionError

    async with serving(app, request_buffering=False) as served:
        raw = await served.exchange(_chunked(b"x\r\n") + _get())
    answer = read_answer(raw)
    assert (answer.status, answer.body, answer.closes) == (400, b"mine", True)


async def test_too_many_empty_lines_are_no_request() -> None:
    # RFC 9112 §2.2 asks for tolerance of one; in pieces they are dropped, and the deadline bounds them
    async with serving(Counting()) as served:
        answer = read_answer(await served.exchange(b"\r\n" * 9 + _get()))
    assert (answer.status, answer.closes) == (400, True)


@pytest.mark.parametrize("step", [0, 1], ids=["whole", "byte by byte"])
async def test_low_limits_of_a_head_are_none_for_the_lines_of_chunks(step: int) -> None:
    """They have a limit of their own; in how many packets one comes makes no difference."""
    raw = _chunked(b"5;a=" + b"b" * 2000 + b"\r\nhello\r\n0\r\nX: y\r\n\r\n")
    async with serving(Counting(), **LIMITS) as served:
        with trio.fail_after(10):
            async with await served.connect() as stream:
                await _send(stream, raw, step)
                await stream.send_eof()
                assert read_answer(await receive_all(stream)).status == 200


async def test_an_unlimited_body() -> None:
    async with serving(Counting(), limit_request_body=0) as served:
        assert read_answer(await served.exchange(_chunked(b"5\r\nhello\r\n0\r\n\r\n"))).status == 200


async def test_requests_before_a_refused_one_are_answered() -> None:
    app = Counting()
    async with serving(app) as served:
        raw = await served.exchange(_get() + _get() + _get(b"X : y") + _get())
    answers = read_answers(raw, ["GET"] * 3)
    assert [answer.status for answer in answers] == [200, 200, 400]
    assert app.calls == 2


async def test_names_with_underscores_never_reach_the_environ() -> None:
    """PAINS 46: X_Real_IP would be X-Real-IP's double (kin of CVE-2019-16786)."""
    seen: Environ = {}

    def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.update(environ)
        start_response("200 OK", [])
        return []

    lines = (b"X_Real_IP: evil", b"X-Real-IP: good", b"Content_Length: 7", b"Transfer_Encoding: chunked")
    async with serving(app) as served:
        assert read_answer(await served.exchange(_get(*lines, b"Proxy: http://evil"))).status == 200
    assert seen["HTTP_X_REAL_IP"] == "good"
    assert not {"CONTENT_LENGTH", "HTTP_CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "HTTP_PROXY"} & set(seen)


async def test_a_refusal_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "trio_wsgi.error"):
        async with serving(Counting()) as served:
            await served.exchange(_get(b"X : y"))
    (line,) = [record for record in caplog.records if record.name == "trio_wsgi.error"]
    assert line.levelno == logging.INFO
    assert line.exc_info is None
    assert "refused" in line.getMessage()
    assert "\n" not in line.getMessage()
