"""One response as the app builds it: `start_response`, `write`, and what is left to send (PEP 3333).

Laws:

* The head leaves with the first non-empty block, never before; until then `start_response` with `exc_info` begins the
  answer anew: head, and what was buffered of the body.
* After HEAD, and with 204, 205 and 304, no byte of a body leaves.
* Whoever finds that the app broke a rule raises `AppError` and says which.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace
from threading import get_ident
from types import TracebackType
from typing import Any

from sendfile import FileSpan, Part
from trio_wsgi.disk.accel import RATE_MAX, AccelMap, NamedFile, read_order
from trio_wsgi.disk.answer import Answer, answer_file, say
from trio_wsgi.disk.closing import Closing
from trio_wsgi.disk.spool import Spool
from trio_wsgi.errors import AppError, find_lack
from trio_wsgi.rules import appfault
from trio_wsgi.rules.conditional import validators_of
from trio_wsgi.rules.fileanswer import FileOptions, decide_app_answer
from trio_wsgi.rules.head import RequestHead
from trio_wsgi.rules.headers import CONTENTLESS, Head, body_allowed, check_headers, check_status, get_all, get_length
from trio_wsgi.rules.reasons import RETRY_AFTER
from trio_wsgi.wsgi.bodylength import BodyLength
from trio_wsgi.wsgi.bridge import check_cancelled
from trio_wsgi.wsgi.policies import Buffering, WritePolicy, choose_policy
from trio_wsgi.wsgi.ports import Outlet
from trio_wsgi.wsgi.unwrap import FoundFile

log = logging.getLogger("trio_wsgi.error")

ExcInfo = tuple[type[BaseException], BaseException, TracebackType]
Write = Callable[[bytes], None]


LIMIT_RATE_KEY = "trio_wsgi.limit_rate"  # in the environ, from the app: bytes per second


class Phase(enum.Enum):
    """How far a response has come."""

    NO_HEAD = "start_response not called yet"
    HEAD_KNOWN = "head known, nothing sent"
    SENT = "head sent"
    FINISHED = "given over to be sent"


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What the server makes of an app's answers.

    Args:
        files: ranges and validators of file answers.
        optimize_send_headers: close the app's iterable once it is clear that no body is sent.
        accel: where the app may have files sent by naming them; None: its headers mean nothing to us.
    """

    files: FileOptions = FileOptions()  # noqa: RUF009 - frozen
    optimize_send_headers: bool = False
    accel: AccelMap | None = None


