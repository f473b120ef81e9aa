"""The response's way out: framed by the codec, taken by the kernel at once, or delivered by the loop.

Laws:

* While the app runs, its thread owns the sending and sends without a hop; only where it would block does it ask the
  loop to deliver. With its last breath it may send what the kernel takes of the answer (`leave`); once it is done, the
  connection's task owns the sending (`deliver`).
* While the sending is lent to the backlog, nothing else sends.
* The head is framed with the first bytes that are taken, so a response that failed before may still be another one.
* After a failure everything here fails with it; after a cancellation nothing more is sent. What was framed and could
  not be handed over, for whatever reason, is such a failure: nothing is sent past a hole.
* A client that takes no byte for `write_timeout` has stalled, whether the app waits for it, tries again or computes.
"""

from __future__ import annotations

import errno
import math
from collections import deque
from collections.abc import Awaitable, Callable, MutableSequence
from typing import TypeVar, TypeVarTuple

import trio

from sendfile import FileSpan, Part, Parts, Rate
from trio_wsgi.disk.answer import Answer
from trio_wsgi.errors import AppError, ClientGone, ClientStalled
from trio_wsgi.net.appthread import AppThread
from trio_wsgi.net.backlog import Backlog
from trio_wsgi.net.service import Service
from trio_wsgi.net.transport import LOOKS, Taken
from trio_wsgi.net.wire import Wire
from trio_wsgi.rules.headers import Head, Headers, check_headers
from trio_wsgi.wsgi import bridge

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Dress = Callable[[Head, int | None], tuple[Headers, int | None]]

JOINED = 64 * 1024  # bytes of a block up to which it is copied to have one piece; sendmsg(2) costs less for more
_SMALL = 16 * 1024  # bytes of an answer that are joined: cheaper than to send them from where they are
_NOT_IN_HINTS = {b"content-length", b"transfer-encoding"}  # RFC 9110 §8.6, RFC 9112 §6.1
_AT_ONCE = 256 * 1024  # bytes that the loop sends before it looks after others
_FEW = 16  # parts that wait in a list, for a slow client's memory; many wait in a deque, for speed


def _undressed(head: Head, length: int | None) -> tuple[Headers, int | None]:
    raise AssertionError("the response is over")


