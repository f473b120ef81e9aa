"""Preconditions of a request against the validators of the answer (RFC 9110, sections 8.8 and 13).

Laws:

* Nothing a client sends makes a function of this module raise. What cannot be understood has no effect, and
  where having no effect could do harm (If-Match, If-Range) the condition counts as false.
* The order is that of section 13.2.2: If-Match, else If-Unmodified-Since; then If-None-Match, else
  If-Modified-Since.
* There is no clock here: whoever needs the present passes `now`, in whole seconds since 1970.
* Names of request headers are lower-case bytes, as the codec gives them; names in an application's headers have any
  case.
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache
from typing import NamedTuple

from trio_wsgi.rules.dates import parse_http_date
from trio_wsgi.rules.headers import HeaderPairs, Headers, join_duplicates

CONDITIONAL_FIELDS = frozenset({b"if-match", b"if-unmodified-since", b"if-none-match", b"if-modified-since"})
ANY_ETAG = b"*"  # what `parse_etag_list` gives for "*"; no entity tag looks like it

# Wider than the grammar by blanks inside the quotes: some applications make such tags, and they compare well.
_ETAG = re.compile(rb'(?:W/)?"[^"\x00-\x08\x0a-\x1f\x7f]*"')
_LIST_GAP = re.compile(rb"[ \t,]*")

# Section 15.4.5: a 304 carries no metadata of content that it does not carry. What guides caches stays, and
# so does everything that is not about the content (Set-Cookie, ...): the list is nginx's, widened by the
# digests.
_CONTENT_FIELDS = frozenset(
    b"content-type content-length content-encoding content-language content-range content-md5 content-digest"
    b" repr-digest digest accept-ranges transfer-encoding trailer".split()
)
# A 412 or 416 that kept these could be stored, and later be taken for the resource itself.
_FRESHNESS_FIELDS = frozenset(b"cache-control expires age content-disposition content-location".split())


class Validators(NamedTuple):
    """What tells one version of a representation from another.

    Args:
        etag: the entity tag as it stands in the header (``"x"`` or ``W/"x"``), or None.
        last_modified: whole seconds since 1970, or None.
    """

    etag: bytes | None = None
    last_modified: int | None = None


class Precondition(enum.IntEnum):
    """What a request's preconditions make of the answer; the value of the last two is the status to send."""

    PROCEED = 0
    NOT_MODIFIED = 304
    FAILED = 412


def parse_etag(value: bytes) -> bytes | None:
    """Return the entity tag that `value` is, without blanks around it; None if it is none (section 8.8.3)."""
    value = value.strip(b" \t")
    return value if _ETAG.fullmatch(value) else None


def parse_etag_list(value: bytes) -> tuple[bytes, ...]:
    """Read the value of If-Match or If-None-Match.

    Returns:
        ``(ANY_ETAG,)`` for ``*``, else the tags in their order. Empty elements are no error (section
        5.6.1.2), and an element that is no tag is skipped: it can match nothing. Takes time proportional to
        the length of `value`.
    """
    if value.strip(b" \t") == ANY_ETAG:
        return (ANY_ETAG,)
    tags: list[bytes] = []
    gap = _LIST_GAP.match(value)
    position = gap.end() if gap else 0
    while position < len(value):
        tag = _ETAG.match(value, position)
        end = tag.end() if tag else position
        comma = value.find(b",", end)
        stop = comma if comma >= 0 else len(value)
        if tag and not value[end:stop].strip(b" \t"):
            tags.append(tag[0])
        gap = _LIST_GAP.match(value, stop)
        position = gap.end() if gap else len(value)
    return tuple(tags)


def strong_match(one: bytes, other: bytes) -> bool:
    """Whether two entity tags are equal and neither is weak (section 8.8.3.2)."""
    return one == other and not one.startswith(b"W/")


def weak_match(one: bytes, other: bytes) -> bool:
    """Whether two entity tags are equal but for their weakness (section 8.8.3.2)."""
    return one.removeprefix(b"W/") == other.removeprefix(b"W/")


