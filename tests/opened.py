"""What this process has open (proc(5))."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def count_descriptors() -> int:
    """How many descriptors there are, and one of the look itself."""
    return len(list(Path("/proc/self/fd").iterdir()))


def list_descriptors() -> set[tuple[int, str]]:
    """Each with what it stands for."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            found.add((int(entry.name), str(entry.readlink())))
    return found


def descriptors_of(path: Path) -> set[int]:
    """The descriptors that stand for a file or directory that is, or was, of this name."""
    names = {str(path), f"{path} (deleted)"}
    return {fd for fd, name in list_descriptors() if name in names}
