"""openat2(2): opening a name relative to a directory, with a word on where the kernel may look for it.

Laws:

* Who asks for what is in the kernel's caches never waits, and keeps the interpreter meanwhile: to have it back from a
  busy thread takes up to 5 ms.
* Where there is no such call, the answer is the one of a kernel that has none.
"""

from __future__ import annotations

import ctypes
import errno
import sys

# Where it may look (open_how.resolve).
BENEATH = 0x08 | 0x02  # RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS: no symlink leads out
AT_HAND = 0x20 | 0x01  # RESOLVE_CACHED (since Linux 5.12), RESOLVE_NO_XDEV: in its caches, and beyond no mount point

_NUMBER = 437  # the same on every architecture that Linux added it to


class OpenHow(ctypes.Structure):
    """struct open_how."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(directory: int, path: bytes, how: OpenHow) -> int:
    """Open `path` relative to `directory`.

    Returns:
        a descriptor; or the error's number, negated: many look for what is not there, and raise nothing for it.
    """
    libc = _libc_at_once if how.resolve & AT_HAND else _libc
    if libc is None:
        return -errno.ENOSYS
    fd: int = libc.syscall(_NUMBER, directory, ctypes.c_char_p(path), ctypes.byref(how), _SIZE)
    return fd if fd >= 0 else -ctypes.get_errno()


_SIZE = ctypes.sizeof(OpenHow)
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_libc_at_once = ctypes.PyDLL(None, use_errno=True) if sys.platform == "linux" else None
