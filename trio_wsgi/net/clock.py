"""The application's time: how long it may work on one request.

Law: it counts only while the application works. While it waits for the client (a block that the client does not take, a
body that has not arrived) the clock is stopped; those waits have deadlines of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio


class AppClock:
    """The scope of an application's work on one request, with its deadline.

    Args:
        seconds: the application may work; infinite for no limit.
    """

    def __init__(self, seconds: float) -> None:
        self.scope = trio.CancelScope(deadline=trio.current_time() + seconds)
        self._seconds = seconds
        self._stopped = 0  # waits that are under way

    def __repr__(self) -> str:
        return f"<AppClock {self._seconds:g} s{', stopped' if self._stopped else ''}>"

    @property
    def seconds(self) -> float:
        """How long the application was given."""
        return self._seconds

    def allow(self, seconds: float) -> None:
        """Give the application so many seconds from now on."""
        self._seconds = seconds
        self.scope.deadline = trio.current_time() + seconds

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """While the block runs, the application waits for its client."""
        left = self.scope.deadline - trio.current_time()
        self.scope.deadline = math.inf
        try:
            yield
        finally:
            self.scope.deadline = trio.current_time() + left
