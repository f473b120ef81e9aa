"""`wsgi.file_wrapper` (PEP 3333, "Optional Platform-Specific File Handling"), and when the kernel may send its file.

Laws:

* The wrapper is a true iterator over any file-like object; iterating it is always right.
* A span for the kernel is made only where it is certain to be the bytes that `read()` would give: `read` is the
  built-in one of Python's own file objects over a regular file. A `fileno()` alone proves nothing: that of a `GzipFile`
  leads to other bytes than its `read()`.
* The bytes start at the file's current position (`tell()`, which knows of bytes read ahead into Python's buffer).
* The wrapper closes the file once; it owns it from the moment it is made.
* Python's buffer is a third of what a slow download would hold, and nothing to the kernel. Of a file that nobody else
  refers to, only the descriptor is kept then.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
import sys
import weakref
from collections.abc import Callable
from tempfile import _TemporaryFileWrapper
from typing import Any, Protocol

from sendfile import FileSpan
from trio_wsgi.disk.filesystem import has_lost_name
from trio_wsgi.errors import AppError

log = logging.getLogger("trio_wsgi.error")

FileStatus = os.stat_result

DEFAULT_BLOCK_SIZE = 64 * 1024


class Readable(Protocol):
    """What PEP 3333 asks of a file-like object; `close`, `seek`, `tell` and `fileno` are used where they exist."""

    def read(self, size: int, /) -> bytes: ...


class FileWrapper:
    """An iterator over a file's blocks, which the server may replace by `sendfile`.

    Args:
        filelike: an object with `read(size)`; from now on the wrapper closes it.
        blksize: bytes per block when it is iterated; at least 1.

    Raises:
        ValueError: blksize would end the file at once, or read all of it at once.
    """

    #: Whether blocks are asked for by the server itself, which has its reasons, and not by a middleware.
    iterated_by_server = False

    def __init__(self, filelike: Readable, blksize: int = DEFAULT_BLOCK_SIZE) -> None:
        if blksize < 1:
            raise ValueError(f"blksize must be at least 1 byte, not {blksize}")
        self.filelike = filelike
        self.blksize = blksize
        self._close: Callable[[], object] | None = getattr(filelike, "close", None)

    def __iter__(self) -> FileWrapper:
        return self

    def __next__(self) -> bytes:
        if not self.iterated_by_server:
            self._say_fast_path_is_lost(sys._getframe(1).f_globals.get("__name__", "?"))
        data: object = self.filelike.read(self.blksize)
        if isinstance(data, str):
            raise AppError(
                f"wsgi.file_wrapper was given a file opened in text mode, {self.filelike!r}: open it with mode 'rb'"
            )
        if data is None:
            raise AppError(f"{self.filelike!r} is non-blocking and has nothing to read yet: make it a blocking file")
        if not data:
            raise StopIteration
        if not isinstance(data, bytes):
            raise AppError(f"read() of {self.filelike!r} gave {type(data).__name__}, not bytes")
        return data

    def close(self) -> None:
        """Close the file; once, however often it is called."""
        close, self._close = self._close, None
        if close is not None:
            close()

    def open_span(self) -> tuple[FileSpan, FileStatus] | None:
        """The bytes from the file's position to its end, with its status; None where they must be read by iterating."""
        bufferless = self._may_lose_buffer()  # as long as nothing of ours refers to it
        found = _look_at(self.filelike)
        if found is None:
            return None
        file, offset, status = found
        if bufferless:
            file = self._lose_buffer(offset)
        return FileSpan(file, offset, max(0, status.st_size - offset)), status

    def _may_lose_buffer(self) -> bool:
        """Whether nobody could tell: what is gone is the buffered object, with what was put on it."""
        file = self.filelike
        if type(file) is not io.BufferedReader or vars(file) or weakref.getweakrefcount(file):
            return False
        del file
        return _references(self) == _REFERENCES_IF_SOLE

    def _lose_buffer(self, offset: int) -> io.FileIO:
        assert isinstance(self.filelike, io.BufferedReader)
        bare = self.filelike.detach()
        assert isinstance(bare, io.FileIO)
        bare.seek(offset)  # where the app has left it
        self.filelike, self._close = bare, bare.close
        return bare

    def _say_fast_path_is_lost(self, iterated_by: str) -> None:
        self.iterated_by_server = True  # said for this one
        if iterated_by.startswith("trio_wsgi."):  # an object of another's gave us the wrapper as its iterator
            iterated_by = "a middleware"
        if iterated_by not in _said_lost and _look_at(self.filelike) is not None:
            _said_lost.add(iterated_by)
            log.warning(
                "a wsgi.file_wrapper is iterated by %s and read through Python, in the app's thread: sendfile serves "
                "it only where the app's own return value reaches the server unwrapped (said once)",
                iterated_by,
            )

    def __getattr__(self, name: str) -> Any:
        # Those who wrap the wrapper look for these (Werkzeug seeks to the start of a range instead of reading up to
        # it); they exist exactly where the file has them.
        if name in {"seek", "tell", "seekable"}:
            return getattr(self.filelike, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


_said_lost: set[str] = set()  # modules that were named in the log already


def plain_file(filelike: object) -> io.BufferedReader | io.BufferedRandom | io.FileIO | None:
    """The built-in file whose bytes `filelike.read` gives, or None where that is not certain.

    It looks through `tempfile`'s wrapper and through objects whose `read` is the very method of another file, as that
    of Django's `File` is.
    """
    if isinstance(filelike, _TemporaryFileWrapper):
        filelike = filelike.file
    read = getattr(filelike, "read", None)
    file = getattr(read, "__self__", None)
    if isinstance(file, io.BufferedReader | io.BufferedRandom):
        built_in = type(file).read in _BUILT_IN_READS and type(file.raw) is io.FileIO
    else:
        built_in = type(file) is io.FileIO
    return file if built_in and file is not None and read == file.read else None


_BUILT_IN_READS = {io.BufferedReader.read, io.BufferedRandom.read}


def _look_at(filelike: object) -> tuple[io.BufferedReader | io.BufferedRandom | io.FileIO, int, FileStatus] | None:
    """A file that the kernel may send, the position that it is at, and its status; None if it has to be read."""
    file = plain_file(filelike)
    with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
        if file is None or not file.readable():
            return None
        if isinstance(file, io.BufferedRandom):
            file.flush()
        status = os.fstat(file.fileno())
        offset = file.tell()
        if stat.S_ISREG(status.st_mode) and _holds_its_size(file.fileno(), status):
            return file, offset, status
    return None


def _references(wrapper: FileWrapper) -> int:
    return sys.getrefcount(wrapper.filelike) if hasattr(sys, "getrefcount") else 0


# Which differs among Pythons; some count none.
_REFERENCES_IF_SOLE = _references(FileWrapper(io.BufferedReader(io.BytesIO()))) or None


def _holds_its_size(fd: int, status: FileStatus) -> bool:
    """Whether st_size is true. /proc calls its files empty, /sys gives them a page; neither has blocks on a disk."""
    if status.st_blocks:
        return True
    size = status.st_size
    return bool(os.pread(fd, 1, size - 1)) if size else not os.pread(fd, 1, 0)


def is_nameless(span: FileSpan, status: FileStatus) -> bool:
    """Whether a file was deleted, or never had a name. st_nlink tells it, but where a file system gives 0 to all."""
    return not status.st_nlink and has_lost_name(span.file.fileno())


def is_temporary(filelike: object) -> bool:
    """Whether a file will lose its name when it is closed."""
    return isinstance(filelike, _TemporaryFileWrapper)


def closes_at_once(filelike: object) -> bool:
    """Whether closing it runs no code of the app's, and so may happen on the event loop; unless it frees its disk, or
    its file system may keep it waiting (`closing.Closing`)."""
    return type(filelike) in {io.BufferedReader, io.FileIO} and "close" not in getattr(filelike, "__dict__", ())
