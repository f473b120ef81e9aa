"""A few threads that send long pieces of files to those who read as fast as they are sent to.

The kernel takes a processor's whole time to send to such a reader, and the event loop has one. A thread in sendfile(2)
does not hold Python's interpreter: it keeps another processor busy, and the loop free for everybody else.

Laws:

* A thread has a delivery for one turn, and its caller's task waits for the end of that, be it cancelled: some 50 ms.
  Meanwhile nobody else sends on its socket.
* A thread sends on a descriptor of its own, a copy: whoever closes the socket meanwhile, and opens another one, has
  nothing written to that one.
* It sends what is in memory, as the event loop does, and leaves the rest to that: whatever is wrong (the peer has gone,
  the file was cut, the kernel cannot send it) ends the turn, and is met and told by the next step there.
* Who has no room for long has no thread meanwhile.
"""

from __future__ import annotations

import os
import select
import time
from functools import partial

import trio

from sendfile.residency import Frontier, Residency
from sendfile.span import FileSpan, HasFileno

LEAST = 8 << 20
"""Bytes of a file from which on a turn is worth its price, 0.2 ms."""

_MOST = 4  # threads, and no more than there are other processors: of four on two, others had twice the p99
_TURN_SECONDS = 0.05  # after which others have the thread
_CALL = 4 << 20  # bytes of one system call: what a socket's buffer has room for
_PATIENCE = 10  # milliseconds without room


def count_senders(processes: int = 1) -> int:
    """How many threads are best: one for each processor beside the first, four at most.

    ``processes``: so many share the processors that this one may use (sched_getaffinity(2)), and all of them send.
    """
    if not hasattr(os, "sched_getaffinity"):
        return 0
    return max(0, min(len(os.sched_getaffinity(0)) // processes - 1, _MOST))


class Senders:
    """The threads of one pump.

    Args:
        residency: what is in memory.
        most: how many; None: as `count_senders` says.

    Attributes:
        taken: how many are at work, or about to be.
    """

    def __init__(self, residency: Residency, most: int | None) -> None:
        self._residency = residency
        self._most = count_senders() if most is None else most
        self._limiter = trio.CapacityLimiter(max(self._most, 1))
        self.taken = 0

    def __repr__(self) -> str:
        return f"<Senders {self.taken} of {self._most} taken>"

    @property
    def free(self) -> bool:
        """Whether there is one to `take`."""
        return self.taken < self._most

    def take(self) -> None:
        """Have one; whoever does calls `send` once, and `give_back`."""
        self.taken += 1

    def give_back(self) -> None:
        """Its turn is over, or was none."""
        self.taken -= 1

    async def send(self, sock: HasFileno, span: FileSpan, frontier: Frontier) -> int:
        """One turn: returns the bytes sent of a span, 0 where no thread or descriptor is left, too.

        ``frontier``: the delivery's own; the thread has that as well.

        Cancellation: before the turn begins.
        """
        try:
            copy = os.dup(sock.fileno())
        except (OSError, ValueError):  # none is left; closed under us
            return 0
        try:
            turn = partial(_send_turn, copy, span, frontier, self._residency, trio.current_time())
            return await trio.to_thread.run_sync(turn, limiter=self._limiter)
        except RuntimeError:  # threading's own, for want of memory or of the system's leave
            return 0
        finally:
            os.close(copy)


def _send_turn(copy: int, span: FileSpan, frontier: Frontier, residency: Residency, now: float) -> int:
    """In a thread: the bytes sent."""
    until = time.perf_counter() + _TURN_SECONDS
    room = select.poll()
    room.register(copy, select.POLLOUT)
    left = span
    while left.count and time.perf_counter() < until:
        try:
            count = min(frontier.warm(residency, left, now, _CALL), left.count, _CALL)
            sent = os.sendfile(copy, left.file.fileno(), left.offset, count) if count else 0
            if not sent:  # it is not in memory, or was cut
                break
        except BlockingIOError:
            sent = 0
        except (OSError, ValueError):
            break
        left = left.advance(sent)
        if sent < count and not room.poll(_PATIENCE):
            break
    return span.count - left.count
