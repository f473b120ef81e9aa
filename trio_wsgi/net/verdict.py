"""Whose fault a failure is, and what the client, the log and the record are told of it.

Laws:

* Every error that can end a request has one row here; what has none is our own bug and says so.
* A verdict is pure: it sends nothing and logs nothing.
"""

from __future__ import annotations

import logging
import traceback
from contextvars import Context
from dataclasses import dataclass

from sendfile import FileTooShort
from trio_wsgi.errors import (
    AppError,
    ClientError,
    ClientGone,
    ClientStalled,
    ClientTooSlow,
    DiskFailed,
    NoRoom,
    find_lack,
)
from trio_wsgi.net.pool import Overloaded
from trio_wsgi.record import Outcome
from trio_wsgi.rules.headers import Head
from trio_wsgi.rules.reasons import REASONS, RETRY_AFTER

_STALLS = {
    "header_timeout": Outcome.HEADER_TIMEOUT,
    "body_timeout": Outcome.BODY_TIMEOUT,
    "write_timeout": Outcome.WRITE_TIMEOUT,
}
_ELSEWHERE = (404, 421)  # requests that are right, but for what is not here


class AppFailed(Exception):
    """The app raised; its error is the cause.

    Args:
        context: in which it ran; None where it was no more running.
    """

    def __init__(self, context: Context | None = None) -> None:
        super().__init__()
        self.context = context


class AppTimedOut(Exception):
    """The app worked longer than it may.

    Args:
        seconds: what it was given.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"no answer after {self.seconds:g} s of work (app_timeout)"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a failure.

    Args:
        outcome: for the record.
        reason: one line for the record and the log.
        status: to answer with if nothing was sent; 0 when nobody is there to be answered.
        text: of that answer.
        retry: whether to ask the client to try again soon.
        keeps: whether the connection is none the worse for it.
        severity: for the log.
        error: whose traceback belongs into the log.
    """

    outcome: Outcome
    reason: str
    status: int = 500
    text: str = ""
    retry: bool = False
    keeps: bool = False
    severity: int = logging.INFO
    error: BaseException | None = None

    def answer(self) -> tuple[Head, bytes]:
        """What the client is told: a head, and a body of plain text."""
        reason = REASONS.get(self.status, b"Error")
        said = f": {self.text}" if self.text else ""
        body = f"{self.status} {reason.decode()}{said}\n".encode(errors="backslashreplace")
        retry = [RETRY_AFTER] if self.retry else []
        return Head(self.status, reason, [(b"Content-Type", b"text/plain; charset=utf-8"), *retry]), body


def judge(exc: Exception, expose_tracebacks: bool = False) -> Verdict:
    """Judge what ended a request.

    Args:
        exc: what was raised.
        expose_tracebacks: whether the client is shown where the app failed.
    """
    cause = (exc.__cause__ or exc) if isinstance(exc, AppFailed) else exc
    match cause:
        case ClientError():
            keeps = cause.status in _ELSEWHERE
            return Verdict(Outcome.REFUSED, cause.reason, cause.status, cause.reason, keeps=keeps)
        case Overloaded():
            said = "the server is busy, try again"
            return Verdict(Outcome.REFUSED, str(cause), 503, said, retry=True, keeps=True)
        case ClientStalled():
            status = 0 if cause.deadline == "write_timeout" else 408
            return Verdict(_STALLS[cause.deadline], str(cause), status, str(cause))
        case ClientTooSlow():
            return Verdict(Outcome.TOO_SLOW, str(cause), 0)
        case ClientGone():
            return Verdict(Outcome.CLIENT_GONE, cause.strerror or str(cause), 0)
        case FileTooShort():
            return Verdict(Outcome.FILE_TOO_SHORT, str(cause))
        case DiskFailed():
            return Verdict(Outcome.SERVER_ERROR, str(cause), severity=logging.ERROR)
        case AppTimedOut():
            return Verdict(Outcome.APP_TIMEOUT, str(cause), 504, severity=logging.ERROR)
        case NoRoom() if exc is cause:
            return Verdict(
                Outcome.SERVER_ERROR,
                str(cause),
                503,
                "no room for the request's body",
                retry=True,
                severity=logging.ERROR,
            )
        case OSError() if (lack := find_lack(exc)) is not None:
            said = "the server is busy, try again"
            reason = f"for what the system lacks: {lack}"
            return Verdict(Outcome.SERVER_ERROR, reason, 503, said, retry=True, severity=logging.ERROR)
        case _ if isinstance(exc, AppFailed | AppError):  # the latter: its file is not open
            shown = "\n" + "".join(traceback.format_exception(cause)) if expose_tracebacks else ""
            return Verdict(
                Outcome.APP_ERROR, _one_line(cause), 500, shown, keeps=True, severity=logging.ERROR, error=cause
            )
    return Verdict(
        Outcome.SERVER_ERROR,
        f"our own error, please report it: {exc!r}",
        severity=logging.ERROR,
        error=exc,
    )


def _one_line(exc: BaseException) -> str:
    """An exception of the app's in one line, whatever its `__str__` does."""
    lines = traceback.format_exception_only(exc)  # those of a SyntaxError begin with its place, indented
    return next((line for line in lines if not line.startswith(" ")), lines[0]).partition("\n")[0]
