"""Byte ranges: what a Range header asks for, and what of it is given (RFC 9110, section 14).

Laws:

* Nothing a client sends makes a function of this module raise, and the time is proportional to the header's
  length.
* Every range given lies within the representation and is not empty.
* A Range that cannot be read is ignored (the whole representation is sent, status 200), as section 14.2
  allows; so is one that asks for more ranges than `max_ranges`, and one whose ranges add up to more than the
  representation: both are as in nginx, and both are how a small request is made to cause a large answer.
* In an empty representation every Range is ignored, as in nginx and Apache: who reads a file by ranges, not knowing
  that it is empty, gets what it is.
* Ranges are neither joined nor sorted: the parts come in the order asked for (section 15.3.7.2).
* Each boundary stands on a line of its own, with the line's end before it: before the first it belongs to nothing
  (RFC 2046, section 5.1.1, lets it be absent), but nginx and Apache send it, and there are clients that wait for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

DEFAULT_MAX_RANGES = 256  # what zchunk asks for at once (dnf does); it throws a 200 away, and asks for fewer

Part = bytes | tuple[int, int]  # bytes to send as they are, or (offset, count) of the representation

_SPEC = re.compile(rb"([0-9]*)-([0-9]*)")
_BOUNDARY = re.compile(rb"[0-9A-Za-z'_+.-]{1,70}")  # those of RFC 2046 that need no quotes in a parameter
_MOST_DIGITS = 19  # 10**19 is past the end of every file; reading more digits would only cost time
_BEYOND = 10**_MOST_DIGITS


def parse_range(value: bytes) -> list[tuple[int | None, int | None]] | None:
    """Read the value of a Range header (RFC 9110, section 14.1.1).

    Returns:
        The elements in their order, at least one: ``(a, b)`` is ``a-b``, both inclusive; ``(a, None)`` is ``a-``;
        ``(None, n)`` is ``-n``, the last n bytes. A number past any file's end may be given as 10**19. None if the
        unit is not bytes or the value breaks the grammar (also by a last position before the first): the header is
        then to be ignored.
    """
    unit, equals, range_set = value.strip(b" \t").partition(b"=")
    if not equals or unit.lower() != b"bytes":
        return None
    specs: list[tuple[int | None, int | None]] = []
    for element in range_set.split(b","):
        element = element.strip(b" \t")
        if not element:  # a recipient accepts empty list elements, section 5.6.1.2
            continue
        found = _SPEC.fullmatch(element)
        if found is None or element == b"-":
            return None
        first, last = found[1].lstrip(b"0"), found[2].lstrip(b"0")
        if found[1] and found[2] and (len(last), last) < (len(first), first):
            return None
        specs.append((_number(first) if found[1] else None, _number(last) if found[2] else None))
    return specs or None


def _number(digits: bytes) -> int:
    return int(digits or b"0") if len(digits) <= _MOST_DIGITS else _BEYOND


def decide_ranges(value: bytes, size: int, *, max_ranges: int = DEFAULT_MAX_RANGES) -> list[tuple[int, int]] | None:
    """Decide what a Range header gets (RFC 9110, sections 14.1.2 and 14.2).

    Args:
        value: the combined value of the Range header of a GET.
        size: length of the representation in bytes.
        max_ranges: more satisfiable ranges than this are ignored; 0 switches ranges off.

    Returns:
        The (offset, count) pairs to send (206); of a list, the unsatisfiable ones are left out. Empty where none is
        satisfiable (416); None where the header is ignored (200 with everything).
    """
    specs = parse_range(value) if size and max_ranges > 0 else None
    if specs is None:
        return None
    given: list[tuple[int, int]] = []
    total = 0
    for first, last in specs:
        if first is None:
            count = min(last or 0, size)
            offset = size - count
        else:
            offset = first
            count = min(size, size if last is None else last + 1) - offset
        if count <= 0:
            continue
        given.append((offset, count))
        total += count
        if len(given) > max_ranges or total > size:
            return None
    return given


def content_range(offset: int, count: int, size: int) -> bytes:
    """Return the value of Content-Range for a range that is not empty (RFC 9110, section 14.4)."""
    return b"bytes %d-%d/%d" % (offset, offset + count - 1, size)


def unsatisfied_range(size: int) -> bytes:
    """Return the value of Content-Range for a 416 (RFC 9110, section 14.4)."""
    return b"bytes */%d" % size


def build_multipart(
    ranges: Sequence[tuple[int, int]], size: int, content_type: bytes | None, boundary: bytes
) -> list[Part]:
    """Build the body of a multipart/byteranges answer (RFC 9110, section 14.6; RFC 2046, section 5.1).

    Args:
        ranges: the (offset, count) pairs, not empty.
        size: length of the whole representation.
        content_type: that of the representation, repeated in every part; None leaves it out.
        boundary: random, 1 to 70 letters, digits or ``'_+.-``; fresh for each answer, so that nobody can have
            put it into the file.

    Raises:
        ValueError: for another boundary.
    """
    if not _BOUNDARY.fullmatch(boundary):
        raise ValueError(f"not a multipart boundary: {boundary!r}")
    type_line = b"" if content_type is None else b"Content-Type: %s\r\n" % content_type
    parts: list[Part] = []
    for offset, count in ranges:
        place = content_range(offset, count, size)
        parts.append(b"\r\n--%s\r\n%sContent-Range: %s\r\n\r\n" % (boundary, type_line, place))
        parts.append((offset, count))
    parts.append(b"\r\n--%s--\r\n" % boundary)
    return parts


def parts_length(parts: Sequence[Part]) -> int:
    """Return how many bytes `parts` are on the wire: the Content-Length."""
    return sum(len(part) if isinstance(part, bytes) else part[1] for part in parts)
