"""A process that serves without a supervisor: `run`, `--workers 0`, pserve.

Laws:

* What only root may do is done first: logs, sockets, keys and the pid file are open before we become somebody else, and
  only then is any code of the application imported.
* From the moment that logs are open, a signal that is to end the process is obeyed, also while that is imported.
* However the process ends, the files of its unix sockets and its pid file are gone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable
from typing import Any

from trio_wsgi.config import Config, make_config
from trio_wsgi.net.certificates import open_tls
from trio_wsgi.net.listeners import open_listeners, resolve
from trio_wsgi.net.server import Server
from trio_wsgi.net.unixsocket import find_access
from trio_wsgi.process.affinity import pin_worker
from trio_wsgi.process.early import EarlySignals
from trio_wsgi.process.exits import ExitCode
from trio_wsgi.process.logs import open_logs
from trio_wsgi.process.pidfile import open_pid_file
from trio_wsgi.process.privileges import become, decide_identity, set_umask
from trio_wsgi.process.recycling import check_replaceable
from trio_wsgi.process.serving import Process, load_application, run_serving
from trio_wsgi.process.signals import SERVER_SIGNALS, SIGNAL_UPGRADE
from trio_wsgi.process.sockets import each_address
from trio_wsgi.process.systemd import Systemd, take_systemd
from trio_wsgi.process.terminal import watch_terminal, without_job_control
from trio_wsgi.setting import Reach
from trio_wsgi.wsgi.call import WSGIApplication
from trio_wsgi.wsgi.loading import apply_middleware, check_app

log = logging.getLogger("trio_wsgi.error")


def run(app: WSGIApplication, **settings: Any) -> int:
    """Serve `app` until a signal ends it: for scripts, in their main thread.

    Args:
        settings: those of `Config`, by name.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: a setting cannot be used, or has no effect on an application that is handed over.
        AppLoadError: a middleware cannot be loaded, or gevent or eventlet have replaced modules of Python's.
        TypeError: `app` is no WSGI application.
        RuntimeError: this is not the main thread of the main interpreter, where alone signals can be waited for.
    """
    try:
        with contextlib.suppress(TypeError):  # a handler of C's, which Python cannot name
            signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))  # nothing changes
    except ValueError:
        told = "run() waits for signals, in the main thread of the main interpreter; elsewhere: "
        raise RuntimeError(f"{told}trio.run(trio_wsgi.serve, app)") from None
    check_app(app)
    config = make_config(settings)
    config.check_reach(Reach.PROCESS)
    systemd = take_systemd(os.environ)
    config = systemd.choose_sockets(config, "bind" in settings)
    return serve_standalone(lambda: apply_middleware(app, config.middleware), config, systemd)


def serve_standalone(load_app: Callable[[], WSGIApplication], config: Config, systemd: Systemd) -> int:
    """Serve what `load_app` gives until a signal ends it. Must run in the main thread.

    Args:
        load_app: called once, as the user we become; what it raises is passed on.
        systemd: to be told when we serve and stop.

    Returns:
        The exit code.

    Raises:
        ConfigError: an address, a file or a user cannot be used.
    """
    check_replaceable(config)
    config = config.placed()
    set_umask(config)
    identity = decide_identity(config)
    is_free = signal.getsignal(SIGNAL_UPGRADE) is signal.SIG_DFL  # else it is the caller's
    with (
        open_logs(config) as logs,
        EarlySignals((*SERVER_SIGNALS, SIGNAL_UPGRADE) if is_free else SERVER_SIGNALS) as early,
        open_listeners(
            resolve(each_address(config)), config.backlog, reuse_port=config.reuse_port, access=find_access(config)
        ) as listeners,
        open_pid_file(config.pid) as remove_pid_file,
        without_job_control(),
    ):
        systemd.warn(config)
        terminal_has_gone = watch_terminal(early)
        pin_worker(config.cpu_affinity, 0)
        tls = open_tls(config)  # keys are root's alone to read
        become(identity)
        app = load_application(load_app, early)
        if app is None:
            return ExitCode.CLEAN
        server = Server(app, config.for_server(), tls=tls)
        process = Process(server, listeners, logs, systemd, terminal_has_gone, remove_pid_file)
        run_serving(process, early, _announce)
        log.info("stopped")
    return ExitCode.CLEAN


async def _announce(process: Process) -> None:
    """Say where we listen, and to systemd that we live."""
    where = process.where()
    log.info("listening at %s (pid %d)", where, os.getpid())
    process.systemd.tell_ready(f"listening at {where}")
    await process.systemd.keep_alive()
