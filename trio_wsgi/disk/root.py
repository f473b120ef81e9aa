"""A directory whose files may be served, and nothing outside of it.

Laws:

* A name is opened relative to the descriptor of the root, never by a path that is checked first and opened later.
* No symlink leads out: the kernel sees to it while it resolves the name (openat2(2), RESOLVE_BENEATH). Where there is
  no openat2, no symlink below the root is followed at all. `follow_symlinks` lifts both.
* Only regular files and directories are given out: devices, pipes and sockets are as if they were not there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass

_SYS_OPENAT2 = 437  # the same on every architecture that Linux added it to
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
# O_NONBLOCK: opening a pipe that nobody writes to must not wait.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV, errno.EISDIR}
_ESCAPES = {errno.EXDEV, errno.ELOOP}


class Absent(Exception):
    """There is nothing of this name that may be served; `str()` says why, for the log."""


class _OpenHow(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A regular file; whoever gets it closes it."""

    file: io.FileIO
    status: os.stat_result


class OpenedDirectory:
    """A directory that is there; nothing is kept open."""


class Root:
    """A directory below which names are opened.

    Args:
        path: of the directory. Its own symlinks are followed; that is the operator's choice.
        follow_symlinks: follow the symlinks below it wherever they lead.

    Raises:
        OSError: there is no such directory.
    """

    def __init__(self, path: str, follow_symlinks: bool = False) -> None:
        self.path = os.path.realpath(path)
        self._follow = follow_symlinks
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __repr__(self) -> str:
        return f"<Root {self.path}>"

    def close(self) -> None:
        """Close the root; opened files stay open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def open(self, names: Sequence[bytes]) -> OpenedFile | OpenedDirectory:
        """Open what the names lead to, one below the other.

        Args:
            names: none of them empty, ``.`` or ``..``, or with a slash or NUL in it (see `rules.paths`).

        Raises:
            Absent: nothing that may be served is there.
            PermissionError: it may not be read.
            OSError: descriptors or memory ran out, or the disk failed.
        """
        if not names:
            return OpenedDirectory()
        try:
            fd = self._open(names)
        except PermissionError:
            raise
        except OSError as exc:
            if exc.errno in _ABSENT:
                raise Absent("no such file") from None
            if exc.errno in _ESCAPES:
                raise Absent("a symlink leads out of the root") from None
            raise
        try:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode):
                opened = OpenedFile(io.FileIO(fd), status)
                fd = -1
                return opened
            if stat.S_ISDIR(status.st_mode):
                return OpenedDirectory()
            raise Absent("not a regular file")
        finally:
            if fd >= 0:
                os.close(fd)

    def list(self, names: Sequence[bytes]) -> list[os.DirEntry[str]]:
        """The entries of the directory that the names lead to, unsorted.

        Raises:
            as `open`.
        """
        fd = self._open(names) if names else os.dup(self._fd)
        try:
            with os.scandir(fd) as entries:
                return list(entries)
        finally:
            os.close(fd)

    def _open(self, names: Sequence[bytes]) -> int:
        path = b"/".join(names)
        if self._follow:
            return os.open(path, _FLAGS, dir_fd=self._fd)
        if _libc is not None:
            try:
                return _openat2(self._fd, path)
            except OSError as exc:
                if exc.errno not in {errno.ENOSYS, errno.EPERM}:  # an old kernel, or a sandbox that forbids it
                    raise
        return self._walk(names)

    def _walk(self, names: Sequence[bytes]) -> int:
        with contextlib.ExitStack() as stack:
            directory = self._fd
            for name in names[:-1]:
                directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                stack.callback(os.close, directory)
            return os.open(names[-1], _FLAGS | os.O_NOFOLLOW, dir_fd=directory)


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _openat2(directory: int, path: bytes) -> int:
    how = _OpenHow(flags=_FLAGS, mode=0, resolve=_RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    assert _libc is not None
    fd: int = _libc.syscall(_SYS_OPENAT2, directory, ctypes.c_char_p(path), ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return fd
