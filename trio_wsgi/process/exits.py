"""The end of a process: what its exit code says, and how it is waited for.

Laws:

* Children are waited for by their number alone, so that those of our former self count as well.
* No thread is needed for it, of which the system may have none to give when a process ends.
* A number stays its process's until the end has been collected here; who sends signals looks at that first.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
from collections.abc import Callable

import trio

UNKNOWN = 255  # somebody else has collected it
LOOK = 0.1  # seconds between two looks at a child, where nothing tells of its end
ORPHANS_LOOK = 1.0  # seconds between two looks for orphans


class ExitCode(enum.IntEnum):
    """How the command, and each of its workers, ends: gunicorn's numbers. README.md tells them to operators."""

    CLEAN = 0
    ERROR = 1  # the command line or a setting cannot be used; or a second signal has cut what was under way
    BOOT_ERROR = 3  # a worker cannot boot: the application's code raises, the process dies, or hangs
    APP_LOAD_ERROR = 4  # there is no such application, or it misses a module; without a worker, also where it raises


async def wait_exit(pid: int) -> int:
    """Wait until a child ends, and collect it.

    Returns:
        Its exit code; negative for the signal that ended it.

    Cancellation: it can be waited for again.
    """
    with contextlib.suppress(AttributeError, OSError):  # no Linux, one before 5.3, a sandbox, or no descriptor is left
        fd = os.pidfd_open(pid)
        try:
            await trio.lowlevel.wait_readable(fd)
        finally:
            os.close(fd)
    while (code := _collect(pid)) is None:  # noqa: ASYNC110 - nothing here tells of it
        await trio.sleep(LOOK)
    return code


def _collect(pid: int) -> int | None:
    """Its exit code; None where it has not ended."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return UNKNOWN
    return os.waitstatus_to_exitcode(status) if ended else None


async def collect_orphans(is_ours: Callable[[int], bool]) -> None:
    """Collect children that nobody has started: in a container, process 1 gets whom others leave behind.

    Runs until it is cancelled.

    Args:
        is_ours: whether somebody here waits for the child of this number; the others behind it have their turn later.
    """
    while True:
        await trio.sleep(ORPHANS_LOOK)
        while (pid := _find_ended()) is not None and not is_ours(pid):
            _collect(pid)


def _find_ended() -> int | None:
    """A child that has ended and is not collected yet; it stays so."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # there is none at all
        return None
    return None if found is None else found.si_pid


def describe_exit(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