class Response:
    """The response to one request, from the app's side; lives in the app's thread.

    Args:
        request: what is answered.
        environ: of the request; the app may choose its write policy in it, until its first `write`.
        outlet: the way out.
        buffering: where bytes may wait.
        options: what the server makes of the answer: files by sendfile, ranges, preconditions.
    """

    def __init__(
        self,
        request: RequestHead,
        environ: MutableMapping[str, Any],
        outlet: Outlet,
        buffering: Buffering,
        options: AnswerOptions,
    ) -> None:
        self._request = request
        self._environ = environ
        self._outlet = outlet
        self._buffering = buffering
        self.options = options
        self._phase = Phase.NO_HEAD
        self._head: Head | None = None
        self._length = BodyLength(request)
        self._has_body = True
        self._named: NamedFile | None = None  # the file that is sent in place of the app's body
        self._limit_rate: int | None = None
        self._push = self._choose_push(buffering.output_buffering > 0)
        self._write: Write | None = None  # `write`'s; known at the first one
        self._flows = False  # a block has left, and nothing needs to be said or decided before the next one does
        self._spool: Spool | None = None

    def __repr__(self) -> str:
        return f"<Response {self._phase.value}, {self._length.given} of {self._length.promised} bytes>"

    @property
    def head_sent(self) -> bool:
        """Whether it is too late for another answer."""
        return self._phase in (Phase.SENT, Phase.FINISHED)

    # -- what the app calls --------------------------------------------------------------------------------------

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None) -> Write:
        """PEP 3333's `start_response`."""
        if exc_info is not None:
            try:
                if self.head_sent:
                    if not _is_exc_info(exc_info):
                        raise appfault.in_exc_info(exc_info)
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # a traceback that refers to this frame would keep both alive
        elif self._head is not None:
            raise appfault.of_second_start(self._head.status, status)
        code, reason = check_status(status)
        checked = check_headers(headers)
        self._head = Head(code, reason, checked)
        self._phase = Phase.HEAD_KNOWN
        if self.options.accel is not None:
            self._head = self._take_orders(self._head)
        self._length.promise(get_length(self._head.headers))
        self._has_body = body_allowed(self._request.method, code)
        if self._spool is not None:
            self._spool.close()
            self._spool = self._open_spool()
        return self.write

    def write(self, data: bytes) -> None:
        """PEP 3333's `write`, under the request's write policy.

        Raises:
            AppError: also on the event loop, under every policy; nothing of `data` was taken.
            BlockingIOError: under **raise** only; nothing of `data` was taken.
            OSError: under **block** and **raise** when the client has gone, under **buffer** when there is no room.
        """
        if get_ident() == self._outlet.loop_thread:  # `refuse_on_loop`, without a call for each block
            raise appfault.on_loop("write()")
        if self._write is None:
            self._write = self._choose_write()
        length = self._length
        if self._flows and type(data) is bytes and 0 < len(data) <= length.allowed - length.given:
            self._write(data)
            length.given += len(data)
        else:
            self._take(data, self._write, "what write() is given")

    # -- what the server calls -----------------------------------------------------------------------------------

    def send_block(self, block: bytes) -> bool:
        """Send one block of the app's iterable; False when no more of them is wanted."""
        length = self._length
        if self._flows and type(block) is bytes and 0 < len(block) <= length.allowed - length.given:
            self._push(block)
            length.given += len(block)
            return True
        self._take(block, self._push, "a block of the iterable")
        wanted = (self._has_body and self._named is None) or not self.options.optimize_send_headers
        return wanted and not length.overrun

    def finish(self, rest: list[Part]) -> Answer:
        """The app is done: what is left to send is what was buffered, then `rest`, the last of the body."""
        if self._head is None:
            raise appfault.of_no_start()
        if self._named is not None:
            return self._finish_with_named(self._head, self._named)
        head = None if self._phase is Phase.SENT else self._settle_head(self._head)
        parts = self._spool.parts() if self._spool is not None else []
        parts += self._length.count_parts(rest)
        length, given = self._length.promised, self._length.given
        # An empty body after HEAD says nothing of GET's: many apps drop it themselves.
        if length is None and self._head.status not in CONTENTLESS and (self._has_body or given):
            length = given
        self._phase = Phase.FINISHED
        self._flows = False
        return Answer(
            head=head,
            parts=parts if self._has_body else [],
            length=length,
            missing=self._length.missing if self._has_body else 0,
            closing=None if self._spool is None else Closing(self.close, quick=not self._spool.on_disk),
            limit_rate=self._asked_rate(),
        )

    def finish_with_file(self, found: FoundFile, passing: bool) -> Answer:
        """The app is done, and the rest of its body is in a file: preconditions and ranges are for the whole of it.

        To close the file is the caller's affair, whatever the answer.

        Args:
            passing: the file was made for this answer; another answer's is another file.
        """
        if self._head is None or self.head_sent or self._length.given or self._named is not None:
            return self.finish([found.span])
        options = _without_ranges(self.options.files, self._head) if passing else self.options.files
        answer = answer_file(self._request, self._head, found.span, found.status, options)
        answer.limit_rate = self._asked_rate()
        self._phase = Phase.FINISHED
        return answer

    def _finish_with_named(self, head: Head, named: NamedFile) -> Answer:
        """The app named a file (X-Accel-Redirect, X-Sendfile): it is sent in place of the app's own body."""
        assert self.options.accel is not None
        limit_rate = self._asked_rate()
        try:
            found = self.options.accel.open(named)
        except OSError as exc:  # ours, not the app's: as of a mount
            lack = find_lack(exc)
            log.error("%s: %s", named, lack or exc.strerror)
            if lack is not None:
                return say(self._request, 503, [RETRY_AFTER])
            return say(self._request, 403 if isinstance(exc, PermissionError) else 500)
        finally:
            self._phase = Phase.FINISHED
        if found is None:
            log.warning("%s: there is no such file", named)
            return say(self._request, 404)
        opened, content_type = found
        try:
            if not get_all(head.headers, b"content-type"):
                head = Head(head.status, head.reason, [*head.headers, (b"Content-Type", content_type)])
            span = FileSpan(opened.file, 0, opened.status.st_size)
            answer = answer_file(self._request, head, span, opened.status, self.options.files)
        except BaseException:
            opened.file.close()
            raise
        answer.closing = opened.closing()
        answer.limit_rate = limit_rate
        return answer

    def leave(self, answer: Answer) -> None:
        """Send what the kernel takes now of what the app has finished."""
        self._outlet.leave(answer)

    def close(self) -> None:
        """Free what is buffered; may be called again."""
        if self._spool is not None:
            self._spool.close()

    def _open_spool(self) -> Spool:
        limits = self._buffering
        return Spool(limits.write_buffer_size, limits.temp_limit, limits.temp_path)

    def _take_orders(self, head: Head) -> Head:
        """What the app says to the server, in headers that stay inside."""
        order = read_order(head)
        self._named = order.file
        self._limit_rate = order.limit_rate
        if order.buffering is not None:
            self._push = self._choose_push(order.buffering and self._buffering.output_buffering > 0)
        return order.head

    def _choose_write(self) -> Write:
        policy = choose_policy(self._environ, self._buffering.write_policy)
        if policy is WritePolicy.BUFFER:
            self._spool = self._open_spool()
            self._flows = False
        return self._outlet.offer if policy is WritePolicy.RAISE else self._outlet.send

    def _choose_push(self, ahead: bool) -> Write:
        return self._outlet.push if ahead else self._outlet.send

    def _asked_rate(self) -> int | None:
        asked = self._environ.get(LIMIT_RATE_KEY, self._limit_rate)
        if asked is not None and (type(asked) is not int or not 0 <= asked <= RATE_MAX):
            raise AppError(f"environ[{LIMIT_RATE_KEY!r}] is {asked!r}: it must be bytes per second, 0 for no limit")
        return asked

    def _settle_head(self, head: Head) -> Head:
        """Now that the head is about to leave, preconditions may put another in its place (RFC 9110 §13)."""
        request = self._request
        instead = decide_app_answer(request.method, request.headers, head, now=int(time.time()))
        if instead is not None:
            head = self._head = instead
            self._has_body = False
            self._length.promise(None)
        return head

    # -- one block after the other -------------------------------------------------------------------------------

    def _take(self, data: bytes, send: Write, source: str) -> None:
        if not data or self._phase is not Phase.SENT or self._spool is not None or not self._has_body:
            check_cancelled()  # also where no block is sent now: nobody wants it any more
        if not isinstance(data, bytes):
            raise appfault.in_block(source, data)
        if self._head is None:
            raise appfault.of_early_block(data)
        if self._phase is Phase.FINISHED:
            raise appfault.of_late_block(source, data)
        if self._named is not None:  # a file is sent in its place
            return
        data = self._length.clip(data)
        if data and self._spool is None:
            self._send(data, send)
        elif data and self._spool is not None and self._has_body:
            self._spool.write(data)
        self._length.given += len(data)

    def _send(self, data: bytes, send: Write) -> None:
        first = self._phase is not Phase.SENT
        if first:
            assert self._head is not None
            self._outlet.start(self._settle_head(self._head), self._asked_rate())
        if not self._has_body:  # the head leaves when it would for GET, so that it is the same
            send, data = self._outlet.send, b""
        self._phase = Phase.SENT  # whatever happens now, another answer would come too late ...
        try:
            send(data)
        except BlockingIOError:
            if first:  # ... unless the block was refused whole
                self._phase = Phase.HEAD_KNOWN
            raise
        self._flows = self._has_body


def _without_ranges(options: FileOptions, head: Head) -> FileOptions:
    """For a file that is made anew each time. A client that resumes or asks for parts would get parts of several, and
    many, curl among them, send no If-Range; unless the app says by a validator of its own that they are alike."""
    known = validators_of(head.headers)
    alike = known.etag is not None or known.last_modified is not None
    return replace(options, add_validators=False, max_ranges=options.max_ranges if alike else 0)


def _is_exc_info(exc_info: object) -> bool:
    """Whether it holds an error that can be raised; where none was handled, sys.exc_info() has none."""
    return isinstance(exc_info, tuple) and len(exc_info) == 3 and isinstance(exc_info[1], BaseException)
