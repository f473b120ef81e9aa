"""The request target: which resource of which authority a request line names (RFC 9112 §3.2, RFC 3986).

Laws:

* Exactly one of the four forms fits a method; everything else is a `ClientError`. Nothing is repaired.
* The path stays percent-encoded here. Decoding belongs to whoever builds the environ.
* An authority is ``host[:port]`` without userinfo; what the client says never decides the scheme we serve.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address
from typing import NamedTuple

from trio_wsgi.address import PORT_MAX
from trio_wsgi.errors import ClientError

# RFC 9110 §7.2: Host = uri-host [ ":" port ]; RFC 3986 §3.2.2, §3.2.3 for the parts. A reg-name covers IPv4.
_AUTHORITY = re.compile(
    rb"(?:\[(?P<ipv6>[0-9A-Fa-f:.]{2,45}+)\]"
    rb"|(?:[0-9A-Za-z\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})++)"
    rb"(?::(?P<port>[0-9]*+))?"
)
# VCHAR without "#": a fragment never travels (RFC 9112 §3.2).
_VISIBLE = re.compile(rb"[\x21-\x22\x24-\x7e]++")
_ABSOLUTE = re.compile(rb"(?P<scheme>https?)://(?P<authority>[^/?]*+)(?P<rest>.*+)", re.IGNORECASE)


class Target(NamedTuple):
    """A request target taken apart; `scheme` and `authority` are None unless it was in absolute-form."""

    path: bytes  # still percent-encoded; b"*" for the server as a whole
    query: bytes  # without the "?"
    authority: bytes | None
    scheme: bytes | None  # b"http" or b"https", lower case


@lru_cache(maxsize=256)
def check_authority(authority: bytes) -> None:
    """Check ``host[:port]`` of a Host header or an absolute-form target; an empty one is refused.

    Raises:
        ClientError: 400.

    Spec: RFC 9110 §7.2, RFC 9112 §3.2, RFC 3986 §3.2.2 (no IPvFuture, no zone: nobody serves under those).
    """
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise ClientError(400, "malformed host (RFC 9110 §7.2)")
    ipv6, port = parts.group("ipv6", "port")
    if ipv6 is not None:
        try:
            IPv6Address(ipv6.decode("ascii"))
        except ValueError:
            raise ClientError(400, "malformed IPv6 address in host (RFC 3986 §3.2.2)") from None
    if port and (len(port) > 5 or int(port) > PORT_MAX):
        raise ClientError(400, "port of host out of range (RFC 3986 §3.2.3)")


def parse_target(method: bytes, target: bytes) -> Target:
    """Take a request target apart.

    ``OPTIONS http://host`` (no path, no query) is the asterisk-form of that host (RFC 9112 §3.2.4); for other
    methods an empty path in absolute-form is ``/`` (RFC 9110 §4.2.3).

    Args:
        method: as received; methods are case-sensitive.
        target: as received.

    Raises:
        ClientError: 400 for a form that does not fit the method or characters no URI has, 501 for CONNECT.

    Spec: RFC 9112 §3.2.1 to §3.2.4.
    """
    if method == b"CONNECT":
        raise ClientError(501, "CONNECT: this server is no proxy (RFC 9110 §9.3.6)")
    if _VISIBLE.fullmatch(target) is None:
        raise ClientError(400, "request target has characters that no URI has (RFC 9112 §3.2)")
    if target.startswith(b"/"):
        path, _, query = target.partition(b"?")
        return Target(path, query, None, None)
    if target == b"*":
        if method != b"OPTIONS":
            raise ClientError(400, "target * is for OPTIONS only (RFC 9112 §3.2.4)")
        return Target(b"*", b"", None, None)
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise ClientError(400, "request target is in no form this server knows (RFC 9112 §3.2)")
    scheme, authority, rest = absolute.group("scheme", "authority", "rest")
    if b"@" in authority:
        raise ClientError(400, "userinfo in the request target (RFC 9110 §4.2.4)")
    check_authority(authority)
    if not rest and method == b"OPTIONS":
        return Target(b"*", b"", authority, scheme.lower())
    path, _, query = rest.partition(b"?")
    return Target(path or b"/", query, authority, scheme.lower())
