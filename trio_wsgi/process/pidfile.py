"""The file that tells others which process to signal.

Laws:

* It is whole or absent: it is written beside, and takes the name in one step (rename(2)).
* One of a living server is an error; one that a dead server has left is replaced. A number that another process has got
  since does not count as its author: whoever wrote the file began before it.
* What is no pid file stays as it is, and is an error: a device, a pipe, a file with something else in it. A symlink
  stays as well; it says where the file is.
* It is removed at the end if it still names us. The same process may write it again, as after it has replaced its own
  program.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

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
        _write(path)
    remove = partial(_remove, path)
    try:
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
    text = _read(path)
    if status.st_size > _LONGEST or (text and not _NUMBER.fullmatch(text)):
        raise ConfigError("pid", f"{name} holds something else than a process id", "remove it, or name another file")
    author = _find_author(text)
    if author not in {None, pid} and _lives(author, status.st_mtime):
        raise ConfigError("pid", f"{name} names process {author}, which is running", "stop it, or name another file")
    return path


def _describe(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the user we have become may not: the next start replaces it
        if _find_author(_read(path)) == os.getpid():
            path.unlink()


@contextmanager
def _explaining(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ConfigError("pid", f"cannot write {name}: {exc.strerror}", "name a file that can be written") from exc


def _read(path: Path) -> bytes:
    """What it holds, as far as that may be a number; waits for nobody, whatever has the name by now."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, _LONGEST).strip()  # no codec: none may be read any more by whom we have become
    finally:
        os.close(fd)


def _find_author(text: bytes) -> int | None:
    """The process that it names; None where it names none."""
    return int(text) if text.isdigit() and 0 < int(text) < 2**31 else None


def _write(path: Path) -> None:
    fd, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(f"{os.getpid()}\n")
            os.fchmod(file.fileno(), 0o644)  # whoever may signal us is to read it, whatever umask says
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink()
        raise


def _lives(pid: int | None, written: float) -> bool:
    """Whether the process that wrote its id at this time (seconds since 1970) is still there."""
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's, but there
    began = _find_start(pid)
    return began is None or began <= written + _SLACK


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
        return float("inf")
    return booted + int(fields[18]) / os.sysconf("SC_CLK_TCK")
