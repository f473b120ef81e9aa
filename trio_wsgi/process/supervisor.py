"""The supervisor: owns the sockets, has workers serve, and obeys signals. It serves no request itself.

Laws:

* Structure is lifetime: signals ⊃ processes ⊃ what is to be done about them. Whatever ends the innermost, every worker
  is told, and waited for.
* What takes time (the first boot, a reload, an upgrade) happens one after another, in the order that it was asked for,
  over an upgrade as well; what ends us does not wait for it. That no worker can boot any more does: what is under way
  may be what mends it.
* A reload, or an upgrade, that fails changes nothing: those who serve go on, and the log says why.
* Why nobody can serve is logged when it is known: before anything ends for it.
* Under `reload`, a file that changes is a HUP. An application that cannot boot ends nothing there: nobody serves until
  a file changes, and who connects waits in the kernel's queue.
"""

from __future__ import annotations

import enum
import logging
import math
import os
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import trio

from trio_wsgi.errors import ConfigError
from trio_wsgi.net.inthread import run_in_thread
from trio_wsgi.process.child import ignore_imports
from trio_wsgi.process.currentlogs import CurrentLogs
from trio_wsgi.process.early import EarlySignals
from trio_wsgi.process.exits import ExitCode, collect_orphans
from trio_wsgi.process.failure import describe_failure
from trio_wsgi.process.fleet import Fleet
from trio_wsgi.process.fleets import Fleets
from trio_wsgi.process.messages import Failed
from trio_wsgi.process.plan import Plan, check_supervised
from trio_wsgi.process.prepare import find_out
from trio_wsgi.process.serving import describe_grace
from trio_wsgi.process.signals import ENDING, JOBS, SIGNAL_DUMP, SIGNAL_UPGRADE, SUPERVISOR_SIGNALS
from trio_wsgi.process.sockets import Sockets
from trio_wsgi.process.standing import at_home, stand, standing
from trio_wsgi.process.systemd import Systemd
from trio_wsgi.process.terminal import watch_terminal
from trio_wsgi.process.trial import Trial, start_trial
from trio_wsgi.process.upgrade import Legacy, format_legacy
from trio_wsgi.process.watch import Watch, describe_changes, open_watch

log = logging.getLogger("trio_wsgi.error")

QUICK_TIMEOUT = 10.0  # seconds for workers to end that were told to be quick, or have not booted

Job = Callable[[], Awaitable[None]]
ReadPlan = Callable[[], Plan]  # the configuration anew, in the directory that the program was started in


class Ending(enum.Enum):
    """Why the supervisor's work is over."""

    GRACEFUL = "graceful"
    QUICK = "quick"
    FAILED = "failed"
    UPGRADE = "upgrade"


