"""When a delivery is attended to though no socket tells: pauses that end, and looks at what nobody tells.

Laws:

* A delivery that has to pause sits on a wheel, and thousands of them wake in batches.
* A peer that has to take bytes at a minimum rate is judged four times a window.
* Every five seconds, and when its peer would have stalled, each is looked at: its socket may have been closed under
  it, its peer have stalled, or left while a disk made it wait; or its disk have given nothing for a minute.
* Steps move no alarm: that would cost more than to look in vain.
* The pump's task waits in a nap, which ends with the next alarm.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator

import trio

from sendfile.delivery import Delivery
from sendfile.span import FileSpan
from sendfile.step import CLOSED
from sendfile.wheel import Wheel

_LOOK = 5.0  # seconds between two looks; and that a disk may take before it matters whether the peer is still there
_DISK_PATIENCE = 60.0  # seconds for 2 MiB at most: a peer that leaves meanwhile may not be noticed, so it has an end


class Stalled(TimeoutError):
    """The peer took no byte for ``seconds``. It may be gone or may just not read; close the connection."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the peer accepted no byte for {seconds:g} seconds")
        self.seconds = seconds

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.seconds,)


class DiskStalled(TimeoutError):
    """The next bytes of a file did not come from its disk for ``seconds``. It may hang (NFS, FUSE); the peer may have
    left meanwhile, unnoticed where a half-close could not be told from that. Close the connection.

    Attributes:
        span: what was still to be sent.
        seconds: how long it was waited for.
    """

    def __init__(self, span: FileSpan, seconds: float) -> None:
        super().__init__(f"no bytes came from the disk for {seconds:g} seconds, at byte {span.offset}: {span.file!r}")
        self.span = span
        self.seconds = seconds

    def __copy__(self) -> DiskStalled:
        return type(self)(self.span, self.seconds)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.span.to_tell(), self.seconds)  # as no open file can be pickled


class Alarms:
    """Those of one pump.

    Args:
        half_close: whether a peer that has ended its sending side has left.
    """

    def __init__(self, half_close: bool) -> None:
        self._half_close = half_close
        self._pauses: Wheel[Delivery] = Wheel()  # when its rate lets it go on
        self._watches: Wheel[Delivery] = Wheel()  # when to judge a peer that has to keep to a minimum
        self._looks: Wheel[Delivery] = Wheel()  # when to look at all else
        self._nap = trio.CancelScope()

    def __repr__(self) -> str:
        return f"<Alarms of {len(self._looks)} deliveries>"

    def nap(self) -> trio.CancelScope:
        """A scope to sleep in; it is cancelled at the next alarm, or by `end_nap`."""
        due = min(wheel.due_at() for wheel in (self._pauses, self._watches, self._looks))
        self._nap = trio.CancelScope(deadline=due)
        return self._nap

    def end_nap(self) -> None:
        """There is something to do at once."""
        self._nap.deadline = -math.inf

    def start(self, delivery: Delivery, now: float) -> None:
        """Look at it from time to time, until it is dropped."""
        self._set(self._looks, delivery, self._next_look(delivery, now))
        if delivery.watch is not None:
            self._set(self._watches, delivery, now + delivery.watch.interval)

    def pause(self, delivery: Delivery, until: float) -> None:
        """Have it among `pauses_over` by then."""
        self._set(self._pauses, delivery, until)

    def drop(self, delivery: Delivery) -> None:
        """Forget it, pause and all. Idempotent."""
        self._pauses.drop(delivery)
        self._watches.drop(delivery)
        self._looks.drop(delivery)

    def pauses_over(self, now: float) -> list[Delivery]:
        """Those that may go on."""
        return self._pauses.pop_due(now)

    def failures(self, now: float) -> Iterator[tuple[Delivery, Exception]]:
        """Those that are found to have failed, and why. Each is to be dropped before the next is asked for."""
        for delivery in self._watches.pop_due(now):
            assert delivery.watch is not None
            if (error := delivery.too_slow(now)) is not None:
                yield delivery, error
            else:
                self._watches.set(delivery, now + delivery.watch.interval)
        for delivery in self._looks.pop_due(now):
            if (failure := self._look_at(delivery, now)) is not None:
                yield delivery, failure
            else:
                self._looks.set(delivery, self._next_look(delivery, now))

    def _set(self, wheel: Wheel[Delivery], delivery: Delivery, when: float) -> None:
        wheel.set(delivery, when)
        if (due := wheel.due_at()) < self._nap.deadline:
            self._nap.deadline = due

    def _next_look(self, delivery: Delivery, now: float) -> float:
        return min(delivery.stalls_at(now), now + _LOOK)

    def _look_at(self, delivery: Delivery, now: float) -> Exception | None:
        if not delivery.owns_its_descriptor():
            return trio.ClosedResourceError(CLOSED)
        if delivery.awaits_disk(now, _LOOK) is not None and delivery.has_no_peer(self._half_close):
            return ConnectionResetError(errno.ECONNRESET, "the peer closed the connection while its file's disk hung")
        if (span := delivery.awaits_disk(now, _DISK_PATIENCE)) is not None:
            return DiskStalled(span, _DISK_PATIENCE)
        return Stalled(delivery.idle_timeout) if delivery.stalls_at(now) <= now else None
