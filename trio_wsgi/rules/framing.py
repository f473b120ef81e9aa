"""How a response is delimited on the wire, where h11 is not asked.

Laws:

* One body, one framing: a known length, chunks, the end of the connection (HTTP/1.0), or none at all (RFC 9112 §6.3).
* What is framed here is framed byte for byte as h11 does it, but that h11 puts a `Connection` of the application's
  behind its own `Transfer-Encoding`; the tests of both engines hold that.
"""

from __future__ import annotations

import enum

from trio_wsgi.rules.headers import BODILESS, HeaderPairs


class Framing(enum.Enum):
    """What ends a body."""

    NONE = "there is no body"
    LENGTH = "its length"
    CHUNKED = "an empty chunk"
    CLOSE = "the end of the connection"


def decide_framing(method: bytes, version: bytes, status: int, length_known: bool) -> tuple[Framing, bytes]:
    """What ends the body of a response, and the header line that says so where none does yet.

    Args:
        method, version: of the request: b"1.0" or b"1.1".
        length_known: whether there is a Content-Length.
    """
    if status in BODILESS:
        return Framing.NONE, b""
    if length_known:
        return (Framing.NONE if method == b"HEAD" else Framing.LENGTH), b""
    if version == b"1.0":
        return (Framing.NONE if method == b"HEAD" else Framing.CLOSE), b"Connection: close\r\n"
    # After HEAD the head is that of GET, and nothing follows.
    return (Framing.NONE if method == b"HEAD" else Framing.CHUNKED), b"Transfer-Encoding: chunked\r\n"


def build_response_head(status: int, reason: bytes, headers: HeaderPairs, framing_line: bytes) -> bytes:
    """The bytes of a response's head (RFC 9112 §4)."""
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
    closes = False
    for name, value in headers:
        lines.append(b"%b: %b\r\n" % (name, value))
        closes = closes or (value == b"close" and name == b"Connection")
    if not (closes and framing_line.startswith(b"Connection")):
        lines.append(framing_line)
    lines.append(b"\r\n")
    return b"".join(lines)
