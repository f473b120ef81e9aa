"""The send side lent to the event loop: bytes keep leaving while the app's thread computes.

Laws:

* It is a baton. An application thread lends it together with the parts that the kernel did not take, and sends nothing
  itself until it has asked for it back and got it.
* All of this runs on the loop; the thread reaches it only through the bridge. There is nothing to lock.
* The task that sends lives in the connection's nursery; what stops it is told to whoever asks next.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from sendfile import Part

Deliver = Callable[[deque[Part], Callable[[int], None]], Awaitable[None]]


class Backlog:
    """Parts that a task of the connection sends on its own.

    Args:
        nursery: the connection's.
        deliver: sends a deque of parts, empties it on the way and tells the progress.
    """

    def __init__(self, nursery: trio.Nursery, deliver: Deliver) -> None:
        self._nursery = nursery
        self._deliver = deliver
        self.parts: deque[Part] = deque()
        self._size = 0
        self._running = False
        self._failure: BaseException | None = None
        self._moved = trio.Event()  # set, and replaced, whenever the size falls or the task ends

    def __repr__(self) -> str:
        return f"<Backlog {'sending' if self._running else 'idle'}, {self._size} bytes>"

    def lend(self, parts: deque[Part]) -> None:
        """Take parts over and send them from now on, after what is here already."""
        self.parts.extend(parts)
        self._size += sum(map(len, parts))
        if not self._running:
            self._running = True
            self._nursery.start_soon(self._send)

    def take_back(self) -> bool:
        """Whether all is sent, so that the sending may go back to the thread.

        Raises:
            whatever ended the sending.
        """
        if self._failure is not None:
            raise self._failure
        return not self._running

    async def extend(self, parts: deque[Part], limit: int) -> bool:
        """Add parts and wait until no more than `limit` bytes are unsent; False when all was sent already.

        When False, nothing was added, and the sending is the thread's again.
        """
        if self.take_back():
            return False
        self.lend(parts)
        await self.wait_below(limit)
        return True

    async def wait_below(self, limit: float) -> None:
        """Wait until at most `limit` bytes are unsent. Deadline: the delivery's own."""
        while self._running and self._size > limit:
            await self._moved.wait()
        if self._failure is not None:
            raise self._failure

    async def wait_drained(self) -> None:
        """Wait until all is sent. Deadline: the delivery's own."""
        while self._running:
            await self._moved.wait()
        await self.wait_below(math.inf)

    async def _send(self) -> None:
        try:
            await self._deliver(self.parts, self._note)
        except Exception as exc:  # told to whoever asks next, in whichever thread
            self._failure = exc
        finally:
            self._running = False
            self._wake()

    def _note(self, sent: int) -> None:
        self._size -= sent
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
