"""The process of a worker: told by its supervisor what to serve and where, and never without it for long.

Laws:

* The first line of the channel is the order; it holds all that this process has to know.
* Signs of life come from the event loop, so that one which is blocked gives none.
* When the channel ends, the supervisor has: what is under way is finished, and nobody is left behind.
* Once it is told that we cannot boot, we have no listener: where each worker has its own, nobody is given to us.
* A failure to boot goes up the channel in words; it is the supervisor who shows it. What the application forks has no
  channel.
* Once nothing is served any more, what the application does at exit, and threads that it has left, get
  `graceful_timeout`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from typing import NoReturn

import trio

from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.forks import putting_back, undo_in_children, undone_in_children
from trio_wsgi.net.certificates import open_tls
from trio_wsgi.net.listeners import Listener, start_listening
from trio_wsgi.net.server import Server
from trio_wsgi.process.affinity import pin_worker
from trio_wsgi.process.channel import Channel, receive_first_line, send_blocking
from trio_wsgi.process.early import EarlySignals
from trio_wsgi.process.exits import ExitCode
from trio_wsgi.process.failure import describe_failure
from trio_wsgi.process.imported import build_messages, files_of_failure, find_places, imported_files, report_imports
from trio_wsgi.process.leaving import limit_end
from trio_wsgi.process.logs import open_logs
from trio_wsgi.process.messages import (
    SILENT_SPELLS,
    Booted,
    Drain,
    Failed,
    Inherited,
    Order,
    Replace,
    parse_message,
    parse_order,
)
from trio_wsgi.process.prepare import load_plan, prepare_imports
from trio_wsgi.process.privileges import become, decide_identity
from trio_wsgi.process.recycling import Recycling
from trio_wsgi.process.serving import Process, load_application, run_serving
from trio_wsgi.process.signals import SERVER_SIGNALS, SIGNAL_STACKS, do_nothing
from trio_wsgi.process.sockets import take_socket
from trio_wsgi.process.standing import stand
from trio_wsgi.process.terminal import leave_job_control

log = logging.getLogger("trio_wsgi.error")

BEAT = 1.0  # seconds between two signs of life, or less where `timeout` is short


def main(channel: int, stacks: int) -> NoReturn:
    """Be a worker.

    Args:
        channel: its descriptor.
        stacks: the descriptor that those of our threads are written to.
    """
    os.set_inheritable(stacks, False)
    faulthandler.enable(file=stacks)
    faulthandler.register(SIGNAL_STACKS, file=stacks, all_threads=True, chain=False)
    sock = socket.socket(fileno=channel)
    sock.set_inheritable(False)
    undo_in_children(sock.close)  # who fails at import, forked there, does not speak for us
    # For the supervisor, when they are sent to all of us by our common name.
    signal.signal(signal.SIGHUP, do_nothing)
    undo_in_children(putting_back({signal.SIGHUP: signal.SIG_DFL}))
    undo_in_children(_forget_stacks)
    leave_job_control()
    order = _receive_order(sock)
    sys.argv[:] = order.argv
    started = time.time()
    failed = None
    try:
        code = serve_order(order, sock)
    except Exception as error:
        if order.plan.config.reload:
            send_blocking(sock, build_messages(files_of_failure(error) | imported_files(), started))
        failed = describe_failure(error)
        code = failed.exit_code
    _ignore_signals()
    if failed is not None:
        send_blocking(sock, [failed])  # which has the supervisor tell us to end
    sock.detach()  # open to the end, which it tells
    _limit_end(order.plan.config.graceful_timeout, stacks)
    sys.exit(code)


def _receive_order(sock: socket.socket) -> Order:
    """What we are to do; the process ends where nobody says it, or in words that we do not know."""
    try:
        return parse_order(receive_first_line(sock))
    except EOFError:
        sys.exit(ExitCode.CLEAN)
    except (ConfigError, ValueError, KeyError, TypeError) as error:
        hint = "if trio-wsgi was updated, send USR2 to the supervisor"
        send_blocking(sock, [Failed(f"the order cannot be read: {error!r}; {hint}", ExitCode.BOOT_ERROR)])
        sys.exit(ExitCode.BOOT_ERROR)


def _ignore_signals() -> None:
    """It is too late for them: what the application does at exit is for the supervisor to cut short."""
    for number in SERVER_SIGNALS:
        signal.signal(number, do_nothing)
    undo_in_children(putting_back(dict.fromkeys(SERVER_SIGNALS, signal.SIG_DFL)))


def _limit_end(seconds: float, fd: int) -> None:
    """Have the process end in so many seconds, with its stacks told to this descriptor, if it has not by then."""
    if math.isfinite(limit := limit_end(seconds)):
        with contextlib.suppress(RuntimeError):  # the system has no thread for it; the supervisor has a limit, too
            faulthandler.dump_traceback_later(limit, exit=True, file=fd)


def _forget_stacks() -> None:
    """In a child: its stacks are not its parent's; unless the application has the signal."""
    if signal.getsignal(SIGNAL_STACKS) is signal.SIG_DFL:
        faulthandler.unregister(SIGNAL_STACKS)


