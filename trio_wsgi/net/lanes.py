"""When there is a lane, and who rides in it.

Laws:

* There is one lane at most, since two threads would fight over the interpreter; it takes a thread that has nothing to
  do, and gives it back when anybody needs it, or nobody rides.
* It is for requests that compute. Where one lasts while others ride, or they are found to wait for something else, it
  is closed, and calls are spread over threads for a while (`pace`).
* A request lasts after `STUCK_AFTER` seconds. The loop looks as often, but more rarely while requests are brief, or
  nobody waits behind them, as a look costs as much as several of them.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from trio_wsgi.net.lane import Lane, Ride, Rider
from trio_wsgi.net.pace import computed_by_all
from trio_wsgi.net.pool import STUCK_AFTER, Overloaded, ThreadPool, time_of_look
from trio_wsgi.net.slot import Abandoned, Call, LostThread, SpoiltThread

log = logging.getLogger("trio_wsgi.error")

SILENT_AFTER = 0.25  # seconds without a request after which a client is not brisk any more
BRIEF = 0.0005  # seconds of requests, on average, among which one that lasts is not expected
_TOLD = 8  # requests of which the loop may hear late: many at once would keep it
LOOK_LATER = 0.02  # seconds between two looks then: each takes the interpreter from the lane's thread


class Lanes:
    """The lane of one server, opened when it is asked for.

    Args:
        nursery: hosts it.
        threads: the application's.
    """

    def __init__(self, nursery: trio.Nursery, threads: ThreadPool) -> None:
        self._nursery = nursery
        self._threads = threads
        self._now = trio.lowlevel.current_clock().current_time
        self._lane: Lane | None = None

    def __repr__(self) -> str:
        return f"<Lanes {self._lane}>"

    @property
    def going(self) -> bool:
        """Whether there is one that others ride in: for who has just come it is the shortest way, too."""
        return self._lane is not None and not self._lane.closed

    def begin(self, sock: socket.socket, rider: Rider) -> Ride | None:
        """A ride, to be carried at once; None where there is no room."""
        lane = self._lane
        if lane is None or lane.closed:
            if not (self._threads.has_room and self._threads.pace.together):
                return None
            try:
                lane = self._lane = self._open()
            except OSError as exc:  # descriptors ran out; whoever accepts says so, too
                log.debug("no lane: %s", exc.strerror)
                return None
        return Ride(lane, sock, rider)

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

    @trio.lowlevel.enable_ki_protection
    async def _host(self, lane: Lane, call: Call) -> None:
        """The task of a lane."""
        try:
            # Shielded: when all is cancelled, the riders are, one by one, by their connections.
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._look_after, lane)
                    with suppress(Abandoned, LostThread, Overloaded, SpoiltThread):
                        await self._threads.run(call)
                    nursery.cancel_scope.cancel()
        finally:
            lane.dissolve()
            if self._lane is lane:
                self._lane = None

    @trio.lowlevel.enable_ki_protection
    async def _look_after(self, lane: Lane) -> None:
        pace = self._threads.pace
        opened = silent_since = self._now()
        took = worked = 0.0
        computed = computed_by_all()
        served = 0
        pause = STUCK_AFTER
        while True:
            due = self._now() + (pause if lane.running or not lane.closed else SILENT_AFTER)
            await trio.sleep_until(due)
            told = not lane.told.empty()  # of requests: the more wait for the loop, the longer it is busy with them
            lane.collect()
            now = self._now()
            stuck = lane.attend_to_stuck(time_of_look(due, now) - STUCK_AFTER)
            if lane.closed:
                continue
            if lane.thread:  # one look stands for a call
                before = took, worked, computed
                took, worked, computed = lane.took, lane.processor_time(), computed_by_all()
                pace.note(took - before[0], worked - before[1], computed - before[2])
                count, served = lane.served - served, lane.served
                brief = took - before[0] <= count * BRIEF or len(lane.rides) == 1  # behind which nobody waits
                pause = LOOK_LATER if brief and not (told and count > _TOLD) else STUCK_AFTER
            if stuck and len(lane.rides) > 1:
                pace.part()
            if stuck or not pace.together or (not lane.thread and now - opened >= SILENT_AFTER):
                lane.close()
            elif now - silent_since >= SILENT_AFTER:
                lane.take_back_silent(silent_since)
                if not lane.rides:
                    lane.close()
                silent_since = now


@asynccontextmanager
async def open_lanes(threads: ThreadPool) -> AsyncIterator[Lanes | None]:
    """What brisk clients ride in; None where the system has no epoll(7). Whoever rides must have got off at the end."""
    if not (hasattr(select, "epoll") and hasattr(os, "eventfd")):
        yield None
        return
    async with trio.open_nursery() as nursery:
        lanes = Lanes(nursery, threads)
        try:
            yield lanes
        finally:
            lanes.close()
