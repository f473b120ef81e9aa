"""The application's part in one request: its body in, the call in a thread, its answer out.

Laws:

* The app runs while its client is there, and for no longer than it may take; then its request is cancelled.
* A body is gathered before a thread is taken, or received by the app itself.
* An answer that nobody wants any more is closed all the same.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import IO, Any, NoReturn

import trio

from trio_wsgi.disk.answer import Answer
from trio_wsgi.disk.closing import Closing
from trio_wsgi.disk.spool import Spool
from trio_wsgi.errors import ClientError, ClientGone
from trio_wsgi.forks import here
from trio_wsgi.net.appthread import AppThread
from trio_wsgi.net.clock import AppClock
from trio_wsgi.net.inlet import ArrivingBody, free_body, gather_body
from trio_wsgi.net.lane import Ride
from trio_wsgi.net.outlet import Outlet
from trio_wsgi.net.peer import Peer
from trio_wsgi.net.service import Service
from trio_wsgi.net.slot import Abandoned, Call, Running, nothing, tells_of_cancellation
from trio_wsgi.net.verdict import AppFailed, AppTimedOut
from trio_wsgi.net.watch import CLOSED
from trio_wsgi.net.wire import Wire
from trio_wsgi.net.work import Work
from trio_wsgi.record import NO_ENVIRON, SeenEnviron
from trio_wsgi.rules.environ import build_environ
from trio_wsgi.rules.head import RequestHead
from trio_wsgi.rules.headers import get_all
from trio_wsgi.wsgi import bridge
from trio_wsgi.wsgi.call import WSGIApplication, call_app
from trio_wsgi.wsgi.errorlog import ErrorLog
from trio_wsgi.wsgi.filewrapper import FileWrapper
from trio_wsgi.wsgi.input import open_empty, open_gathered, open_input
from trio_wsgi.wsgi.policies import ENVIRON_KEY
from trio_wsgi.wsgi.response import Response

log = logging.getLogger("trio_wsgi.error")

_MANY = 256  # blocks of an answer: to frame them takes the thread some 0.3 ms, which are not the loop's
_SECONDS = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")


class AppRun:
    """One request as the application serves it.

    Args:
        outlet: the way out for what the app sends itself.
        thread: where it will run.
        nursery: of the connection; what the app starts for the request runs in it.
    """

    def __init__(
        self,
        service: Service,
        wire: Wire,
        outlet: Outlet,
        thread: AppThread,
        peer: Peer,
        head: RequestHead,
        nursery: trio.Nursery,
    ) -> None:
        self._service = service
        self._wire = wire
        self._outlet = outlet
        self._thread = thread
        self._peer = peer
        self._head = head
        self._arriving: ArrivingBody | None = None  # the body, while the app itself receives it
        self.work = Work(nursery, "the request", wire.transport.token, thread.attended)
        self.errors = ErrorLog()
        self.environ = NO_ENVIRON  # for observers; else a slow download would hold more than it needs
        self.client: tuple[str, str] | None = None  # as a proxy of ours had told, before the app saw the environ
        self._watched: int | None = None  # by the watch for disconnects
        self._abandon: Callable[[], None] | None = None  # while there is a call to be given up
        self._gone = ""  # how the client went, while the app ran

    def __repr__(self) -> str:
        return f"<AppRun of {self._head.target!r}>"

    @property
    def body_failure(self) -> ClientError | ClientGone | None:
        """Why the body did not arrive whole, where the app has received it itself."""
        return None if self._arriving is None else self._arriving.failure

    @property
    def body_refused(self) -> bool:
        """Whether nobody can tell what comes next on the wire: the body did not arrive whole, or was not asked for."""
        # The client may or may not send a body that it was not asked for (RFC 9110 §10.1.1).
        return self.body_failure is not None or (self._arriving is not None and self._arriving.expects_continue)

    @asynccontextmanager
    async def receiving_body(self) -> AsyncIterator[tuple[IO[bytes], int | None]]:
        """The body as the app's `wsgi.input`, and its length where it was gathered: `ask` wants both."""
        service, head = self._service, self._head
        config, threads = service.config, service.upload_threads
        if config.request_buffering and not head.expects_continue:
            spool = Spool(config.body_buffer_size, config.temp_limit, config.temp_path)
            try:
                body = await gather_body(self._wire, spool, config.body_timeout, service.buffers, threads)
                yield open_gathered(body), len(spool)
            finally:
                await free_body(spool, threads)
        else:
            self._arriving = ArrivingBody(
                self._wire, config.body_timeout, config.write_timeout, head.expects_continue, self._thread
            )
            try:
                yield open_input(self._arriving), None
            finally:
                self._arriving.close()

    async def ask(self, body: IO[bytes], length: int | None = None) -> Answer:
        """Call the app, and return what is left to send.

        It runs in a thread, while its client is there and for no longer than it may take.

        Args:
            body: the request's.
            length: of it; None where the head tells, if anybody does.

        Raises:
            AppFailed: the app raised.
            AppTimedOut, ClientGone, Overloaded, ClientError: it was not run to its end.
        """
        threads, unbelieved = self._service.threads, self._service.unbelieved
        call = Call(nothing, dispose=dispose_answer)
        environ = self._build_environ(body, length, None if unbelieved is None else unbelieved.note)
        call.fn = self._prepare(call, environ)
        call.begins = self._look_after(partial(threads.abandon, call)).begin
        return await self.accept(threads.run(call, self._service.config.queue_timeout))

    def ask_in_lane(self, ride: Ride) -> Answer:
        """Call the app, here in the lane's thread, with no body; the loop may `attend` meanwhile. Raises as the app."""
        call = self._prepare(ride, self._build_environ(open_empty()))
        ride.begin()
        return call()

    def attend(self, ride: Ride, since: float) -> None:
        """On the loop: look after what the lane's thread runs since then."""
        self._look_after(ride.abandon).begin(self._service.now() - since)

    async def accept(self, outcome: Awaitable[Answer]) -> Answer:
        """Await the app's answer, and return what is left to send; raises as `ask`."""
        service, answer = self._service, None
        running = self._thread.call
        try:
            answer = await outcome
        except Abandoned:
            pass
        finally:
            if self._watched is not None:
                service.watch.end(self._watched)
            clock, self._abandon = self._thread.clock, None  # thousands are sending then
            if clock is not None:
                clock.end()
            self.end_call()
            self._outlet.delivering = True
        if answer is not None:
            closing = answer.closing
            if closing is not None and running is not None and not closing.quick:
                closing.close = partial(running.context.run, closing.close)  # which goes on with what the app has set
            late = clock is not None and clock.expired and (running is None or running.cancelled)
            if self._outlet.complete or not (self._gone or late):  # what came in time may have waited for a busy loop
                return answer
            await close(service, answer.closing)  # the app did not mind being cancelled
        if self._gone or clock is None:
            raise ClientGone(0, self._gone or CLOSED)
        raise AppTimedOut(clock.seconds)

    def end_call(self) -> None:
        """The app is done: keep nothing of its call."""
        self._thread.call = self._thread.clock = None  # its slot may run another one now
        self.errors.flush()

    def _prepare(self, running: Running, environ: dict[str, Any]) -> Callable[[], Answer]:
        """What is to be called in a thread."""
        service = self._service
        environ["trio_wsgi.cancelled"] = lambda: running.cancelled
        environ["trio_wsgi.set_app_timeout"] = self._thread.allow_seconds
        response = Response(self._head, environ, self._outlet, service.buffering, service.answers)
        self._thread.call = running
        return partial(_call_app, service.app, environ, response, self._outlet, running)

    def _look_after(self, abandon: Callable[[], None]) -> AppClock:
        """Have the app run while its client is there and for no longer than it may take: else `abandon` its call."""
        service = self._service
        self._abandon = abandon
        clock = self._thread.clock = AppClock(self._app_timeout(), service.alarms, self._give_up)
        self._watched = service.watch.begin(self._wire.transport.sock, self._client_gone)
        return clock

    def _build_environ(
        self, body: IO[bytes], length: int | None = None, dropped: Callable[..., object] | None = None
    ) -> dict[str, Any]:
        service, head, peer = self._service, self._head, self._peer
        environ = build_environ(
            peer.site,
            head,
            peer=peer.address,
            body_length=length,
            forwarding=peer.forwarding,
            variables=peer.variables,
            dropped=dropped,
        )
        if peer.forwarding is not None:
            self.client = environ["REMOTE_ADDR"], environ["REMOTE_PORT"]
        environ["trio_wsgi.peer"] = peer.name
        environ["wsgi.input"] = body
        environ["wsgi.errors"] = self.errors
        environ["wsgi.file_wrapper"] = FileWrapper
        environ["wsgi.early_hints"] = self._outlet.hint
        environ["trio_wsgi.nursery"] = self.work
        environ["trio_wsgi.server_nursery"] = service.work
        environ["trio_wsgi.wait_writable"] = self._outlet.wait_writable
        environ[ENVIRON_KEY] = service.config.write_policy
        if service.observers.wants_environ:
            self.environ = SeenEnviron(environ)
        return environ

    def _client_gone(self, how: str) -> None:
        self._gone = how
        self._give_up()

    def _give_up(self) -> None:
        # Nobody waits for what runs on once all has left: close(), or what follows the last block.
        if self._abandon is not None and not self._outlet.complete:
            self._abandon()

    def _app_timeout(self) -> float:
        """What the request's trusted header says, where the operator has named one, else the setting."""
        config = self._service.config
        if config.app_timeout_header:
            for value in get_all(self._head.headers, config.app_timeout_header.lower().encode()):
                if _SECONDS.fullmatch(value):
                    return min(float(value), config.app_timeout)
        return config.app_timeout


