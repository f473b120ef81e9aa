"""The rules of a request's head: RFC 9112 §2.2, §3, §5, §6, §9.3 and RFC 9110 §5, §7.2, §8.6, §10.1.1."""

from __future__ import annotations

from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import ruled

from trio_wsgi.errors import ClientError
from trio_wsgi.rules.head import (
    HEAD_CEILING,
    HeadLimits,
    RequestHead,
    check_head,
    find_head_end,
    parse_request,
    skip_blank_lines,
)
from trio_wsgi.rules.target import check_authority, parse_target

LIMITS = HeadLimits()
HOST = (b"host", b"example.org")
GET = b"GET / HTTP/1.1\r\nHost: example.org\r\n"
LENGTH = b"Content-Length: 5\r\n"


def judge(raw: bytes, limits: HeadLimits = LIMITS) -> RequestHead:
    """What the wire does with the bytes of one head."""
    check_head(raw, limits)
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_CEILING)
    connection.receive_data(raw)
    try:
        request = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise ClientError(error.error_status_hint, str(error)) from error
    assert isinstance(request, h11.Request)
    return parse_request(request.method, request.target, request.headers, request.http_version)


def parse(
    *headers: tuple[bytes, bytes],
    method: bytes = b"POST",
    target: bytes = b"/",
    version: bytes = b"1.1",
    host: tuple[bytes, bytes] | None = HOST,
) -> RequestHead:
    return parse_request(method, target, ((host,) if host else ()) + headers, version)


