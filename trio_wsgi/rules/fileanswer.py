"""What an answer becomes by the request's preconditions and Range: status, headers and the bytes to send.

Laws:

* Preconditions go before ranges (RFC 9110, section 13.2.2), and both concern only GET and HEAD here: every
  other method has had its effect by the time an application answers, and a 412 would then be a lie.
* An answer that the application has made partial itself (206, Content-Range), and every status but 200, is
  left alone; its bytes are still cut to its Content-Length.
* What is sent lies within the span given: parts are bytes to send as they are, or (offset, count) from its
  start.
* Content-Length says exactly what the parts hold, but where nothing is sent by RFC 9110 (HEAD, 204, 205, 304) and where
  the application promises more than its file holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trio_wsgi.rules.conditional import (
    CONDITIONAL_FIELDS,
    Precondition,
    Validators,
    decide_if_range,
    decide_precondition,
    not_modified_headers,
    refusal_headers,
    validators_of,
)
from trio_wsgi.rules.dates import format_http_date
from trio_wsgi.rules.headers import CONTENTLESS, Head, HeaderPairs, Headers, body_allowed, join_duplicates
from trio_wsgi.rules.ranges import (
    DEFAULT_MAX_RANGES,
    Part,
    build_multipart,
    content_range,
    decide_ranges,
    parts_length,
    unsatisfied_range,
)

_READS = (b"GET", b"HEAD")
_ASKS_FOR_LESS = CONDITIONAL_FIELDS | {b"range"}  # a request without any of them gets everything
_EMPTY = (b"Content-Length", b"0")
_MOST_DIGITS = 18  # of a Content-Length that a file can have
# Digests of the bytes in the message do not hold for a part of them; Repr-Digest does (RFC 9530, section 3).
_WHOLE_CONTENT_FIELDS = (b"content-length", b"content-md5", b"content-digest", b"digest")


@dataclass(frozen=True, slots=True)
class FileOptions:
    """What the operator allows for the application's files.

    Args:
        max_ranges: of one request; 0: Range requests are not answered. See `trio_wsgi.rules.ranges.decide_ranges`.
        add_validators: give a file an ETag and a Last-Modified where the application has set none.
    """

    max_ranges: int = DEFAULT_MAX_RANGES
    add_validators: bool = True


class FileAnswer(NamedTuple):
    """The head to send and what follows it.

    Args:
        parts: bytes, or (offset, count) relative to the start of the span; empty when nothing is to be sent.
        missing: how many more the application has promised by its Content-Length.
    """

    head: Head
    parts: list[Part]
    missing: int = 0


def decide_app_answer(method: bytes, request_headers: HeaderPairs, head: Head, *, now: int) -> Head | None:
    """Decide whether a 304 or 412 goes out in place of an answer of the application. No body follows it.

    Costs next to nothing for a request without preconditions. A caller that gets one may close the application's
    iterable at once.

    Args:
        request_headers: names in lower case.
        head: the application's; the headers of the result are a selection of its own.
        now: seconds since 1970, for dates with two-digit years.

    Returns:
        None to send the application's own answer: for other methods than GET and HEAD, for an answer without
        validators, for a 206 and everything that is no 2xx. A 304 replaces only a 200 (RFC 9110, section
        15.4.5).
    """
    status, _, headers = head
    if method not in _READS or not 200 <= status < 300 or status == 206:
        return None
    for name, _ in request_headers:
        if name in CONDITIONAL_FIELDS:
            break
    else:
        return None
    known = validators_of(headers)
    if known.etag is None and known.last_modified is None:  # it takes no part in validation
        return None
    decision = decide_precondition(request_headers, known, now=now)
    if decision is Precondition.PROCEED or (decision is Precondition.NOT_MODIFIED and status != 200):
        return None
    return _bodiless(decision, headers)


def _bodiless(decision: Precondition, headers: HeaderPairs) -> Head:
    if decision is Precondition.NOT_MODIFIED:
        return Head(304, b"Not Modified", not_modified_headers(headers))
    return Head(412, b"Precondition Failed", [*refusal_headers(headers), _EMPTY])


def decide_file_answer(
    method: bytes,
    request_headers: HeaderPairs,
    head: Head,
    size: int,
    validators: Validators,
    options: FileOptions,
    *,
    boundary: Callable[[], bytes],
    now: int,
) -> FileAnswer:
    """Decide what is sent for an answer whose body is a span of a file.

    Args:
        request_headers: names in lower case.
        head: the application's; header names in any case.
        size: bytes in the span. A smaller Content-Length of the application cuts it; a larger one is kept,
            with the whole span for a body and no preconditions or ranges: something is `missing` then, and
            the caller cuts.
        validators: the file's own, for an answer that has none. They must belong to this very span: see
            `variant` of `make_etag` for one that is not the whole file.
        boundary: makes a fresh and random one where it is needed; see `build_multipart` for what it may consist of.
        now: seconds since 1970. No Last-Modified is later (RFC 9110, section 8.8.2.1), and one of this very
            second is no strong validator.
    """
    headers = head.headers
    names = {name.lower() for name, _ in headers}
    promised = _content_length(headers) if b"content-length" in names else None
    whole = size if promised is None else min(size, promised)
    if promised is None:
        if b"content-length" in names:
            headers = _without(headers, b"content-length")
        if head.status not in CONTENTLESS:
            headers = [*headers, (b"Content-Length", b"%d" % size)]
    served = head.status == 200 and method in _READS and b"content-range" not in names
    if not served or (promised or 0) > size:
        return _everything(method, head, headers, whole, promised)

    # A body cut short by its Content-Length is not the file that the file's validators are for.
    if options.add_validators and whole == size:
        headers = _with_validators(headers, names, validators, now)
    if options.max_ranges and b"accept-ranges" not in names:
        headers = [*headers, (b"Accept-Ranges", b"bytes")]
    if _ASKS_FOR_LESS.isdisjoint([name for name, _ in request_headers]):
        return _everything(method, head, headers, whole)

    known = validators_of(headers)
    # A file is there, with validators or without: If-Match of a tag fails then, and `*` matches (section 13.1.1).
    decision = decide_precondition(request_headers, known, now=now)
    if decision is not Precondition.PROCEED:
        return FileAnswer(_bodiless(decision, headers), [])
    value = _standing_range(method, request_headers, headers, known, now)
    ranges = None if value is None else decide_ranges(value, whole, max_ranges=options.max_ranges)
    if ranges is None:
        return _everything(method, head, headers, whole)
    if not ranges:
        place = (b"Content-Range", unsatisfied_range(whole))
        return FileAnswer(Head(416, b"Range Not Satisfiable", [*refusal_headers(headers), place, _EMPTY]), [])
    return _partial(headers, whole, ranges, boundary)


def _standing_range(
    method: bytes, request_headers: HeaderPairs, headers: HeaderPairs, validators: Validators, now: int
) -> bytes | None:
    """Return the Range to be considered: of a GET (RFC 9110, section 14.2), if the answer and If-Range let it be."""
    value = join_duplicates(request_headers, b"range") if method == b"GET" else None
    if value is None or not _accepts_ranges(headers):
        return None
    if_range = join_duplicates(request_headers, b"if-range")
    return value if if_range is None or decide_if_range(if_range, validators, now=now) else None


def _partial(
    headers: HeaderPairs, size: int, ranges: Sequence[tuple[int, int]], boundary: Callable[[], bytes]
) -> FileAnswer:
    """Return the 206 with these ranges (RFC 9110, section 15.3.7)."""
    kept = _without(headers, *_WHOLE_CONTENT_FIELDS)
    if len(ranges) == 1:
        parts: list[Part] = list(ranges)
        kept.append((b"Content-Range", content_range(*ranges[0], size)))
    else:  # section 15.3.7.2: Content-Type and Content-Range move into the parts
        between = boundary()
        parts = build_multipart(ranges, size, join_duplicates(headers, b"content-type"), between)
        kept = _without(kept, b"content-type")
        kept.append((b"Content-Type", b"multipart/byteranges; boundary=" + between))
    kept.append((b"Content-Length", b"%d" % parts_length(parts)))
    return FileAnswer(Head(206, b"Partial Content", kept), parts)


def _everything(method: bytes, head: Head, headers: Headers, size: int, promised: int | None = None) -> FileAnswer:
    """Return the answer as it is, with all of the span; `promised` is what its Content-Length says."""
    head = Head(head.status, head.reason, headers)
    if not body_allowed(method, head.status):
        return FileAnswer(head, [])
    missing = 0 if promised is None else promised - size
    return FileAnswer(head, [(0, size)] if size else [], missing)


def _with_validators(headers: HeaderPairs, names: set[bytes], validators: Validators, now: int) -> Headers:
    """Return the headers with the file's validators where the application has none of that name."""
    added = list(headers)
    if b"etag" not in names and validators.etag is not None:
        added.append((b"ETag", validators.etag))
    modified = validators.last_modified
    if b"last-modified" not in names and modified is not None:
        text = format_http_date(min(modified, now))
        if text is not None:
            added.append((b"Last-Modified", text))
    return added


def _content_length(headers: HeaderPairs) -> int | None:
    """Read the application's Content-Length; one that is malformed or contradicts itself counts as none."""
    values = {value.strip(b" \t") for name, value in headers if name.lower() == b"content-length"}
    if len(values) != 1:
        return None
    (value,) = values
    return int(value) if value.isdigit() and len(value) <= _MOST_DIGITS else None


def _accepts_ranges(headers: HeaderPairs) -> bool:
    """Whether the answer's Accept-Ranges lets ranges be: an application says ``none`` to switch them off."""
    value = join_duplicates(headers, b"accept-ranges")
    return value is None or b"bytes" in [unit.strip(b" \t").lower() for unit in value.split(b",")]


def _without(headers: HeaderPairs, *names: bytes) -> Headers:
    return [field for field in headers if field[0].lower() not in names]
