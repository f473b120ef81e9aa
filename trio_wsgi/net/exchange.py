"""One request and its response, from the head that has arrived to the record that is handed to the observers.

Laws:

* Exactly one record is emitted, whatever happens.
* What the app opened is closed exactly once, after the last byte or after the failure.
* A failure is answered if no byte of a response was framed; otherwise the connection is cut, so that the client can
  tell.
* The connection may be kept only when the request was read, and the response sent, to the end.
"""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import trio

from sendfile import Transfer as Job
from trio_wsgi.disk.answer import Answer
from trio_wsgi.disk.mount import Mount, find_mount
from trio_wsgi.errors import AppError, ClientError, ClientGone
from trio_wsgi.net.apps import Call
from trio_wsgi.net.clock import AppClock
from trio_wsgi.net.inlet import ArrivingBody, free_body, gather_body, wait_body
from trio_wsgi.net.outlet import Outlet
from trio_wsgi.net.service import Service
from trio_wsgi.net.status import ConnectionStatus, State, Transfer
from trio_wsgi.net.verdict import AppFailed, AppTimedOut, judge
from trio_wsgi.net.wire import Wire
from trio_wsgi.net.work import Work
from trio_wsgi.record import Outcome, RequestRecord
from trio_wsgi.rules.environ import Site, build_environ
from trio_wsgi.rules.head import RequestHead
from trio_wsgi.rules.headers import Head, Headers, finish_headers, get_all, http_date
from trio_wsgi.rules.paths import MountPath
from trio_wsgi.wsgi import bridge
from trio_wsgi.wsgi.call import call_app
from trio_wsgi.wsgi.errorlog import ErrorLog
from trio_wsgi.wsgi.filewrapper import FileWrapper
from trio_wsgi.wsgi.input import open_gathered, open_input
from trio_wsgi.wsgi.policies import ENVIRON_KEY
from trio_wsgi.wsgi.response import Response
from trio_wsgi.wsgi.spool import Spool

log = logging.getLogger("trio_wsgi.error")