@lru_cache(maxsize=256)
def make_etag(size: int, mtime_ns: int, variant: bytes = b"") -> bytes:
    """Make the strong entity tag of a file.

    As in nginx it is made of what a faithful copy keeps (`rsync -a`, an image), so that it is the same on every node
    and after a deployment that changed nothing. An inode's number is not.

    Args:
        size, mtime_ns: of the open file, by fstat.
        variant: what else tells this answer from others made of the same file: a content coding, or the
            offset and count of a span that is not the whole file.
    """
    return b'"%x-%x%b"' % (mtime_ns, size, b"-" + variant if variant else b"")


def validators_of(headers: HeaderPairs) -> Validators:
    """Read the validators out of an answer's headers; what is malformed or doubled counts as absent."""
    etag = join_duplicates(headers, b"etag")
    modified = join_duplicates(headers, b"last-modified")
    return Validators(
        None if etag is None else parse_etag(etag), None if modified is None else parse_http_date(modified)
    )


def decide_precondition(request_headers: HeaderPairs, validators: Validators, *, now: int) -> Precondition:
    """Evaluate the preconditions of a GET or HEAD in the order of RFC 9110, section 13.2.2.

    The caller must ask only where the answer would be a 2xx (section 13.2.1); so there is a representation, and ``*``
    matches it.

    Args:
        request_headers: names in lower case.
        validators: those of the selected representation.
        now: see `parse_http_date`.
    """
    fields: dict[bytes, bytes] = {}
    for name, value in request_headers:
        if name in CONDITIONAL_FIELDS:
            fields[name] = fields[name] + b", " + value if name in fields else value
    if not fields:
        return Precondition.PROCEED
    etag, modified = validators

    if (tags := fields.get(b"if-match")) is not None:
        if not _any_matches(tags, etag, weak=False):
            return Precondition.FAILED
    elif (since := fields.get(b"if-unmodified-since")) is not None and modified is not None:
        limit = parse_http_date(since, now=now)
        if limit is not None and modified > limit:
            return Precondition.FAILED

    if (tags := fields.get(b"if-none-match")) is not None:
        if _any_matches(tags, etag, weak=True):
            return Precondition.NOT_MODIFIED
    elif (since := fields.get(b"if-modified-since")) is not None and modified is not None:
        limit = parse_http_date(since, now=now)
        if limit is not None and modified <= limit:
            return Precondition.NOT_MODIFIED
    return Precondition.PROCEED


def _any_matches(value: bytes, etag: bytes | None, *, weak: bool) -> bool:
    tags = parse_etag_list(value)
    if tags == (ANY_ETAG,):
        return True
    match = weak_match if weak else strong_match
    return etag is not None and any(match(tag, etag) for tag in tags)


def decide_if_range(value: bytes, validators: Validators, *, now: int) -> bool:
    """Whether If-Range lets the Range stand (RFC 9110, section 13.1.5).

    Args:
        value: the field's value: one entity tag or one date.
        validators: those of the selected representation.
        now: the present. A Last-Modified less than a second old is no strong validator (section 8.8.2.2),
            because the file may change again within the second: the condition is false.

    Returns:
        False for a tag that is weak or differs, a date that is not exactly the Last-Modified, and for
        anything else: then the Range is ignored and the whole representation sent.
    """
    if (tag := parse_etag(value)) is not None:
        return validators.etag is not None and strong_match(tag, validators.etag)
    moment = parse_http_date(value, now=now)
    return moment is not None and moment == validators.last_modified and now - moment >= 1


def not_modified_headers(headers: HeaderPairs) -> Headers:
    """Return those of a 200's headers that its 304 has too (RFC 9110, section 15.4.5)."""
    return [field for field in headers if field[0].lower() not in _CONTENT_FIELDS]


def refusal_headers(headers: HeaderPairs) -> Headers:
    """Return those of a 200's headers that a 412 or 416 may keep: nothing about content or caching."""
    return [field for field in not_modified_headers(headers) if field[0].lower() not in _FRESHNESS_FIELDS]
