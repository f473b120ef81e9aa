"""The way in: who connects is accepted as long as there is a place, and a descriptor, for one more.

Laws:

* At the connection limit, and when descriptors run out, we stop accepting: the kernel queues, nobody is reset. A
  listener that waits holds no place of the limit. The last descriptors are for those who are served; but where nobody
  is, the next one always comes in.
* What accept(2), or the wait for it, fails with ends nothing, unless it says that the listener itself is gone: it is
  told, now and then, and tried again after a pause.
* At the end of accepting, who is in the queue already is accepted, too; whoever comes later is refused.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import trio

from trio_wsgi.address import Address
from trio_wsgi.net.connection import Connection
from trio_wsgi.net.copies import Copies
from trio_wsgi.net.descriptors import Reserve
from trio_wsgi.net.listeners import Listener
from trio_wsgi.net.peer import build_peer
from trio_wsgi.net.service import Service
from trio_wsgi.rules.environ import Site

log = logging.getLogger("trio_wsgi.error")

# accept(2): the connection's own trouble, of which the next one knows nothing
_LOST = {
    errno.ECONNABORTED, errno.ECONNRESET, errno.ETIMEDOUT, errno.EPROTO, errno.EPERM, errno.ENETDOWN,
    errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENOPROTOOPT, errno.EOPNOTSUPP,
    *([errno.ENONET] if hasattr(errno, "ENONET") else []),
}  # fmt: skip
_LOST_IN_A_ROW = 64  # more of them are the listener's trouble: they may never end
_LISTENER_GONE = {errno.EBADF, errno.ENOTSOCK}
_CURES = {
    errno.EMFILE: "; raise the limit of open files (ulimit -n)",
    errno.ENFILE: "; raise the system's limit of open files (sysctl fs.file-max)",
    errno.ENOBUFS: "; the system, or the container, needs more memory for sockets",
    errno.ENOMEM: "; the system, or the container, needs more memory",
    errno.ENOSPC: "; raise the limit of what a user's processes wait for (sysctl fs.epoll.max_user_watches)",
    errno.EACCES: "; a security module forbids it",
    errno.EPERM: "; a firewall, or a security module, forbids it",
}
_PAUSE = 0.1  # seconds until something may have been given back
_QUIET = 10.0  # seconds from one complaint to the next: descriptors that come back one by one are one scarcity
_TASK_NAME = "trio_wsgi connection"  # one for all: Trio would make a string for each


class Door(NamedTuple):
    """Where clients come in, and the site they come to."""

    listener: Listener
    site: Site


class Acceptor:
    """Takes clients in at all doors, each with a task of its own.

    Args:
        nursery: where connections run.
        doors: closed in the end.
        connections: those that are open, kept up to date here.
        copies: what children that are forked meanwhile have of them.
        accepting: cancelled when no more are to be taken in.
    """

    def __init__(
        self,
        service: Service,
        nursery: trio.Nursery,
        doors: Sequence[Door],
        connections: set[Connection],
        copies: Copies,
        accepting: trio.CancelScope,
    ) -> None:
        self._service = service
        self._nursery = nursery
        self._doors = doors
        self._connections = connections
        self._copies = copies
        self._accepting = accepting
        self._room = trio.Semaphore(service.config.connection_limit)
        self._reserve = Reserve()

    def __repr__(self) -> str:
        return f"<Acceptor, {len(self._connections)} connections, room for {self._room.value}>"

    async def run(self, task_status: trio.TaskStatus[tuple[Address, ...]]) -> None:
        """Accept until that is cancelled; `task_status` gets the addresses once it has begun."""
        try:
            with self._accepting:
                async with trio.open_nursery() as acceptors:
                    for door in self._doors:
                        acceptors.start_soon(self._accept, door)
                    task_status.started(tuple(door.listener.address for door in self._doors))
            for door in self._doors:  # to close it with these in its queue would reset them
                self._accept_queued(door)
        finally:
            for door in self._doors:  # whoever comes now is to be refused, not to wait in the queue
                door.listener.close()

    @trio.lowlevel.enable_ki_protection
    async def _accept(self, door: Door) -> None:
        said_at = -math.inf
        while True:
            await self._room.acquire()
            try:
                if not self._accept_nowait(door):
                    await trio.lowlevel.wait_readable(door.listener.sock)
                    continue
            except OSError as exc:
                if exc.errno in _LISTENER_GONE:
                    raise
                trouble = exc.errno or 0
            else:
                if not self._reserve.touched:
                    continue
                trouble = errno.EMFILE
            if trio.current_time() - said_at >= _QUIET:
                log.error("cannot accept for now: %s%s", os.strerror(trouble), _CURES.get(trouble, ""))
                said_at = trio.current_time()
            await self._pause(door)

    async def _pause(self, door: Door) -> None:
        """Until something may have been given back, and the reserve is whole again."""
        while True:
            await trio.sleep(_PAUSE)
            self._reserve.look(door.listener.sock)
            if not (self._reserve.touched and self._connections):
                return

    def _accept_queued(self, door: Door) -> None:
        with suppress(trio.WouldBlock, OSError):
            while True:
                self._room.acquire_nowait()
                if not self._accept_nowait(door):
                    return

    def _accept_nowait(self, door: Door) -> bool:
        """Start the connection that is next in the queue, with the place of `_room` that was taken for it.

        Returns:
            False when there is none; the place is given back then, and when accept(2) fails.
        """
        self._copies.incomplete = True
        try:
            return self._start_next(door)
        finally:
            self._copies.incomplete = False

    def _start_next(self, door: Door) -> bool:
        try:
            sock, where = _take_next(door.listener.sock)
        except BlockingIOError:
            self._room.release()
            return False
        except OSError:
            self._room.release()
            raise
        self._reserve.note(sock)
        sock.setblocking(False)
        if door.listener.address.kind == "tcp":
            with suppress(OSError):  # already reset, on some systems
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address = (_plain_host(where[0]), where[1]) if isinstance(where, tuple) else None
        connection = Connection(self._service, sock, build_peer(door.site, address, self._service.forwarding))
        self._connections.add(connection)
        if self._accepting.cancel_called:
            connection.drain()
        # Thousands wait in there: each function around it would hold some 250 bytes for each of them.
        self._nursery.start_soon(connection.run, self._forget, name=_TASK_NAME)
        return True

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._room.release()


def _take_next(listener: socket.socket) -> tuple[socket.socket, Any]:
    """accept(2), past connections that were lost in the queue."""
    for _ in range(_LOST_IN_A_ROW):
        try:
            return listener.accept()
        except OSError as exc:
            if exc.errno not in _LOST:
                raise
    return listener.accept()


def _plain_host(host: str) -> str:
    """Without ::ffff:, which an IPv4 client has at an inherited socket that takes both (systemd's are so)."""
    return host.removeprefix("::ffff:") if "." in host else host
