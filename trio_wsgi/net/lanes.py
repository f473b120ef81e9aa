"""When there is a lane, and who rides in it.

Laws:

* There is one lane at most, since two threads would fight over the interpreter; it takes a thread that has nothing to
  do, and gives it back when anybody needs it, or nobody rides.
* It is for requests that compute. Where those in it are found to wait for something (one lasted, or the thread hardly
  uses its processor), it is closed, calls are spread over threads, and the next attempt comes later each time.
"""

from __future__ import annotations

import math
import select
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from trio_wsgi.net.apps import STUCK_AFTER, AppThreads, Overloaded
from trio_wsgi.net.lane import Lane, Ride, Rider
from trio_wsgi.net.slot import Abandoned, Call, LostThread

SILENT_AFTER = 0.25  # seconds without a request after which a client is not brisk any more
SPREAD_FOR = (1.0, 64.0)  # seconds without a lane after the first failure, and after many
_LOOKS = 20  # in which a thread shows whether it computes or waits
_AT_WORK, _COMPUTES = 0.8, 0.3  # shares of them: in a request at least, on a processor at most: then it waits


class Lanes:
    """The lane of one server, opened when it is asked for.

    Args:
        nursery: hosts it.
        threads: the application's.
    """

    def __init__(self, nursery: trio.Nursery, threads: AppThreads) -> None:
        self._nursery = nursery
        self._threads = threads
        self._now = trio.lowlevel.current_clock().current_time
        self._lane: Lane | None = None
        self._not_before = -math.inf
        self._pause = SPREAD_FOR[0]

    def __repr__(self) -> str:
        return f"<Lanes {self._lane}>"

    @property
    def open_now(self) -> bool:
        """Whether `begin` would find a thread."""
        if self._lane is not None and not self._lane.closed:
            return True
        return self._threads.has_room and self._now() >= self._not_before

    def begin(self, sock: socket.socket, rider: Rider) -> Ride:
        """A ride, to be carried at once; where `open_now`."""
        if self._lane is None or self._lane.closed:
            self._lane = self._open()
        return Ride(self._lane, sock, rider)

    def close(self) -> None:
        """Nobody rides any more."""
        if self._lane is not None:
            self._lane.close()

    def _open(self) -> Lane:
        def cancel_call() -> None:
            self._threads.abandon(call)

        lane = Lane(self._now, cancel_call)
        call = Call(lane.run_in_thread, dispose=lane.dispose, lasts=lane)
        self._nursery.start_soon(self._host, lane, call)
        return lane

    async def _host(self, lane: Lane, call: Call) -> None:
        """The task of a lane."""
        try:
            # Shielded: when all is cancelled, the riders are, one by one, by their connections.
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._look_after, lane)
                    with suppress(Abandoned, LostThread, Overloaded):
                        await self._threads.run(call)
                    nursery.cancel_scope.cancel()
        finally:
            lane.dissolve()
            if self._lane is lane:
                self._lane = None

    async def _look_after(self, lane: Lane) -> None:
        opened = looked = self._now()
        pulse = _Pulse()
        while True:
            await trio.sleep(STUCK_AFTER if lane.running or not lane.closed else SILENT_AFTER)
            lane.collect()
            now = self._now()
            stuck = lane.attend_to_stuck(now - STUCK_AFTER)
            if lane.closed:
                continue
            if not lane.thread and now - opened >= SILENT_AFTER:
                lane.close()  # its riders need not wait for the threads of others
            elif stuck or pulse.waits(lane):
                if len(lane.rides) > 1:
                    self._spread()
                lane.close()
            elif now - looked >= SILENT_AFTER:
                lane.take_back_silent(looked)
                if not lane.rides:
                    lane.close()
                looked = now
            if now - opened >= self._pause:
                self._pause = SPREAD_FOR[0]

    def _spread(self) -> None:
        self._threads.spread(self._pause)
        self._not_before = self._now() + self._pause
        self._pause = min(2 * self._pause, SPREAD_FOR[1])


class _Pulse:
    """Whether a thread computes, or waits in its requests for something else."""

    def __init__(self) -> None:
        self._looks = self._at_work = 0
        self._began = self._used = 0.0

    def waits(self, lane: Lane) -> bool:
        """Look once more; True when it was found out to wait."""
        if len(lane.rides) < 2 or lane.processor_clock == -1:
            return False
        if not self._looks:
            self._began, self._used = time.monotonic(), time.clock_gettime(lane.processor_clock)
        self._looks += 1
        self._at_work += bool(lane.running)
        if self._looks < _LOOKS:
            return False
        used = (time.clock_gettime(lane.processor_clock) - self._used) / (time.monotonic() - self._began)
        at_work = self._at_work / self._looks
        self._looks = self._at_work = 0
        return at_work >= _AT_WORK and used < _COMPUTES


@asynccontextmanager
async def open_lanes(threads: AppThreads) -> AsyncIterator[Lanes | None]:
    """What brisk clients ride in; None where the system has no epoll(7). Whoever rides must have got off at the end."""
    if not hasattr(select, "epoll"):
        yield None
        return
    async with trio.open_nursery() as nursery:
        lanes = Lanes(nursery, threads)
        try:
            yield lanes
        finally:
            lanes.close()
