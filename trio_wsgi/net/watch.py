"""Noticing that a client has gone while the application works for it.

Laws:

* A request that is answered quickly pays for two entries in a table, and for nothing else.
* One epoll (epoll(7), EPOLLRDHUP) looks after all the others.
* What is told is told once; who is not watched any more hears nothing.
* A client that has vanished without a word has gone as well, when its system has answered nothing for as long as the
  client itself may take nothing (`silence`).

Where there is no epoll, the sockets of slow requests are peeked at instead, twice in `RIPE` seconds.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
from collections.abc import Callable

import trio

from trio_wsgi.net.silence import begin_asking, silent_for

RIPE = 0.1  # seconds, at most, that a request runs before its client is watched; half of it at least
_BATCH = 64
_LOOKS = 4  # per patience, at who is silent
_OFTEN = 0.25  # seconds between two looks, at least: the kernel's questions are whole seconds apart
CLOSED = "closed by the client while the application ran"

Gone = Callable[[str], None]
"""What is called when a client has gone; it is told how that was seen."""


class DisconnectWatch:
    """Tells requests whose clients close or reset their connection; `run` is its task.

    Args:
        half_close: whether a client that ends its sending side only has gone, too (as nginx sees it).
        patience: seconds for which a client's system may answer nothing (write_timeout).
    """

    def __init__(self, half_close: bool, patience: float = math.inf) -> None:
        self._half_close = half_close
        self._patience = patience
        self._new: dict[int, tuple[socket.socket, Gone]] = {}  # by descriptor; since the last look
        self._young: dict[int, tuple[socket.socket, Gone]] = {}  # since the look before
        self._watched: dict[int, tuple[socket.socket, Gone]] = {}
        self._asleep: trio.Event | None = None  # while there is nobody to watch: somebody has come
        self._epoll = select.epoll() if hasattr(select, "epoll") else None

    def __repr__(self) -> str:
        return f"<DisconnectWatch {len(self._new) + len(self._young)} young, {len(self._watched)} watched>"

    def begin(self, sock: socket.socket, gone: Gone) -> int:
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
                if self._patience < math.inf:
                    nursery.start_soon(self._look_for_silence, self._patience)
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
            for sock, _ in ripe.values():
                begin_asking(sock, self._patience)
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

    @trio.lowlevel.enable_ki_protection
    async def _look_for_silence(self, patience: float) -> None:
        while True:
            await trio.sleep(max(_OFTEN, patience / _LOOKS))
            for key, (sock, _) in list(self._watched.items()):
                if silent_for(sock) >= patience:
                    self._tell(key, f"silent for {patience:g} s while the application ran (write_timeout)")

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

    def _tell(self, key: int, how: str = CLOSED) -> None:
        _, gone = self._watched[key]
        self._forget(key)
        gone(how)

    def _forget(self, key: int) -> None:
        if self._watched.pop(key, None) is not None and self._epoll is not None:
            with contextlib.suppress(OSError):  # closed meanwhile: then the kernel has forgotten it
                self._epoll.unregister(key)
