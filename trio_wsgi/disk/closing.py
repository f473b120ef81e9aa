"""What is left to be closed when an answer has left, and who may do it.

Laws:

* What may run code of the application's is closed in a thread of the application's: it may do anything.
* A file that was deleted is not closed on the event loop, where it is large: the close gives its blocks back, 0.2 s for
  a gigabyte when measured (unlink(2)). That may happen while it is sent, so it is looked at when it is to be closed.
* Nor is one of a file system that may keep close(2) waiting (`filesystem.is_local`), be it small.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from sendfile import HasFileno
from trio_wsgi.disk.filesystem import has_lost_name

_LARGE = 4 << 20  # bytes, freed in less than a millisecond; what leaves at once is smaller


@dataclass(slots=True)
class Closing:
    """What an answer holds open. Whoever has it calls `close` once: anywhere if it is to be done `at_once`, else in a
    thread of the application's, best in `thread`; or where that is all that `is_for_disk`, in one of its file system.

    Args:
        close: closes all of it.
        quick: it waits for nothing but, maybe, for the file system of `device`, or the blocks of `large`; it runs no
            code of the application's, above all.
        device: st_dev of the file system that may keep it waiting; 0 where none does.
        large: a file among it that may have much to free.
        thread: where the application has opened it, by threading.get_ident(); 0 where that counts for nothing.
    """

    close: Callable[[], object]
    quick: bool = True
    device: int = 0
    large: HasFileno | None = None
    thread: int = 0

    @property
    def at_once(self) -> bool:
        """Whether it keeps nobody waiting, as far as that is known now."""
        return self.quick and not self.device and (self.large is None or not _is_deleted(self.large))

    @property
    def is_for_disk(self) -> bool:
        """Whether it waits for a file system, and for nothing else."""
        return self.quick and self.device != 0


def closing_file(
    close: Callable[[], object], file: HasFileno, status: os.stat_result, local: bool, quick: bool = True
) -> Closing:
    """What closes, maybe among other things, a file.

    Args:
        status: of the file, from fstat(2).
        local: see `filesystem.is_local`.
    """
    return Closing(close, quick, 0 if local else status.st_dev, file if status.st_size >= _LARGE else None)


def _is_deleted(file: HasFileno) -> bool:
    """Whether a file has lost its name, maybe one of several."""
    with suppress(OSError, ValueError):  # closed already, by the app
        return has_lost_name(file.fileno())
    return False
