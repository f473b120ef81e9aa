"""Bytes that wait for a slow reader or a late decision: in memory first, then in a temporary file.

Laws:

* The file has no name (`O_TMPFILE`, or unlinked at once), so that nothing is left behind, even after kill -9.
* A spool that failed once (disk full, limit reached) stays failed: what it holds is not the whole.
* Small blocks cost no more than their bytes: a client that sends thousands of them takes no more memory than others.
* Once it is on disk, everything here may block on it, `close` too: call it in a thread.
"""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import IO

from sendfile import FileSpan, Part

Block = bytes | bytearray | memoryview

_WRITE_SIZE = 64 * 1024  # bytes below which what goes to the file waits for more
_BUFFERS = 64  # of IOV_MAX, which is 1024 on Linux
_writev = getattr(os, "writev", lambda fd, buffers: os.write(fd, buffers[0]))  # Windows has none


class Spool:
    """Collects bytes; up to `memory` bytes stay in memory.

    Args:
        memory: bytes kept in memory before everything moves to a file.
        limit: bytes in the file; 0 means no limit.
        directory: where the temporary file is made; None for the system's choice.
    """

    def __init__(self, memory: int, limit: int, directory: str | None) -> None:
        self._memory = memory
        self._limit = limit
        self.directory = directory
        self._held = bytearray()  # all of it, or what is to follow in the file
        self._file: io.FileIO | None = None
        self._size = 0
        self.failure: OSError | None = None

    def __len__(self) -> int:
        return self._size

    @property
    def on_disk(self) -> bool:
        """Whether it has outgrown the memory."""
        return self._file is not None

    @property
    def settled(self) -> bool:
        """Whether all of it is in the file, and `open_reader` has nothing to write."""
        return self._file is not None and not self._held

    def write(self, data: bytes) -> None:
        """Take all of `data`.

        Raises:
            OSError: the disk is full, or the limit is reached; every later call raises it again.
        """
        if self.fits(len(data)):
            self._check_failure()
            self._held += data
            self._size += len(data)
        else:
            self.write_blocks((data,))

    def write_blocks(self, blocks: Sequence[Block]) -> None:
        """`write` all of them; many at once cost less."""
        self._check_failure()
        size = sum(map(len, blocks))
        fits = self.fits(size)
        if not fits and self._limit and self._size + size > self._limit:
            what = f"{self._size + size} bytes to hold, but temp_limit is {self._limit}: raise it, or write less"
            self.failure = OSError(errno.EFBIG, what)
            raise self.failure
        if fits or (self._file is not None and len(self._held) + size < _WRITE_SIZE):
            for block in blocks:
                self._held += block
        else:
            self._write_out(blocks)
        self._size += size

    def fits(self, more: int) -> bool:
        """Whether `more` bytes can be written without touching the disk."""
        return self._file is None and self._size + more <= self._memory

    def _check_failure(self) -> None:
        if self.failure is not None:
            raise self.failure.with_traceback(None)  # or it would keep the frame, and the data, of every attempt

    def _write_out(self, blocks: Sequence[Block] = ()) -> None:
        try:
            if self._file is None:
                self._file = _open_temporary(self.directory)
            _write_all(self._file.fileno(), [self._held, *blocks])
        except OSError as exc:
            self.failure = exc
            raise
        self._held = bytearray()

    def parts(self) -> list[Part]:
        """What it holds, to be sent; valid until `close`.

        Raises:
            OSError: not all of it could be held.
        """
        self._check_failure()
        if self._file is None:
            return [self._held] if self._held else []
        self._write_out()
        return [FileSpan(self._file, 0, self._size)]

    def open_reader(self, last: Sequence[Block] = ()) -> IO[bytes]:
        """What it holds, handed over as a file to read from its start; `close` frees it all the same.

        Args:
            last: blocks that are written before.

        Raises:
            OSError: not all of it could be held.
        """
        if self.fits(size := sum(map(len, last))):
            self._check_failure()
            held, self._held = self._held, bytearray()
            self._size += size
            return io.BytesIO(b"".join((held, *last)))
        self.write_blocks(last)
        self._write_out()
        assert self._file is not None
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        """Free the memory and the file; may be called again."""
        self._held = bytearray()
        if self._file is not None:
            self._file.close()


def _open_temporary(directory: str | None) -> io.FileIO:
    return tempfile.TemporaryFile(dir=directory, buffering=0, prefix="trio-wsgi-")


def _write_all(fd: int, blocks: Iterable[Block]) -> None:
    """writev(2) until all is written: a disk that fills up takes the first bytes, and refuses the next."""
    left: deque[Block] = deque(block for block in blocks if block)
    while left:
        written = _writev(fd, tuple(islice(left, _BUFFERS)))
        while left and written >= len(left[0]):
            written -= len(left.popleft())
        if written:
            left[0] = memoryview(left[0])[written:]
