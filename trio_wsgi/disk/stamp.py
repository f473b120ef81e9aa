"""Whether a source file has changed since somebody looked.

Laws:

* A stamp is taken before the file is read: what changes while it is read shows in the next one.
* Python takes old bytecode for new when a file changes twice within a second and keeps its size (it compares whole
  seconds). So whoever finds a source file changed removes its bytecode before anybody imports it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from pathlib import Path
from typing import NamedTuple


class Stamp(NamedTuple):
    """What tells one content of a file from the next; files that replace each other differ in their inode."""

    mtime_ns: int
    size: int
    inode: int


def take_stamp(path: str) -> Stamp | None:
    """The stamp of a file; None while there is none, as between two steps of an editor that saves."""
    try:
        status = os.stat(path)  # noqa: PTH116 - half of what Path costs, at each request
    except (OSError, ValueError):
        return None
    return Stamp(status.st_mtime_ns, status.st_size, status.st_ino)


def discard_bytecode(path: str) -> None:
    """Remove what Python has cached of a source file, if it has; where we may not, it stays."""
    with contextlib.suppress(OSError, ValueError, NotImplementedError):
        Path(importlib.util.cache_from_source(path)).unlink()
