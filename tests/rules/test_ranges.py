"""Byte ranges: RFC 9110, section 14."""

from __future__ import annotations

import email
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsgi.rules.ranges import (
    DEFAULT_MAX_RANGES,
    build_multipart,
    content_range,
    decide_ranges,
    parse_range,
    parts_length,
    unsatisfied_range,
)

HUGE = b"9" * 5000
BEYOND = 10**19


@pytest.mark.parametrize(
    ("value", "specs"),
    [
        # §14.1.2: the RFC's examples
        (b"bytes=0-499", [(0, 499)]),
        (b"bytes=500-999", [(500, 999)]),
        (b"bytes=-500", [(None, 500)]),
        (b"bytes=9500-", [(9500, None)]),
        (b"bytes=0-0,-1", [(0, 0), (None, 1)]),
        (b"bytes= 0-999, 4500-5499, -1000", [(0, 999), (4500, 5499), (None, 1000)]),
        # §14.1: unit names are case-insensitive
        (b"BYTES=0-1", [(0, 1)]),
        # §5.6.1.2: empty list elements; §5.6.3: blanks around the commas
        (b"bytes=,0-1,, 2-3\t,", [(0, 1), (2, 3)]),
        (b" bytes=0-1 ", [(0, 1)]),
        (b"bytes=-0", [(None, 0)]),
        (b"bytes=00-0007", [(0, 7)]),
        # numbers of any length
        (b"bytes=0-" + HUGE, [(0, BEYOND)]),
        (b"bytes=" + HUGE + b"-", [(BEYOND, None)]),
        (b"bytes=-" + HUGE, [(None, BEYOND)]),
        (b"bytes=" + HUGE + b"-" + HUGE, [(BEYOND, BEYOND)]),
        (b"bytes=" + b"0" * 5000 + b"1-2", [(1, 2)]),
        # §14.2: unknown units are ignored
        (b"seconds=0-1", None),
        (b"none", None),
        (b"", None),
        (b"=0-1", None),
        # §14.1.1: the grammar
        (b"bytes", None),
        (b"bytes 0-1", None),
        (b"bytes=", None),
        (b"bytes=,", None),
        (b"bytes=-", None),
        (b"bytes=--1", None),
        (b"bytes=1", None),
        (b"bytes=0-1-2", None),
        (b"bytes=0 - 1", None),
        (b"bytes =0-1", None),
        (b"bytes=a-b", None),
        (b"bytes=0x0-0x1", None),
        (b"bytes=+0-1", None),
        (b"bytes=1_0-20", None),
        (b"bytes=0-1;2-3", None),
        (b"bytes=0-1, x", None),
        (b"bytes=0-1, bytes=2-3", None),
        ("bytes=0-٤".encode(), None),
        (b"bytes=0-1\n", None),
        # §14.1.1: last before first is invalid, and so is the whole set
        (b"bytes=2-1", None),
        (b"bytes=0-1, 2-1", None),
        (b"bytes=" + HUGE + b"-" + HUGE[1:], None),
        (b"bytes=10-9", None),
    ],
)
def test_parse(value: bytes, specs: list[tuple[int | None, int | None]] | None) -> None:
    assert parse_range(value) == specs


IGNORE = None  # 200 with everything
REFUSE: list[tuple[int, int]] = []  # 416


@pytest.mark.parametrize(
    ("value", "size", "expected"),
    [
        # §14.1.2
        (b"bytes=0-499", 10000, [(0, 500)]),
        (b"bytes=500-999", 10000, [(500, 500)]),
        (b"bytes=-500", 10000, [(9500, 500)]),
        (b"bytes=9500-", 10000, [(9500, 500)]),
        (b"bytes=0-0,-1", 10000, [(0, 1), (9999, 1)]),
        (b"bytes= 0-999, 4500-5499, -1000", 10000, [(0, 1000), (4500, 1000), (9000, 1000)]),
        # §14.1.2: past the end is cut, a suffix longer than everything is everything
        (b"bytes=9999-10000", 10000, [(9999, 1)]),
        (b"bytes=0-" + HUGE, 10, [(0, 10)]),
        (b"bytes=-" + HUGE, 10, [(0, 10)]),
        (b"bytes=-11", 10, [(0, 10)]),
        (b"bytes=0-", 10, [(0, 10)]),  # players ask so, and expect a 206
        # §15.5.17: nothing satisfiable
        (b"bytes=10-", 10, REFUSE),
        (b"bytes=10-20, 30-", 10, REFUSE),
        (b"bytes=-0", 10, REFUSE),
        (b"bytes=" + HUGE + b"-", 10, REFUSE),
        # §14.2: satisfiable ones remain
        (b"bytes=10-20, 3-4, -0", 10, [(3, 2)]),
        # empty representation: §14.2 lets Range be ignored, as nginx and Apache do
        (b"bytes=0-", 0, IGNORE),
        (b"bytes=0-0", 0, IGNORE),
        (b"bytes=5-", 0, IGNORE),
        (b"bytes=-0", 0, IGNORE),
        (b"bytes=-5", 0, IGNORE),
        (b"bytes=0-, -5", 0, IGNORE),
        # §15.3.7.2: in the order asked for; overlaps that stay below the size are given
        (b"bytes=8-9,0-1", 10, [(8, 2), (0, 2)]),
        (b"bytes=0-3,2-5", 10, [(0, 4), (2, 4)]),
        # §14.2, §17.15 and nginx: more than everything is answered with everything
        (b"bytes=0-9,0-9", 10, IGNORE),
        (b"bytes=0-,0-,0-,0-", 10, IGNORE),
        (b"bytes=0-5,4-9", 10, IGNORE),
        (b"bytes=0-4,5-9", 10, [(0, 5), (5, 5)]),
        # ignored
        (b"bytes=5-4", 10, IGNORE),
        (b"lines=0-4", 10, IGNORE),
    ],
)
def test_decide(value: bytes, size: int, expected: list[tuple[int, int]] | None) -> None:
    assert decide_ranges(value, size) == expected


