"""The file that tells others which process to signal.

Laws:

* It is whole or absent: it is written beside, and takes the name in one step (rename(2)).
* One of a living server is an error; one that a dead server has left is replaced. A number that another process has got
  since does not count as its author: whoever wrote the file began before it.
* It is removed at the end if it still names us. The same process may write it again, as after it has replaced its own
  program.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from trio_wsgi.errors import ConfigError

_SLACK = 2.0  # seconds by which the clock of files may be behind: ticks, and a second's resolution of some file systems


@contextmanager
def open_pid_file(name: str | None) -> Iterator[Callable[[], None]]:
    """Tell this process' id in a file for as long as the block runs.

    Args:
        name: of the file; None for none.

    Yields:
        What removes it before, for a process that ends without leaving the block.

    Raises:
        ConfigError: another server lives under it, or it cannot be written.
    """
    if name is None:
        yield _remove_nothing
        return
    path = Path(name).absolute()  # the application may change directory
    with _explaining(name):
        _refuse_living(path, name, os.getpid())
        _write(path)
    remove = partial(_remove, path)
    try:
        yield remove
    finally:
        remove()


def check_pid_file(name: str | None, pid: int) -> None:
    """Look whether a process may `open_pid_file`; what it is like stays.

    Args:
        pid: of that process.

    Raises:
        ConfigError: as it would.
    """
    if name is not None:
        path = Path(name).absolute()
        with _explaining(name):
            _refuse_living(path, name, pid)
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent).close()


def _refuse_living(path: Path, name: str, pid: int) -> None:
    author = _read(path)
    if author not in {None, pid} and _lives(author, path.stat().st_mtime):
        raise ConfigError("pid", f"{name} names process {author}, which is running", "stop it, or name another file")


def _remove_nothing() -> None:
    """There is none."""


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the user we have become may not: the next start replaces it
        if _read(path) == os.getpid():
            path.unlink()


@contextmanager
def _explaining(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ConfigError("pid", f"cannot write {name}: {exc.strerror}", "name a file that can be written") from exc


def _read(path: Path) -> int | None:
    """The process it names; None where there is no file, or nothing of the kind in it."""
    try:
        text = path.read_bytes().strip()  # no codec: none may be read any more by whom we have become
    except FileNotFoundError:
        return None
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
