"""A directory whose files may be served, and nothing outside of it.

Laws:

* A name is opened relative to the descriptor of the root, never by a path that is checked first and opened later.
* No symlink leads out: the kernel sees to it while it resolves the name (openat2(2), RESOLVE_BENEATH), and an
  absolute one counts as leading out. Where there is no openat2, no symlink below the root is followed at all.
  `follow_symlinks` lifts both.
* A root that was removed (`rm -rf dist; mkdir dist`) is opened anew, by its path and under the same number: other
  threads that use it meanwhile meet the one or the other, never somebody else's descriptor. What was looked for in it
  is looked for once more, and no further, whatever the file system says of the new one.
* Only regular files and directories are given out: devices, pipes and sockets are as if they were not there.
* What /proc and /sys make up when it is read is given out as a copy, for nobody knows its size before.
* `Root` may wait for the disk. `AtHand` never does, and so may be asked on the event loop: it opens what the kernel has
  in its caches (openat2(2), RESOLVE_CACHED), takes from it only that a regular file is there or that nothing is, and
  leaves every other answer to `Root`.
* Nothing is at hand but on file systems of this machine whose open() asks nobody, and beyond no mount point
  (RESOLVE_NO_XDEV): one of a network may wait for its server even where the kernel knows the name.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from trio_wsgi.disk.closing import Closing, closing_file
from trio_wsgi.disk.filesystem import has_lost_name, is_local, makes_up_sizes, opens_at_once, was_removed
from trio_wsgi.disk.openat2 import AT_HAND, BENEATH, OpenHow, openat2

log = logging.getLogger("trio_wsgi.error")

T = TypeVar("T")

# O_NONBLOCK: opening a pipe that nobody writes to must not wait.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_HOW = OpenHow(flags=_FLAGS, resolve=BENEATH)
_ROOT_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_DIRECTORY_FLAGS = _ROOT_FLAGS | os.O_NOFOLLOW
_ABSENT = {
    errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV, errno.EISDIR,
    errno.EINVAL, errno.EILSEQ,  # a name that the file system cannot have
}  # fmt: skip
_ESCAPES = {errno.EXDEV, errno.ELOOP}
_NO_OPENAT2 = {errno.ENOSYS, errno.EPERM}  # an old kernel, or a sandbox that forbids it
# EAGAIN: something was renamed while a ".." of a symlink was resolved, so that the kernel cannot vouch for the result.
_AGAIN = {errno.EAGAIN, errno.EINTR}
_ATTEMPTS = 32
_COPIED_MAX = 1 << 20  # bytes of a file whose size is not known before it was read


class Absent(Exception):
    """There is nothing of this name that may be served; `str()` says why, for the log."""


class NotAtHand(Exception):
    """What would answer is not at hand; ask `Root`, in a thread."""


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A regular file; whoever gets it closes it."""

    file: io.FileIO
    status: os.stat_result
    local: bool  # to close it asks nobody (`filesystem.is_local`)

    def closing(self) -> Closing:
        """For an answer that consists of it, or of a part."""
        return closing_file(self.file.close, self.file, self.status, self.local)


class Directory:
    """A directory that is there; nothing is kept open."""


