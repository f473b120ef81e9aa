"""The framing of a chunked body: where it ends, and that nobody can read it otherwise (RFC 9112 §7.1).

Laws:

* The scanner finds the end; it decodes nothing. h11 decodes the very bytes that the scanner has let through.
* It accepts less than h11: one spelling of each size, CRLF after every line, no control character anywhere.
* Data is passed over by counting, so a large chunk costs no more than a small one.
* One feed goes no further than some hundred lines: a client may send chunks of one byte, and others want their turn.
* What is not data is bounded: extensions against the data they come with, trailers by the limits of a head.
* A scanner that has raised is finished; so is the connection.
"""

from __future__ import annotations

import enum
import re

from trio_wsgi.errors import ClientError
from trio_wsgi.rules.grammar import TOKEN
from trio_wsgi.rules.head import HeadLimits

_LINES_AT_ONCE = 256  # some 0.4 ms
SIZE_LINE_MAX = 4096  # bytes with their CRLF
_EXTENSIONS_MAX = 16 * 1024
_TRAILER_LINE_MAX = 64 * 1024  # where the limit of a field is 0, which means none

# Stricter than the grammar, like h11: no whitespace after the size (RFC 9112 §7.1.1 calls it bad).
_SIZE = rb"(?P<size>[0-9A-Fa-f]{1,16})"
_EXTENSION = rb"(?P<extension>;[\t\x20-\x7e\x80-\xff]*+)?"
_SIZE_LINE = re.compile(_SIZE + _EXTENSION + rb"\r\n")
_SIZE_START = re.compile(rb"(?:" + _SIZE + _EXTENSION + rb"\r?)?")
_TRAILER_LINE = re.compile(rb"(?P<name>" + TOKEN.encode() + rb"):[\t\x20-\x7e\x80-\xff]*+\r\n")

# RFC 9110 §6.5.1: framing, routing, request modifiers, authentication, how the content is to be processed.
FORBIDDEN_TRAILERS = frozenset(
    (
        b"connection content-length host keep-alive proxy-connection te trailer transfer-encoding upgrade"
        b" cache-control expect max-forwards pragma range"
        b" if-match if-modified-since if-none-match if-range if-unmodified-since"
        b" authorization cookie forwarded proxy-authorization set-cookie"
        b" x-forwarded-for x-forwarded-host x-forwarded-proto"
        b" age content-encoding content-range content-type date"
    ).split()
)


class _Part(enum.Enum):
    SIZE = "size"
    DATA = "data"
    DATA_END = "data end"
    TRAILERS = "trailers"
    DONE = "done"


