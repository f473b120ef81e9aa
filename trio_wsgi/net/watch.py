"""Noticing that a client has gone while the application works for it.

Laws:

* A request that is answered quickly pays for two entries in a table, and for nothing else.
* One task and one epoll (epoll(7), EPOLLRDHUP) look after all the others.
* What is told is told once; who is not watched any more hears nothing.

Where there is no epoll, the sockets of slow requests are peeked at instead, twice in `RIPE` seconds.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable

import trio

RIPE = 0.1  # seconds, at most, that a request runs before its client is watched; half of it at least
_BATCH = 64


class DisconnectWatch:
    """Tells requests whose clients close or reset their connection; `run` is its task.

    Args:
        half_close: whether a client that ends its sending side only has gone, too (as nginx sees it).
    """

    def __init__(self, half_close: bool) -> None:
        self._half_close = half_close
        self._new: dict[int, tuple[socket.socket, Callable[[], None]]] = {}  # by descriptor; since the last look
        self._young: dict[int, tuple[socket.socket, Callable[[], None]]] = {}  # since the look before
        self._watched: dict[int, tuple[socket.socket, Callable[[], None]]] = {}
        self._asleep: trio.Event | None = None  # while there is nobody to watch: somebody has come
        self._epoll = select.epoll() if hasattr(select, "epoll") else None

    def __repr__(self) -> str:
        return f"<DisconnectWatch {len(self._new) + len(self._young)} young, {len(self._watched)} watched>"

    def begin(self, sock: socket.socket, gone: Callable[[], None]) -> int:
        """Call `gone` on the event loop if the peer of `sock` goes.

        Returns:
            what `end` is to be told, while the socket is still open.
        """
        key = sock.fileno()
        self._new[key] = (sock, gone)
        if self._asleep is not None:
            self._asleep.set()
        return key

    def end(self, key: int) -> None:
        """Watch no longer."""
        if self._new.pop(key, None) is None and self._young.pop(key, None) is None:
            self._forget(key)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The watch's task; runs until it is cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ripen)
                if self._epoll is not None:
                    nursery.start_soon(self._listen, self._epoll)
                task_status.started()
        finally:
            if self._epoll is not None:
                self._epoll.close()
                self._epoll = None

    @trio.lowlevel.enable_ki_protection
    async def _ripen(self) -> None:
        """Begin to watch the requests that are not so quick."""
        while True:
            if not (self._new or self._young) and (self._epoll is not None or not self._watched):
                self._asleep = trio.Event()
                await self._asleep.wait()
                self._asleep = None
            await trio.sleep(RIPE / 2)
            ripe, self._young, self._new = self._young, self._new, {}
            self._watched |= ripe
            if self._epoll is None:
                self._peek()
                continue
            for key in ripe:
                with contextlib.suppress(OSError):  # the system's limit (epoll_ctl(2), ENOSPC): it goes unwatched
                    self._epoll.register(key, select.EPOLLRDHUP if self._half_close else 0)

    @trio.lowlevel.enable_ki_protection
    async def _listen(self, epoll: select.epoll) -> None:
        while True:
            await trio.lowlevel.wait_readable(epoll.fileno())
            for key, _ in epoll.poll(0, _BATCH):
                self._tell(key)

    def _peek(self) -> None:
        for key, (sock, _) in list(self._watched.items()):
            try:
                if socket.socket.recv(sock, 1, socket.MSG_PEEK) or not self._half_close:
                    continue
            except BlockingIOError:
                continue
            except OSError:
                pass
            self._tell(key)

    def _tell(self, key: int) -> None:
        _, gone = self._watched[key]
        self._forget(key)
        gone()

    def _forget(self, key: int) -> None:
        if self._watched.pop(key, None) is not None and self._epoll is not None:
            with contextlib.suppress(OSError):  # closed meanwhile: then the kernel has forgotten it
                self._epoll.unregister(key)
