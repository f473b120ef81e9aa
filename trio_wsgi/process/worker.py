"""The process that serves: its limits and signals around one server.

Laws:

* TERM drains: it takes no new connection, lets what is under way finish up to `graceful_timeout`, exits 0.
* INT and QUIT are quick: everything under way is cut, cleanly. A second signal of any of the three ends the process at
  once.
* An application thread that ignores all this does not keep the process alive.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import trio

from trio_wsgi.config import Config, make_config
from trio_wsgi.net.listeners import Listener, open_listeners, resolve
from trio_wsgi.net.server import Server
from trio_wsgi.process.logs import Logs, open_logs
from trio_wsgi.wsgi.call import WSGIApplication

log = logging.getLogger("trio_wsgi.error")

EXIT_CLEAN = 0
EXIT_FORCED = 1  # ended by a second signal, with requests under way
LOST_THREADS_TIMEOUT = 5.0  # seconds that application threads have to notice that they are cut off


def run(app: WSGIApplication, **settings: Any) -> int:
    """Serve `app` until a signal ends it: for scripts.

    Args:
        settings: those of `Config`, by name.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: a setting cannot be used.
    """
    return serve_process(lambda: app, make_config(settings))


def serve_process(load_app: Callable[[], WSGIApplication], config: Config) -> int:
    """Serve what `load_app` gives until a signal ends it. Must run in the main thread.

    Args:
        load_app: called once, before anything is listened at; what it raises is passed on.

    Returns:
        The exit code.

    Raises:
        ConfigError: an address or a log file cannot be used.
    """
    with open_logs(config) as logs:
        app = load_app()
        raise_descriptor_limit()
        with open_listeners(resolve(config.addresses), config.backlog) as listeners:
            trio.run(_serve, Server(app, config), listeners, logs)
        log.info("stopped")
    return EXIT_CLEAN


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard one: each download takes two (getrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(server: Server, listeners: list[Listener], logs: Logs) -> None:
    serving = trio.CancelScope()
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, server, serving, logs)
            with serving:
                where = ", ".join(listener.address.url(server.config.url_scheme) for listener in listeners)
                log.info("listening at %s (pid %d)", where, os.getpid())
                await server.serve_opened(listeners)
            nursery.cancel_scope.cancel()


async def _obey(signals: AsyncIterator[int], server: Server, serving: trio.CancelScope, logs: Logs) -> None:
    """Do what the signals say, until the server has ended."""
    ending = False
    async with trio.open_nursery() as nursery:
        async for number in signals:
            name = signal.Signals(number).name
            if number == signal.SIGUSR1:
                log.info("%s: reopening the log files", name)
                logs.reopen()
            elif ending:
                log.warning("%s: stopping at once", name)
                _exit_now(logs, EXIT_FORCED)
            elif number == signal.SIGTERM:
                log.info("%s: finishing what is under way, for up to %g s", name, server.config.graceful_timeout)
                server.drain()
                nursery.start_soon(_exit_when_stuck, server.config.graceful_timeout, logs)
                ending = True
            else:
                log.info("%s: stopping", name)
                serving.cancel()
                nursery.start_soon(_exit_when_stuck, 0, logs)
                ending = True


async def _exit_when_stuck(patience: float, logs: Logs) -> None:
    """End the process when the server has not ended after `patience` seconds and some more.

    By then everything on the loop has ended; what has not is an application's thread that ignores its cancellation.
    """
    await trio.sleep(patience + LOST_THREADS_TIMEOUT)
    log.error("application threads did not stop within %g s of being cancelled: leaving them", LOST_THREADS_TIMEOUT)
    _exit_now(logs, EXIT_CLEAN)


def _exit_now(logs: Logs, code: int) -> NoReturn:
    logs.flush()
    os._exit(code)


_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1)