RAW_REFUSED = [
    # rule, status, word in the reason, bytes
    ("9112 §2.2 bare LF", 400, "LF", b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
    ("9112 §2.2 bare LF ends the request line", 400, "LF", b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    ("9112 §2.2 bare CR", 400, "CR", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n"),
    ("9112 §2.2 CR CR LF", 400, "CR", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"),
    ("9110 §5.5 NUL in a value", 400, "NUL", GET + b"X: a\x00b\r\n\r\n"),
    ("9110 §5.5 VT in a value", 400, "control", GET + b"X: a\x0bb\r\n\r\n"),
    ("9112 §5.2 obs-fold", 400, "folded", GET + b"X: a\r\n b\r\n\r\n"),
    ("9112 §5.2 obs-fold by tab", 400, "folded", GET + b"X: a\r\n\tb\r\n\r\n"),
    ("9112 §2.2 space before the first field", 400, "folded", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    ("9112 §5.1 space before the colon", 400, "colon", GET + b"X : a\r\n\r\n"),
    ("9112 §5.1 tab before the colon", 400, "colon", GET + b"Content-Length\t: 3\r\n\r\n"),
    ("9110 §5.1 no name", 400, "name", GET + b": a\r\n\r\n"),
    ("9110 §5.1 no colon", 400, "name", GET + b"X\r\n\r\n"),
    ("9110 §5.6.2 delimiter in a name", 400, "name", GET + b"X(y): a\r\n\r\n"),
    ("9110 §5.6.2 obs-text in a name", 400, "name", GET + b"X\xe4: a\r\n\r\n"),
    ("9112 §3 two spaces", 400, "request line", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("9112 §3 space in the target", 400, "request line", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("9112 §3 tab instead of space", 400, "request line", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("9112 §3 trailing space", 400, "request line", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
    ("9112 §3 HTTP/0.9", 400, "request line", b"GET /\r\nHost: a\r\n\r\n"),
    ("9112 §2.3 the name is case-sensitive", 400, "request line", b"GET / http/1.1\r\nHost: a\r\n\r\n"),
    ("9112 §2.3 one digit each", 400, "request line", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n"),
    ("9110 §9.1 method is a token", 400, "request line", b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("9112 §3.2 raw UTF-8 in the target", 400, "request line", b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("9112 §6.3 equal, two lines", 400, "one Content", GET + b"Content-Length: 5\r\n" * 2 + b"\r\n"),
    ("9112 §6.3 equal lengths, a list", 400, "one Content", GET + b"Content-Length: 5, 5\r\n\r\n"),
    ("9112 §6.3 differing lengths", 400, "one Content", GET + LENGTH + b"content-length: 6\r\n\r\n"),
    ("9112 §6.1 length and coding", 400, "together", GET + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n"),
    ("9112 §6.1 coding and length", 400, "together", GET + b"TRANSFER-ENCODING: x\r\n" + LENGTH + b"\r\n"),
    ("9112 §6.1 chunked twice", 400, "chunked", GET + b"Transfer-Encoding: chunked, chunked\r\n\r\n"),
    ("9112 §6.1 chunked not last", 400, "chunked", GET + b"Transfer-Encoding: chunked, gzip\r\n\r\n"),
    ("9112 §6.1 two lines", 400, "chunked", GET + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n"),
    ("9112 §6.1 another coding", 501, "coding", GET + b"Transfer-Encoding: gzip\r\n\r\n"),
    ("9112 §6.1 another coding first", 501, "coding", GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    ("9110 §8.6 sign", 400, "malformed", GET + b"Content-Length: +5\r\n\r\n"),
    ("9110 §8.6 empty", 400, "malformed", GET + b"Content-Length:\r\n\r\n"),
    ("9112 §3.2 no Host", 400, "Host", b"GET / HTTP/1.1\r\n\r\n"),
    ("9112 §3.2 two Hosts", 400, "Host", GET + b"Host: example.org\r\n\r\n"),
    ("9112 §3.2 two Hosts in 1.0", 400, "Host", b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"),
    ("9110 §15.6.6 version", 505, "version", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
]


@pytest.mark.parametrize(("status", "word", "raw"), ruled(RAW_REFUSED))
def test_a_wrong_head_is_refused_with_its_rule(status: int, word: str, raw: bytes) -> None:
    with pytest.raises(ClientError) as caught:
        judge(raw)
    assert (caught.value.status, word in caught.value.reason) == (status, True), caught.value


RAW_ACCEPTED = [
    ("9110 §5.5 obs-text in a value", GET + b"X: \xe4\xff\r\n\r\n"),
    ("9110 §5.5 tab in a value", GET + b"X: a\tb\r\n\r\n"),
    ("9110 §5.5 a CTL may be kept", GET + b"Cookie: a=\x01\r\n\r\n"),
    ("9112 §5 no space after the colon", GET + b"X:a\r\n\r\n"),
    ("9112 §5 empty value", GET + b"X:\r\n\r\n"),
    ("9110 §8.6 spaces around a length", GET + b"Content-Length: \t 5 \r\n\r\n"),
    ("9110 §5.6.2 all of token", GET + b"!#$%&'*+-.^_`|~09azAZ: x\r\n\r\n"),
    ("9112 §6.1 coding in capitals", GET + b"Transfer-Encoding: Chunked\r\n\r\n"),
    ("9112 §3 any token is a method", b"get / HTTP/1.0\r\n\r\n"),
]


@pytest.mark.parametrize("raw", ruled(RAW_ACCEPTED))
def test_a_right_head_is_accepted(raw: bytes) -> None:
    judge(raw)
    judge(bytearray(raw))


LIMITS_TABLE = [
    # limits, target's and field's length, fields, status (None: accepted); a line counts without its CRLF
    ("line exactly", HeadLimits(line=30), 30, 5, 1, None),
    ("line + 1", HeadLimits(line=30), 31, 5, 1, 414),
    ("field exactly", HeadLimits(field_size=40), 20, 40, 1, None),
    ("field + 1", HeadLimits(field_size=40), 20, 41, 1, 431),
    ("fields exactly", HeadLimits(fields=4), 20, 10, 4, None),
    ("fields + 1", HeadLimits(fields=4), 20, 10, 5, 431),
    ("defaults", LIMITS, 8190, 8190, 100, None),
    ("defaults: line", LIMITS, 8191, 10, 1, 414),
    ("0 is no limit", HeadLimits(0, 0, 0), 10_000, 9_000, 120, None),
]


@pytest.mark.parametrize(("limits", "line", "field", "fields", "status"), ruled(LIMITS_TABLE))
@pytest.mark.parametrize("step", [0, 1, 7, 8192])
def test_limits_hold_however_the_bytes_arrive(
    limits: HeadLimits, line: int, field: int, fields: int, status: int | None, step: int
) -> None:
    head_line = b"GET /" + b"a" * (line - 14) + b" HTTP/1.1\r\n"
    raw = head_line + (b"X:" + b"b" * (field - 2) + b"\r\n") * fields + b"\r\n"
    too_many = step == 1 and len(raw) > 50_000  # of single bytes for the time a test may take
    raw_step = 101 if too_many else step or len(raw)
    if status is None:
        assert feed(raw, raw_step, limits) == len(raw)
    else:
        with pytest.raises(ClientError, match=f"^{status}: "):
            feed(raw, raw_step, limits)


def feed(raw: bytes, step: int, limits: HeadLimits = LIMITS) -> int:
    """Give `raw` in steps; the end of the head, or -1."""
    buffer = bytearray()
    scanned, end = 0, -1
    for start in range(0, len(raw), step):
        buffer += raw[start : start + step]
        end = find_head_end(buffer, scanned, limits)
        if end >= 0:
            check_head(buffer[:end], limits)
            break
        scanned = len(buffer)
    return end


NEVER_RIGHT = [
    ("bare LF", 400, b"GET / HTTP/1.1\nHost: a\n\n", LIMITS),
    ("bare CR", 400, b"GET / HTTP/1.1\rHost: a", LIMITS),
    ("TLS on a plain port", 400, b"\x16\x03\x01\x02\x00\x01", LIMITS),
    ("space first", 400, b" GET /", LIMITS),
    ("no version", 400, b"GET /\r\n", LIMITS),
    ("no request", 400, b"FOO\r\nHost: a\r", LIMITS),
    ("version that is none", 400, b"GET / HTTP %\r\n", LIMITS),
    ("no colon", 400, GET + b"X\r\n", LIMITS),
    ("space before the colon", 400, GET + b"X : a\r\nY", LIMITS),
    ("folded", 400, GET + b" a\r\nY: b", LIMITS),
    ("line without an end", 414, b"a" * 32, HeadLimits(line=30)),
    ("field without an end", 431, b"GET / HTTP/1.1\r\nX:" + b"a" * 40, HeadLimits(field_size=40)),
    ("fields without an end", 431, b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 5, HeadLimits(fields=4)),
    ("no limits, no end", 431, b"G" * (HEAD_CEILING + 1), HeadLimits(0, 0, 0)),
]


@pytest.mark.parametrize(("status", "raw", "limits"), ruled(NEVER_RIGHT))
def test_a_start_that_cannot_become_right_is_refused_before_its_end(
    status: int, raw: bytes, limits: HeadLimits
) -> None:
    for step in (len(raw), max(1, len(raw) // 40)):
        with pytest.raises(ClientError, match=f"^{status}: "):
            feed(raw, step, limits)


def test_the_end_is_found_in_what_follows_and_in_any_pieces() -> None:
    raw = GET + b"\r\nGET /next HTTP/1.1\r\n\r\n"
    for step in range(1, len(raw) + 1):
        assert feed(raw, step) == len(GET) + 2


def test_empty_lines_before_a_request_are_skipped_within_a_bound() -> None:
    """RFC 9112 §2.2."""
    assert skip_blank_lines(b"") == 0
    assert skip_blank_lines(b"GET") == 0
    assert skip_blank_lines(b"\r") == 0
    assert skip_blank_lines(b"\r\nGET") == 2
    assert skip_blank_lines(bytearray(b"\r\n\r\n\r")) == 4
    with pytest.raises(ClientError, match=r"^400: "):
        skip_blank_lines(b"\r\n" * 5)


REQUESTS_REFUSED = [
    ("9112 §6.1 both", 400, {}, [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")]),
    ("9112 §6.3 two lines", 400, {}, [(b"content-length", b"5"), (b"content-length", b"5")]),
    ("9112 §6.3 list", 400, {}, [(b"content-length", b"5,5")]),
    ("9110 §8.6 hex", 400, {}, [(b"content-length", b"0x5")]),
    ("9110 §8.6 space", 400, {}, [(b"content-length", b"5 5")]),
    ("9110 §8.6 minus", 400, {}, [(b"content-length", b"-1")]),
    ("9110 §8.6 too many digits", 400, {}, [(b"content-length", b"1" * 5000)]),
    ("9112 §6.1 in 1.0", 400, {"version": b"1.0"}, [(b"transfer-encoding", b"chunked")]),
    ("9112 §6.1 empty", 400, {}, [(b"transfer-encoding", b"")]),
    ("9112 §6.1 empty member", 400, {}, [(b"transfer-encoding", b",chunked")]),
    ("9112 §6.1 identity", 501, {}, [(b"transfer-encoding", b"identity")]),
    ("9112 §6.1 nearly chunked", 501, {}, [(b"transfer-encoding", b"xchunked")]),
    ("9112 §6.1 with a parameter", 501, {}, [(b"transfer-encoding", b"chunked;a=b")]),
    ("9110 §10.1.1 expectation", 417, {}, [(b"expect", b"the-unexpected")]),
    ("9110 §10.1.1 one of two", 417, {}, [(b"expect", b"100-continue, x")]),
    ("9112 §3.2 no Host", 400, {"host": None}, []),
    ("9112 §3.2 two", 400, {}, [HOST]),
    ("9112 §3.2 two in 1.0", 400, {"version": b"1.0"}, [HOST]),
    ("9112 §3.2.2 empty Host, absolute-form", 400, {"host": (b"host", b""), "target": b"http://a/"}, []),
    ("9110 §15.6.6 2.0", 505, {"version": b"2.0"}, []),
    ("9110 §15.6.6 0.9", 505, {"version": b"0.9"}, []),
    ("9110 §9.3.6 CONNECT", 501, {"method": b"CONNECT", "target": b"a:443"}, []),
    ("9112 §3.2.3 authority-form", 400, {"target": b"a:443"}, []),
    ("9112 §3.2.4 * without OPTIONS", 400, {"target": b"*"}, []),
    ("9112 §3.2 fragment", 400, {"target": b"/a#b"}, []),
    ("9112 §3.2 fragment, absolute-form", 400, {"target": b"http://a/#b"}, []),
    ("9112 §3.2 obs-text", 400, {"target": b"/\xe4"}, []),
    ("9112 §3.2 control", 400, {"target": b"/\x7f"}, []),
    ("9112 §3.2 space", 400, {"target": b"/a b"}, []),
    ("9112 §3.2 empty", 400, {"target": b""}, []),
    ("9112 §3.2 relative", 400, {"target": b"index.html"}, []),
    ("9112 §3.2.2 scheme", 400, {"target": b"ftp://a/"}, []),
    ("9112 §3.2.2 no authority", 400, {"target": b"http:///a"}, []),
    ("9110 §4.2.4 userinfo", 400, {"target": b"http://u:p@a/"}, []),
    ("9112 §3.2.2 bad Host all the same", 400, {"host": (b"host", b"a/b"), "target": b"http://a/"}, []),
]


@pytest.mark.parametrize(("status", "parts", "headers"), ruled(REQUESTS_REFUSED))
def test_a_wrong_request_is_refused(status: int, parts: dict[str, Any], headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ClientError, match=f"^{status}: "):
        parse(*headers, **parts)


# RFC 9110 §7.2, RFC 3986 §3.2.2 and §3.2.3
RIGHT_HOSTS = [b"a", b"example.org:8000", b"127.0.0.1:80", b"a_b.example", b"a:", b"%41.example", b"xn--p1ai"]
RIGHT_HOSTS += [b"[::1]", b"[::1]:8000", b"[::ffff:1.2.3.4]", b"a:0", b"a:65535"]
WRONG_HOSTS = [b"", b":80", b"a b", b"a/b", b"u@a", b"a:x", b"a:65536", b"a:123456", b"a:1:2", b"::1", b"a?b"]
WRONG_HOSTS += [b"[::1", b"[::g]", b"[1.2.3.4]", b"[]", b"[::1]x", b"[fe80::1%25eth0]", b"[v1.x]", b"a\x00"]
WRONG_HOSTS += [b"\xe4", b"a\\b", b'"a"', b"a#b", b"%4", b"a<b>", b"a\r\nb"]
HOSTS = [*((host, True) for host in RIGHT_HOSTS), *((host, False) for host in WRONG_HOSTS)]


@pytest.mark.parametrize(("host", "right"), HOSTS, ids=repr)
def test_host_syntax(host: bytes, right: bool) -> None:
    if right:
        check_authority(host)
    else:
        with pytest.raises(ClientError, match=r"^400: "):
            check_authority(host)


TARGETS = [
    # RFC 9112 §3.2.1, §3.2.2, §3.2.4; path, query, authority, scheme
    (b"GET", b"/a/b?c=d", (b"/a/b", b"c=d", None, None)),
    (b"GET", b"//host/x", (b"//host/x", b"", None, None)),
    (b"GET", b"/?", (b"/", b"", None, None)),
    (b"GET", b"/a??b", (b"/a", b"?b", None, None)),
    (b"GET", b"/%2e|{}", (b"/%2e|{}", b"", None, None)),
    (b"OPTIONS", b"*", (b"*", b"", None, None)),
    (b"OPTIONS", b"http://a:80", (b"*", b"", b"a:80", b"http")),
    (b"OPTIONS", b"http://a?b", (b"/", b"b", b"a", b"http")),
    (b"GET", b"HTTPS://A:80/b?c", (b"/b", b"c", b"A:80", b"https")),
    (b"GET", b"http://a", (b"/", b"", b"a", b"http")),
    (b"GET", b"http://[::1]?b", (b"/", b"b", b"[::1]", b"http")),
]


@pytest.mark.parametrize(("method", "target", "parts"), TARGETS)
def test_target_forms(method: bytes, target: bytes, parts: tuple[bytes | None, ...]) -> None:
    assert parse_target(method, target) == parts


def test_authority_is_the_targets_else_the_hosts() -> None:
    """RFC 9112 §3.2.2: the Host of an absolute-form request is ignored."""
    assert parse(target=b"http://other:1/x").authority == b"other:1"
    assert parse().authority == b"example.org"
    assert parse(host=(b"host", b"")).authority == b""  # §3.3: the server's default applies
    assert parse(host=None, version=b"1.0").authority == b""


PERSISTENCE = [
    # RFC 9112 §9.3
    (b"1.1", [], True),
    (b"1.1", [b"close"], False),
    (b"1.1", [b"Keep-Alive, Close"], False),
    (b"1.1", [b"upgrade", b"close"], False),
    (b"1.0", [], False),
    (b"1.0", [b"Keep-Alive"], True),
    (b"1.0", [b"keep-alive", b"close"], False),
    (b"1.1", [b"closed"], True),
]


@pytest.mark.parametrize(("version", "values", "keep_alive"), PERSISTENCE)
def test_persistence(version: bytes, values: list[bytes], keep_alive: bool) -> None:
    assert parse(*[(b"connection", value) for value in values], version=version).keep_alive is keep_alive


def test_body_and_expectation() -> None:
    """RFC 9110 §10.1.1: 100-continue counts on 1.1 and with a body; RFC 9112 §6.3 for the body."""
    expect = (b"expect", b"100-Continue")
    length = (b"content-length", b"5")
    assert parse(expect, length).expects_continue
    assert parse(expect, (b"transfer-encoding", b"Chunked")).expects_continue
    assert not parse(expect).expects_continue
    assert not parse(expect, (b"content-length", b"0")).expects_continue
    assert not parse(expect, length, version=b"1.0").expects_continue
    head = parse(length)
    assert (head.content_length, head.chunked) == (5, False)
    head = parse((b"transfer-encoding", b"chunked"))
    assert (head.content_length, head.chunked) == (None, True)
    head = parse()
    assert (head.content_length, head.chunked) == (None, False)


PIECES = st.sampled_from(
    b"\r\n|\r|\n| |\t|:|X|Host: a|Content-Length: 5|\x00|\xe4|Transfer-Encoding: chunked|\r\n\r\n|http://".split(b"|")
)
WILD = st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=20).map(b"".join))


@given(WILD)
def test_arbitrary_bytes_raise_nothing_but_client_errors(data: bytes) -> None:
    try:
        skip_blank_lines(data)
        find_head_end(data, 0, LIMITS)
        check_head(data, LIMITS)
    except ClientError:
        pass


@given(WILD)
def test_what_is_accepted_h11_reads_alike_or_refuses_for_its_host(data: bytes) -> None:
    head = b"GET /a HTTP/1.1\r\n" + data + b"\r\n\r\n"
    end = find_outcome(head, len(head))
    if end != len(head):
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        assert "Host" in str(error)  # the only thing check_head leaves to the parsed form
        return
    assert isinstance(event, h11.Request)
    assert len(event.headers) == head.count(b"\n") - 2
    assert connection.trailing_data[0] == b""


def find_outcome(data: bytes, step: int) -> int | str:
    try:
        return feed(data, step)
    except ClientError as error:
        return str(error.status)


@given(WILD, st.integers(1, 5))
def test_pieces_do_not_change_where_a_right_head_ends(data: bytes, step: int) -> None:
    head = b"GET /a HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n"
    assert find_outcome(head, step) == find_outcome(head, len(head))


@given(
    st.binary(max_size=10),
    st.one_of(st.binary(max_size=40), st.sampled_from([b"/", b"*", b"http://a"])),
    st.lists(
        st.tuples(
            st.sampled_from([b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"]),
            st.one_of(st.binary(max_size=10), st.sampled_from([b"chunked", b"5", b"a", b"100-continue"])),
        ),
        max_size=6,
    ),
    st.sampled_from([b"1.0", b"1.1", b"2.0", b""]),
)
def test_arbitrary_requests_raise_nothing_but_client_errors(
    method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], version: bytes
) -> None:
    try:
        head = parse_request(method, target, headers, version)
    except ClientError:
        return
    assert head.path == b"*" or head.path.startswith(b"/")
    assert not (head.chunked and head.content_length is not None)
