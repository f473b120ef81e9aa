"""Which file a descriptor stands for, and what kind of file system it is in.

Laws:

* `identify` never waits. fstat(2) may: on a file system of a network, or of a process (FUSE), it asks for what else it
  tells, such as the size, and hangs with a server that is gone. statx(2) can be told not to.
* Where there is no statx(2), fstat(2) has to do.
"""

from __future__ import annotations

import ctypes
import os
import sys

_EMPTY_PATH = 0x1000  # AT_EMPTY_PATH: the descriptor's own file
_DONT_SYNC = 0x4000  # AT_STATX_DONT_SYNC
_INO = 0x100  # STATX_INO


class _Statx(ctypes.Structure):
    """struct statx of statx(2); what is read of it has a name."""

    _fields_ = (
        ("before", ctypes.c_uint32 * 8),
        ("ino", ctypes.c_uint64),
        ("between", ctypes.c_uint32 * 24),
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("after", ctypes.c_uint32 * 28),
    )


def identify(fd: int) -> tuple[int, int]:
    """The file system and the number in it of an open file, as `st_dev` and `st_ino` have them.

    Raises:
        OSError: no such descriptor.
    """
    if _statx is not None:
        found = _Statx()
        if not _statx(fd, b"", _EMPTY_PATH | _DONT_SYNC, _INO, ctypes.byref(found)):
            return os.makedev(found.major, found.minor), found.ino
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def file_system_type(fd: int) -> int:
    """The f_type of statfs(2) (linux/magic.h); -1 where it is not to be had. May wait; call it in a thread."""
    status = ctypes.create_string_buffer(256)  # struct statfs, and more: the first member is f_type, a long
    if _libc is None or _libc.fstatfs(fd, status):
        return -1
    return ctypes.c_ulong.from_buffer(status).value & 0xFFFFFFFF


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
# PyDLL: what never waits keeps the interpreter; to have it back from a busy thread takes up to 5 ms.
_statx = getattr(ctypes.PyDLL(None), "statx", None) if sys.platform == "linux" else None
