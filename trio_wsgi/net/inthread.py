"""A call in a thread of Trio's own, and what is told where the system has none to give (RLIMIT_NPROC, pids limits).

Laws:

* A call waits for nobody else's: the threads that the whole program shares may all be busy, for long.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MORE_THREADS = "raise the limit of processes, which counts threads: ulimit -u, TasksMax, --pids-limit"  # a hint
NO_THREAD_PAUSE = 1.0  # seconds until the system may have one to give
_NO_THREAD = "can't start new thread"  # what threading says


@contextmanager
def needing_thread() -> Iterator[None]:
    """Inside, a thread may be started.

    Raises:
        OSError: none can be (EAGAIN), which is threading's RuntimeError else.
    """
    try:
        yield
    except RuntimeError as exc:
        if str(exc) != _NO_THREAD:
            raise
        raise OSError(errno.EAGAIN, "no thread can be started") from exc


async def run_in_thread(
    fn: Callable[[*Ts], T], *args: *Ts, limiter: trio.CapacityLimiter | None = None, abandon_on_cancel: bool = False
) -> T:
    """`trio.to_thread.run_sync`, at once where there is no `limiter`.

    Raises:
        OSError: as in `needing_thread`; and whatever `fn` raises.
    """
    with needing_thread():
        return await trio.to_thread.run_sync(
            fn, *args, limiter=limiter or trio.CapacityLimiter(1), abandon_on_cancel=abandon_on_cancel
        )


async def run_in_thread_at_last(fn: Callable[[*Ts], T], *args: *Ts) -> T:
    """The same once the system has a thread for it, for work that may wait."""
    while True:
        try:
            return await run_in_thread(fn, *args)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            await trio.sleep(NO_THREAD_PAUSE)
