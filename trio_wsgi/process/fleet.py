"""The workers of one plan: each slot has one that serves, and whoever goes has a successor first, if that can be.

Laws:

* All boot, or none is kept: the first that cannot boot ends the attempt.
* Who dies is replaced; who dies or is worn soon, or cannot boot, more and more slowly. When nobody is left who serves,
  and a slot has failed often enough, there is no point in going on.
* A worker that asks to be replaced is told to leave when its successor serves, and may take all the time it needs.
"""

from __future__ import annotations

import logging
import math
import os
import sys

import trio

from trio_wsgi.errors import ConfigError
from trio_wsgi.process.child import Child, HearImports, State
from trio_wsgi.process.exits import ExitCode
from trio_wsgi.process.messages import Failed, Inherited, Order
from trio_wsgi.process.plan import Plan
from trio_wsgi.process.sockets import Sockets
from trio_wsgi.process.spawn import start_child

log = logging.getLogger("trio_wsgi.error")

STEADY = 10.0  # seconds after which a worker's death, or wear, is not blamed on its start
FIRST_PAUSE = 0.25  # seconds before another try; doubles
LONGEST_PAUSE = 8.0  # seconds
HOPELESS = 5  # failed boots of a slot in a row


class Fleet:
    """The workers of one plan.

    Args:
        plan: what each of them is started with.
        sockets: those that the plan's addresses stand for must be open.
        processes: where each of them is looked after, until it has ended.
        hear_imports: is told which files they consist of, under `reload`.
    """

    def __init__(self, plan: Plan, sockets: Sockets, processes: trio.Nursery, hear_imports: HearImports) -> None:
        self.plan = plan
        self.children: set[Child] = set()
        self.count = 0  # of slots
        self._sockets = sockets
        self._processes = processes
        self._hear_imports = hear_imports
        self._serving: dict[int, Child] = {}  # by slot: the last that has booted there
        self._slots: dict[int, trio.CancelScope] = {}  # by number, of what keeps each filled
        self._keeping: trio.Nursery | None = None  # of the slots, once `keep` runs
        self._complained: Failed | None = None  # of what the log says why in whole
        self._hopeless: Failed | None = None  # why there is no point in going on

    def __repr__(self) -> str:
        workers = ", ".join(f"{child} {child.state.value}" for child in self.children)
        return f"<Fleet of {self.count}: {workers or 'no worker'}>"

    def adopt(self, child: Child) -> None:
        """Look after a worker that a former self has started."""
        self._look_after(child)
        if child.state is State.BOOTING and child.number in self._serving:
            self._dismiss(child)  # a successor; another will be started
        elif child.state in {State.SERVING, State.BOOTING}:
            self._serving[child.number] = child

    async def boot(self, count: int) -> Failed | None:
        """Start the first worker of each slot.

        Returns:
            None when all of them serve; else why the first of those cannot that failed, and all are told to leave.
        """
        failures: list[Failed] = []

        async def boot_one(number: int) -> None:
            child = await self._boot(number)
            if isinstance(child, Failed):
                failures.append(child)
                nursery.cancel_scope.cancel()
            else:
                self._serving[number] = child

        self.count = count
        async with trio.open_nursery() as nursery:
            for number in range(1, count + 1):
                nursery.start_soon(boot_one, number)
        if failures:
            self.leave()
            return failures[0]
        return None

    async def keep(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Failed | None:
        """Have a worker serve in each slot, until `leave`.

        Args:
            task_status: told once `resize` may be called.

        Returns:
            Why there is no point in going on, if that is so.
        """
        async with trio.open_nursery() as self._keeping:
            for number in range(1, self.count + 1):
                self._open_slot(number)
            task_status.started()
            await trio.sleep_forever()
        return self._hopeless

    def resize(self, count: int) -> None:
        """Have so many slots from now on, while `keep` runs; who is too many leaves."""
        for number in range(count + 1, self.count + 1):
            self._slots.pop(number).cancel()
            self._serving.pop(number, None)
        for child in self.children:
            if child.number > count:
                self._dismiss(child)
        for number in range(self.count + 1, count + 1):
            self._open_slot(number)
        self.count = count

    def leave(self) -> None:
        """End `keep`, and let everybody leave: they get `graceful_timeout`, downloads that move all the time."""
        if self._keeping is not None:
            self._keeping.cancel_scope.cancel()
        for child in self.children:
            self._dismiss(child)

    def _dismiss(self, child: Child) -> None:
        if child.state is not State.LEAVING:
            child.leave(self.plan.config.graceful_timeout)

    def _open_slot(self, number: int) -> None:
        assert self._keeping is not None
        scope = self._slots[number] = trio.CancelScope()
        self._keeping.start_soon(self._keep_slot, number, scope)

    async def _keep_slot(self, number: int, scope: trio.CancelScope) -> None:
        """Have one worker serve in this slot."""
        pause, failures = 0.0, 0
        with scope:
            while True:
                serving = self._serving.get(number)
                if serving is not None:
                    await serving.needs_successor.wait()
                slowly = failures > 0 or (serving is not None and serving.lived < STEADY)
                pause = min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE) if slowly else 0.0
                await trio.sleep(pause)
                successor = await self._boot(number)
                if isinstance(successor, Failed):
                    failures += 1
                    if serving is None or serving.state is State.ENDED:
                        self._sockets.abandon(self.plan.config, number)
                    self._complain(number, successor)
                    if failures >= HOPELESS and not self._is_served():
                        self._give_up(successor)
                    continue
                failures = 0
                self._serving[number] = successor
                if serving is not None:
                    serving.leave(math.inf)

    async def _boot(self, number: int) -> Child | Failed:
        try:
            child = self._start(number)
        except (OSError, ValueError, ConfigError) as error:  # ValueError: the system cannot be told its words
            return Failed(f"it cannot be started: {error}", ExitCode.BOOT_ERROR)
        self._look_after(child)
        await child.settled.wait()
        return child.failure or child

    def _start(self, number: int) -> Child:
        listeners = self._sockets.listeners_of(self.plan.config, number)
        order = Order(
            number=number,
            plan=self.plan,
            listeners=tuple(Inherited(listener.sock.fileno(), listener.address) for listener in listeners),
            argv=tuple(sys.argv),
        )
        return start_child(order, {**os.environ, **dict(self.plan.config.env)})

    def _look_after(self, child: Child) -> None:
        async def watch() -> None:
            await child.watch(self.plan.config, self._hear_imports)
            self.children.discard(child)

        self.children.add(child)
        self._processes.start_soon(watch)

    def _is_served(self) -> bool:
        return any(child.state is State.SERVING for child in self.children)

    def _complain(self, number: int, failure: Failed) -> None:
        """Say why a worker did not boot: in whole once, and then in short."""
        text = failure.short if failure == self._complained else failure.text
        self._complained = failure
        log.error("worker %d cannot boot: %s", number, text)

    def _give_up(self, failure: Failed) -> None:
        self._hopeless = failure
        assert self._keeping is not None
        self._keeping.cancel_scope.cancel()
