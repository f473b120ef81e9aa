"""Calls on their way to the threads of a pool, and their reports on the way back, with as few wake-ups as possible.

Laws:

* Waking costs more than working. A thread is woken when the loop is about to wait, once for all that it was given; it
  wakes the loop when its inbox is empty, once for all that it has done. Whenever the loop has waited, for whatever, it
  looks by itself, so that who gets a result goes on in that very turn.
* It is installed as an instrument of the loop with the first call, for the loop pays for that at every turn.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator

import trio

from trio_wsgi.net.slot import Call, Report, Slot


class Handover(trio.abc.Instrument):
    """Between the loop, whose this is, and the threads of its slots.

    Args:
        heed: called on the loop when there are reports.
    """

    def __init__(self, heed: Callable[[], None]) -> None:
        self._heed = heed
        self._now = trio.lowlevel.current_clock().current_time
        self._outbox: list[tuple[Slot, Call]] = []  # to be put into inboxes when the loop is about to wait
        self._installed = False
        self.done: queue.SimpleQueue[Report] = queue.SimpleQueue()  # what the threads put their reports into

    def give(self, slot: Slot, call: Call) -> None:
        """Put a call into the slot's inbox before the loop waits."""
        if not self._installed:
            self._installed = True
            trio.lowlevel.add_instrument(self)
        self._outbox.append((slot, call))

    def flush(self) -> None:
        """Wake the threads that were given something."""
        now = self._now()
        for slot, call in self._outbox:
            if slot.calls[0] is call:
                slot.since = now
            slot.inbox.put(call)
        self._outbox.clear()

    def reports(self) -> Iterator[Report]:
        """Those that have come, each once."""
        done = self.done
        while not done.empty():
            yield done.get_nowait()

    def forget(self) -> None:
        """The last slot has ended: nothing is left to be woken."""
        if self._installed:
            trio.lowlevel.remove_instrument(self)

    # -- trio.abc.Instrument -------------------------------------------------------------------------------------

    def before_io_wait(self, timeout: float) -> None:
        """The loop is about to wait."""
        if self._outbox:
            self.flush()

    def after_io_wait(self, timeout: float) -> None:
        """The loop has waited."""
        if not self.done.empty():
            self._heed()
