"""From a plan to who serves it: this process, or a supervisor with its workers.

Laws:

* `workers` = 0 serves here. Else this process binds, has workers serve, and imports nothing of the application.
* When a supervisor is to become a new program and cannot, it goes on as if it had.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal

import trio

from trio_wsgi.errors import BootError
from trio_wsgi.net.listeners import resolve
from trio_wsgi.process.affinity import check_affinity
from trio_wsgi.process.currentlogs import CurrentLogs
from trio_wsgi.process.early import EarlySignals
from trio_wsgi.process.order import Plan
from trio_wsgi.process.pidfile import open_pid_file
from trio_wsgi.process.prepare import change_directory, load_plan, prepare_process
from trio_wsgi.process.privileges import Umask, decide_identity
from trio_wsgi.process.sockets import Sockets
from trio_wsgi.process.supervisor import JOBS, SIGNALS, Ending, ReadPlan, Supervisor
from trio_wsgi.process.systemd import UNKNOWN, Systemd
from trio_wsgi.process.trial import TRIAL_VARIABLE, be_tried
from trio_wsgi.process.upgrade import STATE_VARIABLE, execute, format_legacy, let_go, parse_legacy
from trio_wsgi.process.worker import serve_process

log = logging.getLogger("trio_wsgi.error")


def serve_plan(plan: Plan, read_plan: ReadPlan, systemd: Systemd = UNKNOWN) -> int:
    """Serve until a signal ends it. Must run in the main thread, and in the directory that the program was started in.

    Args:
        read_plan: gives the plan anew, for a reload.
        systemd: to be told when we serve, reload and stop.

    Returns:
        The exit code.

    Raises:
        ConfigError: an address, a directory or a log file cannot be used.
        AppLoadError: without workers: the application cannot be loaded.
        BootError: with workers: none could boot.
    """
    state = os.environ.pop(STATE_VARIABLE, "")
    if os.environ.pop(TRIAL_VARIABLE, ""):
        be_tried(plan, state)
    if plan.config.workers == 0:
        prepare_process(plan.config)
        return serve_process(lambda: load_plan(plan), plan.config, systemd)
    return _supervise(plan, read_plan, systemd, state)


def _supervise(plan: Plan, read_plan: ReadPlan, systemd: Systemd, state: str) -> int:
    """Serve by workers. Only they become another user: who may bind today can do so after a reload.

    Args:
        state: what a former self has left, or nothing.
    """
    change_directory(plan.config)
    umask = Umask()
    umask.follow(plan.config)
    decide_identity(plan.config)  # before anything is bound: whom a worker could not become is a mistake
    check_affinity(plan.config.cpu_affinity)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever ignores it is not told how children end
    with CurrentLogs(plan.config) as logs, EarlySignals(SIGNALS) as early:
        systemd.warn(plan.config)
        while True:
            legacy = parse_legacy(state) if state else None
            with (
                contextlib.closing(Sockets(legacy.places if legacy else ())) as sockets,
                contextlib.ExitStack() as told,
            ):
                if legacy is None:
                    sockets.open_missing(plan.config, resolve(sockets.missing(plan.config)))
                told.enter_context(open_pid_file(plan.config.pid))
                supervisor = Supervisor(plan, read_plan, sockets, logs, umask, systemd)
                ending = trio.run(supervisor.run, early, legacy)
                if ending is not Ending.UPGRADE:
                    break
                state = _become_new(supervisor, early, logs, umask, systemd)
        log.info("stopped")
    if supervisor.failure is not None:
        raise BootError(supervisor.failure.text, supervisor.exit_code)
    return supervisor.exit_code


def _become_new(supervisor: Supervisor, early: EarlySignals, logs: CurrentLogs, umask: Umask, systemd: Systemd) -> str:
    """Replace this program by itself; returns what it leaves to itself if that cannot be."""
    legacy = supervisor.leave()
    environ = dict(os.environ)
    systemd.give_back(environ)
    logs.flush()
    umask.restore()
    with early.handing_over(JOBS) as asked:
        legacy.asked.extend(asked)
        state = format_legacy(legacy)
        let_go(legacy)
        try:
            execute(state, legacy.plan.home, environ)
        except OSError as error:
            log.error("the new program cannot be executed: %s", error)
    umask.follow(legacy.plan.config)
    return state
