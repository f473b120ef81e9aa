"""What proxies say about the client of a request: X-Forwarded-* and `Forwarded` (RFC 7239).

Laws:

* Who is not a proxy of ours says nothing: none of its forwarding headers reaches an environ.
* The client is the first address from the right that is no proxy of ours, since each proxy adds at the right what it
  has seen. Where all are ours it is the left-most. What stands left of the client is its own claim and is not read.
* Of a list of schemes, hosts, ports or prefixes the entry at the client's place counts, from the right as well; of a
  shorter list its left-most one.
* Two accounts are not mixed: where `Forwarded` and X-Forwarded-* both speak they must say the same, and a value that
  would count and cannot be read is no absence of it. Both are answered with 400.
* A client that the proxies hide (``unknown``, ``_name``) has no address: it never gets that of a proxy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from trio_wsgi.address import PORT_MAX
from trio_wsgi.errors import ClientError
from trio_wsgi.rules.grammar import TOKEN
from trio_wsgi.rules.headers import HeaderPairs
from trio_wsgi.rules.proxies import Proxies, parse_ip
from trio_wsgi.rules.target import check_authority

# What proxies say of their clients, in headers that we can read.
BELIEVABLE = (
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "forwarded",
)
_KEYS = {name: "HTTP_" + name.upper().replace("-", "_") for name in BELIEVABLE}
ENVIRON_KEYS = frozenset(_KEYS.values())

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}  # Traefik tells WebSockets apart
_DEFAULT_PORTS = {"http": "80", "https": "443"}

_HIDDEN = r"unknown|_[0-9A-Za-z._\-]++"
_NODE = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]++)\]|(?P<ipv4>[0-9.]++)|(?P<hidden>" + _HIDDEN + r"))"
    r"(?::(?:(?P<port>[0-9]{1,5})|_[0-9A-Za-z._\-]++))?",
    re.IGNORECASE,
)
_BARE_IPV6 = re.compile(r"[0-9A-Fa-f:.]++")  # X-Forwarded-For has no grammar; most leave the brackets out
# RFC 7239 §4, with the unquoted colons and brackets that many senders permit themselves
_PAIR = re.compile(
    r"[ \t]*+(?:(?P<name>" + TOKEN + r")="
    r"""(?:(?P<token>[!#$%&'*+\-.^_`|~0-9A-Za-z:\[\]]++)|"(?P<quoted>(?:[^"\\]|\\.)*+)"))?[ \t]*+(?P<end>[;,]|\Z)"""
)
_ESCAPED = re.compile(r"\\(.)")
_PREFIX = re.compile(r"(?:/(?:[0-9A-Za-z\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})++)*+/?")  # RFC 3986 §3.3
# Once it is decoded: //host and /\host lead elsewhere, dot segments out of what the proxy serves.
_NEVER_IN_PREFIX = re.compile(r"//|/\.{1,2}(?:/|\Z)|[\x00-\x1f\x7f\\]|\A[^/]")


@dataclass(frozen=True, slots=True)
class Forwarding:
    """Whom to believe, and what.

    Args:
        proxies: ours.
        names: the headers that they set, lower case; the others of `BELIEVABLE` come from their clients.
    """

    proxies: Proxies
    names: frozenset[bytes]
    unbelieved: tuple[str, ...] = field(init=False)  # keys of an environ

    def __post_init__(self) -> None:
        keys = tuple(_KEYS[name] for name in BELIEVABLE if name.encode() not in self.names)
        object.__setattr__(self, "unbelieved", keys)


def parse_names(texts: Iterable[str]) -> frozenset[bytes]:
    """Read `trusted_proxy_headers`: names, each text one or several with commas between.

    Raises:
        ValueError: one of them is not among `BELIEVABLE`; and what to write.
    """
    names = [name for text in texts for each in text.split(",") if (name := each.strip())]
    for name in names:
        if name.lower() not in BELIEVABLE:
            raise ValueError(f"{name!r} is not one of them; write some of {', '.join(BELIEVABLE)}, with commas between")
    return frozenset(name.lower().encode() for name in names)


class Forwarded(NamedTuple):
    """The client as the proxies see it; None where they say nothing."""

    client: str | None = None  # an address; "" when they do not tell it
    client_port: str = ""
    scheme: str | None = None  # "http" or "https"
    host: str | None = None  # an authority, with or without a port
    port: str | None = None
    prefix: str | None = None  # decoded, "" or beginning with a slash


def read_forwarded(headers: HeaderPairs, forwarding: Forwarding) -> Forwarded:
    """What a proxy of ours says in the headers of a request.

    Args:
        headers: with lower-case names, from a peer that is in `forwarding.proxies`.

    Raises:
        ClientError: 400, for what cannot be read, or two accounts that differ.

    Spec: RFC 7239 §4 to §7; X-Forwarded-* has none.
    """
    said: dict[bytes, list[str]] = {}
    for name, value in headers:
        if name in forwarding.names and value:
            said.setdefault(name, []).append(value.decode("latin-1"))
    standard = said.pop(b"forwarded", None)
    is_ours = forwarding.proxies.has
    if standard is None:
        return _read_x_forwarded(said, is_ours)
    account = _read_standard(", ".join(standard), is_ours)
    if said:
        other = _read_x_forwarded(said, is_ours)
        if account._replace(client_port="") != other._replace(client_port=""):
            raise ClientError(400, "Forwarded and X-Forwarded-* say different things (trusted_proxy_headers)")
        return account if account.client_port else other
    return account


def apply_forwarded(environ: dict[str, Any], headers: HeaderPairs, forwarding: Forwarding) -> None:
    """Show an app the client, and the address that it asked, as the proxies know them.

    The port is that of the authority; else what the proxies say of it; else the scheme's.

    Args:
        environ: complete, of a request with any of `ENVIRON_KEYS`.
        headers, forwarding: as for `read_forwarded`.

    Raises:
        ClientError: as `read_forwarded`.
    """
    for key in forwarding.unbelieved:
        environ.pop(key, None)
    said = read_forwarded(headers, forwarding)
    if said.client is not None:
        environ["REMOTE_ADDR"] = said.client
        environ["REMOTE_PORT"] = said.client_port
    if said.scheme is not None:
        environ["wsgi.url_scheme"] = said.scheme
        environ.pop("HTTPS", None)
        if said.scheme == "https":
            environ["HTTPS"] = "on"
    default = _DEFAULT_PORTS[environ["wsgi.url_scheme"]]
    if said.host is not None:
        name, named = _split_authority(said.host)
        port = named or said.port or default
        environ["HTTP_HOST"] = said.host if named or port == default else f"{name}:{port}"
        environ["SERVER_NAME"] = name
        environ["SERVER_PORT"] = port
    elif said.port is not None or said.scheme is not None:
        _, named = _split_authority(environ.get("HTTP_HOST", ""))
        environ["SERVER_PORT"] = named or said.port or default
    if said.prefix:
        environ["SCRIPT_NAME"] = said.prefix + environ["SCRIPT_NAME"]


def find_client(headers: HeaderPairs, forwarding: Forwarding) -> tuple[str, str] | None:
    """Address and port of the client for a log; None where the proxies say nothing that can be read."""
    said = _read_what_can_be(headers, forwarding)
    return None if said.client is None else (said.client, said.client_port)


def find_prefix(headers: HeaderPairs, forwarding: Forwarding) -> bytes:
    """The part of a URL's path that the proxies have taken away, percent-encoded; empty where they say nothing that
    can be read."""
    prefix = _read_what_can_be(headers, forwarding).prefix or ""
    return quote_from_bytes(prefix.encode("latin-1")).encode()


def _read_what_can_be(headers: HeaderPairs, forwarding: Forwarding) -> Forwarded:
    """`read_forwarded`, for whoever may not refuse the request: what breaks the rules says nothing."""
    try:
        return read_forwarded(headers, forwarding)
    except ClientError:
        return Forwarded()


# -- X-Forwarded-* -----------------------------------------------------------------------------------------------


def _read_x_forwarded(said: dict[bytes, list[str]], is_ours: Callable[..., bool]) -> Forwarded:
    nodes = _members(said.get(b"x-forwarded-for"))
    place, client, client_port = _find_client(nodes, is_ours, "X-Forwarded-For")

    def at_place(name: bytes, parse: Callable[[str, str], str], header: str) -> str | None:
        members = _members(said.get(name))
        return parse(members[max(-1 - place, -len(members))], header) if members else None

    return Forwarded(
        client,
        client_port,
        at_place(b"x-forwarded-proto", _parse_scheme, "X-Forwarded-Proto"),
        at_place(b"x-forwarded-host", _parse_host, "X-Forwarded-Host"),
        at_place(b"x-forwarded-port", _parse_port, "X-Forwarded-Port"),
        at_place(b"x-forwarded-prefix", _parse_prefix, "X-Forwarded-Prefix"),
    )


def _members(values: list[str] | None) -> list[str]:
    """The members of a list; empty ones do not count (RFC 9110 §5.6.1)."""
    if values is None:
        return []
    return [member for value in values for each in value.split(",") if (member := each.strip(" \t"))]


# -- Forwarded ---------------------------------------------------------------------------------------------------


def _read_standard(text: str, is_ours: Callable[..., bool]) -> Forwarded:
    elements = _parse_elements(text)
    if not elements:
        return Forwarded()
    nodes = [element.get("for", "unknown") for element in elements]
    place, client, client_port = _find_client(nodes, is_ours, "Forwarded")
    element = elements[-1 - place]
    scheme = _parse_scheme(element["proto"], "Forwarded") if "proto" in element else None
    host = _parse_host(element["host"], "Forwarded") if "host" in element else None
    return Forwarded(client, client_port, scheme, host)


def _parse_elements(text: str) -> list[dict[str, str]]:
    """The elements with their parameters, whose names are lower case; all of it, for a quote may reach far."""
    elements: list[dict[str, str]] = []
    element: dict[str, str] = {}
    at = 0
    while True:
        pair = _PAIR.match(text, at)
        if pair is None:
            raise ClientError(400, "malformed Forwarded (RFC 7239 §4)")
        if pair["name"] is not None:
            name = pair["name"].lower()
            if name in element:
                raise ClientError(400, f"{name} twice in one element of Forwarded (RFC 7239 §4)")
            quoted = pair["quoted"]
            element[name] = pair["token"] if quoted is None else _ESCAPED.sub(r"\1", quoted)
        if pair["end"] != ";" and element:
            elements.append(element)
            element = {}
        if not pair["end"]:
            return elements
        at = pair.end()


# -- values ------------------------------------------------------------------------------------------------------


def _find_client(nodes: Sequence[str], is_ours: Callable[..., bool], header: str) -> tuple[int, str | None, str]:
    """The client's place from the right, its address (None without any) and port."""
    place, client, port = 0, None, ""
    for place, node in enumerate(reversed(nodes)):
        parts = _NODE.fullmatch(node)
        text = parts["ipv6"] or parts["ipv4"] if parts else node if _BARE_IPV6.fullmatch(node) else None
        if parts is not None and parts["hidden"]:
            return place, "", ""
        address = None if text is None else parse_ip(text)
        if address is None:
            raise ClientError(400, f"malformed address in {header}")
        client = str(address)
        port = _parse_port(parts["port"], header) if parts is not None and parts["port"] else ""
        if not is_ours(address):
            break
    return place, client, port


def _parse_scheme(text: str, header: str) -> str:
    scheme = _SCHEMES.get(text.lower())
    if scheme is None:
        raise ClientError(400, f"unknown scheme in {header}")
    return scheme


def _parse_host(text: str, header: str) -> str:
    try:
        check_authority(text.encode("latin-1"))
    except ClientError:
        raise ClientError(400, f"malformed host in {header}") from None
    return text


def _parse_port(text: str, header: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= PORT_MAX):
        raise ClientError(400, f"malformed port in {header}")
    return str(int(text))


def _parse_prefix(text: str, header: str) -> str:
    prefix = unquote_to_bytes(text).decode("latin-1").removesuffix("/")
    if _PREFIX.fullmatch(text) is None or _NEVER_IN_PREFIX.search(prefix) is not None:
        raise ClientError(400, f"malformed {header}")
    return prefix


def _split_authority(authority: str) -> tuple[str, str]:
    """Name and port of an authority that `check_authority` has passed, the port "" where it has none."""
    name, colon, port = authority.rpartition(":")
    return (name, port) if colon and not port.endswith("]") else (authority, "")
