"""One delivery: the parts still to be sent on one socket, how far it has come, and when it counts as stalled.

Laws:

* A delivery knows nothing of how its socket is waited for; the pump decides when it takes a step.
* It is stepped only while it is open and its socket is the one it was made for: a descriptor that was closed
  and opened again by somebody else is never written to.
* A stall is noticed between ``idle_timeout`` and ``idle_timeout * 17/16`` after the last byte was accepted.
  The slack is what lets most steps leave the deadline where it is.

Whatever decides *how much* may go out *when* (rates, ranges that are not in memory) belongs into ``step``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import trio

from sendfile.send import STEP, send_step, send_steps
from sendfile.span import HasFileno, Part, size

__all__ = ["Delivery", "Stalled", "Transfer"]

_SLACK = 1 / 16


class Stalled(TimeoutError):
    """The peer took no byte for ``seconds``. It may be gone or may just not read; close the connection."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the peer accepted no byte for {seconds:g} seconds")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Transfer:
    """How one delivery stands, for whoever asks.

    Attributes:
        sock: its socket, as given to ``deliver``.
        done: bytes the kernel has taken.
        left: bytes in its queue.
        stalled_for: seconds since the last byte was taken.
    """

    sock: HasFileno
    done: int
    left: int
    stalled_for: float


class Delivery:
    """The state of one ``Pump.deliver`` call. Its fields are written by the pump and by nobody else.

    Args:
        sock: a non-blocking stream socket.
        parts: the caller's queue, consumed in place.
        idle_timeout: seconds without progress, more than 0; ``math.inf`` for ever.
        kernel: False copies files through Python.
        progress: called with the number of bytes after each step.
    """

    __slots__ = ("done", "error", "fd", "idle_timeout", "kernel", "moved_at", "open", "parts", "progress", "queued",
                 "scope", "sock", "task")  # fmt: skip

    def __init__(
        self,
        sock: HasFileno,
        parts: deque[Part],
        idle_timeout: float,
        kernel: bool,
        progress: Callable[[int], None] | None,
    ) -> None:
        if not idle_timeout > 0:
            raise ValueError(f"idle_timeout must be more than 0 seconds, not {idle_timeout}")
        self.sock = sock
        self.fd = sock.fileno()
        self.parts = parts
        self.idle_timeout = idle_timeout
        self.kernel = kernel
        self.progress = progress
        self.done = 0
        self.open = False  # is it on a pump's table?
        self.queued = False  # is it about to be stepped?
        self.error: BaseException | None = None  # why it ended, if not well
        self.moved_at = 0.0
        self.scope: trio.CancelScope | None = None
        self.task: trio.lowlevel.Task | None = None

    def __repr__(self) -> str:
        state = "open" if self.open else "ended"
        return f"<Delivery {state} fd={self.fd} done={self.done} left={self.left}>"

    @property
    def left(self) -> int:
        return sum(map(size, self.parts))

    def owns_its_descriptor(self) -> bool:
        """Whether the socket is still open under the number it was registered with."""
        return self.sock.fileno() == self.fd

    def start_clock(self, now: float) -> trio.CancelScope:
        """Make the scope whose deadline ends a stall; the caller waits inside it."""
        self.moved_at = now
        self.scope = trio.CancelScope(deadline=now + self.idle_timeout * (1 + _SLACK))
        return self.scope

    def push(self, limit: int) -> None:
        """Before the clock runs: steps until all is out, the kernel is full, or ``limit`` bytes are out."""
        for sent in send_steps(self.sock, self.parts, limit, kernel=self.kernel):
            self._count(sent)

    def step(self, now: float) -> int:
        """One step; returns its bytes, 0 if the socket took none, and moves the deadline.

        Raises what ``send_step`` raises (except WouldBlock) and what ``progress`` raises.
        """
        if not self.owns_its_descriptor():
            raise trio.ClosedResourceError("the socket was closed on this side")
        try:
            sent = send_step(self.sock, self.parts, STEP, kernel=self.kernel)
        except trio.WouldBlock:
            return 0
        if sent:
            self.moved_at = now
            # Moving a deadline is a push on Trio's heap; a step by itself is cheaper than a handful of them.
            if self.scope is not None and self.scope.deadline < now + self.idle_timeout < math.inf:
                self.scope.deadline = now + self.idle_timeout * (1 + _SLACK)
            self._count(sent)
        return sent

    def _count(self, sent: int) -> None:
        self.done += sent
        if self.progress is not None:
            self.progress(sent)

    def snapshot(self, now: float) -> Transfer:
        return Transfer(self.sock, self.done, self.left, now - self.moved_at)
