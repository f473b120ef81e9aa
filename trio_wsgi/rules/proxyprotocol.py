"""The PROXY protocol, versions 1 and 2: who the client of a proxy is, told before the first byte of TLS or HTTP.

Laws:

* Where it is expected it has to be there, whole and right; it is never guessed at (HAProxy's proxy-protocol.txt, 2).
* `header_length` tells where the header ends as soon as that can be known, and what does not begin like one as soon as
  the first wrong byte is there: nobody waits for, or takes, a byte too many.
* A header that names no client (LOCAL, UNKNOWN, another family than ours) is right, and says nothing.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from trio_wsgi.address import PORT_MAX

V1_MAX = 107  # bytes of a line, CRLF included (2.1)
V2_MAX = 4096  # bytes we take; extensions (TLVs) make it longer than its 232
_V2_FIXED = 16

_V1_START = b"PROXY "
_V2_START = b"\r\n\r\n\x00\r\nQUIT\n"
_V1 = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]{2,39}) ([0-9A-Fa-f.:]{2,39}) ([0-9]{1,5}) ([0-9]{1,5})\r\n")
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*+)?\r\n")
_IP = {b"TCP4": ipaddress.IPv4Address, b"TCP6": ipaddress.IPv6Address}

_LOCAL, _PROXY = 0x20, 0x21  # version and command
_BLOCKS = {  # family and protocol: name and bytes of an address; only streams come here
    0x11: ("TCP4", 4),
    0x21: ("TCP6", 16),
    0x31: ("UNIX", 108),
}
_UNTOLD = {0x00, 0x01, 0x02, 0x10, 0x12, 0x20, 0x22, 0x30, 0x32}  # right, and no address for us in it


class ProxyHeaderError(ValueError):
    """It is no PROXY header; the text says why. Close the connection."""


class ProxyHeader(NamedTuple):
    """What a header says; without a client, the connection is the proxy's own.

    Args:
        family: "TCP4", "TCP6", "UNIX", or "" when it names nobody.
        client: address and port; None on a unix socket, or when it names nobody.
        destination: where the client connected to, likewise.
    """

    family: str = ""
    client: tuple[str, int] | None = None
    destination: tuple[str, int] | None = None


def header_length(data: bytes) -> int:
    """Tell how long the header at the start of `data` is.

    Args:
        data: the first bytes of a connection, as many as there are; what follows the header does not matter.

    Returns:
        bytes of the whole header, maybe more than are there; 0 while that cannot be told, and then all of `data`
        belongs to it.

    Raises:
        ProxyHeaderError: it is none, or longer than allowed.
    """
    if data.startswith(_V1_START):
        end = data.find(b"\n", 0, V1_MAX)
        if end < 0 and len(data) >= V1_MAX:
            raise ProxyHeaderError(f"no line end in the first {V1_MAX} bytes")
        return end + 1
    if data.startswith(_V2_START):
        if len(data) < _V2_FIXED:
            return 0
        length = _V2_FIXED + int.from_bytes(data[14:16], "big")
        if length > V2_MAX:
            raise ProxyHeaderError(f"{length} bytes long, more than {V2_MAX}")
        return length
    if _V1_START.startswith(data) or _V2_START.startswith(data):
        return 0
    raise ProxyHeaderError("the connection does not begin with a PROXY header")


def parse_header(header: bytes) -> ProxyHeader:
    """Read a whole header.

    Args:
        header: as many bytes as `header_length` told.

    Raises:
        ProxyHeaderError: it is malformed.

    Spec: proxy-protocol.txt 2.1 and 2.2, of HAProxy.
    """
    return _parse_v1(header) if header.startswith(_V1_START) else _parse_v2(header)


def _parse_v1(line: bytes) -> ProxyHeader:
    if _V1_UNKNOWN.fullmatch(line) is not None:
        return ProxyHeader()
    parts = _V1.fullmatch(line)
    if parts is None:
        raise ProxyHeaderError(f"malformed line {line!r}")
    family, *texts = parts.groups()
    try:
        source, destination = [str(_IP[family](text.decode())) for text in texts[:2]]
    except ValueError:
        raise ProxyHeaderError(f"malformed address in {line!r}") from None
    ports = [int(text) for text in texts[2:]]
    if max(ports) > PORT_MAX or any(text != b"%d" % port for text, port in zip(texts[2:], ports, strict=True)):
        raise ProxyHeaderError(f"malformed port in {line!r}")
    return ProxyHeader(family.decode(), (source, ports[0]), (destination, ports[1]))


def _parse_v2(header: bytes) -> ProxyHeader:
    command, protocol, body = header[12], header[13], header[_V2_FIXED:]
    if command == _LOCAL:
        return ProxyHeader()  # whatever follows (2.2)
    if command != _PROXY:
        raise ProxyHeaderError(f"unknown version or command {command:#04x}")
    if protocol in _UNTOLD:
        return ProxyHeader()
    if protocol not in _BLOCKS:
        raise ProxyHeaderError(f"unknown address family or protocol {protocol:#04x}")
    family, size = _BLOCKS[protocol]
    if len(body) < 2 * size + (0 if family == "UNIX" else 4):
        raise ProxyHeaderError(f"too short for {family}: {len(body)} bytes")
    if family == "UNIX":
        return ProxyHeader(family)
    source, destination = (str(ipaddress.ip_address(body[at : at + size])) for at in (0, size))
    ports = [int.from_bytes(body[at : at + 2], "big") for at in (2 * size, 2 * size + 2)]
    return ProxyHeader(family, (source, ports[0]), (destination, ports[1]))
