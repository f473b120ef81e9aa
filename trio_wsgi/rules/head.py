"""The head of a request: where it ends, whether its bytes are right, what it says about connection and body.

Laws:

* The raw bytes are judged before the codec sees them, because h11 joins equal Content-Length lines, unfolds folded
  lines and takes a bare LF for a line end: afterwards what a smuggled request lives on can no longer be seen.
* One expression accepts a head; only a refused head pays for finding out which rule it broke.
* Two readings of a message are no reading: whatever leaves two opinions about where the body ends is refused
  (RFC 9112 §6).
* A refusal ends the connection: nothing after a wrong head can be trusted to be a request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from trio_wsgi.errors import ClientError
from trio_wsgi.rules.grammar import TOKEN
from trio_wsgi.rules.headers import LENGTH_DIGITS_MAX, HeaderPairs
from trio_wsgi.rules.target import check_authority, parse_target

# With a limit set to 0 (none) the head as a whole still has one: it is held in memory.
HEAD_CEILING = 16 * 1024 * 1024
_BLANK_LINES_MAX = 4
_WATCHED = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"})
_NO_MEMBERS: frozenset[bytes] = frozenset()

_TOKEN = TOKEN.encode()
# In values only what h11 takes: CR, LF and NUL are dangerous (RFC 9110 §5.5), VT and FF are space to some.
_FIELD = _TOKEN + rb":[^\x00\n\r\x0b\x0c]*+\r\n"
_PLAIN_FIELD = _TOKEN + rb":[\x20-\xff]*+\r\n"
_REQUEST_LINE = rb"(" + _TOKEN + rb") ([\x21-\x7e]++) HTTP/([0-9]\.[0-9])\r\n"
_HEAD = re.compile(_REQUEST_LINE + rb"(?:" + _FIELD + rb")*+\r\n")
# The same without control characters: one range is matched at twice the speed, and nearly every head is so.
_PLAIN_HEAD = re.compile(_REQUEST_LINE + rb"(?:" + _PLAIN_FIELD + rb")*+\r\n")
_FIRST_LINE = re.compile(_REQUEST_LINE)
# What whole lines have to be, of a head that has not come to its end: the first ones, and those after them.
_FIRST_LINES = re.compile(_REQUEST_LINE + rb"(?:" + _FIELD + rb")*+")
_LINES = re.compile(rb"(?:" + _FIELD + rb")++")
_UNFINISHED_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]++)(?: [HTP/.0-9]*+\r?)?\Z")
# Letter by letter, not by IGNORECASE: so the search runs from line end to line end at the speed of memchr.
_HAS_FRAMING = re.compile(rb"\n(?:[Cc][Oo][Nn][Tt][Ee][Nn][Tt]-[Ll]|[Tt][Rr][Aa][Nn][Ss][Ff][Ee][Rr]-)")
# What may stand nowhere in a head, and what no request line begins with (a CR may begin an empty line).
_NEVER = re.compile(rb"[\x00\x0b\x0c]|\r(?=[^\n])|(?<!\r)\n")
_FALSE_START = re.compile(rb"[\x00-\x20](?<!\r)|\r[^\n]")
_FRAMING_FIELD = re.compile(rb"\n(content-length|transfer-encoding):[ \t]*+([^\r]*+)")

# Which rule a refused head breaks: the first expression that is found names it.
_REFUSALS = (
    (re.compile(rb"\x00"), "NUL in the head (RFC 9110 §5.5)"),
    (re.compile(rb"\r(?!\n)"), "CR without LF in the head (RFC 9112 §2.2)"),
    (re.compile(rb"(?<!\r)\n"), "LF without CR in the head (RFC 9112 §2.2)"),
    (re.compile(rb"\A(?!" + _REQUEST_LINE + rb")"), "malformed request line (RFC 9112 §3)"),
    (re.compile(rb"\n[ \t]"), "folded header line (RFC 9112 §5.2)"),
    (re.compile(rb"\n" + _TOKEN + rb"[ \t]++:"), "whitespace between header name and colon (RFC 9112 §5.1)"),
    (re.compile(rb"\n(?!" + _TOKEN + rb":|\r\n|\Z)"), "malformed header name (RFC 9110 §5.1)"),
)


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """How large a head may be; names and meaning are gunicorn's, 0 means no limit (but see `HEAD_CEILING`).

    Args:
        line: bytes of the request line, without its CRLF.
        fields: number of header lines.
        field_size: bytes of one header line, without its CRLF.
    """

    line: int = 8190
    fields: int = 100
    field_size: int = 8190

    @property
    def total(self) -> int:
        """Bytes of the largest head that these limits allow."""
        if not (self.line and self.fields and self.field_size):
            return HEAD_CEILING
        return min(self.line + 2 + self.fields * (self.field_size + 2) + 2, HEAD_CEILING)


class RequestHead(NamedTuple):
    """What a request says before its body."""

    method: bytes
    target: bytes  # as received
    version: bytes  # b"1.0" or b"1.1"
    headers: tuple[tuple[bytes, bytes], ...]  # lower-case names, in order
    path: bytes  # still percent-encoded; b"*" for the server as a whole
    query: bytes
    authority: bytes  # from an absolute-form target, else from Host; b"" if there is none
    scheme: bytes | None  # what an absolute-form target claims; None for the other forms
    content_length: int | None
    chunked: bool
    keep_alive: bool  # what the client is ready for
    expects_continue: bool


def skip_blank_lines(buffer: bytes | bytearray) -> int:
    """Count the bytes of empty lines in front of a request line; the caller drops them.

    Returns:
        the number of bytes; a CR at the very end is left until its LF is there.

    Raises:
        ClientError: 400 when there are more than a few (clients of old sent one after a POST body).

    Spec: RFC 9112 §2.2.
    """
    if not buffer.startswith(b"\r\n"):
        return 0
    count = 2
    while buffer.startswith(b"\r\n", count):
        count += 2
    if count > 2 * _BLANK_LINES_MAX:
        raise ClientError(400, "too many empty lines before the request (RFC 9112 §2.2)")
    return count


def find_head_end(buffer: bytes | bytearray, scanned: int, limits: HeadLimits) -> int:
    """Find the end of the head at the start of `buffer`, looking only at what is new.

    Args:
        buffer: all bytes received of this head so far, maybe more; without leading empty lines.
        scanned: length of the buffer at the previous call that returned -1; 0 at first.
        limits: how large the head may be.

    Returns:
        the index just after the empty line, or -1 when more bytes are needed. What is found still has to go
        through `check_head`.

    Raises:
        ClientError: as soon as the head cannot become right: 400, 414 (line), 431 (fields). Answer, close.
    """
    end = buffer.find(b"\r\n\r\n", max(scanned - 3, 0))
    if end >= 0:
        return end + 4
    _check_start(buffer, scanned, limits)
    return -1


def _check_start(buffer: bytes | bytearray, scanned: int, limits: HeadLimits) -> None:
    """Refuse the start of a head that nothing can make right any more."""
    size = len(buffer)
    if _NEVER.search(buffer, max(scanned - 1, 0)) is not None or _FALSE_START.match(buffer) is not None:
        _refuse(bytes(buffer))
    # One byte of slack in each: the CR of the line's end may be there already.
    line, field_size = limits.line, limits.field_size
    if line and size > line + 1 and buffer.find(b"\n", 0, line + 2) < 0:
        raise ClientError(414, f"request line longer than {line} bytes (limit_request_line)")
    last = size - field_size - 2  # if this and all after it belong to one line, the line is too long
    if field_size and last > 0 and buffer.find(b"\n", last) < 0 and buffer.find(b"\n", 0, last) >= 0:
        raise ClientError(431, f"header line longer than {field_size} bytes (limit_request_field_size)")
    if size > limits.total:
        raise ClientError(431, f"head larger than {limits.total} bytes")
    # Counting lines only when one was completed, and judging each once, keeps a byte-by-byte client linear.
    if whole := buffer.rfind(b"\n", scanned) + 1:
        if limits.fields and buffer.count(b"\n") > limits.fields + 1:
            raise ClientError(431, f"more than {limits.fields} header lines (limit_request_fields)")
        start = buffer.rfind(b"\n", 0, scanned) + 1
        if (_LINES if start else _FIRST_LINES).fullmatch(buffer, start, whole) is None:
            _refuse(bytes(buffer[:whole]))


def check_head(raw: bytes | bytearray, limits: HeadLimits) -> None:
    """Judge the bytes of one whole head, before the codec gets them.

    Args:
        raw: from the method to the empty line.
        limits: how large it may be.

    Raises:
        ClientError: 400 for a broken rule (the reason names it), 414 and 431 for a broken limit, 501 for a
            transfer coding that is not ours.

    Spec: RFC 9112 §2.2, §3, §5, §6; RFC 9110 §5.
    """
    size = len(raw)
    # No line of a head that is smaller than the limit of one line can be too long.
    if size > limits.line or size > limits.field_size:
        _check_sizes(raw, limits)
    if limits.fields and raw.count(b"\n") - 2 > limits.fields:
        raise ClientError(431, f"more than {limits.fields} header lines (limit_request_fields)")
    if _PLAIN_HEAD.fullmatch(raw) is None and _HEAD.fullmatch(raw) is None:
        _refuse(bytes(raw))
    if _HAS_FRAMING.search(raw) is not None:
        fields = _FRAMING_FIELD.findall(raw.lower())
        parse_framing(
            [value.rstrip(b" \t") for name, value in fields if name == b"content-length"],
            [value for name, value in fields if name == b"transfer-encoding"],
        )


def parse_framing(lengths: list[bytes], codings: list[bytes]) -> tuple[int | None, bool]:
    """Decide how the body of a request is delimited.

    Args:
        lengths: the values of all Content-Length lines.
        codings: the values of all Transfer-Encoding lines.

    Returns:
        the length (None when not given) and whether the body is chunked.

    Raises:
        ClientError: 400 when there is not exactly one opinion, 501 for a coding other than chunked.

    Spec: RFC 9112 §6.1 to §6.3, RFC 9110 §8.6.
    """
    if codings:
        if lengths:
            raise ClientError(400, "Content-Length and Transfer-Encoding together (RFC 9112 §6.1)")
        names = [name.strip(b" \t").lower() for name in b",".join(codings).split(b",")]
        if names == [b"chunked"]:
            return None, True
        if b"chunked" in names[:-1]:
            raise ClientError(400, "chunked is repeated or not the last transfer coding (RFC 9112 §6.1)")
        if b"" in names:
            raise ClientError(400, "malformed Transfer-Encoding (RFC 9112 §6.1)")
        raise ClientError(501, "transfer coding other than chunked (RFC 9112 §6.1)")
    if not lengths:
        return None, False
    if len(lengths) > 1 or b"," in lengths[0]:
        raise ClientError(400, "more than one Content-Length (RFC 9112 §6.3)")
    length = lengths[0]
    if not length.isdigit() or len(length) > LENGTH_DIGITS_MAX:
        raise ClientError(400, "malformed Content-Length (RFC 9110 §8.6)")
    return int(length), False


def parse_request(method: bytes, target: bytes, headers: HeaderPairs, version: bytes) -> RequestHead:
    """Read what the codec has parsed as a request of ours.

    Args:
        method, target, version: as the codec gives them.
        headers: pairs with lower-case names.

    Returns:
        the head; every field has been judged.

    Raises:
        ClientError: 400 (RFC 9112 §3.2 Host and target, §6 framing), 417 (RFC 9110 §10.1.1), 501 (CONNECT,
            transfer codings), 505 (RFC 9110 §15.6.6). Answer it and close.
    """
    if version not in (b"1.1", b"1.0"):
        if not version.startswith(b"1."):
            raise ClientError(505, "HTTP version other than 1.x (RFC 9110 §15.6.6)")
        version = b"1.1"  # the highest of its major version that we know (RFC 9110 §2.5)
    pairs = tuple(headers)
    watched: dict[bytes, list[bytes]] = {}
    for name, value in pairs:
        if name in _WATCHED:
            watched.setdefault(name, []).append(value)
    read = watched.get
    parts = parse_target(method, target)
    host = _parse_host(read(b"host", []), version, parts.authority)
    length, chunked = parse_framing(read(b"content-length", []), read(b"transfer-encoding", []))
    if chunked and version == b"1.0":
        raise ClientError(400, "Transfer-Encoding in HTTP/1.0 (RFC 9112 §6.1)")
    options = _list_members(watched[b"connection"]) if b"connection" in watched else _NO_MEMBERS
    expectations = _list_members(watched[b"expect"]) if b"expect" in watched else _NO_MEMBERS
    if expectations and expectations != {b"100-continue"}:
        raise ClientError(417, "expectation other than 100-continue (RFC 9110 §10.1.1)")
    return RequestHead(
        method=method,
        target=target,
        version=version,
        headers=pairs,
        path=parts.path,
        query=parts.query,
        authority=host if parts.authority is None else parts.authority,
        scheme=parts.scheme,
        content_length=length,
        chunked=chunked,
        keep_alive=b"close" not in options and (version == b"1.1" or b"keep-alive" in options),
        expects_continue=bool(expectations) and version == b"1.1" and (chunked or bool(length)),
    )


def read_request_line(raw: bytes | bytearray) -> tuple[bytes, bytes, bytes] | None:
    """Method, target and version of a head that is refused, for whoever answers and logs it; None where it has none.

    Of a line that was not waited for to its end, they are what has come, in 1.1: after HEAD, too, no body may follow.
    """
    if (found := _FIRST_LINE.match(raw)) is not None:
        return found[1], found[2], found[3]
    found = _UNFINISHED_LINE.match(raw)
    return None if found is None else (found[1], found[2], b"1.1")


def _parse_host(hosts: list[bytes], version: bytes, authority: bytes | None) -> bytes:
    """The one Host there may be (RFC 9112 §3.2); empty only when the target names no authority either."""
    if len(hosts) > 1:
        raise ClientError(400, "more than one Host (RFC 9112 §3.2)")
    if not hosts:
        if version == b"1.1":
            raise ClientError(400, "no Host in HTTP/1.1 (RFC 9112 §3.2)")
        return b""
    host = hosts[0]
    if host:
        check_authority(host)
    elif authority is not None:
        raise ClientError(400, "empty Host, but the target names an authority (RFC 9112 §3.2)")
    return host


def _list_members(values: list[bytes]) -> frozenset[bytes]:
    """The members of a comma-separated, case-insensitive list (RFC 9110 §5.6.1: empty ones do not count)."""
    members = {member.strip(b" \t").lower() for value in values for member in value.split(b",")}
    return frozenset(members) - {b""}


def _check_sizes(raw: bytes | bytearray, limits: HeadLimits) -> None:
    first, *fields = raw.split(b"\r\n")
    if limits.line and len(first) > limits.line:
        raise ClientError(414, f"request line longer than {limits.line} bytes (limit_request_line)")
    if limits.field_size and any(len(field) > limits.field_size for field in fields):
        size = limits.field_size
        raise ClientError(431, f"header line longer than {size} bytes (limit_request_field_size)")
    if len(raw) > limits.total:
        raise ClientError(431, f"head larger than {limits.total} bytes")


def _refuse(raw: bytes) -> None:
    for rule, reason in _REFUSALS:
        if rule.search(raw) is not None:
            raise ClientError(400, reason)
    raise ClientError(400, "control character in a header value (RFC 9110 §5.5)")
