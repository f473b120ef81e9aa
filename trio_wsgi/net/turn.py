"""A task's turn on the event loop, when it may go on for long without waiting for anything.

Whoever has everything at hand never waits, and so would keep the loop: a client sends faster than its bytes are read.
"""

from __future__ import annotations

import time

import trio

_SECONDS = 0.001  # of work, however small its pieces: what everybody else waits


class Turn:
    """A slice of time on the event loop, 1 ms long, that begins when it is made."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends = time.perf_counter() + _SECONDS

    async def give_way(self) -> None:
        """Once the turn is over, let others have theirs, and begin a new one; to be called between two pieces of work.

        Cancellation: only then.
        """
        if time.perf_counter() >= self._ends:
            await trio.lowlevel.checkpoint()
            self._ends = time.perf_counter() + _SECONDS
