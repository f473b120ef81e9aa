"""The rules of chunked framing: RFC 9112 §7.1 and RFC 9110 §6.5."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import ruled

from trio_wsgi.errors import ClientError
from trio_wsgi.rules.chunks import ChunkScanner
from trio_wsgi.rules.head import HeadLimits

LIMITS = HeadLimits(fields=4, field_size=50)

RIGHT = [
    # rule, body, decoded length
    ("9112 §7.1 empty", b"0\r\n\r\n", 0),
    ("9112 §7.1 two chunks", b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", 11),
    ("9112 §7.1 hex in both cases, zeros", b"00a\r\n0123456789\r\nA\r\n0123456789\r\n000\r\n\r\n", 20),
    ("9112 §7.1 line ends and zeros in the data", b"6\r\n\r\n0\r\n\r\r\n0\r\n\r\n", 6),
    ("9112 §7.1.1 extensions", b'1;a;b=c; d="e f"\r\nx\r\n0;last\r\n\r\n', 1),
    ("9112 §7.1.1 obs-text in an extension", b"1;a=\xe4\t\r\nx\r\n0\r\n\r\n", 1),
    ("9112 §7.1.2 trailers", b"1\r\nx\r\n0\r\nX-Sum: 12\r\nY:\r\n\r\n", 1),
    ("field limit exactly", b"0\r\nX:" + b"a" * 48 + b"\r\n\r\n", 0),
    ("fields exactly", b"0\r\n" + b"X: a\r\n" * 4 + b"\r\n", 0),
    (
        "data pays for extensions",
        (b"800;" + b"e" * 4000 + b"\r\n" + b"d" * 2048 + b"\r\n") * 5 + b"0\r\n\r\n",
        10240,
    ),
]

WRONG = [
    ("9112 §7.1 no digit", 400, b"\r\n"),
    ("9112 §7.1 not hex", 400, b"g"),
    ("9112 §7.1 sign", 400, b"+5"),
    ("9112 §7.1 0x", 400, b"0x5"),
    ("9112 §7.1 underscore", 400, b"1_0"),
    ("9112 §7.1 space before", 400, b" 5"),
    ("9112 §7.1 space after", 400, b"5 \r\n"),
    ("9112 §7.1.1 bad whitespace", 400, b"5 ;a\r\n"),
    ("9112 §7.1 17 digits", 400, b"0" * 17),
    ("9112 §2.2 LF after the size", 400, b"5\nhello"),
    ("9112 §2.2 CR after the size", 400, b"5\rhello"),
    ("9112 §7.1.1 CR in an extension", 400, b"5;a\rb"),
    ("9112 §7.1.1 LF ends an extension", 400, b"5;a\n"),
    ("9112 §7.1.1 NUL in an extension", 400, b"5;a\x00"),
    ("9112 §7.1.1 control in an extension", 400, b"5;a\x01"),
    ("9112 §7.1.1 DEL in an extension", 400, b"5;a\x7f"),
    ("9112 §7.1 data too long", 400, b"5\r\nhello!\r\n"),
    ("9112 §7.1 CR LF missing", 400, b"5\r\nhello0\r\n\r\n"),
    ("9112 §7.1 LF after the data", 400, b"5\r\nhello\n0\r\n\r\n"),
    ("9112 §7.1 CR CR after the data", 400, b"5\r\nhello\r\r"),
    ("9112 §2.2 LF ends the body", 400, b"0\r\n\n"),
    ("9112 §2.2 LF ends a trailer", 400, b"0\r\nX: a\n\r\n"),
    ("9112 §2.2 CR in a trailer", 400, b"0\r\nX: a\rb"),
    ("9112 §5.2 folded trailer", 400, b"0\r\nX: a\r\n b\r\n\r\n"),
    ("9112 §5.1 space before the colon", 400, b"0\r\nX : a\r\n"),
    ("9110 §5.5 NUL in a trailer", 400, b"0\r\nX: \x00\r\n"),
    ("9110 §5.1 no colon", 400, b"0\r\nX\r\n"),
    ("9110 §6.5.1 framing", 400, b"0\r\nContent-Length: 5\r\n"),
    ("9110 §6.5.1 framing", 400, b"0\r\nTRANSFER-ENCODING: chunked\r\n"),
    ("9110 §6.5.1 routing", 400, b"0\r\nHost: a\r\n"),
    ("9110 §6.5.1 authentication", 400, b"0\r\nAuthorization: a\r\n"),
    ("bound of a size line", 400, b"1;" + b"a" * 4096),
    ("bound of all extensions", 400, (b"1;" + b"a" * 4000 + b"\r\nx\r\n") * 5),
    ("limit_request_fields", 431, b"0\r\n" + b"X: a\r\n" * 5),
    ("limit_request_field_size", 431, b"0\r\nX:" + b"a" * 51),
]


def scan(data: bytes, step: int) -> tuple[int, bool, int]:
    """Feed `data` in steps; bytes taken, done, decoded length."""
    scanner = ChunkScanner(LIMITS)
    taken = 0
    for start in range(0, len(data), step):
        piece = data[start : start + step]
        count = scanner.feed(piece)
        taken += count
        if count < len(piece) or scanner.done:
            assert scanner.done
            break
    return taken, scanner.done, scanner.body_bytes


def outcome(data: bytes, step: int) -> object:
    try:
        return scan(data, step)
    except ClientError as error:
        return error.status


def decode(data: bytes) -> tuple[bytes, bytes] | None:
    """What h11 takes for the body, and what it leaves; None if it is not complete."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.next_event()
    if data:  # an empty one tells h11 that the peer has gone
        connection.receive_data(data)
    body = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return body, connection.trailing_data[0]
        else:
            return None