def serve_order(order: Order, sock: socket.socket) -> int:
    """Load the application and serve it until a signal or the channel ends it.

    Returns:
        The exit code.

    Raises:
        ConfigError, AppLoadError: what is ordered cannot be served.
    """
    config = order.plan.config
    started = time.time()
    recycling = Recycling(config.max_requests, config.max_requests_jitter, config.max_rss)
    pin_worker(config.cpu_affinity, order.number - 1)
    stand(order.plan)
    config = config.placed()
    identity = decide_identity(config)
    prepare_imports(config)
    with (
        open_logs(config) as logs,
        contextlib.ExitStack() as served,
        EarlySignals(SERVER_SIGNALS) as early,
        _take_listeners(order.listeners) as listeners,
    ):
        served.callback(_ignore_signals)  # who was told to leave is told to be quick as its logs are closed
        tls = open_tls(config)  # keys are root's alone to read
        become(identity)
        if config.reload and order.plan.reference is not None:
            send_blocking(sock, build_messages(find_places(order.plan.reference), started))
        app = load_application(lambda: load_plan(order.plan, recycling.ask), early, logging.DEBUG)
        if app is None:
            return ExitCode.CLEAN
        for listener in listeners:
            start_listening(listener, config.backlog)
        counting = (recycling,) if config.max_requests else ()  # a record is made only for those who want one
        server = Server(app, config.for_server(), observers=counting, tls=tls, processes=config.workers)
        process = Process(server, listeners, logs, alone=False)
        tell = functools.partial(_report, config=config, channel=Channel(sock), recycling=recycling, started=started)
        run_serving(process, early, tell)
    return ExitCode.CLEAN


@contextlib.contextmanager
def _take_listeners(inherited: Iterable[Inherited]) -> Iterator[list[Listener]]:
    """Ours alone to close: the supervisor has its own descriptor, and removes the file of a unix socket."""
    with contextlib.ExitStack() as stack:
        listeners = []
        for each in inherited:
            sock = stack.enter_context(take_socket(each.fd))
            stack.enter_context(undone_in_children(sock.close))
            listeners.append(Listener(sock, each.address))
        yield listeners


async def _report(process: Process, config: Config, channel: Channel, recycling: Recycling, started: float) -> None:
    """Tell the supervisor how we are, and heed what it says, until the server has ended."""
    channel.tell(Booted())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_beat, channel, config.timeout)
        nursery.start_soon(_ask_for_successor, channel, recycling)
        nursery.start_soon(_ask_when_told_to_end, process, recycling)
        if config.reload:
            nursery.start_soon(report_imports, channel, started)
        while lines := await channel.receive():
            for message in map(parse_message, lines):
                if isinstance(message, Drain):
                    process.server.drain(message.graceful_timeout, drain_max=0)
        log.warning("the supervisor has gone: finishing what is under way")
        process.server.drain()


async def _ask_for_successor(channel: Channel, recycling: Recycling) -> None:
    reason = await recycling.wait_due()
    channel.tell(Replace(reason, recycling.worn))


async def _ask_when_told_to_end(process: Process, recycling: Recycling) -> None:
    """Whoever ends a single worker by TERM is not to wait for its last download until there is another."""
    await process.told_to_end.wait()
    recycling.ask("SIGTERM")


async def _beat(channel: Channel, timeout: float) -> None:
    while True:
        channel.beat()
        await trio.sleep(min(BEAT, timeout / SILENT_SPELLS / 2) if math.isfinite(timeout) else BEAT)
