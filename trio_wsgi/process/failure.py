"""Why a process could not boot: an error in words for people, and the exit code that it stands for."""

from __future__ import annotations

import traceback

from trio_wsgi.errors import AppLoadError, ConfigError, find_first
from trio_wsgi.process.exits import ExitCode
from trio_wsgi.process.messages import Failed


def describe_failure(error: Exception) -> Failed:
    """What the supervisor is told of an error that ended the boot."""
    if isinstance(error, ConfigError):
        return Failed(str(error), ExitCode.ERROR)
    if isinstance(error, AppLoadError):
        cause = error.__cause__
        wrong_name = cause is None or isinstance(cause, ImportError | SyntaxError | AttributeError)
        lines = [] if cause is None else traceback.format_exception(cause)
        return Failed("".join([*lines, str(error)]), ExitCode.APP_LOAD_ERROR if wrong_name else ExitCode.BOOT_ERROR)
    lines = traceback.format_exception(error)
    if isinstance(error, BaseExceptionGroup):  # its traceback ends in lines of its frame, which say nothing in short
        lines += traceback.format_exception_only(find_first(error))
    return Failed("".join(lines).rstrip(), ExitCode.BOOT_ERROR)
