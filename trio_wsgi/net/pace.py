"""Whether calls compute or wait, and so whether they are kept together in one thread or spread over many.

Laws:

* Calls that compute are kept together, for threads fight over the interpreter. Calls that wait for something else, such
  as a database, are spread: behind each other they would take as long as all of them.
* Who waits for the interpreter computes: as long as others have it, nobody can tell a wait by the time that it takes;
  nor by a few calls that take long among many that do not.
* It is judged while they are together; apart, they wait for the interpreter most of the time.
* To be together is tried again after a while, later each time that it was a mistake.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

APART_FOR = 1.0  # seconds, at first and where a call lasted
APART_MOST = 64.0  # seconds, after many mistakes
_SAMPLE = 16  # calls that are judged together
_COMPUTES = 0.3  # share of the time that others leave it, from which on a call computes
_WORTH = 0.0005  # seconds that a call takes, below which its waiting does not matter


def computed_by_all() -> float:
    """Seconds of processors that this process has computed, as far as can be told without what the kernel did for it:
    most of them with the interpreter in hand."""
    return time.process_time() if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_utime


class Pace:
    """How the calls of a pool have been going.

    Args:
        now: the clock, in seconds.
    """

    __slots__ = ("_apart_until", "_calls", "_now", "_pause", "_waited")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._apart_until = -math.inf
        self._pause = APART_FOR
        self._calls = self._waited = 0

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

    def note(self, took: float, worked: float, computed: float) -> None:
        """A call has ended; called while they are together.

        Args:
            took: seconds.
            worked: so many of them of a processor.
            computed: `computed_by_all` meanwhile.
        """
        self._calls += 1
        left = took - min(max(0.0, computed - worked), took)
        self._waited += took >= _WORTH and worked < _COMPUTES * left
        if self._calls < _SAMPLE:
            return
        if self._waited >= _SAMPLE // 2:
            self._apart_until = self._now() + self._pause
            self._pause = min(2 * self._pause, APART_MOST)
        else:
            self._pause = APART_FOR
        self._forget()

    def _forget(self) -> None:
        self._calls = self._waited = 0
