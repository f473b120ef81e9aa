"""The send side lent to the event loop: bytes keep leaving while the app's thread computes.

Laws:

* It is a baton. An application thread lends it together with the parts that the kernel did not take, and sends nothing
  itself until it has asked for it back and got it.
* All of this runs on the loop; the thread reaches it only through the bridge. There is nothing to lock.
* The task that sends lives in the connection's nursery. It ends when everything lent so far is sent, and not before;
  what else stops it, its cancellation included, is told to everybody who asks from then on.
* Small blocks that wait cost no more than their bytes: they are put together.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from sendfile import Part, Parts
from trio_wsgi.errors import ClientGone

Deliver = Callable[[Parts, Callable[[int], None]], Awaitable[None]]

_COALESCED = 16 * 1024  # bytes up to which waiting blocks are put together


class Backlog:
    """Parts that a task of the connection sends on its own.

    Args:
        nursery: the connection's.
        deliver: sends parts, empties the queue on the way and tells the progress.
    """

    def __init__(self, nursery: trio.Nursery, deliver: Deliver) -> None:
        self._nursery = nursery
        self._deliver = deliver
        self.parts: deque[Part] = deque()
        self._size = 0
        self._running = False
        self._failure: Exception | None = None
        self._moved: trio.Event | None = None  # set whenever the size falls or the task ends; where somebody waits

    def __repr__(self) -> str:
        return f"<Backlog {'sending' if self._running else 'idle'}, {self._size} bytes>"

    def lend(self, parts: Parts) -> None:
        """Take parts over, emptying `parts`, and send them from now on, after what is here already."""
        if not self._running:
            self._nursery.start_soon(self._send)
            self._running = True
        for part in parts:
            self._append(part)
        parts.clear()

    async def lend_within(self, parts: Parts, limit: int) -> None:
        """`lend`, and wait until at most `limit` bytes are unsent.

        Raises:
            whatever ended the sending.
        """
        self.lend(parts)
        while self._running and self._size > limit:
            await self._wait_moved()
        self._check()

    async def extend(self, parts: Parts, limit: int) -> bool:
        """`lend_within` while something is unsent; else False: nothing was taken, and the sending is the thread's."""
        if self.take_back():
            return False
        await self.lend_within(parts, limit)
        return True

    def take_back(self) -> bool:
        """Whether all is sent, so that the sending may go back to the thread.

        Raises:
            whatever ended the sending.
        """
        self._check()
        return not self._running

    async def wait_drained(self) -> None:
        """Wait until all is sent. Deadline: the delivery's own.

        Raises:
            whatever ended the sending.
        """
        while self._running:
            await self._wait_moved()
        self._check()

    def forget(self) -> None:
        """Nobody will ask any more what could not be sent."""
        if not self._running:
            self.parts.clear()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # or it would keep the frame of everybody who was told

    def _append(self, part: Part) -> None:
        self._size += len(part)
        last = self.parts[-1] if self.parts else None
        if isinstance(part, bytes) and isinstance(last, bytes) and len(last) + len(part) <= _COALESCED:
            self.parts[-1] = last + part
        else:
            self.parts.append(part)

    @trio.lowlevel.enable_ki_protection
    async def _send(self) -> None:
        try:
            while self.parts:  # more may have been lent between the end of a delivery and our next turn
                await self._deliver(self.parts, self._note)
        except Exception as exc:  # told to whoever asks next, in whichever thread
            self._failure = exc
        except BaseException:
            self._failure = ClientGone(errno.ECANCELED, "the connection was ended by the server")
            raise
        finally:
            self._running = False
            self._wake()

    def _note(self, sent: int) -> None:
        self._size -= sent
        self._wake()

    async def _wait_moved(self) -> None:
        if self._moved is None:
            self._moved = trio.Event()
        await self._moved.wait()

    def _wake(self) -> None:
        if self._moved is not None:
            self._moved.set()
            self._moved = None
