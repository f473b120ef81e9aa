"""Which machines are proxies of ours: what `forwarded_allow_ips` and `proxy_allow_from` name.

Laws:

* ``*`` stands for whoever connects to us, and for nobody else: an address that a header names was not seen by us, so
  only networks that are written out make it a proxy's.
* An IPv4 address inside an IPv6 one, as a dual-stack socket shows it, is the IPv4 address.
* Who connects to a unix socket is on this machine and was let in by the file's permissions: it is believed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED_BITS = 96  # of an IPv6 address stand before the IPv4 address in it (RFC 4291 §2.5.5.2)


@dataclass(frozen=True, slots=True)
class Proxies:
    """A set of machines.

    Args:
        everyone: whether whoever connects belongs to it.
        networks: whose addresses belong to it, seen by us or named by others.
    """

    everyone: bool
    networks: tuple[IPNetwork, ...]

    def has_peer(self, host: str | None) -> bool:
        """Whether the one that has connected is a proxy of ours; `host` is its address, None on a unix socket."""
        if host is None or self.everyone:
            return True
        address = parse_ip(host)
        return address is not None and self.has(address)

    def has(self, address: IPAddress) -> bool:
        """Whether an address that somebody names is a proxy of ours."""
        return any(address in network for network in self.networks)


def parse_proxies(texts: Iterable[str]) -> Proxies:
    """Read a setting: addresses, networks and ``*``, each text one or several with commas between.

    Raises:
        ValueError: one of them is none of these; and what to write.
    """
    members = [member for text in texts for each in text.split(",") if (member := each.strip())]
    return Proxies("*" in members, tuple(_parse_network(member) for member in members if member != "*"))


def parse_ip(text: str) -> IPAddress | None:
    """An IPv4 or IPv6 address, None when the text is none; a mapped one as IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _parse_network(text: str) -> IPNetwork:
    """A network, or an address as one of its own; mapped ones as IPv4."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        told = f"{text!r} is no address or network; write 10.0.0.7, 10.0.0.0/8 or *, with commas between"
        raise ValueError(told) from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
