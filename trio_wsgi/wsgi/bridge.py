"""The one door from an application thread to the event loop.

Laws:

* Nothing else in `wsgi/` imports trio.
* `run` and `run_sync` execute in the task that hosts this thread. Cancelling the request reaches the thread as
  `Cancelled` out of `run`, where that waits, and out of `check_cancelled`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import trio

Cancelled = trio.Cancelled

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def run(async_fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Run `async_fn(*args)` on the event loop and wait for it.

    Raises:
        Cancelled: the request was cancelled; let it pass through the app.
    """
    return trio.from_thread.run(async_fn, *args)


def run_sync(fn: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run `fn(*args)`, which must not block, on the event loop and wait for its result; also after a cancellation."""
    return trio.from_thread.run_sync(fn, *args)


def check_cancelled() -> None:
    """What a thread calls that may go on for long without waiting. In a thread of the app's own it does nothing.

    Raises:
        Cancelled: the request was cancelled; let it pass through the app.
    """
    try:
        trio.from_thread.check_cancelled()
    except RuntimeError:  # a thread that Trio did not start
        return