def test_max_ranges_counts_what_would_be_sent() -> None:
    """nginx's max_ranges: one more is a 200 with everything; 0 switches ranges off."""
    many = b"bytes=" + b",".join(b"%d-%d" % (n, n) for n in range(0, 2 * DEFAULT_MAX_RANGES, 2))
    assert len(decide_ranges(many, 1000) or ()) == DEFAULT_MAX_RANGES
    assert decide_ranges(many + b",999-", 1000) is None
    assert decide_ranges(many + b",1000-", 1000)
    assert decide_ranges(b"bytes=0-1", 10, max_ranges=0) is None
    assert decide_ranges(b"bytes=0-1", 10, max_ranges=1)
    assert decide_ranges(b"bytes=0-1,3-4", 10, max_ranges=1) is None


def test_parsing_takes_linear_time() -> None:
    for piece in (b"0-1,", b",", b" ", b"-", b"9", b"0"):
        start = time.process_time()
        decide_ranges(b"bytes=" + piece * 50_000, 100)
        assert time.process_time() - start < 1


@given(
    st.binary(max_size=60) | st.text(alphabet="bytes=,-0123456789 \t", max_size=60).map(str.encode),
    st.booleans(),
    st.integers(0, 2**70),
    st.integers(0, 5),
)
def test_every_range_lies_within(value: bytes, prefixed: bool, size: int, max_ranges: int) -> None:
    """§14.1.2, for whatever a client sends."""
    ranges = decide_ranges(b"bytes=" + value if prefixed else value, size, max_ranges=max_ranges) or []
    assert len(ranges) <= max_ranges
    assert sum(count for _, count in ranges) <= size
    for offset, count in ranges:
        assert 0 <= offset < offset + count <= size


@given(st.integers(1, 12), st.integers(0, 14), st.integers(0, 14), st.sampled_from(["ab", "a-", "-b"]))
def test_single_range_equals_slicing(size: int, first: int, last: int, kind: str) -> None:
    """§14.1.2, against Python's own idea of a slice."""
    data = bytes(range(size))
    if kind == "ab":
        value, expected = b"%d-%d" % (first, last), data[first : last + 1]
    elif kind == "a-":
        value, expected = b"%d-" % first, data[first:]
    else:
        value, expected = b"-%d" % last, data[-last:] if last else b""
    ranges = decide_ranges(b"bytes=" + value, size)
    if kind == "ab" and last < first:
        assert ranges is None
    else:
        assert ranges is not None
        assert [data[offset : offset + count] for offset, count in ranges] == ([expected] if expected else [])


def test_content_range() -> None:
    """§14.4: the RFC's examples."""
    assert content_range(42, 1192, 1234) == b"bytes 42-1233/1234"
    assert unsatisfied_range(1234) == b"bytes */1234"


def test_multipart_example() -> None:
    """§15.3.7.2: the RFC's example. §14.6: a CRLF stands before the first boundary, too, as zsync wants it."""
    parts = build_multipart([(500, 500), (7000, 1000)], 8000, b"application/pdf", b"THIS_STRING_SEPARATES")
    assert parts == [
        b"\r\n--THIS_STRING_SEPARATES\r\nContent-Type: application/pdf\r\nContent-Range: bytes 500-999/8000\r\n\r\n",
        (500, 500),
        b"\r\n--THIS_STRING_SEPARATES\r\nContent-Type: application/pdf\r\nContent-Range: bytes 7000-7999/8000\r\n\r\n",
        (7000, 1000),
        b"\r\n--THIS_STRING_SEPARATES--\r\n",
    ]


@pytest.mark.parametrize("boundary", [b"", b"a b", b"a\r\nb", b"x" * 71, b'"', "ä".encode()])
def test_boundaries_that_would_need_quotes_are_refused(boundary: bytes) -> None:
    with pytest.raises(ValueError, match="boundary"):
        build_multipart([(0, 1)], 1, None, boundary)


@given(
    st.binary(min_size=1, max_size=200),
    st.lists(st.tuples(st.integers(0, 199), st.integers(1, 200)), min_size=1, max_size=5),
    st.sampled_from([None, b"text/plain; charset=utf-8"]),
)
def test_multipart_is_exact_and_read_by_others(
    data: bytes, wanted: list[tuple[int, int]], content_type: bytes | None
) -> None:
    """§14.6: the length is known ahead, and a MIME reader finds the very bytes."""
    ranges = [(o % len(data), min(c, len(data) - o % len(data))) for o, c in wanted]
    boundary = b"3d6b6a416f9b5-not_in.the'data+"
    parts = build_multipart(ranges, len(data), content_type, boundary)
    body = b"".join(p if isinstance(p, bytes) else data[p[0] : p[0] + p[1]] for p in parts)
    assert parts_length(parts) == len(body)

    pieces = body.split(b"--" + boundary)
    assert pieces[0] == b"\r\n"
    assert pieces[-1] == b"--\r\n"
    for (offset, count), piece in zip(ranges, pieces[1:-1], strict=True):
        head, _, content = piece.partition(b"\r\n\r\n")
        assert content == data[offset : offset + count] + b"\r\n"
        fields = email.message_from_bytes(head.lstrip())
        assert fields["Content-Range"] == f"bytes {offset}-{offset + count - 1}/{len(data)}"
        assert fields["Content-Type"] == (content_type.decode() if content_type else None)