_RANGE_START = re.compile(rb"bytes ([0-9]{1,18})-")
_SECONDS = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")
UNREAD_MAX = 64 * 1024  # bytes of a body the app left unread that are read on for the sake of the connection


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, and which site it came to."""

    site: Site
    address: tuple[str, int] | None  # None on a unix socket


class Exchange:
    """One request on one connection.

    Args:
        service: what all connections share.
        wire: of the connection.
        nursery: of the connection.
        peer: who asks.
        head: the request, or None when what arrived was no request that could be read.
        draining: tells whether the server is about to go, so that the connection is not kept.
    """

    def __init__(
        self,
        service: Service,
        wire: Wire,
        nursery: trio.Nursery,
        peer: Peer,
        head: RequestHead | None,
        draining: Callable[[], bool],
    ) -> None:
        self._service = service
        self._wire = wire
        self._peer = peer
        self._head = head
        self._draining = draining
        config = service.config
        self._outlet = Outlet(wire, nursery, self._dress, service.send_limits)
        self._arriving: ArrivingBody | None = None  # the body, while the app itself receives it
        self._environ: dict[str, Any] = {}
        self._errors = ErrorLog()
        self._work = Work(nursery, "the request")
        self.call: Call | None = None  # the app's, once it was asked
        self._opening = False  # a mount's file
        self._started = time.time()
        self._clock = trio.current_time()
        self._promised: int | None = None
        self._outcome = Outcome.FINISHED
        self._reason = ""
        self.keep = head is not None and head.keep_alive and config.keep_alive > 0
        self.cut = False  # the client is to see that the response is not whole

    # -- what it is doing ----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """How far the request has come."""
        if self._outlet.delivering:
            return State.SENDING
        if self.call is not None:
            return State.QUEUED if self.call.running_since is None else State.RUNNING
        return State.OPENING if self._opening else State.READING_BODY

    @property
    def taken(self) -> int:
        """Bytes of the body that the client itself has taken."""
        return max(0, self._outlet.body_sent - self._wire.transport.held())

    def status(self, peer: str, job: Job | None) -> ConnectionStatus:
        """A snapshot; `peer` as it is to be shown, `job` its delivery if the pump has one."""
        asked, state, transfer = self._wire.asked, self.state, None
        if state is State.SENDING or job is not None:  # the app may be waiting for it in write()
            transfer = Transfer(
                self._outlet.body_sent, self._promised, job.rate if job else 0.0, job.stalled_for if job else 0.0
            )
        return ConnectionStatus(
            peer=peer,
            state=state,
            request=f"{asked.method.decode('ascii')} {asked.target.decode('latin-1')}" if asked else "",
            seconds=trio.current_time() - self._clock,
            transfer=transfer,
            thread=self.call.thread if self.call is not None and state is State.RUNNING else 0,
            stack=self.call.stack() if self.call is not None and state is State.RUNNING else "",
        )

    # -- the way through -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the request; `keep` tells whether the connection may take another one."""
        async with self._settling():
            assert self._head is not None
            if (found := find_mount(self._service.mounts, self._head)) is not None:
                await self._send(await self._ask_mount(self._head, *found))
            else:
                async with self._receiving_body(self._head) as (body, length):
                    answer = await self._ask_app(self._head, body, length)
                    await self._send(answer)
                await self._work.end()
            if self.keep:
                await self._finish_body()

    async def refuse(self, exc: Exception) -> None:
        """Answer what could not be read as a request, and leave a record of it."""
        async with self._settling():
            raise exc

    @asynccontextmanager
    async def _settling(self) -> AsyncIterator[None]:
        """Turn what goes wrong into an answer or a cut; emit the record."""
        try:
            try:
                yield
            except Exception as exc:
                if isinstance(exc.__cause__ or exc, ClientGone):
                    # The end of the server, to whoever was sending, is an end of the connection; here it is told apart.
                    await trio.lowlevel.checkpoint_if_cancelled()
                await self._fail(exc)
        except trio.Cancelled:
            self.keep, self.cut = False, self._wire.response_started
            self._set_outcome(Outcome.SHUTDOWN, self._shutdown_reason())
            log.warning("%s: %s", self._label(), self._reason)
            raise
        except ClientGone as exc:  # the client did not even take the answer to its failure
            self.keep = False
            log.debug("%s: could not answer: %s", self._label(), exc)
        except Exception:
            self.keep, self.cut = False, self._wire.response_started
            log.exception("%s: the answer to a failure failed; please report this", self._label())
        finally:
            self._emit()

    @asynccontextmanager
    async def _receiving_body(self, head: RequestHead) -> AsyncIterator[tuple[IO[bytes], int | None]]:
        """The body as the app's `wsgi.input`, and its length if it is known."""
        config = self._service.config
        if not head.has_body:
            yield io.BytesIO(), head.content_length
        elif config.request_buffering and not head.expects_continue:
            spool = Spool(config.body_buffer_size, config.temp_limit, config.temp_path)
            try:
                yield open_gathered(await gather_body(self._wire, spool, config.body_timeout)), len(spool)
            finally:
                await free_body(spool)
        else:
            self._arriving = ArrivingBody(self._wire, config.body_timeout, config.write_timeout, head.expects_continue)
            yield open_input(self._arriving), head.content_length

    async def _ask_mount(self, head: RequestHead, mount: Mount, path: MountPath) -> Answer:
        if head.expects_continue:
            self.keep = False  # nobody will ask for the body
        self._opening = True
        call = Call(partial(mount.answer, head, path), dispose=_dispose)
        answer: Answer = await self._service.disk.run(call)
        return answer

    async def _ask_app(self, head: RequestHead, body: IO[bytes], length: int | None) -> Answer:
        service = self._service
        environ = build_environ(self._peer.site, head, peer=self._peer.address, body_length=length)
        environ["wsgi.input"] = body
        environ["wsgi.errors"] = self._errors
        environ["wsgi.file_wrapper"] = FileWrapper
        environ["wsgi.early_hints"] = self._outlet.hint
        environ["trio_wsgi.nursery"] = self._work
        environ["trio_wsgi.server_nursery"] = service.work
        environ["trio_wsgi.wait_writable"] = self._outlet.wait_writable
        environ[ENVIRON_KEY] = service.config.write_policy
        self._environ = environ
        response = Response(head, environ, self._outlet, service.buffering, service.answers)
        call = partial(_call_in_thread, partial(call_app, service.app, environ, response))
        try:
            return await self._run_app(call)
        except BaseException:
            response.close()
            raise
        finally:
            self._errors.flush()

    async def _run_app(self, fn: Callable[[], Answer]) -> Answer:
        """Run the app in a thread, while its client is there and for no longer than it may take."""
        clock = self._outlet.clock = AppClock(self._app_timeout())
        if self._arriving is not None:
            self._arriving.clock = clock
        gone: list[bool] = []

        def client_gone() -> None:
            gone.append(True)
            clock.scope.cancel()

        config, environ = self._service.config, self._environ
        call = self.call = Call(fn, dispose=_dispose, begins=clock.begin)
        environ["trio_wsgi.cancelled"] = lambda: call.cancelled
        environ["trio_wsgi.set_app_timeout"] = lambda seconds: bridge.run_sync(clock.allow, seconds)
        answer: Answer | None = None
        try:
            with clock.scope, self._service.watch.watching(self._wire.transport.sock, client_gone):
                answer = await self._service.threads.run(call, config.queue_timeout)
        finally:
            self._outlet.delivering = True  # its slot may run another call now
        if not clock.scope.cancel_called and answer is not None:
            return answer
        if answer is not None:  # the app did not mind being cancelled
            await self._close(answer)
        raise ClientGone(0, "closed by the client while the application ran") if gone else AppTimedOut(clock.seconds)

    def _app_timeout(self) -> float:
        """What the request's trusted header says, where the operator has named one, else the setting."""
        config, head = self._service.config, self._head
        if config.app_timeout_header and head is not None:
            for value in get_all(head.headers, config.app_timeout_header.lower().encode()):
                if _SECONDS.fullmatch(value):
                    return min(float(value), config.app_timeout)
        return config.app_timeout

    async def _send(self, answer: Answer) -> None:
        if self._wire.body_left > UNREAD_MAX:
            self.keep = False  # nobody reads it any more
        try:
            await self._outlet.deliver(answer)
            if answer.missing:
                raise AppFailed from AppError(f"the body ended {answer.missing} bytes before its Content-Length")
        finally:
            await self._close(answer)

    async def _close(self, answer: Answer) -> None:
        close = partial(_close_logging, answer.close)
        if answer.close_at_once:
            close()
            return
        # Also when cancelled: it is the app's own clean-up. It is run in any case; this only bounds the wait for it.
        with trio.move_on_after(self._service.config.linger_timeout, shield=True):
            await self._service.threads.run_closing(close)

    async def _finish_body(self) -> None:
        """Read what the app left of the body, up to a bound; beyond it the connection is not worth it."""
        wire = self._wire
        if self._arriving is not None and (self._arriving.expects_continue or self._arriving.failure):
            self.keep = False
            return
        with trio.move_on_after(self._service.config.linger_timeout):
            unread = 0
            while not wire.body_done and unread < UNREAD_MAX:
                try:
                    unread += len(wire.receive_body_nowait())
                except trio.WouldBlock:
                    await wait_body(wire, self._service.config.body_timeout)
                except (ClientError, ClientGone):  # the response was sent; this only ends the connection
                    break
        self.keep = wire.body_done

    # -- what the response carries -------------------------------------------------------------------------------

    def _dress(self, head: Head, length: int | None) -> Headers:
        """The app's headers, completed for the wire."""
        request = self._head
        if self._arriving is not None and self._arriving.failure is not None:
            self.keep = False  # the app answers in spite of a body that did not arrive whole
        if self._arriving is not None and self._arriving.expects_continue:
            self.keep = False  # the client may or may not send its body now; nobody can tell (RFC 9110 §10.1.1)
        if self._draining():
            self.keep = False
        headers = finish_headers(
            head.headers,
            status=head.status,
            date=http_date(time.time()),
            server=self._service.config.ident.encode("latin-1"),
            length=length,
            close=not self.keep,
        )
        promised = [value for name, value in headers if name.lower() == b"content-length"]
        self._promised = int(promised[0]) if promised else None
        if request is not None and request.version == b"1.0" and self.keep:
            if self._wire.body_done and (promised or head.status in (204, 304)):
                headers.append((b"Connection", b"keep-alive"))
            else:
                self.keep = False
        return headers

    # -- what went wrong -----------------------------------------------------------------------------------------

    async def _fail(self, exc: Exception) -> None:
        """Tell the log, and the client: by an answer if nothing was sent, else by a cut."""
        if isinstance(exc, AppFailed) and self._outlet.failure is not None:
            exc = self._outlet.failure  # whatever the app made of it
        verdict = judge(exc, self._service.config.expose_tracebacks)
        self.cut = self._wire.response_started
        await self._work.end()
        self._set_outcome(verdict.outcome, verdict.reason, keep=verdict.keeps and not self.cut and self._wire.body_done)
        said = (self._label(), verdict.outcome.value, verdict.reason)
        log.log(verdict.severity, "%s: %s, %s", *said, exc_info=verdict.error)
        if self.cut:
            await self._outlet.settle()  # what was accepted from the app is still on its way
        elif verdict.status:
            body = verdict.body()
            has_body = self._wire.asked is None or self._wire.asked.method != b"HEAD"
            head = Head(*verdict.status_line, verdict.headers())
            await self._outlet.deliver(Answer(head, [body] if has_body else [], len(body)))

    def _shutdown_reason(self) -> str:
        """Where the client can resume: a file is asked for from that byte on (RFC 9110 §14)."""
        sent = self._outlet.sent_head
        if sent is None:
            return "the server shut down before it answered"
        ranges = [_RANGE_START.match(value) for value in get_all(sent.headers, b"content-range")]
        start = int(ranges[0][1]) if ranges and ranges[0] else 0
        total = "" if self._promised is None else f" of {start + self._promised}"
        return f"cut by the shutdown at byte {start + self._outlet.body_sent}{total}"

    def _set_outcome(self, outcome: Outcome, reason: str, keep: bool = True) -> None:
        self._outcome = outcome
        self._reason = reason
        self.keep = self.keep and keep

    # -- what is told of it --------------------------------------------------------------------------------------

    def _label(self) -> str:
        address = self._peer.address
        who = f"{address[0]}:{address[1]}" if address else "unix"
        asked = self._wire.asked
        if asked is None:
            return who
        return f"{who} {asked.method.decode('ascii')} {asked.target.decode('latin-1')!r}"

    def _emit(self) -> None:
        self._errors.flush()  # what close() of the app's file said
        asked, address, sent = self._wire.asked, self._peer.address or ("", 0), self._outlet.sent_head
        record = RequestRecord(
            peer=address[0],
            peer_port=address[1],
            method=asked.method.decode("ascii") if asked else "-",
            target=asked.target.decode("latin-1") if asked else "-",
            version=f"HTTP/{asked.http_version.decode('ascii')}" if asked else "-",
            status=sent.status if sent else 0,
            outcome=self._outcome,
            reason=self._reason,
            body_sent=self._outlet.body_sent,
            body_promised=self._promised,
            started=self._started,
            duration=trio.current_time() - self._clock,
            request_headers=tuple(asked.headers) if asked else (),
            response_headers=tuple([(name.lower(), value) for name, value in sent.headers]) if sent else (),
            environ=self._environ,
        )
        for observer in self._service.observers:
            try:
                observer(record)
            except Exception:
                log.exception("an observer of finished requests failed")
        self._outlet.forget()


def _call_in_thread(call: Callable[[], Answer]) -> Answer:
    """What the app raises is its failure, be it SystemExit; only the cancellation of the request is ours."""
    try:
        return call()
    except bridge.Cancelled:
        raise
    except BaseException as exc:
        raise AppFailed from exc


def _dispose(answer: Answer) -> None:
    """An answer that came after its request had been given up."""
    answer.close()


def _close_logging(close: Callable[[], object]) -> None:
    try:
        close()
    except BaseException:  # SystemExit, too, would end the server
        log.exception("close() of the application's file failed")
