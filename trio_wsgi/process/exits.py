"""The end of a process: waited for by its number alone, so that children of our former self count as well.

Law: a number stays its process's until the end has been collected here; who sends signals looks at that first.
"""

from __future__ import annotations

import os
import signal

import trio

UNKNOWN = 255  # somebody else has collected it


async def wait_exit(pid: int) -> int:
    """Wait until a child ends, and collect it.

    Returns:
        Its exit code; negative for the signal that ended it.

    Cancellation: it can be waited for again, but where there are no pidfds (pidfd_open(2)).
    """
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return UNKNOWN
    except (AttributeError, OSError):  # no Linux, one before 5.3, or a sandbox
        return await _wait_in_thread(pid)
    try:
        await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)
    return _collect(pid)


async def _wait_in_thread(pid: int) -> int:
    try:
        _, status = await trio.to_thread.run_sync(
            os.waitpid, pid, 0, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
        )
    except ChildProcessError:
        return UNKNOWN
    return os.waitstatus_to_exitcode(status)


def _collect(pid: int) -> int:
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return UNKNOWN
    return os.waitstatus_to_exitcode(status)


def describe_exit(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