@pytest.mark.parametrize(("body", "length"), ruled(RIGHT))
@pytest.mark.parametrize("step", [1, 2, 3, 7, 1 << 20])
def test_right_framing_ends_where_h11_ends_it(body: bytes, length: int, step: int) -> None:
    assert scan(body, step) == (len(body), True, length)
    assert scan(body + b"GET / HTTP/1.1\r\n", step) == (len(body), True, length)
    for cut in range(0, len(body), max(1, len(body) // 50)):
        assert not scan(body[:cut], 1 << 20)[1]
    decoded = decode(body + b"rest")
    assert decoded is not None
    assert (len(decoded[0]), decoded[1]) == (length, b"rest")


@pytest.mark.parametrize(("status", "body"), ruled(WRONG))
@pytest.mark.parametrize("step", [1, 2, 3, 7, 1 << 20])
def test_wrong_framing_is_refused_at_once(status: int, body: bytes, step: int) -> None:
    """Nothing follows the wrong bytes: a refusal waits for no line end that may never come."""
    assert outcome(body, step) == status


def test_large_data_is_counted_and_announced() -> None:
    scanner = ChunkScanner(LIMITS)
    assert scanner.feed(b"FFFFFFFFFF\r\n") == 12
    assert (scanner.announced, scanner.body_bytes) == (0xFFFFFFFFFF, 0)
    block = memoryview(bytes(1 << 20))
    assert scanner.feed(block) == len(block)
    assert (scanner.announced, scanner.body_bytes, scanner.done) == (0xFFFFFFFFFF, 1 << 20, False)


def test_after_the_end_nothing_belongs_to_the_body() -> None:
    scanner = ChunkScanner(LIMITS)
    assert scanner.feed(memoryview(b"0\r\n\r\n\x00")) == 5
    assert scanner.feed(b"0\r\n\r\n") == 0
    assert "done" in repr(scanner)


PIECES = st.sampled_from(b"0|1|5|a|\r\n|\r|\n|;|x|hello|X: y| |\t|\x00|0\r\n\r\n".split(b"|"))
WILD = st.one_of(
    st.binary(max_size=60),
    st.lists(PIECES, max_size=20).map(b"".join),
    st.lists(st.binary(min_size=1, max_size=20), max_size=5).map(
        lambda chunks: b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\nrest"
    ),
)


@given(WILD, st.integers(1, 9))
def test_pieces_do_not_change_the_outcome(data: bytes, step: int) -> None:
    assert outcome(data, step) == outcome(data, 1 << 20)


@given(WILD)
def test_what_is_accepted_h11_reads_alike(data: bytes) -> None:
    try:
        taken, done, length = scan(data, 1 << 20)
    except ClientError:
        return
    decoded = decode(data)
    if done:
        assert decoded is not None
        assert (len(decoded[0]), decoded[1]) == (length, data[taken:])
    else:
        assert decoded is None
        assert taken == len(data)
