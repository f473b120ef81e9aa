"""Memory that uploads pass through on their way to a disk: used again and again, since new memory is dear.

Laws:

* A buffer has one borrower at a time, and only while bytes move: who waits for a client holds none, so that thousands
  of slow uploads take no more memory than what they have sent.
* All of it happens on the event loop. A few are kept for the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_KEPT = 2


class Buffers:
    """Buffers of one size, lent and used again.

    Args:
        size: bytes of each.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: list[bytearray] = []

    def __repr__(self) -> str:
        return f"<Buffers of {self._size} bytes, {len(self._free)} free>"

    @contextmanager
    def lend(self) -> Iterator[memoryview]:
        """One of them, with whatever it held before; nobody uses it after the block."""
        buffer = self._free.pop() if self._free else bytearray(self._size)
        try:
            yield memoryview(buffer)
        finally:
            if len(self._free) < _KEPT:
                self._free.append(buffer)
