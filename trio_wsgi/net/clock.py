"""The application's time: how long it may work on one request.

Law: it counts only while the application works. Until a thread takes the request, and while the application waits for
its client (a block that the client does not take, a body that has not arrived), the clock stands still; those waits
have deadlines of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trio_wsgi.net.alarms import Alarms


class AppClock:
    """The deadline of an application's work on one request.

    Args:
        seconds: the application may work; infinite for no limit.
        alarms: ring when the time is up.
        expire: called then, once, on the event loop.
    """

    __slots__ = ("_alarms", "_due", "_expire", "_holds", "_left", "expired", "seconds")

    def __init__(self, seconds: float, alarms: Alarms, expire: Callable[[], None]) -> None:
        self.seconds = seconds
        self._alarms = alarms
        self._expire = expire
        self._left = seconds  # while it stands still
        self._due = math.inf  # while it runs
        self._holds = 1  # reasons to stand still; the first is that no thread has taken the call
        self.expired = False

    def __repr__(self) -> str:
        return f"<AppClock {self.seconds:g} s{', stopped' if self._holds else ''}>"

    def begin(self, used: float = 0.0) -> None:
        """A thread has taken the call, `used` seconds ago; to be called once."""
        self._left -= used
        self._release()

    def end(self) -> None:
        """The application is done."""
        if self._due != math.inf:
            self._alarms.call_off(self)

    def ring(self) -> None:
        """The time is up (`Alarms`)."""
        self.expired = True
        self._expire()

    def allow(self, seconds: float) -> None:
        """Give the application so many seconds of work from now on; infinite for no limit."""
        self.end()
        self._due = math.inf
        self.seconds = self._left = seconds
        if not self._holds:
            self._run()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """While the block runs, the application waits for its client."""
        if not self._holds:
            self._left = self._due - self._alarms.now()
            self.end()
        self._holds += 1
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        self._holds -= 1
        if not self._holds:
            self._run()

    def _run(self) -> None:
        if self._left != math.inf and not self.expired:
            self._due = self._alarms.now() + self._left
            self._alarms.set(self, self._due)
