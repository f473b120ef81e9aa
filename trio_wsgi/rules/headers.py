"""What an application says to `start_response`: checked, and completed by what the server adds (PEP 3333).

Laws:

* A wrong status or header is an `AppError` that names the culprit; only blanks around a value are repaired.
* The application's spelling of a name goes out as it is; comparisons are by the lower-case name.
* Date and Server are there exactly once: the application's own, else ours.
* How a message is delimited and whether the connection lives on is the server's business: hop-by-hop headers
  are refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from trio_wsgi.rules import appfault
from trio_wsgi.rules.grammar import HEADER_NAME

Headers = list[tuple[bytes, bytes]]
HeaderPairs = Sequence[tuple[bytes, bytes]]  # where they are read only

BODILESS = frozenset({*range(100, 200), 204, 304})  # statuses of responses that have no body (RFC 9110 §6.4.1)
CONTENTLESS = BODILESS | {205}  # whose body is empty, and ends as any (RFC 9110 §15.3.6, RFC 9112 §6.3)
LENGTH_DIGITS_MAX = 20  # of a Content-Length: what h11 takes, too
# wsgiref.util's list, which is that of RFC 2616 §13.5.1, and the two names that are seen for the same things.
HOP_BY_HOP = frozenset(
    (
        b"connection keep-alive proxy-authenticate proxy-authorization te trailers transfer-encoding upgrade"
        b" proxy-connection trailer"
    ).split()
)
_STATUS = re.compile(r"([2-5][0-9]{2}) ([^\x00-\x1f\x7f]*+)")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # HTAB is harmless and may stand in a file's name


class Head(NamedTuple):
    """Status and headers of a response, checked; header names in the spelling they are sent in."""

    status: int
    reason: bytes
    headers: Headers


def check_status(status: object) -> tuple[int, bytes]:
    """Read the status of `start_response`.

    Args:
        status: such as ``"200 OK"``; the reason may be empty, the space before it may not be missing.

    Returns:
        the code, 200 to 599, and the reason.

    Raises:
        AppError: it is not such a string.

    Spec: PEP 3333, "The start_response() Callable"; RFC 9110 §15.
    """
    if not isinstance(status, str):
        raise appfault.in_status_type(status)
    return _read_status(status)


@lru_cache(maxsize=256)
def _read_status(status: str) -> tuple[int, bytes]:
    parts = _STATUS.fullmatch(status)
    if parts is None:
        raise appfault.in_status(status)
    try:
        return int(parts[1]), parts[2].encode("latin-1")
    except UnicodeEncodeError:
        raise appfault.in_reason(status) from None


def check_headers(headers: object) -> Headers:
    """Read the headers of `start_response`.

    Args:
        headers: a list of ``(name, value)`` tuples of str.

    Returns:
        the same as bytes, in the same order and spelling, without blanks around values (h11 refuses them).

    Raises:
        AppError: naming the header and the rule: types, characters, hop-by-hop, Content-Length.

    Spec: PEP 3333, "The start_response() Callable" and "Other HTTP Features"; RFC 9110 §5.5, §8.6.
    """
    if not isinstance(headers, list):
        raise appfault.in_headers_type(headers)
    checked: Headers = []
    has_length = False
    for item in headers:
        if not isinstance(item, tuple) or len(item) != 2:
            raise appfault.in_header(item)
        name, value = item
        if not isinstance(name, str):
            raise appfault.in_name_type(name)
        if not isinstance(value, str):
            raise appfault.in_value_type(name, value)
        raw_name, is_length = _read_name(name)
        # isprintable is the fast answer for nearly all; the expression knows exactly.
        if not value.isprintable() and _CONTROL.search(value) is not None:
            raise appfault.in_value(name, value, _CONTROL)
        try:
            raw_value = value.encode("latin-1").strip(b" \t")
        except UnicodeEncodeError:
            raise appfault.in_value(name, value, _CONTROL) from None
        if is_length:
            if has_length:
                raise appfault.of_second_length(value)
            if not raw_value.isdigit() or len(raw_value) > LENGTH_DIGITS_MAX:
                raise appfault.in_length(value)
            has_length = True
        checked.append((raw_name, raw_value))
    return checked


@lru_cache(maxsize=512)
def _read_name(name: str) -> tuple[bytes, bool]:
    """A header's name as bytes, and whether it is Content-Length."""
    if HEADER_NAME.fullmatch(name) is None:
        raise appfault.in_name(name)
    raw = name.encode("ascii")
    lower = raw.lower()
    if lower in HOP_BY_HOP:
        raise appfault.of_hop_by_hop(name)
    return raw, lower == b"content-length"


def get_all(headers: HeaderPairs, name: bytes) -> list[bytes]:
    """The values of all headers called `name` (lower case), in their order."""
    size, values = len(name), []
    for key, value in headers:  # most names differ in length already, and this is done for every request
        if len(key) == size and key.lower() == name:
            values.append(value)
    return values


def get_length(headers: HeaderPairs) -> int | None:
    """What Content-Length says in headers that were checked, or made by us; None if there is none."""
    for key, value in headers:
        if len(key) == 14 and key.lower() == b"content-length":
            return int(value)
    return None


def join_duplicates(headers: HeaderPairs, name: bytes) -> bytes | None:
    """The one value that all headers called `name` (lower case) make together; None if there is none.

    Spec: RFC 9110 §5.2 (a comma), RFC 9113 §8.2.3 (a semicolon for Cookie).
    """
    values = get_all(headers, name)
    if not values:
        return None
    return (b"; " if name == b"cookie" else b", ").join(values)


def body_allowed(method: bytes, status: int) -> bool:
    """Whether a response has anything in its body: not to HEAD (RFC 9110 §9.3.2), and not with each status."""
    return method != b"HEAD" and status not in CONTENTLESS


def finish_headers(
    headers: HeaderPairs,
    *,
    date: bytes | None,
    server: bytes,
    length: int | None,
    close: bool,
    status: int = 200,
) -> Headers:
    """Complete an application's headers by what the server owes.

    Args:
        headers: from `check_headers`; not changed.
        date, server: the values to add where the application set none; None and an empty `server` add none.
        length: the body's length where the server knows it; the application's own Content-Length wins.
        close: whether to announce that the connection ends.
        status: 204 (and 1xx) loses any Content-Length, that of 205 is 0. 304 loses one of 0: it would be that of the
            200, and counts the 304's own body where a framework has set it (RFC 9110 §8.6).

    Returns:
        a new list: the application's headers first, in their order.
    """
    finished = list(headers)
    names = {name.lower() for name, _ in finished}
    has_none = status == 204 or status < 200 or (status == 304 and get_length(finished) == 0)
    if (has_none or status == 205) and b"content-length" in names:
        finished = [item for item in finished if item[0].lower() != b"content-length"]
    if status == 205:
        finished.append((b"Content-Length", b"0"))
    elif length is not None and not has_none and b"content-length" not in names:
        finished.append((b"Content-Length", b"%d" % length))
    if date is not None and b"date" not in names:
        finished.append((b"Date", date))
    if server and b"server" not in names:
        finished.append((b"Server", server))
    if close:
        finished.append((b"Connection", b"close"))
    return finished
