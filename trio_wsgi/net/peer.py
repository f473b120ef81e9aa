"""Who is at the other end of a connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trio_wsgi.rules.environ import Site
from trio_wsgi.rules.forwarded import Forwarding

_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, and which site it came to.

    Args:
        address: host and port; None on a unix socket. Behind the PROXY protocol, those that its header names.
        forwarding: how to read what the peer says of its clients; None where it is not believed.
        name: of the one that has connected, for logs and the environ.
        variables: what the connection adds to the environ of all its requests.
    """

    site: Site
    address: tuple[str, int] | None
    forwarding: Forwarding | None
    name: str
    variables: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    def __str__(self) -> str:
        shown = show_address(self.address)
        return self.name if shown == self.name else f"{shown} via {self.name}"


def build_peer(site: Site, address: tuple[str, int] | None, forwarding: Forwarding) -> Peer:
    """Make a Peer of who has connected; whether to believe it is decided here, once for the connection."""
    believed = forwarding.proxies.has_peer(address[0] if address else None)
    return Peer(site, address, forwarding if believed else None, show_address(address))


def show_address(address: tuple[str, int] | None) -> str:
    """An address as logs have it."""
    return f"{address[0]}:{address[1]}" if address else "unix"
