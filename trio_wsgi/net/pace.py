"""Whether calls compute or wait, and so whether they are kept together in one thread or spread over many.

Laws:

* Calls that compute are kept together, for threads fight over the interpreter. Calls that wait for something else, such
  as a database, are spread: behind each other they would take as long as all of them.
* It is judged while they are together; apart, they wait for the interpreter as well.
* To be together is tried again after a while, later each time that it was a mistake.
"""

from __future__ import annotations

import math
from collections.abc import Callable

APART_FOR = 1.0  # seconds, at first and where a call lasted
APART_MOST = 64.0  # seconds, after many mistakes
_SAMPLE = 16  # calls that are judged together
_COMPUTES = 0.3  # share of a processor from which on a call computes
_WORTH = 0.0005  # seconds that a call takes on average, below which its waiting does not matter


class Pace:
    """How the calls of a pool have been going.

    Args:
        now: the clock, in seconds.
    """

    __slots__ = ("_apart_until", "_calls", "_now", "_pause", "_took", "_worked")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._apart_until = -math.inf
        self._pause = APART_FOR
        self._calls = 0
        self._took = self._worked = 0.0

    def __repr__(self) -> str:
        return f"<Pace {'together' if self.together else f'apart, next time for {self._pause:g} s'}>"

    @property
    def together(self) -> bool:
        """Whether calls may be put behind one another."""
        return self._now() >= self._apart_until

    def part(self) -> None:
        """A call lasts: for a while, let none wait behind another."""
        self._apart_until = max(self._apart_until, self._now() + APART_FOR)
        self._forget()

    def note(self, took: float, worked: float) -> None:
        """A call took so many seconds, and so many of them of a processor; called while they are together."""
        self._calls += 1
        self._took += took
        self._worked += worked
        if self._calls < _SAMPLE:
            return
        if self._took >= _SAMPLE * _WORTH and self._worked < _COMPUTES * self._took:
            self._apart_until = self._now() + self._pause
            self._pause = min(2 * self._pause, APART_MOST)
        else:
            self._pause = APART_FOR
        self._forget()

    def _forget(self) -> None:
        self._calls = 0
        self._took = self._worked = 0.0