class Supervisor:
    """What one program does, until it ends or becomes another.

    Args:
        plan: what is to be served; its sockets are open, unless there is a legacy.
        read_plan: gives the plan anew.
        legacy: what a former self has left.
    """

    def __init__(
        self,
        plan: Plan,
        read_plan: ReadPlan,
        sockets: Sockets,
        logs: CurrentLogs,
        systemd: Systemd,
        early: EarlySignals,
        legacy: Legacy | None = None,
    ) -> None:
        self.failure: Failed | None = None  # why nobody can serve
        self.exit_code: int = ExitCode.CLEAN
        self._first_plan = plan  # that is to be served first, or after the legacy
        self._read_plan = read_plan
        self._sockets = sockets
        self._logs = logs
        self._systemd = systemd
        self._early = early
        self._legacy = legacy
        self._ending: Ending | None = None
        self._governing = trio.CancelScope()  # of what is to be done about workers:
        self._keepers: trio.Nursery  # where slots are kept filled
        self._ask: trio.MemorySendChannel[Job]  # for what is done one after another
        self._asked: deque[signal.Signals] = deque()  # the signals among these, for whoever takes over
        self._fleets: Fleets  # whose workers serve, boot or leave
        self._trial: Trial | None = None  # of the program that we are to become
        self._watch = open_watch(plan, time.time()) if plan.config.reload else None
        self._terminal_has_gone = watch_terminal(early)

    async def run(self) -> Ending:
        """Have workers serve until a signal ends it.

        Returns:
            Why it ended. All workers have, too, but for an upgrade.
        """
        with trio.open_signal_receiver(*set(SUPERVISOR_SIGNALS).difference(JOBS)) as signals:
            async with trio.open_nursery() as listening:
                listening.start_soon(self._obey, signals)
                listening.start_soon(self._systemd.keep_alive, self._is_well)
                if os.getpid() == 1:
                    listening.start_soon(collect_orphans, self._is_ours)
                async with trio.open_nursery() as processes:  # where workers are looked after until they have ended
                    self._fleets = self._open_fleets(processes)
                    with self._governing:
                        await self._govern()
                    if self._ending is Ending.UPGRADE:
                        processes.cancel_scope.cancel()
                    else:
                        listening.start_soon(self._dismiss)
                listening.cancel_scope.cancel()
        assert self._ending is not None
        return self._ending

    def _open_fleets(self, processes: trio.Nursery) -> Fleets:
        plan = self._first_plan if self._legacy is None else self._legacy.plan
        hear_imports = ignore_imports if self._watch is None else self._watch.add
        return Fleets(plan, self._sockets, processes, hear_imports)

    def leave(self) -> Legacy:
        """What there is for the program that this one becomes."""
        current = self._fleets.current
        return Legacy(current.plan, current.count, self._sockets.bindings(), self._fleets.children(), [*self._asked])

    @property
    def _plan(self) -> Plan:
        """What is served, or is to be: a reload that fails does not change it."""
        return self._fleets.current.plan

    def _is_well(self) -> bool:
        """Whether clients are served, as far as that was asked for; whoever is silent for too long is killed here."""
        return self._ending is not None or self._fleets.is_served()

    def _is_ours(self, pid: int) -> bool:
        """Whether a child is one that we have started, and wait for."""
        is_trial = self._trial is not None and self._trial.pid == pid
        return is_trial or any(child.pid == pid for child in self._fleets.children())

    # -- signals -----------------------------------------------------------------------------------------------------

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            name = signal.Signals(number).name
            if number in ENDING:
                self._obey_ending(number)
            elif number == signal.SIGUSR1:
                log.info("%s: reopening the log files", name)
                self._logs.reopen()
                self._fleets.signal_booted(number)
            elif number == SIGNAL_DUMP:
                log.info("%s: %s", name, self._fleets)
                self._fleets.signal_booted(number)

    def _obey_ending(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._ending not in {None, Ending.UPGRADE}:
            log.warning("%s: stopping at once", name)
            self.exit_code = ExitCode.ERROR
            for child in self._fleets.children():
                child.stop(signal.SIGKILL)
        elif number == signal.SIGTERM:
            timeout = self._plan.config.graceful_timeout
            log.info("%s: finishing what is under way, %s", name, describe_grace(timeout))
            self._end(Ending.GRACEFUL)
        else:
            log.info("%s: stopping", name)
            self._end(Ending.QUICK)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _end(self, ending: Ending) -> None:
        self._ending = ending
        self._governing.cancel()

    def _fail(self, failure: Failed, exit_code: int) -> None:
        self.failure, self.exit_code = failure, exit_code
        self._end(Ending.FAILED)

    async def _dismiss(self) -> None:
        """Tell every worker to end, and see to it."""
        graceful = self._ending is Ending.GRACEFUL
        self._systemd.tell_stopping("finishing what is under way" if graceful else "stopping")
        number = signal.SIGTERM if graceful else signal.SIGINT
        children = self._fleets.children()
        hurried = [child for child in children if number == signal.SIGINT or not child.has_booted]
        patience = self._plan.config.graceful_timeout if graceful else math.inf
        for child in children:
            child.stop(number if child.has_booted else signal.SIGTERM, patience)
        self._sockets.close()  # whoever comes now is refused, once the workers have closed theirs
        await trio.sleep(QUICK_TIMEOUT)
        for child in hurried:
            child.send_signal(signal.SIGKILL)

    # -- jobs --------------------------------------------------------------------------------------------------------

    async def _govern(self) -> None:
        """Start, or take over, and then do what is asked for, one after another."""
        with trio.open_signal_receiver(*JOBS) as signals:
            self._early.repeat()
            self._ask, jobs = trio.open_memory_channel[Job](math.inf)
            async with self._ask, jobs, trio.open_nursery() as self._keepers:
                if self._watch is not None:
                    self._keepers.start_soon(_hang_up_on_change, self._watch)
                self._keepers.start_soon(self._pass_on, signals)
                if self._legacy is None:
                    await self._start()
                else:
                    await self._take_over(self._legacy)
                async for job in jobs:
                    await job()

    async def _pass_on(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            self._ask_for(signal.Signals(number))

    def _ask_for(self, number: signal.Signals) -> None:
        """Have it done when it is its turn: signals that come again, while nothing else is asked for, are one."""
        if not self._asked or self._asked[-1] != number:
            self._asked.append(number)
            self._ask.send_nowait(self._do_next)

    async def _do_next(self) -> None:
        number = self._asked.popleft()
        count, name = self._fleets.current.count, number.name
        if number == signal.SIGHUP and self._terminal_has_gone():
            log.info("%s: the terminal has gone: finishing what is under way", name)
            self._end(Ending.GRACEFUL)
        elif number == signal.SIGHUP:
            await self._attempt(self._reload, name)
        elif number == SIGNAL_UPGRADE:
            await self._attempt(self._upgrade, name)
        elif number == signal.SIGTTIN:
            self._resize(count + 1 if count else self._plan.config.workers, name)
        elif number == signal.SIGTTOU:
            self._resize(max(count - 1, 1), name)
        elif number == signal.SIGWINCH and not any(map(os.isatty, range(3))):  # there a window has another size
            self._resize(0, name)

    async def _start(self) -> None:
        """Have the first workers boot; if they cannot, that is our end, or under `reload` a file's to mend."""
        fleet = self._fleets.current
        failure = await fleet.boot(self._plan.config.workers)
        if failure is None:
            await self._keepers.start(self._keep, fleet)
            self._announce()
            return
        log.critical("the application cannot boot: %s", failure.text)
        if self._watch is not None:
            await self._wait_for_change()
        else:
            self._fail(failure, failure.exit_code)
            await trio.sleep_forever()

    async def _wait_for_change(self) -> None:
        """Have nobody serve until a reload, as if there were slots for nobody."""
        log.info("waiting for a file to change")
        self._fleets.current = self._fleets.open(self._plan)
        await self._keepers.start(self._keep, self._fleets.current)

    async def _take_over(self, legacy: Legacy) -> None:
        """Take over what a former self has left, and replace its workers by our own, if nothing is wrong with that."""
        for number in legacy.asked:
            self._ask_for(number)
        fleet = self._fleets.current
        fleet.count = legacy.count
        for child in legacy.children:
            fleet.adopt(child)
        await self._keepers.start(self._keep, fleet)
        await self._attempt(partial(self._take_up, legacy), SIGNAL_UPGRADE.name)

    async def _take_up(self, legacy: Legacy) -> None:
        if legacy.wrong is not None:
            raise legacy.wrong
        await self._replace(self._first_plan, SIGNAL_UPGRADE.name)

    async def _keep(self, fleet: Fleet, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep its slots filled; giving up, where that is hopeless, waits for its turn: another job may mend it."""
        failure = await fleet.keep(task_status=task_status)
        if failure is not None:
            self._ask.send_nowait(partial(self._give_up, fleet, failure))

    async def _give_up(self, fleet: Fleet, failure: Failed) -> None:
        """No worker of a fleet is left, and none can boot."""
        if fleet is not self._fleets.current:
            return  # a reload has mended it
        if self._watch is not None:
            await self._wait_for_change()
        else:
            log.critical("no worker is left, and none can boot: giving up")
            self._fail(failure, ExitCode.BOOT_ERROR)

    def _where(self) -> str:
        config = self._plan.config
        return ", ".join(each.address.url(config.wire_scheme) for each in self._sockets.listeners(config))

    def _announce(self) -> None:
        log.info("listening at %s (pid %d), workers: %d", self._where(), os.getpid(), self._fleets.current.count)
        self._tell_ready()

    def _tell_ready(self) -> None:
        self._systemd.tell_ready(f"listening at {self._where()}, workers: {self._fleets.current.count}")

    def _resize(self, count: int, why: str) -> None:
        log.info("%s: workers: %d, were %d", why, count, self._fleets.current.count)
        self._fleets.current.resize(count)
        self._sockets.abandon_beyond(self._plan.config, count)

    async def _attempt(self, change: Job, why: str) -> None:
        """Change what serves; what cannot be done, or goes wrong in a way that nobody has thought of, ends nobody."""
        try:
            await change()
        except Exception as error:
            self._change_nothing(f"{why}: nothing changes: %s", describe_failure(error).text)

    async def _reload(self) -> None:
        self._systemd.tell_reloading()
        plan = read_anew(self._read_plan, self._plan)
        self._systemd.warn(plan.config)
        await self._replace(plan, "SIGHUP")

    async def _replace(self, plan: Plan, why: str) -> None:
        """Have new workers serve this plan, and the old ones leave; or change nothing, if that cannot be."""
        log.info("%s: starting new workers", why)
        try:
            missing = self._sockets.missing(plan.config)
            found = await run_in_thread(find_out, plan.config, missing, abandon_on_cancel=True)
            with standing(plan):
                self._sockets.open_missing(plan.config, found.resolved, found.access)
        except (ConfigError, OSError) as error:
            self._change_nothing(f"{why}: nothing changes: %s", error)
            return
        fleet = self._fleets.open(plan)
        failure = await fleet.boot(plan.config.workers)
        if failure is not None:
            self._change_nothing(f"{why}: nothing changes, as the application cannot boot: %s", failure.text)
            return
        await self._keepers.start(self._keep, fleet)
        old, self._fleets.current = self._fleets.current, fleet
        old.leave()
        self._sockets.close_others(plan.config)
        self._sockets.abandon_beyond(plan.config, fleet.count)
        try:
            stand(plan)
            self._logs.follow(plan.config, found.heir)
        except ConfigError as error:
            log.error("%s: the supervisor goes on logging where it did: %s", why, error)
        self._announce()

    def _change_nothing(self, text: str, *values: object) -> None:
        """Go on as if nothing had been asked for, and say why."""
        log.error(text, *values)
        self._sockets.put_back()
        self._sockets.close_others(self._plan.config)
        self._sockets.abandon_beyond(self._plan.config, self._fleets.current.count)
        self._tell_ready()

    async def _upgrade(self) -> None:
        log.info("SIGUSR2: trying the program anew")
        self._systemd.tell_reloading()
        try:
            self._trial = start_trial(self._plan, format_legacy(self.leave()))
            wrong = await self._trial.wait_verdict()
        except (ConfigError, OSError) as error:
            wrong = f"the program cannot be started: {error}"
        finally:
            self._trial = None
        if wrong:
            self._change_nothing("SIGUSR2: nothing changes: %s", wrong)
        else:
            self._end(Ending.UPGRADE)
            await trio.sleep_forever()


def read_anew(read_plan: ReadPlan, served: Plan) -> Plan:
    """The plan as it is now, for a supervisor that serves another.

    Raises:
        ConfigError: it cannot be read, or has no workers.
    """
    with at_home(served):
        plan = read_plan()
    check_supervised(plan)
    return plan


async def _hang_up_on_change(watch: Watch) -> None:
    while True:
        log.info("%s", describe_changes(await watch.wait_changed()))
        signal.raise_signal(signal.SIGHUP)
