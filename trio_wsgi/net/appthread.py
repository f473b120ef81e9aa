"""The thread that works on a request for the application: its call, its clock, and its waits on the event loop.

Laws:

* While the thread waits for its client, the application's clock stands still.
* Whatever it asks of the loop has the loop attend to its call, which in the lane nobody else does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

from trio_wsgi.net.clock import AppClock
from trio_wsgi.net.slot import Running
from trio_wsgi.wsgi import bridge

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class AppThread:
    """The thread of one request.

    Args:
        token: of the event loop.

    Attributes:
        call: what it runs, or is to; None before and afterwards.
        clock: of the application's time, while the loop attends to the call.
    """

    __slots__ = ("_token", "call", "clock")

    def __init__(self, token: bridge.Token) -> None:
        self._token = token
        self.call: Running | None = None
        self.clock: AppClock | None = None

    def wait(self, async_fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """In the thread: wait for the client by `async_fn(*args)`, on the loop."""
        return bridge.run(self._wait_on_loop, async_fn, *args, token=self._token)

    def run_on_loop(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        """In the thread: have `fn(*args)` called on the loop."""
        return bridge.run_sync(fn, *args, token=self._token)

    def allow_seconds(self, seconds: float) -> None:
        """Give the app so many seconds of work from now on: `environ["trio_wsgi.set_app_timeout"]`.

        Raises:
            ValueError: it is no number of seconds.
        """
        if not isinstance(seconds, int | float) or not seconds >= 0:  # nan is not, either
            raise ValueError(f"{seconds!r} is no time to work for; give seconds, or math.inf for no limit")
        self.run_on_loop(self._allow, float(seconds))

    def attended(self) -> bool:
        """On the loop: attend to the call; False where it is just ending without."""
        call = self.call  # looked at once: the lane's thread may end it meanwhile
        return call is None or call.attend()

    def _allow(self, seconds: float) -> None:
        if self.attended() and self.clock is not None:
            self.clock.allow(seconds)

    async def _wait_on_loop(self, async_fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        self.attended()
        if self.clock is None:
            return await async_fn(*args)
        with self.clock.stopped():
            return await async_fn(*args)
