"""One request and its response, from the head that has arrived to the record that is handed to the observers.

Laws:

* Exactly one record is emitted, whatever happens.
* What the app opened is closed exactly once, after the last byte or after the failure.
* A failure is answered if no byte of a response was framed; otherwise the connection is cut, so that the client can
  tell.
* The connection may be kept only when the request was read, and the response sent, to the end.
* A response that does not say `close` is a promise: a request that is sent after it, and lost, may not be sent again.
  What is left unread of a body is then read on, as long as one would linger.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial

import trio

from sendfile import Transfer as Job
from sendfile.delivery import FAST
from sendfile.pump import DIRECT_BYTES
from trio_wsgi.disk.answer import Answer
from trio_wsgi.disk.mount import Mount, find_mount
from trio_wsgi.disk.root import NotAtHand
from trio_wsgi.errors import AppError, ClientGone
from trio_wsgi.net.account import CONTENT_RANGE, Account, Beginning
from trio_wsgi.net.apprun import AppRun, close, close_logging, dispose_answer
from trio_wsgi.net.appthread import AppThread
from trio_wsgi.net.health import answer_health
from trio_wsgi.net.inlet import UNREAD_MAX, finish_body
from trio_wsgi.net.lane import LOOP, REQUEST, ROOM, Ride, Wants
from trio_wsgi.net.lanes import SILENT_AFTER
from trio_wsgi.net.outlet import Outlet
from trio_wsgi.net.peer import Peer
from trio_wsgi.net.service import Service
from trio_wsgi.net.slot import Call, LostThread, raise_error, tells_of_cancellation
from trio_wsgi.net.status import ConnectionStatus, State, Transfer
from trio_wsgi.net.verdict import AppFailed, judge
from trio_wsgi.net.wire import Wire
from trio_wsgi.rules.dates import format_http_date
from trio_wsgi.rules.environ import check_scheme
from trio_wsgi.rules.head import RequestHead
from trio_wsgi.rules.headers import CONTENTLESS, Head, Headers, finish_headers, get_length
from trio_wsgi.rules.paths import MountPath
from trio_wsgi.wsgi.input import open_empty

log = logging.getLogger("trio_wsgi.error")

_SOON = 16 << 20  # bytes of an answer that a fast client soon has
_PATIENT = 2 * SILENT_AFTER  # seconds of write_timeout: by then who takes nothing has been given back to the loop


class Exchange:
    """One request on one connection.

    Args:
        wire, nursery: of the connection.
        head: the request, or None when what arrived was no request that could be read.
        draining: tells whether the server is about to go, so that the connection is not kept.
        beginning: when its first byte came; None for now, where the head came in one go, or was asked ahead.
    """

    def __init__(
        self,
        service: Service,
        wire: Wire,
        nursery: trio.Nursery,
        peer: Peer,
        head: RequestHead | None,
        draining: Callable[[], bool],
        beginning: Beginning | None,
    ) -> None:
        self._service = service
        self._wire = wire
        self._peer = peer
        self._head = head
        self._draining = draining
        self._thread = AppThread(wire.transport.token)
        self._outlet = Outlet(service, wire, nursery, self._dress, self._thread)
        self._nursery = nursery
        self._mounted = find_mount(service.mounts, head) if head is not None and service.mounts else None
        self._app: AppRun | None = None  # where it is the application that serves the request
        self._opening = False  # a mount's file, which is not at hand
        self._ride: Ride | None = None  # the lane has run it, and this is what came of it:
        self._answer: Answer | None = None
        self._error: BaseException | None = None
        self._sent = False  # the whole response; by the lane, it is over then, up to its record
        self._health = head is not None and head.path == service.health_path
        self._account = Account(service, wire, self._outlet, peer, self._health, beginning)
        self.keep = head is not None and head.keep_alive and service.config.keep_alive > 0
        self._cut = False  # the client is to see that the response is not whole
        self._gone = False  # the client has left, or has stalled

    def __repr__(self) -> str:
        return f"<Exchange {self._account.label}, {self.state.value}>"

    # -- what it is doing ----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """How far the request has come."""
        call = self._thread.call  # looked at once, here as below: the thread may end it meanwhile
        if call is not None and call.running_since is not None:  # be it in close(), when all has left
            return State.RUNNING
        if self._outlet.delivering:
            return State.SENDING
        if call is not None:
            return State.QUEUED
        return State.OPENING if self._opening else State.READING_BODY

    @property
    def may_be_followed(self) -> bool:
        """Whether more may be on its way: the client's next request, or the rest of what was refused."""
        return self._head is None or self._head.keep_alive

    @property
    def listened_to(self) -> bool:
        """Whether the client may still be reading what was sent, and is to have it, up to a cut or not."""
        return not (self._gone or self.looks_whole)

    @property
    def looks_whole(self) -> bool:
        """Whether the response was cut where only the end of the connection ends it: a reset is to tell that."""
        asked = self._wire.asked
        return self._cut and self._outlet.promised is None and asked is not None and asked.http_version == b"1.0"

    @property
    def fast_until(self) -> float | None:
        """Up to when the next request shows a client that reads fast; None where the answer was too small to tell."""
        if (self._outlet.promised or 0) < DIRECT_BYTES or (sent := self._outlet.body_sent) < DIRECT_BYTES:
            return None
        return self._account.began + sent / FAST

    @property
    def taken(self) -> int:
        """Bytes of the body that the client itself has taken."""
        return max(0, self._outlet.body_sent - self._wire.transport.held())

    def status(self, peer: str, job: Job | None) -> ConnectionStatus:
        """A snapshot; `peer` as it is to be shown, `job` its delivery if the pump has one."""
        asked, call, state, transfer = self._wire.asked, self._thread.call, self.state, None
        if state is State.SENDING or job is not None:  # the app may be waiting for it in write()
            transfer = Transfer(
                self._outlet.body_sent, self._outlet.promised, job.rate if job else 0.0, job.stalled_for if job else 0.0
            )
        return ConnectionStatus(
            peer=peer,
            state=state,
            request=f"{asked.method.decode('ascii')} {asked.target.decode('latin-1')}" if asked else "",
            seconds=self._account.age,
            transfer=transfer,
            thread=call.thread if call is not None and state is State.RUNNING else 0,
            stack=call.stack() if call is not None and state is State.RUNNING else "",
        )

    # -- the way through -----------------------------------------------------------------------------------------

    async def run(self, refused: Exception | None = None) -> None:
        """Serve the request, or what the lane has left of it; turn what goes wrong into an answer or a cut; emit the
        record.

        Afterwards `keep` tells whether the connection may take another one.

        Args:
            refused: why what arrived could not be read as a request.
        """
        if self._sent:
            return
        try:
            try:
                if refused is not None:
                    raise refused
                await self._serve()
            except Exception as exc:
                if isinstance(exc.__cause__ or exc, ClientGone):
                    # The end of the server, to whoever was sending, is an end of the connection; here it is told apart.
                    await trio.lowlevel.checkpoint_if_cancelled()
                await self._fail(exc)
        except (trio.Cancelled, KeyboardInterrupt):  # the latter struck what the app had asked of the loop
            self.keep = False
            if not (self._sent or self._outlet.left):  # else it is close() that was cancelled
                self._cut = self._wire.codec.response_started
                self._account.note_shutdown()
                log.warning("%s: %s", self._account.label, self._account.reason)
            raise
        except ClientGone as exc:  # the client did not even take the answer to its failure
            self.keep, self._gone = False, True
            log.debug("%s: could not answer: %s", self._account.label, exc)
        except Exception:
            self.keep, self._cut = False, self._wire.codec.response_started
            log.exception("%s: the answer to a failure failed; please report this", self._account.label)
        finally:
            refused = None  # which holds this frame
            self._account.tell()
            self._outlet.forget()

    async def _serve(self) -> None:
        head = self._head
        assert head is not None
        if head.scheme is not None:  # the lane serves none of these
            check_scheme(self._peer.site, head, self._peer.forwarding)
        if self._ride is not None:
            await self._send(await self._take_from_lane(self._ride))
        elif self._health:
            self.keep = self.keep and not head.expects_continue  # nobody will ask for the body
            await self._send(answer_health(head, self._draining()))
        elif self._mounted is not None:
            await self._send(await self._ask_mount(head, *self._mounted))
        else:
            app = self._begin_app(head)
            if not self._wire.body_done:
                async with app.receiving_body() as (body, length):
                    await self._send(await app.ask(body, length))
            else:
                await self._send(await app.ask(open_empty()))
        if self._app is not None:
            await self._app.work.end()
        if self.keep and not self._wire.body_done:
            await self._finish_body()

    def _begin_app(self, head: RequestHead) -> AppRun:
        app = AppRun(self._service, self._wire, self._outlet, self._thread, self._peer, head, self._nursery)
        self._app = self._account.app = app
        return app

    async def _finish_body(self) -> None:
        """Read what was left of the body, for the sake of the connection."""
        config = self._service.config
        self.keep = False
        if not self._body_refused:
            await finish_body(self._wire, config.linger_timeout, config.body_timeout)
        self.keep = self._wire.body_done

    @property
    def _body_refused(self) -> bool:
        """Whether nobody can tell what comes next on the wire: a body that was not asked for, or is not whole."""
        return self._app is not None and self._app.body_refused

    @property
    def _will_be_read_on(self) -> bool:
        """Whether, now that the head is about to leave, what is left of the body will be read, by the app or by us."""
        wire = self._wire
        if self._body_refused:
            return False
        # Who begins an answer and has read a part (an echo, a transformation) may read the rest: to close on each of
        # them would cost more than to read on what the others leave. Who has read nothing refuses it, nearly always.
        if wire.body_size and not self._outlet.complete:
            return True
        # How long a chunked one is nobody knows; most are small.
        return wire.body_left <= UNREAD_MAX and self._service.config.linger_timeout > 0

    async def _ask_mount(self, head: RequestHead, mount: Mount, path: MountPath) -> Answer:
        if head.expects_continue:
            self.keep = False  # nobody will ask for the body
        at_hand = None if self._opening else self._answer_at_hand(head, mount, path)  # the lane may have looked already
        if at_hand is not None:
            return at_hand
        call = Call(partial(mount.answer, head, path, self._peer.forwarding), dispose=dispose_answer)
        threads = self._service.disks.of(mount.device)
        answer: Answer = await threads.run(call, self._service.config.queue_timeout)
        return answer

    def _answer_at_hand(self, head: RequestHead, mount: Mount, path: MountPath) -> Answer | None:
        """What a mount answers at once; None where its file system may keep us waiting."""
        with suppress(NotAtHand):
            return mount.answer_nowait(head, path, self._peer.forwarding)
        self._opening = True
        return None

    async def _send(self, answer: Answer) -> None:
        try:
            if (left := self._outlet.deliver_nowait(answer)) is not None:
                self._slim()
                await left
            if answer.missing:
                raise AppFailed from AppError(f"the body ended {answer.missing} bytes before its Content-Length")
            self._sent = True
        finally:
            if answer.closing is not None:
                await close(self._service, answer.closing)

    def _slim(self) -> None:
        """What is left takes its time: where nobody is told of headers, keep those that `Account.resume_at` reads."""
        sent = self._outlet.sent_head
        if sent is not None and not self._service.observers.wants_response_headers:
            self._outlet.sent_head = sent._replace(headers=[h for h in sent.headers if h[0].lower() == CONTENT_RANGE])

    # -- in the lane ---------------------------------------------------------------------------------------------

    def serve_in_lane(self, ride: Ride) -> Wants:
        """In the lane's thread: serve the request there, up to its record, if that is possible.

        Returns:
            REQUEST where it was, and the connection may be kept; ROOM where `send_on_in_lane` is to be called when
            there is some; else `run` is to be called.
        """
        head, wire = self._head, self._wire
        assert head is not None
        if self._health or not wire.body_done or head.expects_continue or head.scheme is not None:
            return LOOP
        try:
            mounted = self._mounted
            answer = self._answer_at_hand(head, *mounted) if mounted else self._begin_app(head).ask_in_lane(ride)
        except BaseException as exc:
            self._ride, self._error = ride, exc
            if not ride.cancelled and tells_of_cancellation(exc):
                ride.spoil()
            answer = None
        else:
            if answer is not None:
                self._ride, self._answer = ride, answer
        alone = self._app is None or ride.end()  # else the loop looks after it, up to its end
        return self._leave_in_lane(ride, answer) if alone and answer is not None else LOOP

    def send_on_in_lane(self, ride: Ride) -> Wants:
        """In the lane's thread: send what there is room for by now of what is left; returns as `serve_in_lane`."""
        assert self._answer is not None
        return self._leave_in_lane(ride, self._answer, again=True)

    def _leave_in_lane(self, ride: Ride, answer: Answer, again: bool = False) -> Wants:
        # This is not the application's time: it may last where the machine is busy, and no other thread would help.
        outlet, transport = self._outlet, self._wire.transport
        try:
            if again:
                sent = outlet.leave_on()
                waited = self._service.now() - ride.stirred
                transport.fast = outlet.left or 0 < sent >= FAST * waited  # there may have been room for more
            else:
                outlet.leave(answer)
            whole = outlet.left and self._close_in_lane(ride, answer)
        except BaseException as exc:
            self._error, whole = exc, False
        if whole:
            self._end_in_lane(ride)
            return REQUEST if self.keep else LOOP
        if not (transport.fast and self._error is None and self._may_leave_from_lane(answer)):
            return LOOP
        ride.stirred = self._service.now()
        return ROOM

    def _may_leave_from_lane(self, answer: Answer) -> bool:
        """Whether what is left of the answer is soon gone, and nobody has to look after its client meanwhile."""
        service = self._service
        least = 0 if service.min_rate is None else service.min_rate.bytes_per_second
        patient = least <= FAST and service.config.write_timeout >= _PATIENT
        return patient and not answer.missing and 0 < self._outlet.leaving <= _SOON

    def _close_in_lane(self, ride: Ride, answer: Answer) -> bool:
        """In the lane's thread: close what has left.

        False where the loop is to see to it, or to what comes after it: the file system may keep who closes it, and the
        loop waits for that, but not for long; or it has lasted.
        """
        closing = answer.closing
        if closing is not None and closing.device:
            return False
        if closing is not None:
            answer.closing = None
            if not closing.quick:  # the application's own code
                ride.begin()
            close_logging(closing)
            if not closing.quick and not ride.end():
                return False
        self._account.ended = self._service.now()
        return True

    def _end_in_lane(self, ride: Ride) -> None:
        self._ride = self._answer = None
        self._sent = True
        if self._app is not None:
            self._app.work.end_unused()
            self._app.end_call()
        self._account.tell(ride.tell_loop)
        self._outlet.forget()

    async def _take_from_lane(self, ride: Ride) -> Answer:
        """The answer that the lane's thread has brought; or what went wrong there."""
        outcome = self._unwrap(ride)
        return await (outcome if self._app is None else self._app.accept(outcome))

    async def _unwrap(self, ride: Ride) -> Answer:
        error, self._ride, self._error = self._error, None, None
        try:
            if error is not None:  # what a lost thread answers, now or later, is `dispose`'s
                await raise_error(error, ride.cancelled)
        finally:
            del error
        answer, self._answer = self._answer, None
        assert answer is not None
        return answer

    def attend(self, ride: Ride, since: float) -> None:
        """On the loop: look after what the lane's thread runs since then."""
        if self._app is not None:
            self._app.attend(ride, since)

    def lose(self, ride: Ride) -> None:
        """On the loop: the lane's thread ignores that the request was cancelled; `run` is not to wait for it."""
        self._ride, self._error = ride, LostThread()

    def dispose(self) -> None:
        """In a thread: close what was answered after `lose`."""
        if self._answer is not None:
            dispose_answer(self._answer)

    # -- what the response carries -------------------------------------------------------------------------------

    def _dress(self, head: Head, length: int | None) -> tuple[Headers, int | None]:
        """The app's headers, completed for the wire, and what they say of the body's length."""
        request = self._head
        if self._draining() or not (self._wire.body_done or self._will_be_read_on):
            self.keep = False
        of_old = request is not None and request.version == b"1.0"
        if of_old and self.keep:
            told = length is not None or get_length(head.headers) is not None or head.status in CONTENTLESS
            self.keep = told and self._wire.body_done
        headers = finish_headers(
            head.headers,
            status=head.status,
            date=format_http_date(int(time.time())),
            server=self._service.config.ident.encode("latin-1"),
            length=length,
            close=not self.keep,
        )
        if of_old and self.keep:
            headers.append((b"Connection", b"keep-alive"))
        return headers, get_length(headers)

    # -- what went wrong -----------------------------------------------------------------------------------------

    async def _fail(self, exc: Exception) -> None:
        """Tell the log, and the client: by an answer if nothing was sent, else by a cut."""
        # Who reports errors and has seen this one pass, as Sentry does, knows it again by what it set in that context.
        context = (exc.context if isinstance(exc, AppFailed) else None) or copy_context()
        if isinstance(exc, AppFailed):
            exc = self._outlet.failure or (self._app and self._app.body_failure) or exc  # whatever the app made of it
        verdict = judge(exc, self._service.config.expose_tracebacks)
        self._cut = self._wire.codec.response_started
        self._gone = isinstance(exc, ClientGone) and (self._cut or not verdict.status)
        if self._app is not None:
            await self._app.work.end()
        account, told = self._account, self._outlet.failure
        account.outcome, account.reason = verdict.outcome, verdict.reason
        self.keep = self.keep and verdict.keeps and not self._cut and told is None and self._wire.body_done
        offset = f", at byte {account.resume_at}" if self._cut else ""
        said = (account.label, verdict.outcome.value, verdict.reason, offset)
        context.run(log.log, verdict.severity, "%s: %s, %s%s", *said, exc_info=verdict.error)
        if self._cut:
            try:
                await self._outlet.settle()  # what was accepted from the app is still on its way
            except Exception as failure:
                if failure is not told:
                    raise
        elif verdict.status and told is None:  # else half an interim response is out
            head, body = verdict.answer()
            has_body = self._wire.asked is None or self._wire.asked.method != b"HEAD"
            await self._outlet.deliver(Answer(head, [body] if has_body else [], len(body)))
