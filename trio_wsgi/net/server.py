"""The server: what it is given, the nurseries that its parts live in, and how they end.

Laws:

* Structure is lifetime: services (pump, threads) ⊃ connections ⊃ accepting. What is inside ends first.
* A drain is: accept who is in the queue already, stop accepting, tell every connection, wait for those that move.
* A client can end its own connection and nothing else.
* Ctrl-C ends who serves at a checkpoint of his main task, and never strikes between two steps of ours: each task that
  we start is protected (`trio.lowlevel.enable_ki_protection`). What applications start is not. It comes out as it is,
  and not in a group for each nursery of ours.
* What a server is given and cannot use is refused when it is given, and not when it serves.
"""

from __future__ import annotations

import inspect
import logging
import ssl
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Literal

import trio

from trio_wsgi.address import Address
from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError, find_first
from trio_wsgi.net.accepting import Acceptor, Door
from trio_wsgi.net.certificates import Tls, describe_kernel_tls, is_ours, load_certificates, open_tls
from trio_wsgi.net.connection import Connection
from trio_wsgi.net.copies import Copies
from trio_wsgi.net.drain import DrainLimits, drain_connections
from trio_wsgi.net.inthread import run_in_thread
from trio_wsgi.net.listeners import Listener, ListeningSocket, borrow_listeners, open_listeners, resolve
from trio_wsgi.net.observe import AccessLog, Observer, Observers
from trio_wsgi.net.service import Service, open_service
from trio_wsgi.net.status import Statistics
from trio_wsgi.net.unixsocket import find_access
from trio_wsgi.rules.environ import Site
from trio_wsgi.setting import Reach
from trio_wsgi.version import __version__
from trio_wsgi.wsgi.call import WSGIApplication
from trio_wsgi.wsgi.loading import apply_middleware, check_app

log = logging.getLogger("trio_wsgi.error")

_State = Literal["not started", "serving", "draining", "ended"]


