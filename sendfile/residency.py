"""Which bytes of a file are in memory, so that sending them does not hold the event loop for the disk.

Laws:

* Nothing here waits for the disk.
* Looking is sampled: bytes between two pages that are in memory count as in memory; the two are at most 256 KiB apart
  in the first MiB, a quarter of what is looked at otherwise, so up to 2 MiB after MiB upon MiB that were (looks cost
  some 1 % of the CPU of a warm download). Where the sample errs, one step waits for the disk; nothing worse.
* What was found is believed for a second: a slow reader's next bytes may have been evicted meanwhile.
* Where a file system cannot tell (tmpfs, FUSE, NFS, other kernels), what was not fetched in the last ten seconds
  counts as not in memory. A thread too many costs some 0.1 ms, a disk on the event loop everybody's latency. On tmpfs
  and its like, which lost half their throughput by that, a MiB that took no longer to fetch than it takes out of memory
  speaks for the next 64: of others a beginning that is in memory says nothing of what follows. And nothing in them is
  known to stay for whoever copies: a read may ask their server again, and some keep nothing (``readers``).
"""

from __future__ import annotations

import math

from sendfile.disk import Disk
from sendfile.identity import identify
from sendfile.span import FileSpan, HasFileno
from sendfile.step import STEP

_PAGE = 4096
_FIRST_WINDOW = 256 << 10  # bytes that a delivery looks ahead at first: what a slow reader pins in memory
_LOOK_WINDOW = 8 << 20  # and later on at most
_FETCH_WINDOW = 2 << 20  # bytes of one fetch
_LOOKS = 4  # at a window that is large; at a small one, one every `_FIRST_WINDOW`
_BELIEVED = 1.0  # seconds
_REMEMBERED = 10.0  # seconds, of what was fetched where nobody can tell
_FILES = 1024  # that are remembered
_NOTHING = (0, 0, -math.inf, False)  # is remembered of a file
_TELLING = 1 << 20  # bytes of a fetch whose speed says something of the next ones
_MEMORY_SPEED = 2e9  # bytes per second; splicing did 5 to 30 when measured
_AHEAD = 64 << 20  # bytes that a fetch out of memory speaks for


class Residency:
    """What is in memory, as far as ``disk`` can tell, and what was fetched where it cannot."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self._fetched: dict[tuple[int, int], tuple[int, int, float, bool]] = {}  # file: first, end, when, is it tmpfs

    def warm(self, fd: int, offset: int, count: int, now: float, copies: bool = False) -> int:
        """How many of ``count`` bytes at ``offset`` are in memory, from the first on.

        ``copies``: they are to be read, not sent by sendfile(2).
        """
        last = offset + count - 1
        apart = max(count // _LOOKS, _FIRST_WINDOW)
        seen = point = offset
        while verdict := self.disk.probe(fd, point):
            if point // _PAGE == last // _PAGE:
                return count
            seen, point = point, min(last, point + apart)
        return self._remembered(fd, offset, count, now, copies) if verdict is None else seen - offset

    def _remembered(self, fd: int, offset: int, count: int, now: float, copies: bool) -> int:
        first, end, when, in_memory = self._fetched.get(identify(fd), _NOTHING)
        known = first <= offset < end and now - when < _REMEMBERED and (in_memory or not copies)
        return min(count, end - offset) if known else 0

    def remember(self, fd: int, offset: int, count: int, seconds: float, now: float) -> None:
        """So many bytes were fetched, in so many seconds; infinite where that says nothing of the next ones."""
        if self.disk.probe(fd, offset) is not None:
            return
        if count >= _TELLING and seconds * _MEMORY_SPEED < count:
            count += _AHEAD  # it was there before
        key = identify(fd)
        first, end, when, _ = self._fetched.pop(key, _NOTHING)
        if not (first <= offset <= end and now - when < _REMEMBERED):
            first = offset
            end = offset
        self._fetched[key] = (first, max(end, offset + count), now, seconds < math.inf)
        if len(self._fetched) > _FILES:
            del self._fetched[next(iter(self._fetched))]


class Frontier:
    """How far the file of one delivery is known to be in memory. The further it gets, the rarer it asks.

    Args:
        copies: whether its files are to be read, not sent by sendfile(2).
    """

    __slots__ = ("_at", "_end", "_file", "_first", "_window", "copies")

    def __init__(self, copies: bool = False) -> None:
        self.copies = copies
        self._file: HasFileno | None = None
        self._first = self._end = 0
        self._at = -math.inf
        self._window = _FIRST_WINDOW

    def warm(self, residency: Residency, span: FileSpan, now: float, enough: int = STEP) -> int:
        """How many bytes of a span that is not empty may be sent now; 0 when they are to be fetched first.

        ``enough``: more than so many need not be looked for.
        """
        offset = span.offset
        fresh = span.file is self._file and now - self._at < _BELIEVED and self._first <= offset <= self._end
        if fresh and self._end - offset >= min(span.count, enough):
            return self._end - offset
        if fresh:
            self._window = min(self._window * 2, _LOOK_WINDOW)
        else:
            self._window = _FIRST_WINDOW
            self._file, self._first, self._end, self._at = span.file, offset, offset, now
        if count := min(offset + span.count - self._end, self._window):
            found = residency.warm(span.file.fileno(), self._end, count, now, self.copies)
            self._end += found
            if found:
                self._at = now
        return self._end - offset

    def wanted(self, span: FileSpan) -> int:
        """How many bytes of ``span`` to fetch, after ``warm`` was 0."""
        return min(span.count, self._window, _FETCH_WINDOW)

    def dare(self, span: FileSpan, now: float) -> None:
        """Nothing can be fetched: have the next bytes sent all the same, be it that a step waits for the disk."""
        self._window = _FIRST_WINDOW
        self.believe(span, self.wanted(span), now)

    def believe(self, span: FileSpan, count: int, now: float) -> None:
        """The first ``count`` bytes of a span, which is not empty, may be sent now."""
        self._file, self._first, self._end, self._at = span.file, span.offset, span.offset + count, now
