"""The file that tells others which process to signal.

Laws:

* It is whole or absent: it is written beside, and takes the name in one step (rename(2)).
* One of a living server is an error; one that a dead server has left is replaced. A number that another process has got
  since does not count as its author: whoever wrote the file began before it.
* A server keeps its file locked (flock(2)): then its process is the author, whatever a clock that was set says of when
  it began. Who replaces its own program locks it anew.
* What is no pid file stays as it is, and is an error: a device, a pipe, a file with something else in it. A symlink
  stays as well; it says where the file is.
* It is removed at the end if it still names us. The same process may write it again, as after it has replaced its own
  program.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from trio_wsgi.errors import ConfigError

_NUMBER = re.compile(rb"-?[0-9]+")
_LONGEST = 64  # bytes of a file that may be a number
_SLACK = 2.0  # seconds by which the clock of files may be behind: ticks, and a second's resolution of some file systems


@contextmanager
def open_pid_file(name: str | None) -> Iterator[Callable[[], None]]:
    """Tell this process' id in a file for as long as the block runs.

    Args:
        name: of the file; None for none.

    Yields:
        What removes it before, for a process that ends without leaving the block.

    Raises:
        ConfigError: another server lives under it, something else has the name, or it cannot be written.
    """
    if name is None:
        yield lambda: None
        return
    with _explaining(name):
        path = _find_place(name, os.getpid())
        locked = _write(path)
    remove = partial(_remove, path)
    try:
        with locked:
            yield remove
    finally:
        remove()


def check_pid_file(name: str | None, pid: int) -> None:
    """Look whether the process of this number may `open_pid_file`, or raise what that would; all stays as it is."""
    if name is not None:
        with _explaining(name):
            path = _find_place(name, pid)
            tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent).close()


def _find_place(name: str, pid: int) -> Path:
    """Where the file is to be, if nothing is wrong with that: absolute, as the application may change directory."""
    path = Path(os.path.realpath(name))
    try:
        status = Path(name).stat()  # the kernel follows no symlink here that a stranger has left in /tmp
    except FileNotFoundError:
        return path
    if not stat.S_ISREG(status.st_mode):  # not even opened: that waits for a pipe's writer, and may move a device
        hint = "name a file, or leave the setting out"
        raise ConfigError("pid", f"{name} is {_describe(status.st_mode)} and no file", hint)
    text, locked = _read(path)
    if status.st_size > _LONGEST or (text and not _NUMBER.fullmatch(text)):
        raise ConfigError("pid", f"{name} holds something else than a process id", "remove it, or name another file")
    author = _find_author(text)
    if author not in {None, pid} and _lives(author, math.inf if locked else status.st_mtime):
        raise ConfigError("pid", f"{name} names process {author}, which is running", "stop it, or name another file")
    return path


def _describe(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the user we have become may not: the next start replaces it
        if _find_author(_read(path)[0]) == os.getpid():
            path.unlink()


@contextmanager
def _explaining(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ConfigError("pid", f"cannot write {name}: {exc.strerror}", "name a file that can be written") from exc


def _read(path: Path) -> tuple[bytes, bool]:
    """What it holds, as far as that may be a number, and whether it is locked; waits for nobody, whatever has the name
    by now."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        text = os.read(fd, _LONGEST).strip()  # no codec: none may be read any more by whom we have become
        return text, not _lock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _lock(fd: int, how: int) -> bool:
    """Lock a file for as long as it is open; False where somebody else has. Where none can be locked, nobody has."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems
        pass
    return True


def _find_author(text: bytes) -> int | None:
    """The process that it names; None where it names none."""
    return int(text) if text.isdigit() and 0 < int(text) < 2**31 else None


def _write(path: Path) -> IO[str]:
    """The file, which is locked while it is open."""
    fd, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    file = os.fdopen(fd, "w")
    try:
        file.write(f"{os.getpid()}\n")
        file.flush()
        os.fchmod(fd, 0o644)  # whoever may signal us is to read it, whatever umask says
        _lock(fd, fcntl.LOCK_EX)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink()
        file.close()
        raise
    return file


def _lives(pid: int | None, written: float) -> bool:
    """Whether the process that wrote its id at this time (seconds since 1970; infinity: it has it locked) is still
    there."""
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's, but there
    began = _find_start(pid)
    return began is None or (began < math.inf and began <= written + _SLACK)


def _find_start(pid: int) -> float | None:
    """When a process began (seconds since 1970): infinity if it is a zombie, None where the system does not tell."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # proc(5), from field 3 on
        booted = next(
            int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime ")
        )
    except (OSError, StopIteration):
        return None
    if state in "ZX":
        return math.inf
    return booted + int(fields[18]) / os.sysconf("SC_CLK_TCK")
