"""Errors are values: a copy says what the first one said, and so does what another process is told (pickle).

Thread pools that hand an error to several waiters copy it, process pools pickle it; where that fails, the failure of it
stands in the place of the error, or nobody is told anything.
"""

from __future__ import annotations

import copy
import inspect
import pickle
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sendfile
import trio_wsgi
from sendfile import FileSpan
from trio_wsgi import errors
from trio_wsgi.net import pool, verdict

FILE = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the tests run
ERRORS: list[Exception] = [
    trio_wsgi.AppError("app"),
    trio_wsgi.AppLoadError("load"),
    trio_wsgi.ClientError(431, "too many fields"),
    trio_wsgi.ClientGone(104, "Connection reset by peer"),
    trio_wsgi.ClientStalled("write_timeout", 30.0),
    trio_wsgi.ConfigError("threads", "0 is too few", "give 1"),
    errors.BootError("why", 3),
    errors.ClientTooSlow("too slow"),
    errors.DiskFailed("disk"),
    errors.NoRoom("room"),
    pool.Overloaded("busy"),
    verdict.AppTimedOut(2.5),
    sendfile.DiskStalled(FileSpan(FILE, 2, 3), 60.0),
    sendfile.FileTooShort(FileSpan(FILE, 2, 3)),
    sendfile.Stalled(3.0),
    sendfile.TooSlow(3.0, 4.0),
]
WAYS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda error: pickle.loads(pickle.dumps(error)),
}


def public_errors() -> Iterator[type]:
    for module in (trio_wsgi, sendfile, errors):
        for _, value in inspect.getmembers(module, inspect.isclass):
            if issubclass(value, BaseException):
                yield value


def test_all_that_a_program_can_meet_are_in_the_table() -> None:
    assert set(public_errors()) <= {type(error) for error in ERRORS}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_copy_says_the_same(error: Exception, way: str) -> None:
    """By its text, its arguments, and its attributes; an open file, which cannot go elsewhere, by its text."""
    copied = WAYS[way](error)
    assert type(copied) is type(error)
    assert (str(copied), repr(copied.args)) == (str(error), repr(error.args))
    assert {name: repr(value) for name, value in vars(copied).items()} == {
        name: repr(value) for name, value in vars(error).items()
    }


def test_a_file_that_is_open_elsewhere_cannot_be_sent() -> None:
    error = pickle.loads(pickle.dumps(sendfile.FileTooShort(FileSpan(FILE, 2, 3))))
    with pytest.raises(ValueError, match="open in another process: <_io"):
        error.span.file.fileno()
    assert copy.copy(sendfile.FileTooShort(FileSpan(FILE, 2, 3))).span.file is FILE
