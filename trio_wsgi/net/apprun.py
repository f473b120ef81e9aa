"""The application's part in one request: its body in, the call in a thread, its answer out.

Laws:

* The app runs while its client is there, and for no longer than it may take; then its request is cancelled.
* A body is gathered before a thread is taken, or received by the app itself.
* An answer that nobody wants any more is closed all the same.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import IO, Any

import trio

from trio_wsgi.disk.answer import Answer
from trio_wsgi.errors import ClientGone
from trio_wsgi.net.apps import Abandoned
from trio_wsgi.net.clock import AppClock
from trio_wsgi.net.inlet import ArrivingBody, free_body, gather_body
from trio_wsgi.net.outlet import Outlet
from trio_wsgi.net.peer import Peer
from trio_wsgi.net.service import Service
from trio_wsgi.net.slot import Call
from trio_wsgi.net.verdict import AppFailed, AppTimedOut
from trio_wsgi.net.wire import Wire
from trio_wsgi.net.work import Work
from trio_wsgi.rules.environ import build_environ
from trio_wsgi.rules.head import RequestHead
from trio_wsgi.rules.headers import get_all
from trio_wsgi.wsgi import bridge
from trio_wsgi.wsgi.call import WSGIApplication, call_app
from trio_wsgi.wsgi.errorlog import ErrorLog
from trio_wsgi.wsgi.filewrapper import FileWrapper
from trio_wsgi.wsgi.input import open_gathered, open_input
from trio_wsgi.wsgi.policies import ENVIRON_KEY
from trio_wsgi.wsgi.response import Response
from trio_wsgi.wsgi.spool import Spool

log = logging.getLogger("trio_wsgi.error")

Leave = Callable[[Answer], bool]  # sends it; whether all of it has left, and the rest need not be done at once

_NO_ENVIRON: Mapping[str, Any] = MappingProxyType({})
_SECONDS = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")


class AppRun:
    """One request as the application serves it.

    Args:
        service: what all connections share.
        wire: of the connection.
        outlet: the way out for what the app sends itself.
        peer: who asks.
        head: the request.
        nursery: of the connection; what the app starts for the request runs in it.
    """

    def __init__(
        self, service: Service, wire: Wire, outlet: Outlet, peer: Peer, head: RequestHead, nursery: trio.Nursery
    ) -> None:
        self._service = service
        self._wire = wire
        self._outlet = outlet
        self._peer = peer
        self._head = head
        self._arriving: ArrivingBody | None = None  # the body, while the app itself receives it
        self.work = Work(nursery, "the request")
        self.errors = ErrorLog()
        self.environ: Mapping[str, Any] = _NO_ENVIRON
        self.client: tuple[str, str] | None = None  # as a proxy of ours had told, before the app saw the environ
        self.call: Call | None = None  # once it was asked
        self.heard = False  # the client has sent something, or left, since it was asked
        self._gone = False  # the client, while the app ran

    @property
    def body_refused(self) -> bool:
        """Whether nobody can tell what comes next on the wire: the body did not arrive whole, or was not asked for."""
        arriving = self._arriving
        # The client may or may not send a body that it was not asked for (RFC 9110 §10.1.1).
        return arriving is not None and (arriving.failure is not None or arriving.expects_continue)

    @asynccontextmanager
    async def receiving_body(self) -> AsyncIterator[tuple[IO[bytes], int | None]]:
        """The body as the app's `wsgi.input`, and its length if it is known."""
        config, head = self._service.config, self._head
        if config.request_buffering and not head.expects_continue:
            spool = Spool(config.body_buffer_size, config.temp_limit, config.temp_path)
            try:
                yield open_gathered(await gather_body(self._wire, spool, config.body_timeout)), len(spool)
            finally:
                await free_body(spool)
        else:
            self._arriving = ArrivingBody(self._wire, config.body_timeout, config.write_timeout, head.expects_continue)
            yield open_input(self._arriving), head.content_length

    async def ask(self, body: IO[bytes], length: int | None, leave: Leave | None = None) -> Answer:
        """Call the app, and return what is left to send.

        It runs in a thread, while its client is there and for no longer than it may take.

        Args:
            body: the request's.
            length: of it, if it is known.
            leave: may be called in the thread, to send the answer there; None where the client is not to be listened
                to meanwhile.

        Raises:
            AppFailed: the app raised.
            AppTimedOut, ClientGone, Overloaded, ClientError: it was not run to its end.
        """
        service = self._service
        environ = self._build_environ(body, length)
        response = Response(self._head, environ, self._outlet, service.buffering, service.answers)
        sock = None if leave is None else self._wire.transport.sock
        call = Call(partial(self._call_in_thread, environ, response, leave), dispose=dispose_answer, sock=sock)
        self.call = self._outlet.call = call
        clock = self._outlet.clock = AppClock(
            self._app_timeout(), service.alarms, partial(service.threads.abandon, call)
        )
        call.begins = clock.begin
        if self._arriving is not None:
            self._arriving.clock = clock
        environ["trio_wsgi.cancelled"] = lambda: call.cancelled
        environ["trio_wsgi.set_app_timeout"] = lambda seconds: bridge.run_sync(clock.allow, seconds)
        answer: Answer | None = None
        watched = service.watch.begin(self._wire.transport.sock, self._client_gone)
        try:
            answer = await service.threads.run(call, service.config.queue_timeout)
        except Abandoned:
            pass
        finally:
            if answer is None:
                response.close()
            service.watch.end(watched)
            clock.end()
            self.heard = call.heard
            self.call = self._outlet.call = self._outlet.clock = None  # its slot may run another one now
            self._outlet.delivering = True
            self.errors.flush()
            if not service.observers.wants_environ:
                self.environ = _NO_ENVIRON  # a slow download is to hold no more than it needs
        if answer is not None:
            if call.left or not (self._gone or clock.expired):
                return answer
            await close_answer(service, answer)  # the app did not mind being cancelled
        if self._gone:
            raise ClientGone(0, "closed by the client while the application ran")
        raise AppTimedOut(clock.seconds)

    def _call_in_thread(self, environ: dict[str, Any], response: Response, leave: Leave | None) -> Answer:
        answer = _call_app(self._service.app, environ, response)
        call = self.call
        if leave is not None and call is not None and call.stands_alone and not call.cancelled:
            call.left = leave(answer)
        return answer

    def _build_environ(self, body: IO[bytes], length: int | None) -> dict[str, Any]:
        service, head, peer = self._service, self._head, self._peer
        environ = build_environ(
            peer.site,
            head,
            peer=peer.address,
            body_length=length,
            forwarding=peer.forwarding,
            variables=peer.variables,
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
        self.environ = environ
        return environ

    def _client_gone(self) -> None:
        assert self.call is not None
        self._gone = True
        self._service.threads.abandon(self.call)

    def _app_timeout(self) -> float:
        """What the request's trusted header says, where the operator has named one, else the setting."""
        config = self._service.config
        if config.app_timeout_header:
            for value in get_all(self._head.headers, config.app_timeout_header.lower().encode()):
                if _SECONDS.fullmatch(value):
                    return min(float(value), config.app_timeout)
        return config.app_timeout


async def close_answer(service: Service, answer: Answer) -> None:
    """Close what an answer holds open, also when cancelled: it is the app's own clean-up."""
    close = partial(close_logging, answer.close)
    if answer.close_at_once:
        close()
        return
    # It is run in any case; this only bounds the wait for it.
    with trio.move_on_after(service.config.linger_timeout, shield=True):
        await service.threads.run_closing(close)


def _call_app(app: WSGIApplication, environ: dict[str, Any], response: Response) -> Answer:
    """What the app raises is its failure, be it SystemExit; only the cancellation of the request is ours."""
    try:
        return call_app(app, environ, response)
    except bridge.Cancelled:
        raise
    except BaseException as exc:
        raise AppFailed from exc


def dispose_answer(answer: Answer) -> None:
    """An answer that came after its request had been given up."""
    answer.close()


def close_logging(close: Callable[[], object]) -> None:
    try:
        close()
    except BaseException:  # SystemExit, too, would end the server
        log.exception("close() of the application's file failed")
