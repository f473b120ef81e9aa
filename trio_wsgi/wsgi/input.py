"""`wsgi.input` of a request whose body is read by the app while it arrives.

Laws:

* It ends exactly where the body ends, and never waits for a byte beyond it.
* A body that did not arrive whole raises; it never looks complete.
* A read that failed fails again.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from trio_wsgi.wsgi.ports import Inlet

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

READ_AHEAD = 64 * 1024  # bytes held for readline(); a body that nobody reads on stays in the kernel


class _Arriving(io.RawIOBase):
    """The inlet's blocks as a raw stream, so that Python's own buffering gives read, readline and iteration."""

    def __init__(self, inlet: Inlet) -> None:
        super().__init__()
        self._inlet = inlet
        self._block = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if not self._block and not self._ended:
            self._block = memoryview(self._inlet.receive())
            self._ended = not self._block
        into = memoryview(buffer).cast("B")
        count = min(len(into), len(self._block))
        into[:count] = self._block[:count]
        self._block = self._block[count:]
        return count


def open_input(inlet: Inlet) -> io.BufferedReader:
    """A readable file over the body that `inlet` receives."""
    return io.BufferedReader(_Arriving(inlet), READ_AHEAD)
