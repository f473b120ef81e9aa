"""A wheel of alarms: thousands of things that want to be woken, in a few batches.

Laws:

* One alarm a thing. Setting it again moves it, dropping it forgets the thing at once.
* An alarm is rounded up to the next tick, never down: nothing is woken early, and all of one tick together.
* Setting an alarm later, which is what happens to most of them, is an entry in a table: the thing is moved when it
  would have been woken.
"""

from __future__ import annotations

import heapq
import math
from typing import Generic, TypeVar

TICK = 1 / 32
"""Seconds between two batches; a power of two, so that no tick is rounded to before its alarms."""

T = TypeVar("T")


class Wheel(Generic[T]):
    """Alarms of things, which are told apart by hash."""

    def __init__(self) -> None:
        self._batches: dict[int, dict[T, None]] = {}  # by tick
        self._ticks: list[int] = []  # a heap of the keys of _batches
        self._tick_of: dict[T, int] = {}  # whose batch it is in
        self._later: dict[T, int] = {}  # where it is to be moved to

    def __len__(self) -> int:
        return len(self._tick_of)

    def set(self, thing: T, when: float) -> None:
        """Wake ``thing`` at the first tick that is not before ``when``, and at no other time."""
        tick = math.ceil(when / TICK)
        present = self._tick_of.get(thing)
        if present is not None:
            if tick > present:
                self._later[thing] = tick
                return
            self.drop(thing)
        self._place(thing, tick)

    def _place(self, thing: T, tick: int) -> None:
        batch = self._batches.get(tick)
        if batch is None:
            batch = self._batches[tick] = {}
            heapq.heappush(self._ticks, tick)
        batch[thing] = None
        self._tick_of[thing] = tick

    def drop(self, thing: T) -> None:
        """Forget the alarm of ``thing``, if there is one."""
        tick = self._tick_of.pop(thing, None)
        if tick is not None:
            del self._batches[tick][thing]
            self._later.pop(thing, None)

    def due_at(self) -> float:
        """When `pop_due` is to be called next; infinity where nothing is set."""
        while self._ticks:
            tick = self._ticks[0]
            if self._batches[tick]:
                return tick * TICK
            heapq.heappop(self._ticks)
            del self._batches[tick]
        return math.inf

    def pop_due(self, now: float) -> list[T]:
        """The things whose alarms are due, which are no longer set."""
        due: list[T] = []
        while self.due_at() <= now:
            for thing in self._batches.pop(heapq.heappop(self._ticks)):
                later = self._later.pop(thing, None)
                if later is not None:
                    self._place(thing, later)
                else:
                    del self._tick_of[thing]
                    due.append(thing)
        return due