async def close(service: Service, closing: Closing | None) -> None:
    """Close what an answer holds open, also when cancelled: it is the app's own clean-up."""
    if closing is None:
        return
    if closing.at_once:
        close_logging(closing)
        return
    # What is no code of the app's keeps no thread of the app's, where a file system hangs.
    threads = service.disks.of(closing.device) if closing.is_for_disk else service.threads
    # It is run in any case; this only bounds the wait for it.
    with trio.move_on_after(service.config.linger_timeout, shield=True):
        await threads.run_closing(partial(close_logging, closing), closing.thread)


def _call_app(
    app: WSGIApplication, environ: dict[str, Any], response: Response, outlet: Outlet, running: Running
) -> Answer:
    """What the app raises is its failure, be it SystemExit; only the cancellation of this very request is ours, and
    the Ctrl-C that struck on the loop is the program's.

    These may come in a group, or as the cause of another error. And what comes may be another request's cancellation,
    out of a future that one request has computed for others.
    """
    try:
        answer = call_app(app, environ, response)
        if answer.closing is not None:
            answer.closing.thread = threading.get_ident()
        if len(answer.parts) > _MANY and not running.cancelled:
            outlet.leave(answer)
        return answer
    except BaseException as exc:
        if running.cancelled and tells_of_cancellation(exc):
            # To look would not do: the thread hears of it before Trio lets it be looked at.
            bridge.run(trio.lowlevel.checkpoint_if_cancelled)
        if bridge.is_interrupt(exc):
            raise KeyboardInterrupt from exc
        raise AppFailed(running.context) from exc
    finally:
        if here.is_copy:
            _end_child()


def _end_child() -> NoReturn:
    """A child that the application has forked came back from it: here it would wait for clients of its parent."""
    error, code = sys.exception(), 1
    if isinstance(error, AppFailed):
        error = error.__cause__
    if isinstance(error, SystemExit) and isinstance(error.code, int | None):
        code = (error.code or 0) & 0xFF
    else:
        said = "process %d, which the application has forked, comes back from it and is ended: end it by os._exit()"
        log.error(said, os.getpid(), exc_info=error)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # broken, closed, none
            stream.flush()
    os._exit(code)


def dispose_answer(answer: Answer) -> None:
    """An answer that came after its request had been given up."""
    if answer.closing is not None:
        answer.closing.close()


def close_logging(closing: Closing) -> None:
    """Close what an answer holds open, here and now; what that raises is no more than a line in the log."""
    try:
        closing.close()
    except BaseException:  # SystemExit, too, would end the server
        log.exception("close() of the application's file failed")
