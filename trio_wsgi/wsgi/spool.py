"""Bytes that wait for a slow reader or a late decision: in memory first, then in a temporary file.

Laws:

* The file has no name (`O_TMPFILE`, or unlinked at once), so that nothing is left behind, even after kill -9.
* A spool that failed once (disk full, limit reached) stays failed: what it holds is not the whole.
* Small blocks cost no more than their bytes: a client that sends thousands of them takes no more memory than others.
* Once it is on disk, everything here may block on it, `close` too: call it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import io
import tempfile
from typing import IO

from sendfile import FileSpan, Part


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
        self._held = bytearray()
        self._file: IO[bytes] | None = None
        self._size = 0
        self.failure: OSError | None = None

    def __len__(self) -> int:
        return self._size

    @property
    def on_disk(self) -> bool:
        """Whether it has outgrown the memory."""
        return self._file is not None

    def write(self, data: bytes | bytearray) -> None:
        """Take all of `data`.

        Raises:
            OSError: the disk is full, or the limit is reached; every later call raises it again.
        """
        self._check_failure()
        try:
            if self.fits(len(data)):
                self._held += data
            else:
                self._check_limit(len(data))
                file = self._file or self._move_to_file()
                file.write(data)
        except OSError as exc:
            self.failure = exc
            raise
        self._size += len(data)

    def fits(self, more: int) -> bool:
        """Whether `more` bytes can be written without touching the disk."""
        return self._file is None and self._size + more <= self._memory

    def _check_limit(self, more: int) -> None:
        if self._limit and self._size + more > self._limit:
            raise OSError(
                errno.EFBIG,
                f"{self._size + more} bytes to hold, but temp_limit is {self._limit}: raise it, or write less",
            )

    def _check_failure(self) -> None:
        if self.failure is not None:
            raise self.failure.with_traceback(None)  # or it would keep the frame, and the data, of every attempt

    def _move_to_file(self) -> IO[bytes]:
        self._file = tempfile.TemporaryFile(dir=self.directory, buffering=0x10000, prefix="trio-wsgi-")  # noqa: SIM115
        self._file.write(self._held)
        self._held = bytearray()
        return self._file

    def parts(self) -> list[Part]:
        """What it holds, to be sent; valid until `close`.

        Raises:
            OSError: not all of it could be held.
        """
        self._check_failure()
        if self._file is None:
            return [self._held] if self._held else []
        self._flush(self._file)
        return [FileSpan(self._file, 0, self._size)]

    def open_reader(self) -> IO[bytes]:
        """What it holds, handed over as a file to read from its start; `close` frees it all the same.

        Raises:
            OSError: not all of it could be held.
        """
        self._check_failure()
        if self._file is None:
            held, self._held = self._held, bytearray()
            return io.BytesIO(held)
        self._flush(self._file)
        self._file.seek(0)
        return self._file

    def _flush(self, file: IO[bytes]) -> None:
        try:
            file.flush()
        except OSError as exc:
            self.failure = exc
            raise

    def close(self) -> None:
        """Free the memory and the file; may be called again."""
        self._held = bytearray()
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk, when the last bytes are flushed
                self._file.close()
