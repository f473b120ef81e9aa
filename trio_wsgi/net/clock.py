"""The application's time: how long it may work on one request.

Law: it counts only while the application works. Until a thread takes the request, and while the application waits for
its client (a block that the client does not take, a body that has not arrived), the clock stands still; those waits
have deadlines of their own.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class AppClock:
    """The scope of an application's work on one request, with its deadline.

    Args:
        seconds: the application may work; infinite for no limit.
    """

    def __init__(self, seconds: float) -> None:
        self.scope = trio.CancelScope()
        self._seconds = seconds
        self._left = seconds  # while it stands still
        self._holds = 1  # reasons to stand still; the first is that no thread has taken the call

    def __repr__(self) -> str:
        return f"<AppClock {self._seconds:g} s{', stopped' if self._holds else ''}>"

    @property
    def seconds(self) -> float:
        """How long the application was given."""
        return self._seconds

    def begin(self) -> None:
        """A thread has taken the call; to be called once."""
        self._release()

    def allow(self, seconds: float) -> None:
        """Give the application so many seconds of work from now on."""
        self._seconds = self._left = seconds
        if not self._holds:
            self.scope.deadline = trio.current_time() + seconds

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """While the block runs, the application waits for its client."""
        if not self._holds:
            self._left = self.scope.deadline - trio.current_time()
            self.scope.deadline = math.inf
        self._holds += 1
        try:
            yield
        finally:
            self._release()

    async def wait(self, async_fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Wait for the client by `async_fn(*args)`, while the clock stands still."""
        with self.stopped():
            return await async_fn(*args)

    def _release(self) -> None:
        self._holds -= 1
        if not self._holds:
            self.scope.deadline = trio.current_time() + self._left
