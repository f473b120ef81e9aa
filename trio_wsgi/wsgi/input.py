"""`wsgi.input`: a body that the app reads while it arrives, or one that was gathered before.

Laws:

* It ends exactly where the body ends, and never waits for a byte beyond it.
* A body that did not arrive whole raises; it never looks complete.
* A read that failed fails again.
* What is still arriving is not read on the event loop: a read there raises `AppError`, and takes nothing.
* Every read raises `Cancelled` once the request is cancelled, also where nothing need be waited for.
"""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING

from trio_wsgi.wsgi.bridge import check_cancelled, refuse_on_loop
from trio_wsgi.wsgi.ports import Inlet

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

READ_AHEAD = 64 * 1024  # bytes held for readline(); a body that nobody reads on stays in the kernel


class _Cancellable:
    """The ways to read a file, each of which first asks whether anybody still wants to know."""

    _check = staticmethod(check_cancelled)

    def read(self, size: int | None = -1, /) -> bytes:
        self._check()
        return super().read(size)  # type: ignore[misc,no-any-return]

    def read1(self, size: int = -1, /) -> bytes:
        self._check()
        return super().read1(size)  # type: ignore[misc,no-any-return]

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        self._check()
        return super().readinto(buffer)  # type: ignore[misc,no-any-return]

    def readline(self, size: int | None = -1, /) -> bytes:
        self._check()
        return super().readline(-1 if size is None else size)  # type: ignore[misc,no-any-return]

    def readlines(self, hint: int | None = None, /) -> list[bytes]:
        self._check()
        return super().readlines(hint)  # type: ignore[misc,no-any-return]

    def __next__(self) -> bytes:
        self._check()
        return super().__next__()  # type: ignore[misc,no-any-return]


class _InMemory(_Cancellable, io.BytesIO):  # type: ignore[misc]
    pass


class _Buffered(_Cancellable, io.BufferedReader):
    pass


class _Received(_Buffered):
    """What is still to arrive is read in threads; to find that out half-way would lose what was read so far."""

    raw: _Arriving

    def _check(self) -> None:
        refuse_on_loop(self.raw.loop_thread, "wsgi.input.read()")
        check_cancelled()


class _Arriving(io.RawIOBase):
    """The inlet as a raw stream, so that Python's own buffering gives read, readline and iteration."""

    def __init__(self, inlet: Inlet) -> None:
        super().__init__()
        self._inlet = inlet
        self.loop_thread = inlet.loop_thread
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        into = memoryview(buffer).cast("B")
        if self._ended or not into:
            return 0
        count = self._inlet.receive_into(into)
        self._ended = not count
        return count


def open_input(inlet: Inlet) -> io.BufferedReader:
    """A readable file over the body that `inlet` receives."""
    return _Received(_Arriving(inlet), READ_AHEAD)


def open_empty() -> IO[bytes]:
    """`wsgi.input` of a request without a body."""
    return _InMemory()


def open_gathered(file: IO[bytes]) -> IO[bytes]:
    """The file that holds a gathered body, as `wsgi.input`. Nothing is copied; one on disk closes `file` with it."""
    if isinstance(file, io.BytesIO):
        return _InMemory(file.getvalue())
    assert isinstance(file, io.FileIO)
    return _Buffered(file, READ_AHEAD)
