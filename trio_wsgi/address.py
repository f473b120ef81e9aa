"""Where a server listens: one `--bind` value, parsed.

Laws:

* A text is one of HOST:PORT, [IPV6]:PORT, :PORT, PORT, HOST, unix:PATH, fd://N and fd://NAME; anything else is
  refused with the fix.
* Nothing is looked up and nothing is opened here: a host name stays a name.
* `parse_address(str(address)) == address`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
PORT_MAX = 65535
FD_MAX = 2**31 - 1  # an int of C
EVERY_HOST = "0.0.0.0"  # what ":8000" means


@dataclass(frozen=True, slots=True)
class Address:
    """A place to listen at; which fields count is told by `kind`.

    Args:
        kind: ``"tcp"`` (host and port), ``"unix"`` (path) or ``"fd"`` (a listening socket handed to us).
        host: a name or an address, an IPv6 address without brackets.
        port: 0 to 65535; 0 lets the kernel choose.
        path: of the unix socket; a leading ``@`` means Linux' abstract name space.
        fd: the number of the inherited descriptor; -1 where only its name is known yet.
        name: that systemd gave it (FileDescriptorName=); may stand for several.
    """

    kind: Literal["tcp", "unix", "fd"]
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1
    name: str = ""

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        if self.kind == "fd":
            return f"fd://{self.name or self.fd}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def url(self, scheme: str = "http") -> str:
        """What a person can open: a URL for TCP, the address itself for everything else."""
        return f"{scheme}://{self}" if self.kind == "tcp" else str(self)


def parse_address(text: str) -> Address:
    """Read one `--bind` value.

    Args:
        text: see the laws above; ``tcp://`` in front is allowed, as in gunicorn.

    Returns:
        The address, with 127.0.0.1 and 8000 for what was left out.

    Raises:
        ValueError: what is wrong with the text and what to write instead; name the setting around it.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        path = path.removeprefix("//")
        if not path or "\0" in path:
            raise ValueError(f"{text!r} has no path; write unix:/run/app.sock")
        return Address("unix", path=path)
    if text.startswith("fd://"):
        return _parse_fd(text.removeprefix("fd://"), text)
    rest = text.removeprefix("tcp://")
    if "/" in rest or not rest or not rest.isprintable() or " " in rest:
        raise ValueError(f"{text!r} is not an address; write HOST:PORT, [IPV6]:PORT or unix:PATH")
    return _parse_tcp(rest)


def join_host(host: str, port: object) -> str:
    """The text of host and port, which `parse_address` reads: an IPv6 address gets its brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def _parse_fd(text: str, whole: str) -> Address:
    if text.isascii() and text.isdigit():
        if len(text) > len(str(FD_MAX)) or int(text) > FD_MAX:
            raise ValueError(f"{whole!r} is beyond all descriptors; write the number of one that is handed over")
        return Address("fd", fd=int(text))
    if not text or len(text) > 255 or ":" in text or not (text.isascii() and text.isprintable()):  # systemd.socket(5)
        raise ValueError(f"{whole!r} has neither a descriptor's number nor its name; write fd://3 or fd://web")
    return Address("fd", name=text)


def _parse_tcp(text: str) -> Address:
    if text.startswith("["):
        host, bracket, after = text[1:].partition("]")
        if not bracket or (after and not after.startswith(":")) or not _is_ipv6(host):
            raise ValueError(f"{text!r} is not an IPv6 address; write [::1]:{DEFAULT_PORT}")
        return Address("tcp", host=host, port=_parse_port(after[1:], text) if after else DEFAULT_PORT)
    if "," in text:
        raise ValueError(f"{text!r} has a comma; give each address a --bind of its own, and in TOML a text of its own")
    if text.count(":") > 1:
        raise ValueError(f"{text!r} has more than one colon; write an IPv6 address as [::1]:{DEFAULT_PORT}")
    host, colon, port = text.partition(":")
    if not colon:
        if text.isascii() and text.isdigit():
            return Address("tcp", host=DEFAULT_HOST, port=_parse_port(text, text))
        return Address("tcp", host=text, port=DEFAULT_PORT)
    return Address("tcp", host=host or EVERY_HOST, port=_parse_port(port, text))


def _parse_port(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > PORT_MAX:
        raise ValueError(f"{whole!r} has no port between 0 and {PORT_MAX}; write its number, such as {DEFAULT_PORT}")
    return int(text)


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