class Root:
    """A directory below which names are opened.

    Args:
        path: of the directory. Its own symlinks are followed when it is opened: that is the operator's choice. `path`
            has it as it was given and `real_path` without symlinks, both absolute; `device` is of its file system.
        follow_symlinks: follow the symlinks below it wherever they lead.

    Raises:
        OSError: there is no such directory.
    """

    def __init__(self, path: str, follow_symlinks: bool = False) -> None:
        self.path = str(Path(path).absolute())
        self.real_path = os.path.realpath(path)
        self._follow = follow_symlinks
        self._fd = os.open(path, _ROOT_FLAGS)
        self.device = os.fstat(self._fd).st_dev
        self.at_hand = AtHand(self)

    def __repr__(self) -> str:
        return f"<Root {self.path}>"

    def close(self) -> None:
        """Close the root; opened files stay open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def renew(self) -> bool:
        """If the directory was removed and made again, open the new one. True: look once more."""
        if not was_removed(self._fd):
            return False
        try:
            fd = os.open(self.path, _ROOT_FLAGS)
        except OSError:  # not made yet, or no more for us to open
            return False
        try:
            if was_removed(fd):  # or its file system says so of all
                return False
            os.dup2(fd, self._fd, inheritable=False)
        finally:
            os.close(fd)
        self.real_path = os.path.realpath(self.path)
        self.device = os.fstat(self._fd).st_dev
        self.at_hand = AtHand(self)
        log.info("%s had been removed and is there anew: opened again", self.path)
        return True

    def open(self, names: Sequence[bytes]) -> OpenedFile | Directory:
        """Open what the names lead to, one below the other.

        Args:
            names: none of them empty, ``.`` or ``..``, or with a slash or NUL in it (see `rules.paths`).

        Raises:
            Absent: nothing that may be served is there.
            PermissionError: it may not be read.
            OSError: descriptors or memory ran out, or the disk failed.
        """
        if not names:
            return Directory()
        self._refuse_special(names)
        return self._give_out(self._open_existing(names), b"/".join(names))

    def _give_out(self, fd: int, path: bytes, at_hand: bool = False) -> OpenedFile | Directory:
        """What was opened, if it may be served. Takes over `fd`; what is at hand is known to be local."""
        try:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode):
                local = at_hand or is_local(fd, status.st_dev)
                if not local and makes_up_sizes(fd, status.st_dev):
                    made_up, fd = fd, _copy(fd)
                    os.close(made_up)
                    status, local = os.fstat(fd), True
                file = io.FileIO(fd)
                fd = -1
                file.name = f"{self.path}/{os.fsdecode(path)}"  # for the log
                return OpenedFile(file, status, local)
            if stat.S_ISDIR(status.st_mode):
                return Directory()
            raise Absent("not a regular file")
        finally:
            if fd >= 0:
                os.close(fd)

    def _refuse_special(self, names: Sequence[bytes]) -> None:
        """Raise Absent for what must not even be opened: a pipe lets its writer go on, a device may do anything.

        What is opened is judged again, by its descriptor: between the two anything may happen.
        """
        try:
            status = os.stat(b"/".join(names), dir_fd=self._fd)
        except FileNotFoundError:
            raise Absent("no such file") from None
        except OSError:  # opening says why
            return
        if not _may_be_served(status):
            raise Absent("not a regular file")

    def list(self, names: Sequence[bytes]) -> list[tuple[bytes, os.stat_result]]:
        """The entries of the directory that the names lead to, each with its status, unsorted.

        Left out is what `open` would not give: special files, what may not be read, symlinks that lead out of the
        root or nowhere. A symlink that does not is listed as what it leads to.

        Raises:
            as `open`; Absent also where the root was removed, which looks empty.
        """
        # The root anew: a copy of its descriptor would share the position that reading moves (dup(2)).
        fd = self._open_existing(names or (b".",))
        try:
            with os.scandir(fd) as entries:
                found = [os.fsencode(entry.name) for entry in entries]
            if not found and was_removed(self._fd):
                raise Absent("the directory was removed")
            statuses = ((name, self._status(names, fd, name)) for name in found)
            return [(name, status) for name, status in statuses if status is not None]
        finally:
            os.close(fd)

    def _status(self, names: Sequence[bytes], directory: int, name: bytes) -> os.stat_result | None:
        """Of what `open` would give for the entry of a directory; None where it would give nothing."""
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                if not _may_be_served(os.stat(name, dir_fd=directory)):  # a pipe must not even be opened
                    return None
                fd = self._open((*names, name))
                try:
                    status = os.fstat(fd)
                finally:
                    os.close(fd)
            elif not os.access(name, os.R_OK, dir_fd=directory, effective_ids=_EFFECTIVE_IDS):
                return None
        except OSError:  # gone meanwhile, or leads out of the root
            return None
        return status if _may_be_served(status) else None

    def _open_existing(self, names: Sequence[bytes]) -> int:
        """As `_open`, but whatever says that there is nothing is Absent."""
        try:
            return self._open(names)
        except PermissionError:
            raise
        except OSError as exc:
            if exc.errno in _ABSENT:
                raise Absent("no such file") from None
            if exc.errno in _ESCAPES:
                raise Absent("a symlink leads out of the root") from None
            raise

    def _open(self, names: Sequence[bytes]) -> int:
        path = b"/".join(names)
        if self._follow:
            return os.open(path, _FLAGS, dir_fd=self._fd)
        for _ in range(_ATTEMPTS):
            fd = openat2(self._fd, path, _HOW)
            if fd >= 0:
                return fd
            if -fd in _NO_OPENAT2:
                break
            if -fd not in _AGAIN:
                raise OSError(-fd, os.strerror(-fd), path)
        return self._walk(names)

    def _walk(self, names: Sequence[bytes]) -> int:
        """Open name by name, holding one directory at a time."""
        directory = self._fd
        try:
            for name in names[:-1]:
                below = os.open(name, _DIRECTORY_FLAGS, dir_fd=directory)
                if directory != self._fd:
                    os.close(directory)
                directory = below
            return os.open(names[-1], _FLAGS | os.O_NOFOLLOW, dir_fd=directory)
        finally:
            if directory != self._fd:
                os.close(directory)


def find_again_if_renewed(root: Root | AtHand, find: Callable[[], T]) -> T:
    """What `find` gives; asked once more where it finds nothing and the root is another directory by now."""
    try:
        return find()
    except (Absent, OSError):  # of a network's, ESTALE
        if not root.renew():
            raise
    return find()


class AtHand:
    """What of a root the kernel has in its caches: the verbs of `Root`, which never wait here.

    Whatever is not known for certain is `NotAtHand`, also where it is refused: `Root` says then what it is.
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        self._can_tell = opens_at_once(root._fd)
        resolve = AT_HAND | (0 if root._follow else BENEATH)
        # O_PATH: a descriptor to look at, which opens nothing. stat(2) cannot be told to look into caches only.
        self._to_look = OpenHow(flags=getattr(os, "O_PATH", 0) | os.O_CLOEXEC, resolve=resolve)
        self._to_read = OpenHow(flags=_FLAGS, resolve=resolve)

    def open(self, names: Sequence[bytes]) -> OpenedFile | Directory:
        """As `Root.open`.

        Raises:
            Absent: nothing is there.
            NotAtHand: see above; always for a directory, but the root itself.
        """
        if not names:
            return Directory()
        if not self._can_tell:
            raise NotAtHand
        root, path = self._root, b"/".join(names)
        fd = openat2(root._fd, path, self._to_look)
        if fd >= 0:
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):  # to open a directory reads from it in some file systems
                    raise NotAtHand
            finally:
                os.close(fd)
            fd = openat2(root._fd, path, self._to_read)
        if fd >= 0:
            return root._give_out(fd, path, at_hand=True)
        if fd == -errno.ENOENT:  # of what it says otherwise, nothing is taken at its word
            raise Absent("no such file")
        raise NotAtHand

    def renew(self) -> bool:
        """As `Root.renew`: NotAtHand where it is to be opened."""
        if self._can_tell and has_lost_name(self._root._fd):
            raise NotAtHand
        return False

    def list(self, names: Sequence[bytes]) -> list[tuple[bytes, os.stat_result]]:
        """As `Root.list`: a directory is never at hand."""
        raise NotAtHand


def _copy(fd: int) -> int:
    """The content of a file whose size nobody knows, in a file in memory."""
    copy, size = os.memfd_create("copy"), 0
    try:
        while piece := os.read(fd, _COPIED_MAX):
            os.write(copy, piece)
            size += len(piece)
            if size > _COPIED_MAX:
                raise OSError(errno.EFBIG, f"larger than {_COPIED_MAX} bytes, and its size is not known: not served")
    except BaseException:
        os.close(copy)
        raise
    return copy


def _may_be_served(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)


_EFFECTIVE_IDS = os.access in os.supports_effective_ids
