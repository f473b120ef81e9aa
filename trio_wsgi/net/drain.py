"""The end of a server: who may finish, and who is cut.

Laws:

* Idle connections end at once, and every response announces the close (`Connection.drain`).
* Up to `graceful_timeout` everybody may finish; from then on only who moves: a client that has stopped reading never
  holds the shutdown. After `drain_max` nobody.
* What counts is what the client has taken, not what the kernel holds for it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection
from typing import NamedTuple
from weakref import WeakKeyDictionary

import trio

from trio_wsgi.net.connection import Connection

LOOK = 1.0  # seconds between two looks at who still moves
WINDOW = 10.0  # seconds over which it is measured, or graceful_timeout if that is shorter


class DrainLimits(NamedTuple):
    """How long a drain may take: see the settings of these names.

    Args:
        drain_max: 0: no limit.
    """

    graceful_timeout: float
    drain_max: float
    min_rate: float


@trio.lowlevel.enable_ki_protection
async def drain_connections(connections: Collection[Connection], limits: Callable[[], DrainLimits]) -> None:
    """Let the connections finish, and cut those that are not worth waiting for. Runs until it is cancelled.

    Args:
        connections: those that are open; looked at again and again.
        limits: those of now; their time begins anew when they change.
    """
    while True:
        held = limits()
        started = trio.current_time()
        patience = started + held.graceful_timeout
        end = max(patience, started + held.drain_max) if held.drain_max else math.inf
        progress = _Progress(held.min_rate, min(WINDOW, max(LOOK, held.graceful_timeout)))
        while limits() == held:
            now = trio.current_time()
            for connection in list(connections):
                moving = progress.look(connection, now)
                if now >= end or (now >= patience and not moving):
                    connection.cut()
            await trio.sleep_until(min(now + LOOK, *(at if at > now else math.inf for at in (patience, end))))


class _Progress:
    """What each client has taken in the last seconds."""

    def __init__(self, min_rate: float, window: float) -> None:
        self._min_rate = min_rate
        self._window = window
        self._samples: WeakKeyDictionary[Connection, deque[tuple[float, int]]] = WeakKeyDictionary()

    def look(self, connection: Connection, now: float) -> bool:
        """Note what a client has taken so far, and tell whether it moves fast enough."""
        samples, taken = self._samples.setdefault(connection, deque()), connection.taken
        if samples and taken < samples[-1][1]:  # the next response
            samples.clear()
        samples.append((now, taken))
        while len(samples) > 2 and samples[1][0] <= now - self._window:
            samples.popleft()
        since, before = samples[0]
        return taken > before and taken - before >= self._min_rate * (now - since)