class ChunkScanner:
    """Find the end of a chunked body in pieces of any size, refusing what is not strictly right.

    Args:
        limits: those of the request's head; number and size of trailer lines are bounded by them.
    """

    __slots__ = ("_extension_bytes", "_left", "_limits", "_line", "_part", "_trailers", "body_bytes")

    def __init__(self, limits: HeadLimits) -> None:
        self._limits = limits
        self._part = _Part.SIZE
        self._line = bytearray()  # the start of a line whose end has not come
        self._left = 0  # bytes of the current chunk's data, or of the CRLF after it, still to come
        self._extension_bytes = 0
        self._trailers = 0
        self.body_bytes = 0  # decoded bytes that have been fed

    def __repr__(self) -> str:
        return f"<ChunkScanner {self._part.value} body_bytes={self.body_bytes}>"

    @property
    def done(self) -> bool:
        """Whether the end of the body has been fed."""
        return self._part is _Part.DONE

    @property
    def announced(self) -> int:
        """Decoded bytes that the body has at least: those fed and the rest of the chunk that has begun."""
        return self.body_bytes + (self._left if self._part is _Part.DATA else 0)

    def feed(self, data: bytes | bytearray | memoryview) -> int:
        """Look at the next bytes received.

        Returns:
            how many of them were looked at, and belong to this body. Where it is done, what follows is the next
            request; else the rest is to be fed next.

        Raises:
            ClientError: 400 for broken framing or a forbidden trailer, 431 for trailers beyond limits. None
                of `data` may then be given to anybody.

        Spec: RFC 9112 §7.1, RFC 9110 §6.5.
        """
        position, size = 0, len(data)
        lines = 0
        while position < size and lines < _LINES_AT_ONCE:
            if self._part is _Part.DATA:
                count = min(self._left, size - position)
                position += count
                self.body_bytes += count
                self._left -= count
                if not self._left:
                    self._part, self._left = _Part.DATA_END, 2
            elif self._part is _Part.DATA_END:
                if data[position] != (0x0D if self._left == 2 else 0x0A):
                    raise ClientError(400, "chunk data without CRLF after it (RFC 9112 §7.1)")
                position += 1
                self._left -= 1
                if not self._left:
                    self._part = _Part.SIZE
            elif self._part is _Part.DONE:
                break
            else:
                position = self._take_line(data, position)
                lines += 1
        return position

    def _take_line(self, data: bytes | bytearray | memoryview, position: int) -> int:
        """Add to the current line; with its end, act on it. Returns the position after what was taken."""
        in_size = self._part is _Part.SIZE
        bound = SIZE_LINE_MAX if in_size else (self._limits.field_size or _TRAILER_LINE_MAX) + 2
        window = bytes(data[position : position + bound - len(self._line) + 1])
        end = window.find(b"\n") + 1
        self._line += window[:end] if end else window
        line = self._line
        if len(line) > bound:
            if in_size:
                raise ClientError(400, f"chunk size line longer than {bound} bytes (RFC 9112 §7.1.1)")
            raise ClientError(431, f"trailer line longer than {bound - 2} bytes (limit_request_field_size)")
        if not end:
            self._check_line_start(in_size)
            return position + len(window)
        if in_size:
            self._end_size_line(bytes(line))
        else:
            self._end_trailer_line(bytes(line))
        line.clear()
        return position + end

    def _check_line_start(self, in_size: bool) -> None:
        """Refuse at once what no further byte can make right, so that nobody waits for a deadline."""
        line = self._line
        if line.find(b"\r", 0, len(line) - 1) >= 0:
            raise ClientError(400, "CR without LF in the chunked framing (RFC 9112 §2.2)")
        if in_size and _SIZE_START.fullmatch(line) is None:
            raise ClientError(400, "malformed chunk size line (RFC 9112 §7.1)")

    def _end_size_line(self, line: bytes) -> None:
        parts = _SIZE_LINE.fullmatch(line)
        if parts is None:
            raise ClientError(400, "malformed chunk size line (RFC 9112 §7.1)")
        size = int(parts["size"], 16)
        # Every byte of data pays for two of extensions; the rest adds up.
        self._extension_bytes = max(0, self._extension_bytes + len(parts["extension"] or b"") - 2 * size)
        if self._extension_bytes > _EXTENSIONS_MAX:
            raise ClientError(400, "more chunk extensions than data (RFC 9112 §7.1.1)")
        self._left = size
        self._part = _Part.DATA if size else _Part.TRAILERS

    def _end_trailer_line(self, line: bytes) -> None:
        if line == b"\r\n":
            self._part = _Part.DONE
            return
        parts = _TRAILER_LINE.fullmatch(line)
        if parts is None:
            raise ClientError(400, "malformed trailer line (RFC 9112 §7.1.2)")
        if parts["name"].lower() in FORBIDDEN_TRAILERS:
            raise ClientError(400, f"{parts['name'].decode('ascii')} in a trailer (RFC 9110 §6.5.1)")
        self._trailers += 1
        if self._limits.fields and self._trailers > self._limits.fields:
            raise ClientError(431, f"more than {self._limits.fields} trailer lines (limit_request_fields)")
