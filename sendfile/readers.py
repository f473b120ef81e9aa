"""A few threads that fetch bytes of files into memory.

Laws:

* At most four fetch at a time; who asked first is served first. A thousand cold files hold four threads.
* A thread reads through a descriptor of its own, a copy made when its turn comes: whoever asked may forget the fetch
  and close the file at any moment. A cancelled delivery ends at once, even where the disk never answers.
* Where descriptors have run out there is no copy, and nothing is fetched: whoever asked is told, and goes on without.
* A fetch moves no byte to any socket, so forgetting one loses nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

import trio

from sendfile.residency import Disk
from sendfile.span import FileSpan

__all__ = ["Fetch", "Readers"]

_THREADS = 4
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})


class _Result(Protocol):
    """What a thread hands over."""

    def unwrap(self) -> Exception | None: ...


class Fetch:
    """Bytes that somebody waits for. ``done`` is called on the event loop, with the error if there was one.

    ``skipped`` then tells that nothing was fetched, for want of descriptors. ``kernel`` is that of the delivery.
    """

    __slots__ = ("count", "done", "kernel", "seconds", "skipped", "span")

    def __init__(self, span: FileSpan, count: int, kernel: bool, done: Callable[[Exception | None], None]) -> None:
        self.span = span
        self.count = count
        self.kernel = kernel
        self.seconds = 0.0  # how long it took
        self.skipped = False
        self.done: Callable[[Exception | None], None] | None = done


class Readers:
    """The threads of one pump."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._waiting: dict[Fetch, None] = {}  # first come, first served
        self._busy = 0

    def ask(self, fetch: Fetch) -> None:
        """Have it fetched; never calls ``done`` before this has returned."""
        self._waiting[fetch] = None
        self._start()

    def forget(self, fetch: Fetch) -> None:
        """Nobody waits for it any more, and ``done`` is not called."""
        fetch.done = None
        self._waiting.pop(fetch, None)

    def _start(self) -> None:
        while self._waiting and self._busy < _THREADS:
            fetch = next(iter(self._waiting))
            del self._waiting[fetch]
            self._busy += 1
            token = trio.lowlevel.current_trio_token()
            try:
                fd = os.dup(fetch.span.file.fileno())
            except (OSError, ValueError) as error:  # no descriptor left, or closed under us
                fetch.skipped = isinstance(error, OSError) and error.errno in _NO_DESCRIPTOR
                token.run_sync_soon(self._finish, fetch, None if fetch.skipped else error)
                continue
            trio.lowlevel.start_thread_soon(partial(self._read, fd, fetch), partial(self._report, token, fetch))

    def _read(self, fd: int, fetch: Fetch) -> Exception | None:
        """In a thread."""
        began = time.perf_counter()
        try:
            self._disk.fetch(fd, fetch.span.offset, fetch.count, fetch.kernel)
            fetch.seconds = time.perf_counter() - began
        except Exception as error:
            return error
        finally:
            os.close(fd)
        return None

    def _report(self, token: trio.lowlevel.TrioToken, fetch: Fetch, result: _Result) -> None:
        """In a thread; the loop may have ended meanwhile, and then nobody waits."""
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(self._finish, fetch, result.unwrap())

    def _finish(self, fetch: Fetch, error: Exception | None) -> None:
        self._busy -= 1
        done, fetch.done = fetch.done, None
        if done is not None:
            done(error)
        self._start()