class Server:
    """A WSGI server for one app.

    Args:
        app: the WSGI application.
        config: the settings; the defaults if None. Keys are read and middleware is imported here and now, which blocks.
            Relative paths count from the working directory of now, but in `bind`: those from that of `serve`.
        observers: called with the `RequestRecord` of every finished request, on the event loop, some milliseconds after
            its end at most; must be quick. What they return is ignored.
        tls: what `open_tls` gave for these settings, where we may not read keys any more; else they are read here.
        processes: how many serve the application, this one included: they share the processors, and `wsgi.multiprocess`
            is whether there are others.

    Raises:
        ConfigError: a certificate, or what belongs to it, cannot be used, or `tls` is given and the settings name none;
            or a setting has no effect here, such as those of processes, reloading and log files: docs/configuration.md
            lists them.
        AppLoadError: a middleware cannot be loaded.
        TypeError: `app` is no WSGI application, or another argument is not what it should be.
        ValueError: `processes` is less than 1.
    """

    def __init__(
        self,
        app: WSGIApplication,
        config: Config | None = None,
        *,
        observers: Sequence[Observer] = (),
        tls: Tls | None = None,
        processes: int = 1,
    ) -> None:
        check_app(app)
        self.config: Config = _check_config(config).placed()
        _check_observers(observers)
        if processes < 1:
            raise ValueError(f"processes must be 1 or more, as this one is among them, not {processes}")
        self._app = apply_middleware(app, self.config.middleware)
        self._processes = processes
        self._observers = Observers(AccessLog(self.config.access_logformat), tuple(observers))
        self._tls = open_tls(self.config) if tls is None else _check_tls(tls, self.config)
        self._accepting = trio.CancelScope()
        self._drain_limits = DrainLimits(
            self.config.graceful_timeout, self.config.drain_max, self.config.drain_min_rate
        )
        self._connections: set[Connection] = set()
        self._copies = Copies(self._connections)
        # From then on, only application threads can keep `serve` from returning.
        self.connections_ended: trio.Event = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None  # of the loop that it serves on
        self._state: _State = "not started"  # for people; what is done next is for the scopes to say
        self._service: Service | None = None  # while it runs

    def __repr__(self) -> str:
        return f"<Server {self._state}, {len(self._connections)} connections>"

    @trio.lowlevel.enable_ki_protection
    async def serve(
        self,
        listeners: Sequence[ListeningSocket] | None = None,
        *,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `drain` or cancellation.

        Args:
            listeners: listening sockets to use instead of `config.bind`; the caller closes them. They become
                non-blocking.
            task_status: gets the bound addresses once connections are accepted.

        Raises:
            ConfigError: an address cannot be listened at, or a listener does not listen.
            TypeError: `listeners` are no sockets, or those of TLS.
            ValueError: there are none in it.
            RuntimeError: the server serves already, or has served, or this is no task of Trio's.
            OSError: no thread can be started, which looks for addresses and directories.

        Cancellation: a clean stop. Connections are cut, what apps have opened is closed, and threads are waited for: an
            app that ignores its cancellation delays it.
        """
        if not trio.lowlevel.in_trio_task():
            raise RuntimeError("trio-wsgi serves on Trio's event loop, and this is another: see trio.run(), or run()")
        if listeners is not None:
            _check_listeners(listeners)
        with self._once(), ExitStack() as stack:
            if listeners is not None:
                opened = stack.enter_context(borrow_listeners(listeners))
            else:
                resolved = await run_in_thread(resolve, self.config.addresses)
                access = await run_in_thread(find_access, self.config)
                reuse_port = self.config.reuse_port
                opening = open_listeners(resolved, self.config.backlog, reuse_port=reuse_port, access=access)
                # A directory may be locked, or on a disk that is slow.
                opened = await run_in_thread(stack.enter_context, opening)
            await self._serve(opened, task_status)

    @trio.lowlevel.enable_ki_protection
    async def serve_opened(
        self,
        listeners: Sequence[Listener],
        *,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """`serve` at listeners that are open already; they are closed when the server drains."""
        with self._once():
            await self._serve(listeners, task_status)

    @contextmanager
    def _once(self) -> Iterator[None]:
        """In the block it serves, or tries to: before that it touches nothing that may be served already."""
        if self._token is not None:
            raise RuntimeError(f"a server serves once: make another beside {self!r}")
        self._token = trio.lowlevel.current_trio_token()
        try:
            yield
        finally:
            if self._state != "ended":  # nothing came of it, and it may be tried again
                self._token = None

    async def _serve(self, listeners: Sequence[Listener], task_status: trio.TaskStatus[tuple[Address, ...]]) -> None:
        if self._state == "not started":
            self._state = "serving"
        interrupt = None
        try:
            with self._copies.given_up([listener.sock.getsockname() for listener in listeners]):
                await self._serve_once(listeners, task_status)
        except BaseExceptionGroup as group:
            interrupt = _find_interrupt(group)
            if interrupt is None:
                raise
        finally:
            self._state = "ended"
        if interrupt is not None:  # raised here, it has no context but its own
            try:
                raise interrupt
            finally:
                del interrupt  # its traceback holds this frame

    async def _serve_once(
        self, listeners: Sequence[Listener], task_status: trio.TaskStatus[tuple[Address, ...]]
    ) -> None:
        async with (
            open_service(self._app, self.config, self._observers, self._tls, self._processes) as service,
            trio.open_nursery() as draining,
        ):
            self._service = service
            self._copies.pump = service.pump
            if self._tls is not None:
                log.info(
                    "TLS: certificates from %s; kernel TLS: %s", ", ".join(self.config.certfile), describe_kernel_tls()
                )
            try:
                async with trio.open_nursery() as connections:
                    doors = [Door(each, _build_site(self.config, each, self._processes > 1)) for each in listeners]
                    acceptor = Acceptor(service, connections, doors, self._connections, self._copies, self._accepting)
                    await acceptor.run(task_status)
                    draining.start_soon(drain_connections, self._connections, lambda: self._drain_limits)
            finally:
                self.connections_ended.set()
                self._service = None
            draining.cancel_scope.cancel()

    def drain(self, graceful_timeout: float | None = None, drain_max: float | None = None) -> None:
        """Stop accepting; idle connections end at once, busy ones after their response.

        After `graceful_timeout` seconds those are cut that do not move at least `drain_min_rate`, after `drain_max` all
        of them. `serve` returns when they have ended. May be called again, before `serve`, and from any thread, such as
        the application's; times that are new begin anew.

        Args:
            graceful_timeout, drain_max: in place of the settings of these names.

        Raises:
            TypeError, ValueError: one of them is no number of seconds, or below 0.
        """
        _check_seconds("graceful_timeout", graceful_timeout)
        _check_seconds("drain_max", drain_max)
        config = self.config
        limits = DrainLimits(
            config.graceful_timeout if graceful_timeout is None else graceful_timeout,
            config.drain_max if drain_max is None else drain_max,
            config.drain_min_rate,
        )
        token = self._token
        if token is None or (trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is token):
            self._drain(limits)
        else:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._drain, limits)

    def _drain(self, limits: DrainLimits) -> None:
        self._drain_limits = limits
        if self._state != "ended":
            self._state = "draining"
        self._accepting.cancel()
        for connection in self._connections:
            connection.drain()

    async def reload_certificates(self) -> None:
        """Read the files of certificates anew, for the handshakes to come; without TLS, nothing.

        Raises:
            ConfigError: they cannot be used; those that were loaded before stay.
        """
        if self._tls is not None:
            try:
                self._tls.context = await run_in_thread(load_certificates, self.config)
            except OSError as exc:
                raise ConfigError("certfile", f"cannot be read now: {exc.strerror}") from exc

    def statistics(self) -> Statistics:
        """What the server is doing: an immutable snapshot. Call it on the event loop, while `serve` runs.

        Raises:
            RuntimeError: it does not run, or not on the event loop of this thread: there,
                `trio.from_thread.run_sync(server.statistics)`.
        """
        if self._service is None:
            raise RuntimeError("the server does not run")
        if trio.lowlevel.current_trio_token() is not self._token:
            raise RuntimeError("the server runs on the event loop of another thread: this one must not look into it")
        jobs = {id(job.sock): job for job in self._service.pump.jobs()}
        return Statistics(
            draining=self._accepting.cancel_called,
            threads=self._service.threads.counts(),
            connections=tuple(connection.status(jobs) for connection in self._connections),
            lost_stacks=self._service.threads.lost_stacks(),
        )


async def serve(
    app: WSGIApplication,
    config: Config | None = None,
    *,
    listeners: Sequence[ListeningSocket] | None = None,
    observers: Sequence[Observer] = (),
    task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a WSGI app inside a Trio program: `addresses = await nursery.start(trio_wsgi.serve, app, config)`.

    Runs until it is cancelled. Arguments and errors are those of `Server` and `Server.serve`; make a `Server` to drain
    it, or to give it `tls` of its own or `processes`.
    """
    await Server(app, config, observers=observers).serve(listeners, task_status=task_status)


def _find_interrupt(group: BaseExceptionGroup[BaseException]) -> KeyboardInterrupt | None:
    """The Ctrl-C, if that is all there is in the group."""
    interrupts, others = group.split(KeyboardInterrupt)
    first = None if interrupts is None or others is not None else find_first(interrupts)
    return first if isinstance(first, KeyboardInterrupt) else None


def _check_config(config: object) -> Config:
    if config is None:
        return Config()
    if not isinstance(config, Config):
        raise TypeError(f"settings are handed over as trio_wsgi.Config(...), not as this: {config!r}")
    config.check_reach(Reach.SERVER)
    return config


def _check_observers(observers: object) -> None:
    if not isinstance(observers, Collection) or not all(map(callable, observers)):
        raise TypeError(f"observers are a list of functions of one record, not {observers!r}")
    for observer in observers:
        if inspect.iscoroutinefunction(observer) or inspect.iscoroutinefunction(type(observer).__call__):
            raise TypeError(f"{observer!r} is asynchronous, and observers are called: have it start a task of yours")


def _check_tls(tls: object, config: Config) -> Tls:
    if not is_ours(tls):
        raise TypeError(f"tls is what trio_wsgi.open_tls(config) gives, with rules of its own, and not {tls!r}")
    if not config.certfile:
        raise ConfigError("certfile", "there is none, and yet tls is given", "use the settings that open_tls was given")
    return tls


def _check_listeners(listeners: object) -> None:
    if not isinstance(listeners, Collection) or not all(isinstance(each, ListeningSocket) for each in listeners):
        raise TypeError(f"listeners are a list of listening sockets, not {listeners!r}")
    if not listeners:
        raise ValueError("listeners is empty: nobody could come; without it, the addresses of bind are served")
    for listener in listeners:
        if isinstance(listener, ssl.SSLSocket):
            raise TypeError(f"{listener!r} would be served without TLS: hand over a plain socket, and name certfile")


def _check_seconds(name: str, seconds: object) -> None:
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{name} is a number of seconds, not {seconds!r}")
    if not seconds >= 0:
        raise ValueError(f"{name} is 0 or more, math.inf for no limit, and not {seconds!r}")


def _build_site(config: Config, listener: Listener, multiprocess: bool) -> Site:
    return Site(
        server_name=listener.server_name,
        server_port=listener.server_port(config.scheme),
        script_name=config.url_prefix,
        scheme=config.scheme,
        software=f"trio-wsgi/{__version__}",
        multithread=config.threads > 1,
        multiprocess=multiprocess,
        pass_authorization=config.pass_authorization,
        extra=dict(config.var),
    )
