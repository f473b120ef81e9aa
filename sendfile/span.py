"""A span: some bytes of an open file, named but not read.

Laws:

* A span is a value. It never changes and never owns its file: whoever opened the file closes it, after the
  last span of it has been sent.
* A span does not use the file's own position, so many spans of one file can be sent at the same time.
* ``len()`` is a promise of that many bytes. A file that turns out shorter breaks it, and sending says so
  (``FileTooShort``); we make nothing up in its place.
* The kernel may: it sends the pages of the file themselves. What is cut off or overwritten in place before the peer has
  taken it leaves as zeros, or as the new bytes, and nobody is told (sendfile(2), NOTES). Copies do not change.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Protocol, SupportsIndex

_LARGEST_OFFSET = 2**63 - 1  # off_t with 64 bits
_FILES = frozenset({io.BufferedReader, io.BufferedRandom, io.FileIO})  # what needs no further look
_IN_MEMORY = (io.BytesIO, io.StringIO)  # whose `fileno` only raises


class HasFileno(Protocol):
    """Something the kernel knows by a descriptor: an open file, a socket."""

    def fileno(self) -> int: ...


class Elsewhere:
    """Stands for a file that is open in another process, which nobody can send here.

    Args:
        text: what it looks like there.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text

    def fileno(self) -> int:
        raise ValueError(f"open in another process: {self._text}")


@dataclass(frozen=True, slots=True)
class FileSpan:
    """The bytes ``[offset, offset + count)`` of an open regular file.

    Args:
        file: an open file with ``fileno()``, readable. A bare descriptor is refused: a number says nothing
            about who closes it, and may stand for another file by the time it is used.
        offset: first byte, from 0.
        count: how many bytes, 0 or more; ``offset + count`` stays below 2**63.

    Raises:
        TypeError: ``file`` has no ``fileno()``, or is in memory only; ``offset`` or ``count`` is no whole number.
        ValueError: a bound does not hold.
    """

    file: HasFileno
    offset: int
    count: int

    def __post_init__(self) -> None:
        if type(self.file) not in _FILES:
            self._check_file()
        if type(self.offset) is not int or type(self.count) is not int:
            self._check_numbers()
        if self.offset < 0 or self.count < 0 or self.offset + self.count > _LARGEST_OFFSET:
            raise ValueError(f"no such span of a file: offset {self.offset}, count {self.count}")

    def _check_file(self) -> None:
        if not hasattr(self.file, "fileno"):
            raise TypeError(f"a span needs an open file with fileno(), not {self.file!r}")
        if isinstance(self.file, _IN_MEMORY):
            raise TypeError(f"a span needs a file that the kernel knows; pass the bytes of this one: {self.file!r}")

    def _check_numbers(self) -> None:
        for name, number in (("offset", self.offset), ("count", self.count)):
            if not isinstance(number, SupportsIndex):
                raise TypeError(f"{name} must be a whole number of bytes, not {number!r}")

    def __len__(self) -> int:
        return self.count

    def split(self, n: int) -> tuple[FileSpan, FileSpan]:
        """The first ``n`` bytes and the rest; ``n`` from 0 to ``len(self)``, else ValueError."""
        if not 0 <= n <= self.count:
            raise ValueError(f"cannot split {self.count} bytes after {n}")
        return FileSpan(self.file, self.offset, n), FileSpan(self.file, self.offset + n, self.count - n)

    def advance(self, n: int) -> FileSpan:
        """What is left after the first ``n`` bytes; ``n`` from 0 to ``len(self)``, else ValueError."""
        if not 0 <= n <= self.count:
            raise ValueError(f"cannot advance by {n} in {self.count} bytes")
        return FileSpan(self.file, self.offset + n, self.count - n)

    def to_tell(self) -> FileSpan:
        """The same where its file cannot be taken to, as another process: there it only says which one that was."""
        return FileSpan(Elsewhere(repr(self.file)), self.offset, self.count)
