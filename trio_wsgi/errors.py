"""Whose fault it is: every error of the server says who has to act.

Laws:

* `ClientError` is the client's fault: it is answered with its status (if nothing was sent) and the connection closes.
* `AppError` is the application's fault: a 500 if nothing was sent, else the connection is cut.
* `ClientGone` is nobody's fault: the peer left, or stopped taking bytes. It is an `OSError`, because that is what an
  application blocked in `write()` or in a read of `wsgi.input` is prepared for.
* `NoRoom` is the operator's, while we serve: a 503, and a line in the log that says what there is no room of.
* `DiskFailed` is the operator's, too: the connection is cut, and the log names the file.
* An `OSError` by which the system says that it has no more of something (`find_lack`) is the operator's as well: it
  costs one connection, and a line in the log; where a request was read, a 503.
* `ConfigError` is the operator's: it names the setting, the value and the fix, and ends the process.

Anything else that escapes is ours, is logged with its traceback and costs one connection, never the server.
"""

from __future__ import annotations

import errno

_LACKS = {
    errno.EMFILE: "this process may open no more files; raise the limit of open files (ulimit -n)",
    errno.ENFILE: "nobody may open more files; raise the system's limit of open files (sysctl fs.file-max)",
    errno.ENOMEM: "it has no memory left",
    errno.ENOBUFS: "it has no memory left for sockets",
    errno.ENOSPC: "it waits for no more sockets (epoll_ctl(2)); raise sysctl fs.epoll.max_user_watches",
}


class ClientError(Exception):
    """The request breaks a rule of HTTP, or a limit.

    Args:
        status: the 4xx or 5xx status to answer with.
        reason: one line for the log and the body: which rule was broken.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"


class AppError(Exception):
    """The application broke a rule of PEP 3333: the message says which, and what to do instead."""


class ClientGone(OSError):
    """The client has closed or reset the connection."""


class ClientStalled(ClientGone, TimeoutError):
    """The client is there, but a deadline passed without it sending or accepting a byte.

    Args:
        deadline: the name of the setting whose time ran out, such as ``write_timeout``.
        seconds: that setting's value.
    """

    def __init__(self, deadline: str, seconds: float) -> None:
        super().__init__(f"no progress for {seconds:g} s ({deadline})")
        self.deadline = deadline
        self.seconds = seconds

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.deadline, self.seconds)


class NoRoom(Exception):
    """A request's body cannot be kept until it is whole: the disk is full or cannot be written, or there is no thread.

    The text names the directory, where that is to blame, the reason and the fix.
    """


class DiskFailed(Exception):
    """A file that is being sent, the application's or a mount's, cannot be read any more, or not be sent.

    The text names the file and the reason.
    """


class ClientTooSlow(ClientGone, TimeoutError):
    """The client takes bytes, but fewer than min_send_rate asks of it."""


class ConfigError(Exception):
    """A setting has a value that cannot be used.

    Args:
        setting: the name the user knows it by.
        why: what is wrong with the value, naming the value.
        hint: what to write instead; may be empty.
    """

    def __init__(self, setting: str, why: str, hint: str = "") -> None:
        super().__init__(setting, why, hint)
        self.setting = setting
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.setting}: {self.why}" + (f" ({self.hint})" if self.hint else "")


class AppLoadError(Exception):
    """The application, or a middleware, cannot be imported, found or called.

    The text says what was tried and what to do; where the module's own code failed, that error is the
    ``__cause__``: show its traceback.
    """


class BootError(Exception):
    """No worker could boot, so nothing is served.

    Args:
        text: why, as the worker told it; may hold a traceback. Its last line says it in short.
        exit_code: that of the process, as the worker told it.
    """

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text, exit_code)
        self.text = text
        self.exit_code = exit_code


def find_first(error: BaseException) -> BaseException:
    """The first error that a group, and groups in it, are made of; itself if it is none."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def find_lack(error: BaseException) -> str | None:
    """What the system has no more of for a connection, in words; None where that is not all that is wrong."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return _LACKS.get(error.errno or 0) if isinstance(error, OSError) else None
