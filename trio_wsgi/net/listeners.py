"""Listening sockets: opened from addresses, inherited, or handed in.

Laws:

* All are open before the first connection is accepted, and all are closed by whoever opened them. A child that the
  application forks has none of them, nor their files: an address is free when we have closed it.
* A unix socket's file is removed when its listener is closed, if it is still ours: while we drain, a successor may
  already listen under that name.
* What is inherited must listen already, for streams: we neither bind nor listen with it, and never remove its file. One
  that is a standard stream by its number gets another, as processes that we start have streams of their own. Where
  nothing comes of the start it is given back as it was: nobody could hand it to us again.
* Of a name that stands for several addresses, those that this host has are enough.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from trio_wsgi.address import Address
from trio_wsgi.errors import ConfigError
from trio_wsgi.forks import undone_in_children
from trio_wsgi.net.unixsocket import Access, SocketFile, listen_unix

SocketAddress = tuple[str, int] | tuple[str, int, int, int]
Place = tuple[int, SocketAddress]  # family and address, for socket(2) and bind(2)
Resolved = tuple[Address, Place | None]  # with a place for TCP
ListeningSocket = socket.socket | trio.socket.SocketType | trio.SocketListener  # that may be handed in

_AS_IT_COMES = Access()
_ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # this host has no such address, as ::1 where IPv6 is off
_HINTS = {
    errno.EADDRINUSE: "is another server running there, or is it named twice?",
    errno.EEXIST: "remove it or name another",
    errno.ENOTSOCK: "hand in a listening socket",
    errno.EBADF: "hand in a listening socket",
    errno.EACCES: "choose a port above 1023, or a path that may be written",
}


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening, non-blocking socket and where it is bound.

    Args:
        file: that was made for it, and is taken away when it is closed; None without one.
    """

    sock: socket.socket
    address: Address
    file: SocketFile | None = None

    def close(self) -> None:
        """Refuse whoever comes from now on. May be called again."""
        if self.sock.fileno() >= 0:
            if self.file is not None:
                self.file.remove()
            self.sock.close()

    @property
    def is_listening(self) -> bool:
        """Whether the kernel gives it connections, as to all but new siblings."""
        return _listens(self.sock)

    @property
    def server_name(self) -> str:
        """SERVER_NAME for its requests: the address, or this host's name where it is bound to all of them.

        Spec: RFC 3875 §4.1.14: an IPv6 address stands in brackets, as in a URL.
        """
        if self.address.kind != "tcp":
            return "localhost"
        host = self.address.host
        if host in {"0.0.0.0", "::"}:
            return socket.gethostname()
        return f"[{host}]" if ":" in host else host

    def server_port(self, scheme: str) -> str:
        """SERVER_PORT for its requests; a unix socket has none, and gets the scheme's own."""
        if self.address.kind == "tcp":
            return str(self.address.port)
        return "443" if scheme == "https" else "80"


def resolve(addresses: Iterable[Address]) -> list[Resolved]:
    """Look up the host names; a name may stand for several addresses. Blocks.

    Raises:
        ConfigError: a name is not known.
    """
    found: list[Resolved] = []
    for address in addresses:
        if address.kind != "tcp":
            if address.name:
                why = f"{address}: systemd has handed over no socket of this name"
                raise ConfigError("bind", why, "see FileDescriptorName= of the socket unit")
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
def open_listeners(
    resolved: Iterable[Resolved], backlog: int, *, reuse_port: bool = False, access: Access = _AS_IT_COMES
) -> Iterator[list[Listener]]:
    """Listen at all of them.

    Args:
        resolved: what `resolve` found.
        backlog: connections that the kernel queues while none is accepted; what is inherited has its own.
        reuse_port: let `open_sibling`, and other servers of the same user, listen at the TCP addresses, too.
        access: who may connect to unix sockets.

    Raises:
        ConfigError: one cannot be listened at.
    """
    with contextlib.ExitStack() as stack:
        listeners: list[Listener] = []
        served: set[Address] = set()
        absent: dict[Address, OSError] = {}
        for address, place in resolved:
            if address.kind == "fd" and address in served:  # it would be closed twice
                continue
            try:
                opened: contextlib.AbstractContextManager[Listener]
                if place is not None:
                    opened = contextlib.closing(_open_tcp(*place, backlog, reuse_port))
                elif address.kind == "unix":
                    opened = contextlib.closing(_listener(*listen_unix(address.path, backlog, access)))
                else:
                    opened = _inherited(address.fd)
                listener = stack.enter_context(opened)
            except (OSError, OverflowError) as exc:
                if place is None or not isinstance(exc, OSError) or exc.errno not in _ABSENT:
                    raise _explain(address, exc) from exc
                absent[address] = exc
            else:
                stack.enter_context(undone_in_children(listener.sock.close))
                served.add(address)
                listeners.append(listener)
        for address in absent.keys() - served:
            raise _explain(address, absent[address]) from absent[address]
        yield listeners


