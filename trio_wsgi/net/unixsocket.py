"""Unix sockets that are files: made, given away, and removed.

Laws:

* Nobody comes in before mode and owner are right: connect(2) is refused until we listen, and we listen last. umask(2)
  around bind(2) would be right a moment sooner, but it belongs to the whole process, and so to every file that another
  thread of an embedding program makes in that moment.
* A file that no server answers at is stale and replaced; one that answers is somebody's, and an error.
* Servers that start or stop under one name at the same time take turns, by a lock on the directory. So what is seen as
  stale is nobody's, and none removes a socket that another has just made.
* The file is removed in the end, if it is still ours and we still may: whoever has become another user may not. Which
  file is ours is known from when it was made: as long as the socket is open, no other has its number.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.owner import Owner, find_heir, parse_owner

_TURN_TIMEOUT = 2.0  # seconds; whoever holds the directory's lock for longer is not starting a server
_BRIEF = 0.002  # seconds of that, at the end: the event loop waits, and servers hold the lock for microseconds


class Access(NamedTuple):
    """Who may connect to a unix socket.

    Args:
        mode: of its file; None: what umask leaves.
        owner: of its file.
    """

    mode: int | None = None
    owner: Owner = Owner()


def find_access(config: Config) -> Access:
    """What the settings say; without an owner, a socket belongs to whom the process becomes, as gunicorn has it.

    Raises:
        ConfigError: a user or a group is not known.
    """
    mode = int(config.unix_socket_perms, 8) if config.unix_socket_perms else None
    if config.unix_socket_owner:
        return Access(mode, parse_owner(config.unix_socket_owner, "unix_socket_owner"))
    return Access(mode, find_heir(config))


class SocketFile(NamedTuple):
    """The file that was made for a unix socket.

    Args:
        path: absolute.
        device, inode: its number (stat(2)).
    """

    path: str
    device: int
    inode: int

    def remove(self) -> None:
        """Take it away, if it still is the one of then; it may be called on the event loop."""
        file = Path(self.path)
        # OSError: somebody has removed it, or we may no longer.
        with contextlib.suppress(OSError), _taking_turns(file.parent, _BRIEF):
            if find_file(self.path) == self:  # else somebody replaced it: then it is theirs
                file.unlink()

    def has_gone(self) -> bool:
        """Whether it was removed, or replaced: nobody can connect there any more."""
        try:
            return find_file(self.path) != self
        except FileNotFoundError:
            return True
        except OSError:  # it cannot be told
            return False


def find_file(path: str) -> SocketFile:
    """The file that is there now.

    Raises:
        OSError: there is none.
    """
    found = Path(path).lstat()
    return SocketFile(path, found.st_dev, found.st_ino)


def listen_unix(path: str, backlog: int, access: Access) -> tuple[socket.socket, SocketFile | None]:
    """Listen under a path, or under a name of Linux' abstract name space (a leading ``@``).

    Returns:
        The socket, and its file; None where there is none.

    Raises:
        OSError: it cannot be bound.
        ConfigError: it cannot be given to its owner.
    """
    with contextlib.ExitStack() as failing:
        sock = failing.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        if path.startswith("@"):
            sock.bind("\0" + path[1:])
            sock.listen(backlog)
            made = None
        else:
            file = Path(path).absolute()  # the application may change directory
            with _taking_turns(file.parent, _TURN_TIMEOUT):
                _remove_stale(path)
                sock.bind(path)
                made = find_file(str(file))
                failing.callback(file.unlink)
                _admit(file, access)
                sock.listen(backlog)
        failing.pop_all()
        return sock, made


def _admit(file: Path, access: Access) -> None:
    """Set mode and owner, and never those of what somebody has put in its place."""
    if access.mode is not None:
        try:
            os.chmod(file, access.mode, follow_symlinks=False)  # noqa: PTH101 - Path has it without the argument
        except NotImplementedError:  # it is a symlink now, or the system has no such chmod
            if file.is_symlink():
                raise OSError(errno.ELOOP, "somebody has put a symlink there") from None
            file.chmod(access.mode)
    if access.owner != Owner():
        try:
            os.chown(file, *access.owner, follow_symlinks=False)
        except OSError as exc:
            uid, gid = access.owner
            why = f"cannot give {file} to user {uid}, group {gid}: {exc.strerror}"
            hint = "only root may give files away; a group must be one of ours; -1: left as it is"
            raise ConfigError("unix_socket_owner", why, hint) from exc


def _remove_stale(path: str) -> None:
    file = Path(path)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(file.stat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is no socket", path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # one whose queue is full would have us wait; it is alive
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                file.unlink()
                return
            except BlockingIOError:
                pass
            raise OSError(errno.EADDRINUSE, "another server answers there", path)


@contextmanager
def _taking_turns(directory: Path, patience: float) -> Iterator[None]:
    """Inside, no other server of ours changes the names of sockets in this directory. It is held for microseconds."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a directory that we may not read, or one that knows no locks
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            _lock(fd, patience)
        yield


def _lock(fd: int, patience: float) -> None:
    """Until it is closed; without the lock where it is held for so long that it must be something else's."""
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                return
            time.sleep(min(0.01, patience / 4))
