"""The event loop of a process that serves, be it a worker or a process of its own: one server, and signals obeyed.

Laws:

* TERM drains: it takes no new connection, lets what is under way finish up to `graceful_timeout`, exits 0.
* INT and QUIT are quick: everything under way is cut, cleanly. A second signal of any of the three ends the process at
  once, where no supervisor decides that.
* A signal that came before the loop runs is obeyed by the loop.
* HUP reads the certificates anew; where there is a supervisor, it is the supervisor's. When the terminal has gone, that
  HUP is a TERM.
* USR2 does nothing without a supervisor, and says so, unless it is the application's.
* An application thread that ignores all this does not keep the process alive.
* A child that the application forks obeys none of this: a signal does to it what it does to any process.
* A request's context variables begin empty, as those of a new thread do: what an import has set is nobody's session.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, NoReturn

import trio

from trio_wsgi.errors import ConfigError, find_first
from trio_wsgi.forks import putting_back, undone_in_children
from trio_wsgi.net.inthread import MORE_THREADS
from trio_wsgi.net.listeners import Listener
from trio_wsgi.net.server import Server
from trio_wsgi.process.early import EarlySignals, Stopped
from trio_wsgi.process.exits import ExitCode
from trio_wsgi.process.logs import Logs
from trio_wsgi.process.patches import refusing_patches
from trio_wsgi.process.signals import SIGNAL_DUMP, SIGNAL_UPGRADE
from trio_wsgi.process.systemd import UNKNOWN, Systemd
from trio_wsgi.process.tuning import tuned_process
from trio_wsgi.wsgi.call import WSGIApplication

log = logging.getLogger("trio_wsgi.error")

LOST_THREADS_TIMEOUT = 5.0  # seconds that application threads have to notice that they are cut off


@dataclass(frozen=True, slots=True)
class Process:
    """What the process consists of, for whoever ends it.

    Args:
        systemd, terminal_has_gone, remove_pid_file: of who is alone; for a worker, its supervisor has them.
        alone: whether no supervisor says what happens, and decides what is urgent.
    """

    server: Server
    listeners: list[Listener]
    logs: Logs
    systemd: Systemd = UNKNOWN
    terminal_has_gone: Callable[[], bool] = lambda: False
    remove_pid_file: Callable[[], None] = lambda: None
    alone: bool = True
    serving: trio.CancelScope = field(default_factory=trio.CancelScope, init=False)
    told_to_end: trio.Event = field(default_factory=trio.Event, init=False)  # by TERM

    def where(self) -> str:
        """The addresses that we listen at."""
        return ", ".join(listener.address.url(self.server.config.wire_scheme) for listener in self.listeners)

    def say(self, text: str, *values: object) -> None:
        """Log what a signal brings about."""
        log.log(logging.INFO if self.alone else logging.DEBUG, text, *values)

    def log_statistics(self, why: str) -> None:
        """Log what connections and threads are at; whatever becomes of that, the process goes on."""
        try:
            log.info("%s: %s", why, self.server.statistics())
        except Exception:
            log.exception("%s: what connections and threads are at cannot be told", why)

    def exit_now(self, code: int) -> NoReturn:
        """End without waiting for anything."""
        for listener in self.listeners:
            listener.close()
        self.remove_pid_file()
        self.logs.flush()
        os._exit(code)

    async def exit_when_stuck(self) -> None:
        """End the process when an application's thread ignores that all connections have ended."""
        await self.server.connections_ended.wait()
        await trio.sleep(LOST_THREADS_TIMEOUT)
        log.error("application threads did not stop within %g s of being cancelled: leaving them", LOST_THREADS_TIMEOUT)
        self.exit_now(ExitCode.CLEAN)


def load_application(
    load: Callable[[], WSGIApplication], early: EarlySignals, level: int = logging.INFO
) -> WSGIApplication | None:
    """The application; None where a signal has ended its import, and is to end the process.

    Args:
        load: gives it; what it raises is passed on.
        level: at which the log tells of such a signal.
    """
    try:
        with early.interrupting(), refusing_patches():
            return load()
    except Stopped as stop:
        log.log(level, "%s: stopped before the application was loaded", stop)
        return None


