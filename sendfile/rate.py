"""How fast a delivery may go, must go, and goes.

Laws:

* A ``Rate`` is an account that time fills and bytes empty. It holds 7/16 of a second at most, so a reader that was
  slow for a while cannot catch up by more than that, and any ten seconds stay within 5 %.
* Bytes leave it in pieces of a quarter of a second, so that a delivery at any rate wakes four times a second.
* Only time in which the peer could have read counts against it: not the pauses that we made ourselves, nor what we
  were late for a look, as the whole process may have stood still.

Nothing here waits or looks at a clock; ``now`` is an argument.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from sendfile.step import STEP

_PIECE = 1 / 4  # seconds between two pieces
_BURST = 7 / 16  # seconds that an account holds at most
_SAMPLES = 4  # looks per window
_IN_TIME = 1 / 8  # seconds by which a look may be late: alarms are rounded up
_SMOOTH = 4.0  # seconds after which an old speed weighs 1/e


class TooSlow(TimeoutError):
    """The peer took fewer bytes than it has to; close the connection.

    Attributes:
        rate: bytes per second that it took over the last ``seconds``.
        seconds: the length of the window.
    """

    def __init__(self, rate: float, seconds: float) -> None:
        super().__init__(f"the peer accepted {rate:.0f} bytes per second over {seconds:g} seconds")
        self.rate = rate
        self.seconds = seconds

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.rate, self.seconds)


def _check(name: str, number: float) -> None:
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be more than 0 and finite, not {number}")


class Rate:
    """Most bytes per second, from the byte number ``after`` on; accurate within 5 % over ten seconds.

    It is an account: make one for each response. Deliveries that share one, after each other or at the same time,
    together keep to it.

    Args:
        bytes_per_second: more than 0. The first quarter of a second's worth goes out at once.
        after: bytes that may go out before the rate applies, 0 or more.

    Raises:
        ValueError: a bound does not hold.
    """

    __slots__ = ("_burst", "_free", "_paid", "_piece", "_wait", "after", "bytes_per_second")

    def __init__(self, bytes_per_second: float, after: int = 0) -> None:
        _check("bytes_per_second", bytes_per_second)
        if after < 0:
            raise ValueError(f"after must be 0 or more, not {after}")
        self.bytes_per_second: float = bytes_per_second
        self.after: int = after
        self._piece = max(1, min(int(bytes_per_second * _PIECE), STEP))
        self._wait = self._piece / bytes_per_second
        self._burst = max(_BURST, 1.5 * self._wait)  # at 1 byte a second a piece is longer than the burst
        self._free = after
        self._paid: float | None = None  # up to when time has been spent; None while `after` lasts

    def __repr__(self) -> str:
        return f"<Rate {self.bytes_per_second:g}/s after={self.after}>"

    def allowance(self, now: float) -> int:
        """How many bytes may go out now; 0 before ``ready_at``."""
        if self._paid is None:
            return self._free + self._piece
        if now < self._paid + self._wait:
            return 0
        self._paid = max(self._paid, now - self._burst)
        return max(1, int((now - self._paid) * self.bytes_per_second))

    def ready_at(self) -> float:
        """When the next piece may go out."""
        return -math.inf if self._paid is None else self._paid + self._wait

    def spend(self, now: float, sent: int) -> None:
        """So many bytes have gone out, of those that ``allowance`` gave."""
        if self._paid is not None:
            self._paid += sent / self.bytes_per_second
            return
        self._free -= sent
        if self._free <= 0:
            self._paid = now - self._wait - self._free / self.bytes_per_second


@dataclass(frozen=True, slots=True)
class MinRate:
    """Fewest bytes per second that a reader has to take, on average over any ``seconds`` of waiting for it.

    Args:
        bytes_per_second: more than 0.
        seconds: the window, and so the grace before the first judgement; more than 0. What the socket's buffer
            takes at once counts, which may be some MiB.

    Raises:
        ValueError: a bound does not hold.
    """

    bytes_per_second: float
    seconds: float

    def __post_init__(self) -> None:
        _check("bytes_per_second", self.bytes_per_second)
        _check("seconds", self.seconds)


class Watch:
    """Looks at one reader four times a window; its clock is the seconds in which the reader could have read."""

    __slots__ = ("_late", "_least", "_looked_at", "_samples")

    def __init__(self, least: MinRate) -> None:
        self._least = least
        self._looked_at = 0.0  # by its clock
        self._late = 0.0  # seconds for which we have been late, in all
        self._samples: deque[tuple[float, int]] = deque([(0.0, 0)])

    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        return self._least.seconds / _SAMPLES

    def look(self, clock: float, done: int) -> TooSlow | None:
        """What is wrong with a reader that has taken ``done`` bytes in ``clock`` seconds, if anything."""
        samples, least = self._samples, self._least
        clock -= self._late
        if (late := clock - self._looked_at - self.interval) > _IN_TIME:
            self._late += late
            clock -= late
        self._looked_at = clock
        while len(samples) > 1 and samples[1][0] <= clock - least.seconds:
            samples.popleft()
        since, before = samples[0]
        if clock - since >= least.seconds:
            rate = (done - before) / (clock - since)
            if rate < least.bytes_per_second:
                return TooSlow(rate, least.seconds)
        if clock - samples[-1][0] >= self.interval / 2:  # while it is paused, its clock stands still
            samples.append((clock, done))
        return None


class Speed:
    """Bytes per second, smoothed over some four seconds."""

    __slots__ = ("_done", "_mean", "_since")

    def __init__(self, now: float) -> None:
        self._since = now
        self._done = 0
        self._mean = -1.0  # nothing is known yet

    def note(self, now: float, done: int) -> None:
        """After a step; costs a comparison, and a sum once a second."""
        if now - self._since >= 1.0:
            self._mean = self.at(now, done)
            self._since, self._done = now, done

    def at(self, now: float, done: int) -> float:
        """The speed now."""
        seconds = now - self._since
        if seconds <= 0:
            return max(self._mean, 0.0)
        fresh = (done - self._done) / seconds
        if self._mean < 0:
            return fresh
        weight = math.exp(-seconds / _SMOOTH)
        return self._mean * weight + fresh * (1 - weight)
