"""Listening sockets: opened from addresses, or handed in.

Laws:

* All are open before the first connection is accepted, and all are closed by whoever opened them.
* A unix socket's file that no server answers at is stale and replaced; one that answers is somebody's, and an error.
* A unix socket's file is removed when its listener is closed, if it is still ours: while we drain, a successor may
  already listen under that name.
* Of a name that stands for several addresses, those that this host has are enough.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from trio_wsgi.address import Address
from trio_wsgi.errors import ConfigError

SocketAddress = tuple[str, int] | tuple[str, int, int, int]
Place = tuple[int, SocketAddress]  # family and address, for socket(2) and bind(2)
Resolved = tuple[Address, Place | None]  # with a place for TCP

_ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # this host has no such address, as ::1 where IPv6 is off
_HINTS = {
    errno.EADDRINUSE: "is another server running there?",
    errno.EEXIST: "remove it or name another",
    errno.ENOTSOCK: "hand in a listening socket",
    errno.EBADF: "hand in a listening socket",
    errno.EACCES: "choose a port above 1023, or a path that may be written",
}


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening, non-blocking socket and where it is bound.

    Args:
        remove_file: takes away the file that was made for it; None without one.
    """

    sock: socket.socket
    address: Address
    remove_file: Callable[[], None] | None = None

    def close(self) -> None:
        """Refuse whoever comes from now on. May be called again."""
        if self.sock.fileno() >= 0:
            if self.remove_file is not None:
                self.remove_file()
            self.sock.close()

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
        except (OSError, UnicodeError) as exc:
            raise ConfigError("bind", f"{address}: {_reason(exc)}", "name a host that resolves here") from exc
        # Each once: the hosts file may tell the same twice.
        places: dict[Place, None] = dict.fromkeys((int(family), where) for family, _, _, _, where in infos)  # type: ignore[misc]
        found += [(address, place) for place in places]
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
        listeners: list[Listener] = []
        served: set[Address] = set()
        absent: dict[Address, OSError] = {}
        for address, place in resolved:
            try:
                listener = _open(address, place)
                stack.callback(listener.close)
                listener.sock.listen(backlog)
            except (OSError, OverflowError) as exc:
                if place is None or not isinstance(exc, OSError) or exc.errno not in _ABSENT:
                    raise _explain(address, exc) from exc
                absent[address] = exc
            else:
                served.add(address)
                listeners.append(listener)
        for address in absent.keys() - served:
            raise _explain(address, absent[address]) from absent[address]
        yield listeners


@contextmanager
def borrow_listeners(given: Sequence[socket.socket | trio.SocketListener]) -> Iterator[list[Listener]]:
    """Listen at sockets that somebody else owns, in whichever form they were handed in.

    They are used through duplicates, so that the giver's own stay open. They become non-blocking, and stay so: that is
    the open file's property, which others may rely on by then (fcntl(2)).

    Raises:
        ConfigError: one is closed, or does not listen.
    """
    with contextlib.ExitStack() as stack:
        listeners = []
        for number, each in enumerate(given):
            theirs = each.socket if isinstance(each, trio.SocketListener) else each
            try:
                sock = stack.enter_context(socket.socket(fileno=os.dup(theirs.fileno())))
                if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    raise OSError(errno.EINVAL, "it does not listen")
            except OSError as exc:
                raise ConfigError("listeners", f"number {number}: {_reason(exc)}", _HINTS[errno.EBADF]) from exc
            listeners.append(_listener(sock))
        yield listeners


def _listener(sock: socket.socket, remove_file: Callable[[], None] | None = None) -> Listener:
    sock.setblocking(False)
    name = sock.getsockname()
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        return Listener(sock, Address("tcp", host=name[0], port=name[1]))
    path = os.fsdecode(name)
    return Listener(sock, Address("unix", path=f"@{path[1:]}" if path.startswith("\0") else path), remove_file)


def _open(address: Address, place: Place | None) -> Listener:
    """Bound, and not listening yet."""
    if place is not None:
        return _open_tcp(*place)
    if address.kind == "unix":
        return _open_unix(address.path)
    sock = socket.socket(fileno=address.fd)
    try:
        sock.set_inheritable(False)
        return _listener(sock)
    except BaseException:
        sock.close()
        raise


def _open_tcp(family: int, where: SocketAddress) -> Listener:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        return _listener(sock)
    except BaseException:
        sock.close()
        raise


def _open_unix(path: str) -> Listener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.startswith("@"):
            sock.bind("\0" + path[1:])
            return _listener(sock)
        _remove_stale(path)
        sock.bind(path)
        return _listener(sock, _remover(Path(path).absolute()))
    except BaseException:
        sock.close()
        raise


def _remover(path: Path) -> Callable[[], None]:
    made = path.stat()

    def remove() -> None:
        with contextlib.suppress(OSError):  # somebody removed it
            if os.path.samestat(path.stat(), made):  # else somebody replaced it: then it is theirs
                path.unlink()

    return remove


def _remove_stale(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is no socket", path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # one whose queue is full would have us wait; it is alive
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()
                return
            except BlockingIOError:
                pass
            raise OSError(errno.EADDRINUSE, "another server answers there", path)


def _explain(address: Address, exc: Exception) -> ConfigError:
    hint = _HINTS.get(exc.errno or 0, "") if isinstance(exc, OSError) else ""
    return ConfigError("bind", f"{address}: {_reason(exc)}", hint)


def _reason(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc)
