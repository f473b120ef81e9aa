"""From a plan to who serves it: this process, or a supervisor with its workers.

Laws:

* `workers` = 0 serves here. Else this process binds, has workers serve, and imports nothing of the application.
* A supervisor that is to become a new program and cannot goes on. So does the new program, whatever was broken since
  its trial: it looks after the workers that it was left, by the plan that they serve, and the log says why.
  Where there is no event loop to be had, it tries again until there is; workers go on, and finish if we end first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from dataclasses import replace

import trio

from trio_wsgi.errors import BootError, ConfigError
from trio_wsgi.process.currentlogs import CurrentLogs, open_somehow
from trio_wsgi.process.early import EarlySignals, Stopped
from trio_wsgi.process.pidfile import open_pid_file
from trio_wsgi.process.plan import Plan
from trio_wsgi.process.prepare import find_out, load_plan, prepare_process
from trio_wsgi.process.signals import SUPERVISOR_SIGNALS
from trio_wsgi.process.sockets import Sockets
from trio_wsgi.process.spawn import check_interpreter
from trio_wsgi.process.standalone import serve_standalone
from trio_wsgi.process.standing import stand, standing
from trio_wsgi.process.supervisor import Ending, ReadPlan, Supervisor, read_anew
from trio_wsgi.process.systemd import Systemd
from trio_wsgi.process.trial import TRIAL_VARIABLE, be_tried
from trio_wsgi.process.upgrade import STATE_VARIABLE, Legacy, become_new, parse_legacy

log = logging.getLogger("trio_wsgi.error")

RETRY = 1.0  # seconds between two tries to have an event loop


def serve_plan(read_plan: ReadPlan, systemd: Systemd) -> int:
    """Serve until a signal ends it. Must run in the main thread, and in the directory that the program was started in.

    Args:
        read_plan: gives the plan; for a reload, anew.
        systemd: to be told when we serve, reload and stop.

    Returns:
        The exit code.

    Raises:
        ConfigError: a setting, an address, a directory or a log file cannot be used.
        AppLoadError: without workers: the application cannot be loaded.
        BootError: with workers: none could boot. The log has told why; the text is the last line of that, if the log is
            standard error.
    """
    state = os.environ.pop(STATE_VARIABLE, "")
    if verdict := os.environ.pop(TRIAL_VARIABLE, ""):
        be_tried(read_plan(), int(verdict), state)
    if state:
        plan, logs, legacy = _prepare_anew(parse_legacy(state), read_plan)
        return _supervise(plan, logs, read_plan, systemd, legacy)
    plan = read_plan()
    if plan.config.workers == 0:
        prepare_process(plan.config)
        return serve_standalone(lambda: load_plan(plan), plan.config, systemd)
    check_interpreter(plan.config)
    stand(plan)
    return _supervise(plan, CurrentLogs(plan.config), read_plan, systemd)


def _prepare_anew(legacy: Legacy, read_plan: ReadPlan) -> tuple[Plan, CurrentLogs, Legacy]:
    """Do as at the first start, or keep what is: by now there are workers that somebody has to look after."""
    with contextlib.suppress(ConfigError):  # their directory has gone
        stand(legacy.plan)
    try:
        plan = read_anew(read_plan, legacy.plan)
        with standing(plan):
            return plan, CurrentLogs(plan.config, patient=False), legacy
    except Exception as error:
        return legacy.plan, open_somehow(legacy.plan.config), replace(legacy, wrong=error)


def _supervise(
    plan: Plan, logs: CurrentLogs, read_plan: ReadPlan, systemd: Systemd, legacy: Legacy | None = None
) -> int:
    """Serve by workers. Only they become another user: who may bind today can do so after a reload."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever ignores it is not told how children end
    with logs, EarlySignals(SUPERVISOR_SIGNALS) as early:
        systemd.warn(plan.config)
        if legacy is not None:
            log.info("the program has replaced itself (pid %d)", os.getpid())
        while True:
            with contextlib.ExitStack() as stack:
                sockets = stack.enter_context(contextlib.closing(Sockets(legacy.bindings if legacy else ())))
                if legacy is None:
                    found = find_out(plan.config, sockets.missing(plan.config))
                    sockets.open_missing(plan.config, found.resolved, found.access)
                _tell_pid(plan, stack, is_anew=legacy is not None)
                supervisor = Supervisor(plan, read_plan, sockets, logs, systemd, early, legacy)
                if legacy is not None and not _await_loop(early):
                    break
                if trio.run(supervisor.run) is not Ending.UPGRADE:
                    break
                legacy = become_new(supervisor.leave(), early, logs, systemd)
                plan = legacy.plan
        log.info("stopped")
    if (why := supervisor.failure) is not None:
        raise BootError(why.short if logs.is_standard else why.text, supervisor.exit_code)
    return supervisor.exit_code


def _await_loop(early: EarlySignals) -> bool:
    """Wait until the system has what an event loop takes, such as descriptors; False: a signal ends us before."""
    with contextlib.suppress(Stopped):
        while True:
            try:
                trio.run(trio.lowlevel.checkpoint)
            except OSError as error:
                log.error("SIGUSR2: there is no event loop to be had: %s; trying again", error)
            else:
                return True
            with early.interrupting():
                time.sleep(RETRY)
    return False


def _tell_pid(plan: Plan, told: contextlib.ExitStack, *, is_anew: bool) -> None:
    """Have the pid file name us until `told` is closed; where a former self has seen to that, we can do without."""
    try:
        with standing(plan):
            told.enter_context(open_pid_file(plan.config.pid))
    except ConfigError as error:
        if not is_anew:
            raise
        log.error("SIGUSR2: the pid file stays as it is: %s", error)
