"""A few threads that fetch bytes of files into memory.

Laws:

* At most four fetch at a time from one file system; who asked first is served first. A thousand cold files hold four
  threads. One that does not answer (NFS, FUSE) holds up nobody who asks of another.
* A thread reads through a descriptor of its own, a copy made when its turn comes: whoever asked may forget the fetch
  and close the file at any moment. A cancelled delivery ends at once, even where the disk never answers.
* Where descriptors or threads have run out, nothing is fetched: whoever asked is told, and goes on without.
* A fetch moves no byte to any socket, so forgetting one loses nothing.
* Where a file system cannot tell what is in memory, and keeps not all in it, bytes that are to be copied are copied by
  the thread, and handed over: what it drops may be gone (FUSE with direct_io, cache=none), or the file system's server
  asked again (NFS), and the event loop would wait for it. They are few at a time, since slow peers hold them.
* Whatever a file answers when it is asked for its descriptor, such as that it is closed, is the error of its own fetch:
  what comes back from a thread runs in a callback of Trio, and an exception there would end the program.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

import trio

from sendfile.disk import Disk
from sendfile.span import FileSpan
from sendfile.step import FileTooShort

_THREADS = 4  # of a file system
_LEAST_HANDED = 64 << 10  # bytes, of a file that is as long
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})


class _Result(Protocol):
    """What a thread hands over."""

    def unwrap(self) -> Exception | None: ...


class Fetch:
    """Bytes that somebody waits for.

    Args:
        span: they are at its beginning.
        count: how many.
        kernel: False fetches them without sendfile(2), as they are to be sent.
        copies: whether they may be handed over, where the event loop would wait to read them again.
        done: called on the event loop, with the error if there was one. If it raises, it is called again, with what it
            raised; that call must not raise.

    Attributes:
        device: whose file system.
        data: when it is done, the first of the bytes, where they are handed over.
        seconds: how long it took, where that says how long the next bytes will take; else infinite.
        skipped: nothing was fetched: no descriptor or thread was left.
    """

    __slots__ = ("copies", "count", "data", "device", "done", "kernel", "seconds", "skipped", "span")

    def __init__(
        self, span: FileSpan, count: int, kernel: bool, copies: bool, done: Callable[[Exception | None], None]
    ) -> None:
        self.span = span
        self.count = count
        self.kernel = kernel
        self.copies = copies
        self.done: Callable[[Exception | None], None] | None = done  # None: forgotten, or called
        self.device = 0
        self.data = b""
        self.seconds = math.inf
        self.skipped = False


class _Asked:
    """What is asked of one file system."""

    __slots__ = ("busy", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[Fetch, None] = {}  # first come, first served
        self.busy = 0  # threads


class Readers:
    """The threads of one pump."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._asked: dict[int, _Asked] = {}  # by device, while anything is

    def ask(self, fetch: Fetch) -> None:
        """Have it fetched; never calls ``done`` before this has returned."""
        with contextlib.suppress(Exception):  # closed under us, as `_start` will see
            fetch.device = self._disk.device(fetch.span.file.fileno())
        asked = self._asked.setdefault(fetch.device, _Asked())
        asked.waiting[fetch] = None
        self._start(asked)

    def forget(self, fetch: Fetch) -> None:
        """Nobody waits for it any more, and ``done`` is not called."""
        fetch.done = None
        if (asked := self._asked.get(fetch.device)) is not None:
            asked.waiting.pop(fetch, None)

    def _start(self, asked: _Asked) -> None:
        while asked.waiting and asked.busy < _THREADS:
            fetch = next(iter(asked.waiting))
            del asked.waiting[fetch]
            asked.busy += 1
            token = trio.lowlevel.current_trio_token()
            try:
                fd = os.dup(fetch.span.file.fileno())
            except Exception as error:  # no descriptor left; or closed under us, in whatever words
                fetch.skipped = isinstance(error, OSError) and error.errno in _NO_DESCRIPTOR
                token.run_sync_soon(self._finish, fetch, None if fetch.skipped else error)
                continue
            try:
                trio.lowlevel.start_thread_soon(partial(self._read, fd, fetch), partial(self._report, token, fetch))
            except RuntimeError:  # threading's own, for want of memory or of the system's leave
                os.close(fd)
                fetch.skipped = True
                token.run_sync_soon(self._finish, fetch, None)

    def _read(self, fd: int, fetch: Fetch) -> Exception | None:
        """In a thread."""
        try:
            try:
                self._fetch(fd, fetch)
            finally:
                os.close(fd)
        except Exception as error:
            return error
        return None

    def _fetch(self, fd: int, fetch: Fetch) -> None:
        offset, in_memory = fetch.span.offset, self._disk.is_in_memory(fd)
        if fetch.copies and not in_memory and self._disk.probe(fd, offset) is None:
            fetch.data = self._disk.read(fd, offset, min(fetch.count, max(fetch.count // 4, _LEAST_HANDED)))
            if not fetch.data:
                raise FileTooShort(fetch.span)
            return
        began = time.perf_counter()
        self._disk.fetch(fd, offset, fetch.count, fetch.kernel)
        if in_memory:
            fetch.seconds = time.perf_counter() - began

    def _report(self, token: trio.lowlevel.TrioToken, fetch: Fetch, result: _Result) -> None:
        """In a thread; the loop may have ended meanwhile, and then nobody waits."""
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(self._finish, fetch, result.unwrap())

    def _finish(self, fetch: Fetch, error: Exception | None) -> None:
        asked = self._asked[fetch.device]
        asked.busy -= 1
        done, fetch.done = fetch.done, None
        if done is not None:
            try:
                done(error)
            except Exception as failed:
                done(failed)
        self._start(asked)
        if not asked.busy:
            del self._asked[fetch.device]
