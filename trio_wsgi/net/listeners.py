"""Listening sockets: opened from addresses, or handed in.

Laws:

* All are open before the first connection is accepted, and all are closed by whoever opened them.
* A unix socket's file that no server answers at is stale and replaced; one that answers is somebody's, and an error.
* A unix socket's file is removed when it is closed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from trio_wsgi.address import Address
from trio_wsgi.errors import ConfigError

Resolved = tuple[Address, tuple[int, tuple[str, int]] | None]  # with family and socket address, for TCP


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening, non-blocking socket and where it is bound."""

    sock: socket.socket
    address: Address

    @property
    def server_name(self) -> str:
        """SERVER_NAME for its requests: the address, or this host's name where it is bound to all of them."""
        if self.address.kind != "tcp":
            return "localhost"
        return socket.gethostname() if self.address.host in {"0.0.0.0", "::"} else self.address.host

    @property
    def server_port(self) -> str:
        """SERVER_PORT for its requests; a unix socket has none, and gets HTTP's."""
        return str(self.address.port) if self.address.kind == "tcp" else "80"


def resolve(addresses: Iterable[Address]) -> list[Resolved]:
    """Look up the host names; a name may stand for several addresses. Blocks.

    Raises:
        ConfigError: a name is not known.
    """
    found: list[Resolved] = []
    for address in addresses:
        if address.kind != "tcp":
            found.append((address, None))
            continue
        try:
            infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as exc:
            raise ConfigError("bind", f"{address}: {exc.strerror or exc}", "name a host that resolves here") from exc
        found += [(address, (int(family), (str(where[0]), int(where[1])))) for family, _, _, _, where in infos]
    return found


@contextmanager
def open_listeners(resolved: Iterable[Resolved], backlog: int) -> Iterator[list[Listener]]:
    """Listen at all of them.

    Args:
        resolved: what `resolve` found.
        backlog: connections that the kernel queues while none is accepted.

    Raises:
        ConfigError: one cannot be listened at.
    """
    with contextlib.ExitStack() as stack:
        listeners = []
        for address, where in resolved:
            try:
                if where is not None:
                    sock = stack.enter_context(_open_tcp(*where))
                elif address.kind == "unix":
                    sock = stack.enter_context(_open_unix(address.path))
                else:
                    sock = stack.enter_context(socket.socket(fileno=address.fd))
                sock.listen(backlog)
            except OSError as exc:
                hint = "is another server running there?" if exc.errno == 98 else ""
                raise ConfigError("bind", f"{address}: {exc.strerror or exc}", hint) from exc
            listeners.append(adopt(sock))
        yield listeners


def adopt(sock: socket.socket) -> Listener:
    """A listening socket that somebody else owns."""
    sock.setblocking(False)
    name = sock.getsockname()
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        return Listener(sock, Address("tcp", host=name[0], port=name[1]))
    return Listener(sock, Address("unix", path=os.fsdecode(name)))


def adopt_all(listeners: Sequence[socket.socket | trio.SocketListener]) -> list[Listener]:
    """Listening sockets that somebody else owns, in whichever form they were handed in."""
    return [adopt(_plain(given)) for given in listeners]


def _plain(given: socket.socket | trio.SocketListener) -> socket.socket:
    # A duplicate: the giver's own object keeps its mode and its descriptor, which it closes.
    sock = given.socket if isinstance(given, trio.SocketListener) else given
    return socket.socket(fileno=os.dup(sock.fileno()))


@contextmanager
def _open_tcp(family: int, where: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        yield sock


@contextmanager
def _open_unix(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        if path.startswith("@"):
            sock.bind("\0" + path[1:])
            yield sock
            return
        _remove_stale(path)
        sock.bind(path)
        made = Path(path).stat().st_ino
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):  # somebody removed or replaced it meanwhile: then it is theirs
                if Path(path).stat().st_ino == made:
                    Path(path).unlink()


def _remove_stale(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise FileExistsError(17, "there is a file that is no socket", path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()
            else:
                raise OSError(98, "another server answers there", path)