Beside = Callable[[Process], Awaitable[None]]


def run_serving(process: Process, early: EarlySignals, beside: Beside) -> None:
    """Run the event loop until a signal, or what runs beside the server, has ended that.

    Args:
        beside: runs from when connections are accepted; cancelled when the server has ended.

    Raises:
        ConfigError: a directory that is to be served is not there, or there is no thread to look for it.
    """
    try:
        with tuned_process():
            # A copy of what is set now would be one of references: all requests would share what those lead to.
            Context().run(trio.run, _serve, process, early, beside)
    except BaseExceptionGroup as group:
        wrong, others = group.split(ConfigError)
        if wrong is None or others is not None:
            raise
        error = find_first(wrong)
        raise error from error.__cause__


def describe_grace(timeout: float) -> str:
    """How long that may take which is under way at the end, in words; seconds."""
    return f"for up to {timeout:g} s" if math.isfinite(timeout) else "for as long as it takes"


def _find_ours(early: EarlySignals) -> list[signal.Signals]:
    """The signals that we obey; of USR2, we only say that it does nothing, so an application may have it."""
    return [number for number in early.handled if number != SIGNAL_UPGRADE or early.keeps(number)]


async def _serve(process: Process, early: EarlySignals, beside: Beside) -> None:
    before: dict[int, Any] = {number: signal.getsignal(number) for number in _find_ours(early)}
    with (
        trio.open_signal_receiver(*before) as signals,
        undone_in_children(putting_back(before)),
        undone_in_children(_forget_loop),
    ):
        early.repeat()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, process)
            nursery.start_soon(process.exit_when_stuck)
            with process.serving:
                async with trio.open_nursery() as servers:
                    try:
                        await servers.start(process.server.serve_opened, process.listeners)
                    except OSError as error:
                        if error.errno != errno.EAGAIN:  # `run_in_thread`
                            raise
                        raise ConfigError("threads", f"nothing can be served: {error.strerror}", MORE_THREADS) from None
                    nursery.start_soon(beside, process)
            nursery.cancel_scope.cancel()


def _forget_loop() -> None:
    """In a child: signals wake its parent's event loop no more."""
    signal.set_wakeup_fd(-1)


async def reload_certificates(process: Process) -> None:
    """HUP, where there is no supervisor that could start new workers; code and settings stay as they are."""
    process.systemd.tell_reloading()
    try:
        await process.server.reload_certificates()
    except ConfigError as error:
        log.error("SIGHUP: the certificates stay as they were: %s", error)
    else:
        read = process.server.config.certfile
        log.info("SIGHUP: %s", f"read {', '.join(read)} anew" if read else "nothing to reload without a supervisor")
    process.systemd.tell_ready(f"listening at {process.where()}")


async def _obey(signals: AsyncIterator[int], process: Process) -> None:
    """Do what the signals say, until the server has ended."""
    ending = False
    async for number in signals:
        name = signal.Signals(number).name
        if number == SIGNAL_DUMP:
            process.log_statistics(name)
        elif number == signal.SIGUSR1:
            process.say("%s: reopening the log files", name)
            process.logs.reopen()
        elif number == SIGNAL_UPGRADE:
            log.warning("%s: nothing changes: a process without a supervisor cannot be upgraded", name)
        elif number == signal.SIGHUP and (ending or not process.alone):
            continue  # a supervisor sees to it
        elif number == signal.SIGHUP and not process.terminal_has_gone():
            await reload_certificates(process)
        elif ending and process.alone:
            log.warning("%s: stopping at once", name)
            process.exit_now(ExitCode.ERROR)
        elif number in {signal.SIGTERM, signal.SIGHUP}:
            if number == signal.SIGHUP:
                process.say("%s: the terminal has gone", name)
            timeout = process.server.config.graceful_timeout
            process.say("%s: finishing what is under way, %s", name, describe_grace(timeout))
            process.systemd.tell_stopping("finishing what is under way")
            process.server.drain()
            process.told_to_end.set()
            ending = True
        else:
            process.say("%s: stopping", name)
            process.systemd.tell_stopping("stopping")
            process.serving.cancel()
            ending = True
