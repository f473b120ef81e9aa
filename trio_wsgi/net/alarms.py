"""Deadlines of thousands, most of which are called off before they come: one task for all of them.

A cancel scope with a deadline costs a quick request some 10 µs, an alarm 2. What an alarm cannot do is cancel: whoever
sets one says what is to be done.

Laws:

* One alarm a thing. Setting it again moves it; what is called off does not ring, but where it is due in
  the very tick.
* Nothing rings early; all that is due within a tick rings together.
* What rings is done on the event loop, at once, and does not raise.
"""

from __future__ import annotations

import math
from typing import Protocol

import trio

from sendfile.wheel import Wheel


class Rings(Protocol):
    """What an alarm is set for; told apart by identity."""

    def ring(self) -> None:
        """The time has come."""


class Alarms:
    """The alarms of one server; `run` is their task."""

    def __init__(self) -> None:
        self.now = trio.lowlevel.current_clock().current_time  # without the detours of `trio.current_time`
        self._wheel: Wheel[Rings] = Wheel()
        self._asleep = trio.CancelScope()
        self._wakes_at = math.inf

    def __repr__(self) -> str:
        return f"<Alarms {len(self._wheel)} set>"

    def set(self, thing: Rings, when: float) -> None:
        """Ring `thing` at `when`, by Trio's clock; infinity: never."""
        if when == math.inf:
            self._wheel.drop(thing)
            return
        self._wheel.set(thing, when)
        if when < self._wakes_at:
            self._wakes_at = self._asleep.deadline = when

    def call_off(self, thing: Rings) -> None:
        """Forget the alarm of `thing`, if there is one."""
        self._wheel.drop(thing)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ring what is due; runs until it is cancelled."""
        task_status.started()
        while True:
            self._wakes_at = self._wheel.due_at()
            with trio.CancelScope(deadline=self._wakes_at) as self._asleep:
                await trio.sleep_forever()
            for thing in self._wheel.pop_due(trio.current_time()):
                thing.ring()