class Outlet:
    """One response's way out (`wsgi.ports.Outlet`, and what the loop needs of it).

    Args:
        nursery: of the connection; where lent parts are sent.
        dress: completes the app's headers for the wire, given the body's length if it is known; tells the length that
            they promise.
    """

    def __init__(self, service: Service, wire: Wire, nursery: trio.Nursery, dress: Dress, thread: AppThread) -> None:
        self._service = service
        self._wire = wire
        self.loop_thread = wire.transport.loop_thread
        self._thread = thread
        self._dress = dress
        self._rate: Rate | None = None  # of this response; known with its head
        self._head: Head | None = None  # taken, not yet framed
        self._nursery = nursery
        self._lending: Backlog | None = None  # made when something is lent
        self._lent = False  # known to the owner alone: the backlog has the baton
        self._unsent: Parts = []  # framed, and not taken by the kernel
        self._framed = 0  # bytes of body
        self._tried = False  # by `leave`,
        self._trouble: Exception | None = None  # and what came in between
        self.left = False  # then all of the response has left
        self._full: Taken | None = None  # the kernel refused a block, and has taken none since
        self.delivering = False  # what is left of the response is being sent
        self._ended = False  # the app has given all: what comes now would reach into the next response
        self.promised: int | None = None  # bytes of body, by the head as it went out
        self.failure: Exception | None = None
        self.sent_head: Head | None = None  # as it went out

    def __repr__(self) -> str:
        return f"<Outlet, {self.body_sent} of {self.promised} bytes sent>"

    # -- in the application's thread (wsgi.ports.Outlet) ---------------------------------------------------------

    def start(self, head: Head, limit_rate: int | None = None) -> None:
        self._head = head
        config = self._service.config
        rate = config.limit_rate if limit_rate is None else limit_rate
        self._rate = Rate(rate, config.limit_rate_after) if rate else None

    def send(self, data: bytes) -> None:
        call = self._thread.call
        if call is None or call.cancelled or self._ended or self.failure is not None:
            self._check()
        if self._lent:
            self._wait(self._backlog.wait_drained)
            self._lent = False
        self._send_block(data)
        if self._unsent:
            self._wait(self._deliver, self._unsent, None)

    def _send_block(self, data: bytes) -> None:
        """Send what the kernel takes now of a block; the rest is left in `_unsent`."""
        plain = self._head is None and self._rate is None and 0 < len(data) <= JOINED
        if plain and self._wire.transport.takes_blocks:  # as nearly all blocks of many
            self._framed += len(data)
            self._send_piece(self._wire.codec.frame_block(data))
        else:
            self._send_nowait(self._frame_block(data))

    def _send_piece(self, block: bytes) -> None:
        try:
            sent = self._wire.transport.send_block_nowait(block)
        except BaseException as exc:
            self._unsent.append(block)
            self._break_off(exc)
            raise
        if sent < len(block):
            self._unsent.append(memoryview(block)[sent:])

    def offer(self, data: bytes) -> None:
        self._check()
        if (self._lent or not self._wire.transport.writable_nowait()) and not self._wait(self._ask_back):
            raise BlockingIOError(errno.EAGAIN, "the client does not take the block now: nothing of it was written", 0)
        self._lent = False
        self._full = None
        self._send_block(data)
        if self._unsent:
            self._lent = True
            try:
                self._thread.run_on_loop(self._backlog.lend, self._unsent)
            except BaseException as exc:
                self._break_off(exc)
                raise

    def push(self, data: bytes) -> None:
        self._check()
        ahead = self._service.config.output_buffering
        if self._lent:
            self._unsent = self._frame_block(data)
            if self._wait(self._backlog.extend, self._unsent, ahead):
                return
            self._lent = False
            self._send_nowait(self._unsent)
        else:
            self._send_block(data)
        if self._unsent:
            self._lent = True
            self._wait(self._backlog.lend_within, self._unsent, ahead)

    def hint(self, headers: list[tuple[str, str]]) -> None:
        """RFC 8297. PEP 3333 knows no such thing; the signature of `environ["wsgi.early_hints"]` is gunicorn's."""
        bridge.refuse_on_loop(self.loop_thread, 'environ["wsgi.early_hints"]')
        self._check()
        checked = [header for header in check_headers(headers) if header[0].lower() not in _NOT_IN_HINTS]
        asked = self._wire.asked
        if self.sent_head is None and asked is not None and asked.http_version != b"1.0":
            self._send_nowait(self._wire.codec.frame_interim(103, b"Early Hints", checked))
            if self._unsent:
                self._wait(self._deliver, self._unsent, None)

    def wait_writable(self, timeout: float | None) -> bool:
        bridge.refuse_on_loop(self.loop_thread, 'environ["trio_wsgi.wait_writable"]')
        self._check()
        return self._wait(self._wait_writable, math.inf if timeout is None else max(0.0, timeout))

    def leave(self, answer: Answer) -> bool:
        """Frame the whole rest of the response, and send what the kernel takes at once.

        Called again it does nothing. What has not left, and what went wrong, is `deliver`'s, which is to be called in
        any case.

        Returns:
            whether everything has left.
        """
        if not (self._tried or self._lent or self.failure is not None):
            self._tried = self.delivering = True
            try:
                self._send_answer(answer)
            except Exception as exc:
                self._trouble = exc
            else:
                self.left = not (self._unsent or answer.missing)
        return self.left

    @property
    def leaving(self) -> int:
        """Bytes of what `leave` has framed that `leave_on` may be tried with."""
        return 0 if self._trouble is not None or self._rate is not None else sum(map(len, self._unsent))

    def leave_on(self) -> int:
        """Send what the kernel takes by now of what `leave` has framed; returns the bytes sent.

        What goes wrong is `deliver`'s, as with `leave`.
        """
        try:
            sent = self._wire.transport.push_nowait(self._unsent)
        except Exception as exc:
            self._trouble = exc
            return 0
        self.left = not self._unsent
        return sent

    def _check(self) -> None:
        """Nothing more is sent after a failure; and one who never waits is to learn of the request's cancellation."""
        call = self._thread.call
        if call is None or call.cancelled:  # to look is cheaper than to ask
            bridge.check_cancelled()
        if self._ended:
            raise AppError("the response has ended: for write(), early hints and waiting it is too late")
        if self.failure is not None:
            self._wait(self.settle)

    def _wait(self, async_fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Wait for the client, on the loop, which is to take `_unsent` over."""
        try:
            return self._thread.wait(async_fn, *args)
        except BaseException as exc:
            if self._unsent:  # the loop did not even begin
                self._break_off(exc)
            if isinstance(exc, ClientGone) and exc.errno == errno.ECANCELED:  # what was lent noticed it before we did
                bridge.run(trio.lowlevel.checkpoint_if_cancelled, token=self._wire.transport.token)
            raise

    def _break_off(self, exc: BaseException) -> None:
        """What was framed is not sent on: it would be missing for whatever came after it."""
        if self.failure is None:
            self.failure = (
                exc
                if isinstance(exc, Exception)
                else ClientGone(errno.ECANCELED, "the connection was ended by the server")
            )

    @property
    def _backlog(self) -> Backlog:
        if self._lending is None:
            self._lending = Backlog(self._nursery, self._deliver)
        return self._lending

    def _send_nowait(self, parts: Parts, limit: int | None = None) -> None:
        self._unsent = parts
        if self._rate is not None:  # then the pump sends all of it
            return
        try:
            self._wire.transport.send_nowait(parts, limit)
        except BaseException as exc:
            self._break_off(exc)
            raise

    def _frame_block(self, data: bytes) -> Parts:
        parts = self._frame_head(None)
        self._frame_body(data, parts)
        return parts

    # -- on the event loop ---------------------------------------------------------------------------------------

    async def deliver(self, answer: Answer) -> None:
        """Send what is left of the response, after all that went before; head and parts of `answer` are taken.

        Raises:
            ClientGone: the client has left or stalled.
            FileTooShort: a file ended early.
        """
        if (left := self.deliver_nowait(answer)) is not None:
            await left

    def deliver_nowait(self, answer: Answer) -> Awaitable[None] | None:
        """`deliver`, as far as that is possible now; what is left of it is to be awaited, if anything is.

        Thousands wait for it: each function around that wait would hold some 250 bytes for each of them.
        """
        self.delivering = True
        if self._lent:
            return self._deliver_settled(answer)
        self._raise_failure()
        if not self._tried:
            self._send_answer(answer, _AT_ONCE)
        elif self._trouble is not None:
            self._raise_trouble()
        if not self._unsent:
            return None
        self._wire.codec.rest()
        service = self._service  # `failure` is for those who come later, and after this nobody does
        timeout = service.config.write_timeout
        return self._wire.transport.deliver(self._unsent, timeout, None, self._rate, service.min_rate)

    def _send_answer(self, answer: Answer, limit: int | None = None) -> None:
        """Frame all that is left of the response, and send what the kernel takes now, up to so many bytes."""
        self._ended = True
        parts: list[Part] = []
        if answer.head is not None:
            self.start(answer.head, answer.limit_rate)
            answer.head = None
            parts += self._frame_head(answer.length)
        with_file, size = False, 0
        for part in answer.parts:
            with_file = with_file or type(part) is FileSpan
            size += len(part)
            self._frame_body(part, parts)
        answer.parts.clear()  # here as below: what has left is free to go
        if not answer.missing:
            parts += self._wire.codec.frame_end()
        if not parts:  # it has left block by block; to send nothing fails where the client has it all, and has gone
            return
        if not with_file and size <= _SMALL and self._rate is None and self._wire.transport.takes_blocks:
            self._send_piece(b"".join(parts))  # type: ignore[arg-type] # no files; of one part, that part
        else:
            self._unsent = parts if len(parts) <= _FEW else deque(parts)
            if not with_file:
                self._send_nowait(self._unsent, limit)
            elif self._rate is None:
                self._wire.transport.push_nowait(self._unsent)

    async def _deliver_settled(self, answer: Answer) -> None:
        await self.settle()
        await self.deliver(answer)

    async def settle(self) -> None:
        """Wait until what was accepted from the app has left; for a response that ends here, whole or not.

        Raises:
            ClientGone: the client has left or stalled, now or before.
        """
        if self._lent:
            await self._backlog.wait_drained()
            self._lent = False
        self._raise_failure()

    def forget(self) -> None:
        """The response is over: keep neither blocks alive nor, through a traceback, the frames of the app.

        Nor whoever dresses heads, who keeps this: a request is to be freed when it ends, not by the garbage collector.
        """
        self._unsent.clear()
        self._dress = _undressed
        self._trouble = None
        if self._lending is not None:
            self._lending.forget()
        if self.failure is not None:
            self.failure.__traceback__ = self.failure.__cause__ = self.failure.__context__ = None

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure.with_traceback(None)  # or it would keep the frame, and the block, of every attempt

    def _raise_trouble(self) -> None:
        """Nothing of the answer has left, it may be: another one can still be tried."""
        trouble, self._trouble, self._tried = self._trouble, None, False
        assert trouble is not None
        try:
            raise trouble
        finally:
            del trouble  # or it would keep this frame, and the frame the error

    async def _deliver(self, parts: Parts, progress: Callable[[int], None] | None) -> None:
        try:
            await self._wire.transport.deliver(
                parts, self._service.config.write_timeout, progress, self._rate, self._service.min_rate
            )
        except BaseException as exc:
            self._break_off(exc)
            raise

    async def _ask_back(self) -> bool:
        return self._take_back()

    def _take_back(self) -> bool:
        """Whether a block would be taken now.

        Raises:
            ClientGone: the client has left; or it stalled, however the app spent the time since it was refused.
        """
        if self._lending is not None and not self._lending.take_back():
            return False
        if self._wire.transport.writable_nowait():
            self._full = None
            return True
        if self._full is None:
            self._full = Taken(self._wire.transport.sock, self._service.config.write_timeout, None)
        elif self._full.stalled():
            self.failure = ClientStalled("write_timeout", self._service.config.write_timeout)
            raise self.failure
        return False

    async def _wait_writable(self, timeout: float) -> bool:
        with trio.move_on_after(timeout):
            while not self._take_back():
                if self._full is None:
                    await self._backlog.wait_drained()
                    continue
                with trio.move_on_after(self._service.config.write_timeout / LOOKS):
                    await self._wire.transport.wait_writable()
            return True
        return False

    # -- framing -------------------------------------------------------------------------------------------------

    def _frame_head(self, length: int | None) -> list[Part]:
        if self._head is None:
            return []
        head, self._head = self._head, None
        headers, self.promised = self._dress(head, length)
        self.sent_head = Head(head.status, head.reason, headers)
        return self._wire.codec.frame_head(head.status, head.reason, headers, self.promised is not None)

    def _frame_body(self, part: Part, into: MutableSequence[Part]) -> None:
        if len(part):
            into.extend(self._wire.codec.frame_data(part))
            self._framed += len(part)

    @property
    def complete(self) -> bool:
        """Whether the app has given all that the client waits for."""
        return self._ended or (self.promised is not None and self._framed >= self.promised)

    @property
    def body_sent(self) -> int:
        """Bytes of body that the kernel took, exact but for chunk framing of a response that was cut."""
        unsent = sum(map(len, list(self._unsent)))  # copied, which is done in one go: a thread may be sending them
        if self._lending is not None:
            unsent += sum(map(len, self._lending.parts))
        return max(0, self._framed - unsent)
