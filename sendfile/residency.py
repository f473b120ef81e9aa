"""Which bytes of a file are in memory, so that sending them does not hold the event loop for the disk.

Laws:

* Nothing here waits for the disk but ``Disk.fetch``, which runs in a thread. A lack of descriptors fails none.
* Looking is sampled: bytes between two pages that are in memory count as in memory; the two are at most 256 KiB apart
  at first, and up to 2 MiB after MiB upon MiB that were (looks cost some 1 % of the CPU of a warm download). Where the
  sample errs, one step waits for the disk; nothing worse.
* What was found is believed for a second: a slow reader's next bytes may have been evicted meanwhile.
* Where a file system cannot tell (tmpfs, FUSE, NFS, other kernels), what was not fetched in the last ten seconds
  counts as not in memory. A thread too many costs some 0.1 ms, a disk on the event loop everybody's latency. On tmpfs
  and its like, which lost half their throughput by that, a MiB that took no longer to fetch than it takes out of memory
  speaks for the next 64: of others a beginning that is in memory says nothing of what follows. And nothing in them is
  known to stay for whoever copies: a read may ask their server again, and some keep nothing (``readers``).
"""

from __future__ import annotations

import errno
import math
import os

from sendfile.identity import identify, is_in_memory
from sendfile.span import FileSpan, HasFileno
from sendfile.step import STEP

__all__ = ["Disk", "Frontier", "Residency"]

_FIRST_WINDOW = 256 << 10  # what a slow reader pins in memory
_LOOK_WINDOW = 8 << 20
_LOOKS = 4
_FETCH_WINDOW = 2 << 20
_BELIEVED = 1.0
_REMEMBERED = 10.0
_FILES = 1024
_NOTHING = (0, 0, -math.inf, False)
_PAGE = 4096
_SCRAP = [bytearray(1)]
_TELLING = 1 << 20
_MEMORY_SPEED = 2e9  # bytes per second; splicing did 5 to 30 when measured
_AHEAD = 64 << 20
_COPY = 256 << 10
# EPERM: a sandbox that forbids the call (seccomp(2)); where it is the file's, reading says so again.
_CANNOT_SPLICE = frozenset({errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOTSOCK})
_CANNOT_TELL = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS, errno.ESPIPE})


class Disk:
    """The questions to a file's bytes. Tests answer them otherwise."""

    def device(self, fd: int) -> int:
        """Of the file system; never waits for it."""
        return identify(fd)[0]

    def is_in_memory(self, fd: int) -> bool:
        """Whether the file system has all bytes in memory, or swapped out; may wait for it, so call it in a thread."""
        return is_in_memory(fd)

    def probe(self, fd: int, offset: int) -> bool | None:
        """Whether the byte at ``offset`` is in memory (or beyond the end); None where nobody can tell.

        Spec: preadv2(2), RWF_NOWAIT.
        """
        try:
            os.preadv(fd, _SCRAP, offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except AttributeError:  # not Linux
            return None
        except OSError as error:
            # Any other error of reading is sendfile's to meet and to tell.
            return None if error.errno in _CANNOT_TELL else True
        return True

    def fetch(self, fd: int, offset: int, count: int, kernel: bool = True) -> None:
        """Bring bytes into memory; blocks, so call it in a thread. OSError if they cannot be read.

        Args:
            kernel: False does it without sendfile(2), as for sending.
        """
        end = offset + count
        if kernel and _splice(fd, offset, end):
            return
        while offset < end and hasattr(os, "pread") and (data := os.pread(fd, min(end - offset, _COPY), offset)):
            offset += len(data)

    def read(self, fd: int, offset: int, count: int) -> bytes:
        """At most ``count`` bytes, none from the end on; blocks, so call it in a thread. OSError if it cannot."""
        return os.pread(fd, count, offset)


def _splice(fd: int, offset: int, end: int) -> bool:
    """Fetch bytes by splicing them to /dev/null: Linux copies none. False where it cannot, or no descriptor is left."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        return False
    try:
        while offset < end and (n := os.sendfile(null, fd, offset, end - offset)):
            offset += n
    except AttributeError:
        return False
    except OSError as error:
        if error.errno in _CANNOT_SPLICE:
            return False
        raise
    finally:
        os.close(null)
    return True


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
        point = offset
        verdict = self.disk.probe(fd, point)
        while verdict:
            before = point
            if point // _PAGE == last // _PAGE:
                return count
            point = min(last, point + apart)
            verdict = self.disk.probe(fd, point)
            if verdict is False:
                return before - offset
        return self._remembered(fd, offset, count, now, copies) if verdict is None else 0

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

    Attributes:
        copies: whether its files are to be read, not sent by sendfile(2).
    """

    __slots__ = ("_at", "_end", "_file", "_first", "_window", "copies")

    def __init__(self) -> None:
        self.copies = False
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

    def fetched(self, residency: Residency, span: FileSpan, count: int, seconds: float, now: float) -> None:
        """They are in memory now; ``seconds`` as for `Residency.remember`."""
        residency.remember(span.file.fileno(), span.offset, count, seconds, now)
        self._believe(span, count, now)

    def handed(self, span: FileSpan, count: int, now: float) -> None:
        """The first ``count`` bytes of a span, which is not empty, were handed over."""
        self._believe(span, count, now)

    def dare(self, span: FileSpan, now: float) -> None:
        """Nothing can be fetched: have the next bytes sent all the same, be it that a step waits for the disk."""
        self._window = _FIRST_WINDOW
        self._believe(span, self.wanted(span), now)

    def _believe(self, span: FileSpan, count: int, now: float) -> None:
        self._file, self._first, self._end, self._at = span.file, span.offset, span.offset + count, now