def open_sibling(listener: Listener) -> Listener:
    """One more socket at the same TCP address, among which the kernel spreads connections: for another worker.

    It does not listen yet (`start_listening`): what the kernel gave it before anybody accepts there would wait, and be
    lost where nobody ever does. Once it listens it is to stay open as long as its address is served.

    Args:
        listener: opened with `reuse_port`.

    Raises:
        ConfigError: it cannot be opened.
    """
    try:
        return _open_tcp(listener.sock.family, listener.sock.getsockname(), None, reuse_port=True)
    except OSError as exc:
        raise _explain(listener.address, exc) from exc


def start_listening(listener: Listener, backlog: int) -> None:
    """Listen at a sibling that does not yet; leave any other as it is."""
    if not _tells_listening(listener.sock):
        listener.sock.listen(backlog)


@contextmanager
def borrow_listeners(given: Sequence[ListeningSocket]) -> Iterator[list[Listener]]:
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
                stack.enter_context(undone_in_children(sock.close))
                _check_listening(sock)
            except OSError as exc:
                raise ConfigError("listeners", f"number {number}: {_reason(exc)}", _HINTS[errno.EBADF]) from exc
            listeners.append(_listener(sock))
        yield listeners


def _listener(sock: socket.socket, file: SocketFile | None = None) -> Listener:
    sock.setblocking(False)
    name = sock.getsockname()
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        return Listener(sock, Address("tcp", host=name[0], port=name[1]))
    path = os.fsdecode(name)
    return Listener(sock, Address("unix", path=f"@{path[1:]}" if path.startswith("\0") else path), file)


@contextmanager
def _inherited(fd: int) -> Iterator[Listener]:
    """Listen at what is open under this number while the block runs; a ConfigError out of it gives it back."""
    inheritable = os.get_inheritable(fd)
    listener = _take_inherited(fd)
    try:
        yield listener
    except ConfigError:
        if listener.sock.fileno() == fd:
            os.set_inheritable(listener.sock.detach(), inheritable)
        elif listener.sock.fileno() >= 0:  # it was a standard stream
            os.dup2(listener.sock.fileno(), fd, inheritable)
        raise
    finally:
        listener.close()


def _take_inherited(fd: int) -> Listener:
    sock = socket.socket(fileno=fd)
    try:
        _check_listening(sock)
    except BaseException:
        sock.detach()  # it is somebody else's
        raise
    if fd <= 2:
        sock = _renumber(sock)
    sock.set_inheritable(False)
    return _listener(sock)


def _renumber(sock: socket.socket) -> socket.socket:
    """The same open socket under a number that is no standard stream's; that one stays open, to nothing."""
    other = socket.socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, sock.detach())
    os.close(nothing)
    return other


def _check_listening(sock: socket.socket) -> None:
    """Raises OSError where no connection can be accepted, or not one that we could serve."""
    if sock.family not in {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}:
        raise OSError(errno.EAFNOSUPPORT, "it is neither a TCP nor a unix socket")
    if sock.type != socket.SOCK_STREAM:
        raise OSError(errno.EPROTOTYPE, "it is no stream socket (in its unit, write ListenStream=)")
    if not _listens(sock):
        why = "it is a connection (in its unit, write Accept=no)" if _is_connected(sock) else "it does not listen"
        raise OSError(errno.EINVAL, why)


def _listens(sock: socket.socket) -> bool:
    """Whether it does, where the system tells; else accept(2) has to."""
    told = _tells_listening(sock)
    return not _is_connected(sock) if told is None else told


def _tells_listening(sock: socket.socket) -> bool | None:
    """Whether it listens; None where the system does not tell, as macOS (ENOPROTOOPT)."""
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return None


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _open_tcp(family: int, where: SocketAddress, backlog: int | None, reuse_port: bool) -> Listener:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        if backlog is not None:
            sock.listen(backlog)
        return _listener(sock)
    except BaseException:
        sock.close()
        raise


def _explain(address: Address, exc: Exception) -> ConfigError:
    hint = _HINTS.get(exc.errno or 0, "") if isinstance(exc, OSError) else ""
    return ConfigError("bind", f"{address}: {_reason(exc)}", hint)


def _reason(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc)
