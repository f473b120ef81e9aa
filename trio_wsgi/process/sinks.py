"""Where the lines of a log go: a standard stream, or a file that others may move away.

Laws:

* Several processes write to one sink. Lines go to the end of a regular file in one write; elsewhere, as in a pipe, in
  writes that the kernel never mixes with those of others (PIPE_BUF, pipe(7)). A line that is longer is one write of
  its own, into which others may come while the reader lags.
* A line that was written in part, as on a full disk, is ended before the next one begins: in a file, whoever's it is.
* Whoever waits for a reader holds no lock of Python's own streams, which the end of the process would wait for: what is
  written to is a descriptor.
* What is written to is open at any moment, whenever the application forks a child that goes on writing there.
* A file that we make belongs to whom we become, so that we can open it anew; one that was there stays whose it is, as
  anything may have been put in its place.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TextIO

from trio_wsgi.owner import Owner

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class Sink:
    """An open descriptor that lines are written to.

    Args:
        fd: owned from now on; None for nowhere.
    """

    def __init__(self, fd: int | None) -> None:
        self._use(fd)

    def _use(self, fd: int | None) -> None:
        self._fd = fd
        self._torn = False  # our last line was written in part
        self._is_file = fd is not None and stat.S_ISREG(os.fstat(fd).st_mode)
        self._reading = _open_to_read(fd) if fd is not None and self._is_file else None

    def write(self, records: Sequence[bytes]) -> tuple[int, str]:
        """Write all of them; waits for the reader.

        Args:
            records: of one line or several, with their ends.

        Returns:
            How many were written whole, and why no more were; "" where all were.
        """
        done = 0
        try:
            if self._would_continue_a_line():
                self._write_some(b"\n")
            self._torn = False
            for piece in [b"".join(records)] if self._is_file else _in_pieces(records, select.PIPE_BUF):
                data = piece
                while data:
                    count = self._write_some(data)
                    self._torn = data[count - 1 : count] != b"\n"
                    data = data[count:]
                    done += count
        except (OSError, ValueError) as exc:  # ValueError: the stream was closed meanwhile
            return _count_whole(records, done), (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
        return len(records), ""

    def _would_continue_a_line(self) -> bool:
        """Whether what is written next comes behind half a line: in a file, that of any process that writes to it."""
        if self._reading is not None:
            with contextlib.suppress(OSError):
                end = os.fstat(self._reading).st_size
                return end > 0 and os.pread(self._reading, 1, end - 1) not in {b"\n", b""}  # b"": truncated meanwhile
        return self._torn

    def _write_some(self, data: bytes) -> int:
        if self._fd is None:
            return len(data)
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:  # whoever shares the pipe with us made it non-blocking
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()

    def reopen(self) -> None:
        """Open what has the name now, if it has one."""

    def close(self) -> None:
        """No more is written."""
        fds, self._fd, self._reading = (self._fd, self._reading), None, None
        _close(fds)


class Stream(Sink):
    """Standard output or error, or what stands in for it where the process has none. It is not ours to open or close.

    Its descriptor is a duplicate: a thread left behind in a write must never find another file under the number.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        fd = None
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                fd = os.dup(stream.fileno())
        super().__init__(fd)

    def __str__(self) -> str:
        return str(getattr(self._stream, "name", "a stream"))

    def _write_some(self, data: bytes) -> int:
        if self._fd is None and self._stream is not None and not self._stream.closed:
            self._stream.write(data.decode())
            self._stream.flush()
        return super()._write_some(data)


def make_file(path: str, owner: Owner) -> int:
    """Make a log file that is not there, and open it. Never waits, as to open what is there may: a pipe, for a reader.

    Raises:
        FileExistsError: something has the name.
        OSError: it cannot be made.
    """
    fd = os.open(path, _APPEND | os.O_EXCL, 0o666)
    with contextlib.suppress(OSError):  # it is ours already, or we may not give it away
        os.fchown(fd, *owner)
    return fd


class File(Sink):
    """A log file, which others may move away or remove.

    Args:
        owner: of a file that is made here.
        patient: whether to wait for who reads it, if it is a pipe; else that is an error (ENXIO).

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str, owner: Owner, *, patient: bool = True) -> None:
        self._path = os.path.abspath(path)  # noqa: PTH100 - the application may change directory; links stay
        self._owner = owner
        super().__init__(self._open(0 if patient else os.O_NONBLOCK))

    def __str__(self) -> str:
        return self._path

    def _open(self, flags: int = 0) -> int:
        try:
            return make_file(self._path, self._owner)
        except FileExistsError:
            fd = os.open(self._path, _APPEND | flags, 0o666)
            os.set_blocking(fd, True)
            return fd

    def write(self, records: Sequence[bytes]) -> tuple[int, str]:
        """As every sink does, to the file that has the name now."""
        if not self._is_named():
            with contextlib.suppress(OSError):  # else into the old one: better there than nowhere
                self.reopen()
        return super().write(records)

    def _is_named(self) -> bool:
        try:
            return self._fd is not None and os.path.samestat(Path(self._path).stat(), os.fstat(self._fd))
        except OSError:
            return False

    def reopen(self) -> None:
        """Open what has the name now.

        Raises:
            OSError: it cannot be opened; the old file stays in use.
        """
        fds = (self._fd, self._reading)
        self._use(self._open())
        _close(fds)


def _close(fds: Iterable[int | None]) -> None:
    for fd in fds:
        if fd is not None:
            os.close(fd)


def _open_to_read(fd: int) -> int | None:
    """Another descriptor of an open file, to read from (proc_pid_fd(5)); None where we may not, or cannot."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _in_pieces(records: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Records joined to pieces of at most `size` bytes; one that is longer is divided between its lines."""
    piece: list[bytes] = []
    room = size
    for record in records:
        for part in [record] if len(record) <= size else record.splitlines(keepends=True):
            if piece and len(part) > room:
                yield b"".join(piece)
                piece, room = [], size
            piece.append(part)
            room -= len(part)
    if piece:
        yield b"".join(piece)


def _count_whole(records: Iterable[bytes], done: int) -> int:
    """How many of them are within the first `done` bytes."""
    return sum(end <= done for end in accumulate(map(len, records)))
