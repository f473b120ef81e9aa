"""A pool of threads, the application's or a file system's: who gets one, who waits, who is turned away.

Laws:

* A slot is a task of the pool parked in one long `to_thread.run_sync`; calls reach its thread, and are reported back,
  through `handover`. So `trio.from_thread` works in the app, and a call costs two hand-overs, no new thread.
* Which slot runs a call is decided on the loop and nowhere else. The slot that was idle last goes first: its thread is
  warm.
* No more threads are awake than the load needs, because they fight over the interpreter: while calls are quick, the
  next one is put behind the one that runs. What is found stuck there after `STUCK_AFTER` seconds is taken back and
  given to other threads. Then, and where calls wait more than they compute, nothing is put behind anything for a while
  (`pace`).
* A thread that ignores its cancellation for `LOST_AFTER` seconds is lost: it is reported with its stack, its caller
  goes on without it, and another thread takes its place. When it comes back it ends, and what it brings is disposed of.
* A thread whose call is cancelled for nobody's sake is replaced: an earlier one may have left a scope open in its task.
* Cancelling a caller, or abandoning its call, cancels the scope of the slot that runs the call: the app sees
  `Cancelled` in whatever it asks of the loop. The caller waits for the thread all the same; such a slot ends and is
  replaced.
* Calls that close what an app has opened (`run_closing`) are always admitted, go first, and run even when their caller
  has gone.
"""

from __future__ import annotations

import logging
import math
import queue
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from trio_wsgi.net.handover import Handover
from trio_wsgi.net.pace import Pace
from trio_wsgi.net.running import hosting
from trio_wsgi.net.slot import (
    Abandoned,
    Call,
    Lasting,
    LostThread,
    Slot,
    SpoiltThread,
    choose_park,
    nothing,
    raise_error,
    tells_of_cancellation,
)

log = logging.getLogger("trio_wsgi.error")

LOST_AFTER = 5.0  # seconds that a cancelled thread has to come back
STUCK_AFTER = 0.005  # seconds of a call behind which others do not wait
_LATE = 0.002  # seconds
AHEAD = 16  # calls that one thread is given at most


class Overloaded(Exception):
    """All threads are busy and the queue is full: answer 503."""


@dataclass(frozen=True, slots=True)
class ThreadCounts:
    """What the threads of a pool do.

    Args:
        busy: run a call.
        idle: wait for one.
        lost: run a call that was cancelled and that nobody waits for any more.
        queued: calls that wait for a thread.
    """

    busy: int
    idle: int
    lost: int
    queued: int


class ThreadPool:
    """Runs calls in a bounded number of threads; made by `open_pool`.

    Args:
        nursery: hosts the slots, and the task that oversees them up to `close`.
        threads: how many at most; they are started when they are needed.
        queue_size: calls that may wait for one.
        kind: of its threads, for their names and the log.
    """

    def __init__(self, nursery: trio.Nursery, threads: int, queue_size: int, kind: str = "app") -> None:
        self._nursery = nursery
        self._kind = kind
        self._park = choose_park()
        self._threads = threads
        self._queue_size = queue_size
        self._limiter = trio.CapacityLimiter(threads)  # its own: slots must not eat the one that everybody shares
        self._slots: set[Slot] = set()
        self._starting = 0  # slots whose thread is not there yet
        self._idle: list[Slot] = []  # the last one is the warmest
        self._waiting: deque[Call] = deque()
        self._ahead = 0  # calls that wait in inboxes, behind another one
        self._hot: Slot | None = None  # that was given a call last
        # Shielded: when all is cancelled, requests end one by one, and wait for their threads until then.
        self._overseeing = trio.CancelScope(shield=True)
        self._nap = trio.CancelScope()  # of the overseer
        self._handover = Handover(self._collect)
        self._now = trio.lowlevel.current_clock().current_time
        self.pace = Pace(self._now)
        self._lost: set[Slot] = set()
        self._lasting: Lasting | None = None  # keeps a thread until others need it
        self._closing = False
        nursery.start_soon(self._oversee)

    def __repr__(self) -> str:
        queued = len(self._waiting) + self._ahead
        threads = f"{len(self._slots)} of {self._threads} {self._kind} threads"
        return f"<ThreadPool {threads}, {len(self._idle)} idle, {queued} waiting>"

    async def run(self, call: Call | Callable[[], Any], queue_timeout: float = math.inf) -> Any:
        """Run a call in a thread and return its result.

        Args:
            call: a `Call` where somebody will want to know how it goes.
            queue_timeout: seconds to wait for a thread.

        Raises:
            Overloaded: there is no thread and no place in the queue, or none came free in time.
            Abandoned: by `abandon`.

        Cancellation: at once while the call waits. When it runs, it finds out through `trio.from_thread`, and its
        result is still returned.
        """
        call = call if isinstance(call, Call) else Call(call)
        await trio.lowlevel.checkpoint_if_cancelled()
        free = len(self._idle) + self._starting + self._threads - len(self._slots) + self._is_lent
        if len(self._waiting) + self._ahead >= self._queue_size + free:
            raise Overloaded(f"all {self._kind} threads are busy and queue_size ({self._queue_size}) is reached")
        call.patience = queue_timeout
        if not self._waiting and (slot := self._choose(call)) is not None:
            self._give(slot, call)
        else:
            call.expires = self._now() + queue_timeout
            self._waiting.append(call)
            self._hand_out()
            if call.slot is None:
                self._look_at(call.expires)
        call.task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(lambda _: self._abort_request(call))  # noqa: F821 - see `del`
        error, result = call.error, call.result
        call.error = call.result = None  # whoever looks at the call keeps no answer alive,
        call.fn, call.begins = nothing, None  # nor what the app was called with
        if error is None:
            return result
        try:
            await raise_error(error, call.cancelled)
        finally:
            del error, call  # as there

    async def run_closing(self, fn: Callable[[], object], thread: int = 0) -> None:
        """Run `fn`, which frees what an app has opened, before any request that waits; log what it raises.

        Args:
            thread: the identifier of the one that had opened it. If that is idle it does: an app may keep by thread
                what is to be closed, as Django does with its connections to databases.

        Cancellation: stops the waiting; `fn` is run all the same.
        """
        call = Call(partial(_log_failure, fn), closes=True, thread=thread)
        if self._ahead:
            for slot in self._slots:
                self._take_back(slot)
        self._waiting.appendleft(call)
        self._hand_out()
        call.task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(lambda _: self._abort_closing(call))

    def abandon(self, call: Call) -> None:
        """Give up a call for the sake of whoever asked for it: its `run` raises `Abandoned` unless it has a result.

        At once while it waits for a thread. When it runs, its thread finds out as after a cancellation.
        """
        self._read_reports()  # a loop that was kept busy hears late that it is done
        if call.task is not None and self._abort_request(call) is trio.lowlevel.Abort.SUCCEEDED:
            self._give_up(call, Abandoned())

    def _abort_request(self, call: Call) -> trio.lowlevel.Abort:
        slot = call.slot
        if slot is not None:
            self._take_back(slot)
        if call.task is None:  # it is done, as was seen just now
            return trio.lowlevel.Abort.FAILED
        if call.slot is None:
            self._waiting.remove(call)
            self._hand_out()
            return trio.lowlevel.Abort.SUCCEEDED
        assert slot is not None
        # If its thread has taken the next one, it is done with this one, and its report is on its way.
        if slot.calls[-1] is call and not slot.scope.cancel_called:
            call.cancelled = True
            slot.scope.cancel()
            self._nursery.start_soon(self._await_return, slot, call)
        self._hand_out()
        return trio.lowlevel.Abort.FAILED

    @trio.lowlevel.enable_ki_protection
    async def _await_return(self, slot: Slot, call: Call) -> None:
        """Give a cancelled thread its time; then let its caller go on, and put another thread in its place."""
        with trio.move_on_after(LOST_AFTER, shield=True):
            await slot.returned.wait()
            return
        slot.lost = True
        if call.lasts is self._lasting:
            self._lasting = None
        self._slots.discard(slot)
        self._lost.add(slot)
        self._limiter.total_tokens += 1
        log.error(
            "%s thread %d ignores its cancellation for %g s and is left to itself; it is at:\n%s",
            self._kind,
            slot.native_id,
            LOST_AFTER,
            slot.stack(),
        )
        self._give_up(call, LostThread())
        self._hand_out()

    def _abort_closing(self, call: Call) -> trio.lowlevel.Abort:
        call.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    @property
    def has_room(self) -> bool:
        """Whether a call would find a thread that nobody else needs."""
        return not self._waiting and (bool(self._idle) or len(self._slots) < self._threads)

    @property
    def _is_lent(self) -> bool:
        """Whether a thread would come back from lasting work if it were asked for."""
        return self._lasting is not None and self._lasting.resting

    def counts(self) -> ThreadCounts:
        """How many threads do what, now."""
        idle = len(self._idle) + self._is_lent
        return ThreadCounts(
            busy=len(self._slots) - idle - self._starting,
            idle=idle,
            lost=len(self._lost),
            queued=len(self._waiting) + self._ahead,
        )

    def lost_stacks(self) -> tuple[str, ...]:
        """Where the lost threads are, each as lines of a Python stack."""
        return tuple(slot.stack() for slot in self._lost)

    # -- who runs what -------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Give waiting calls to slots, and start slots for the others."""
        while self._waiting and (slot := self._choose(self._waiting[0])) is not None:
            self._give(slot, self._waiting.popleft())
        while len(self._waiting) > self._starting and len(self._slots) < self._threads:
            if self._hot is not None and self._stands_in_for_others(self._hot):
                break  # it is about to take them
            slot = Slot(self._kind, self._handover.done, self._collect)
            self._slots.add(slot)
            self._starting += 1
            self._nursery.start_soon(self._host, slot)
        if len(self._waiting) > self._starting and self._lasting is not None:
            self._lasting.close()

    def _choose(self, call: Call) -> Slot | None:
        """Who gets the next call: the one that is at it, while it is quick; else the warmest of the idle ones."""
        if call.thread_wanted and (slot := next((s for s in self._idle if s.thread == call.thread_wanted), None)):
            self._idle.remove(slot)
            return slot
        hot = self._hot
        if hot is not None and len(hot.calls) < AHEAD and call.lasts is None and self._stands_in_for_others(hot):
            return hot
        return self._idle.pop() if self._idle else None

    def _stands_in_for_others(self, slot: Slot) -> bool:
        if not slot.calls or slot.calls[0].lasts is not None or slot.scope.cancel_called or not self.pace.together:
            return False
        return self._now() - slot.since < STUCK_AFTER

    def _give(self, slot: Slot, call: Call) -> None:
        call.slot = self._hot = slot
        if call.lasts is not None:
            self._lasting = call.lasts
        slot.calls.append(call)
        if len(slot.calls) == 1:
            self._begin(slot)
        else:
            self._ahead += 1
            self._look_at(self._now() + STUCK_AFTER)  # not when it is woken: how long the loop will wait is known then
        self._handover.give(slot, call)

    def _begin(self, slot: Slot) -> None:
        """Its first call runs now, or as soon as the thread is woken."""
        begins = slot.calls[0].begins
        if begins is not None:
            begins()

    def _take_back(self, slot: Slot) -> None:
        """The calls that the thread has not taken out of its inbox wait again, in front of the others."""
        if len(slot.calls) < 2:
            return
        self._handover.flush()
        unread: list[Call | None] = []
        with suppress(queue.Empty):
            while True:
                unread.append(slot.inbox.get_nowait())
        for call in reversed(unread):
            if call is None or call is slot.calls[0]:  # the end, or what the thread is just waking up for
                slot.inbox.put(call)
                continue
            slot.calls.remove(call)
            self._ahead -= 1
            call.slot = None
            call.expires = self._now() + call.patience
            self._waiting.appendleft(call)
        self._read_reports()  # the thread may rely on what it saw in its inbox

    # -- what waits too long -------------------------------------------------------------------------------------

    def _next_look(self) -> float:
        """When something may have waited too long."""
        if self._ahead:
            return self._now() + STUCK_AFTER
        return min((call.expires for call in self._waiting), default=math.inf)

    def _look_at(self, when: float) -> None:
        if when < self._nap.deadline:
            self._nap.deadline = when

    @trio.lowlevel.enable_ki_protection
    async def _oversee(self) -> None:
        """Free the calls that are stuck behind others, and turn away those that have waited too long."""
        with self._overseeing:
            while True:
                with trio.CancelScope(deadline=self._next_look()) as self._nap:
                    await trio.sleep_forever()
                now = self._now()
                at = time_of_look(self._nap.deadline, now)
                self._read_reports()
                for slot in self._slots:
                    if len(slot.calls) > 1 and slot.runs_for(at) >= STUCK_AFTER:
                        self.pace.part()
                        self._take_back(slot)
                for call in [call for call in self._waiting if call.expires <= now]:
                    self._waiting.remove(call)
                    self._give_up(call, Overloaded(f"no thread came free within {call.patience:g} s (queue_timeout)"))
                self._hand_out()

    def _give_up(self, call: Call, error: Exception) -> None:
        """Tell whoever waits for a call that nothing comes of it."""
        if call.task is not None:
            call.error = error
            call.resume()

    # -- slots ---------------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def _host(self, slot: Slot) -> None:
        """Have a thread in the slot, up to its end."""
        try:
            with slot.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._park_thread, slot)
        except ExceptionGroup as group:
            (error,) = group.exceptions
            if not isinstance(error, RuntimeError):
                raise
            if not slot.thread:  # threading's own, for want of memory or of the system's leave
                self._slots.discard(slot)
                self._starting -= 1
                log.error("cannot start another %s thread: %s; %d are running", self._kind, error, len(self._slots))
                if not self._slots:
                    self._turn_away()
                return
            log.error("the application has left a nursery open on the event loop: %s", error)  # Trio's
        self._slots.discard(slot)
        if slot.lost:
            self._lost.discard(slot)
            self._limiter.total_tokens -= 1
        self._hand_out()

    @trio.lowlevel.enable_ki_protection
    async def _park_thread(self, slot: Slot) -> None:
        """The task that a slot's thread runs in; `trio.from_thread` of the app's is executed here.

        It is a task of its own, for what the app enters here and does not leave breaks it at its end.
        """
        await self._park(slot.loop_in_thread, limiter=self._limiter)

    def _turn_away(self) -> None:
        """There is no thread, and none to come; what closes something waits for the next attempt."""
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            if call.closes:
                self._waiting.append(call)
            else:
                self._give_up(call, Overloaded("no thread can be started"))

    def _collect(self) -> None:
        """On the loop: see what threads have done, and what they may do next."""
        self._read_reports()
        if self._waiting:
            self._hand_out()
        if self._closing:
            self._end_idle()

    def _read_reports(self) -> None:
        for slot, call in self._handover.reports():
            self._report(slot, call)

    def _report(self, slot: Slot, call: Call | None) -> None:
        """A thread has started (None), or is done with a call."""
        if call is None:
            self._starting -= 1
        else:
            slot.calls.popleft()
            if call.lasts is None and self.pace.together:
                self.pace.note(*call.spent)
            self._settle(call)
        if slot.calls:  # put behind it, and running by now
            self._ahead -= 1
            slot.since = self._now()
            self._begin(slot)
            return
        slot.since = math.inf
        error = None if call is None else call.error
        if slot.scope.cancel_called or (error is not None and _spoils(error)):
            slot.returned.set()
            slot.inbox.put(None)
        else:
            self._idle.append(slot)

    def _settle(self, call: Call) -> None:
        """Give a result to whoever waits for it, or have it disposed of."""
        call.slot = None
        if call.lasts is self._lasting:
            self._lasting = None
        if call.task is not None:
            call.resume()
        elif call.dispose is not None and call.error is None:
            dispose = partial(_log_failure, partial(call.dispose, call.result))
            self._waiting.appendleft(Call(dispose, closes=True))

    def close(self) -> None:
        """Let every thread end when it has nothing left to do; for the owner of the nursery."""
        self._closing = True
        self._overseeing.cancel()
        self._end_idle()

    def forget(self) -> None:
        """The last slot has ended."""
        self._handover.forget()

    def _end_idle(self) -> None:
        while self._idle:
            self._idle.pop().inbox.put(None)


def time_of_look(due: float, now: float) -> float:
    """As of when the loop finds calls stuck: a loop that looks late was at something else, and they had little of the
    interpreter meanwhile."""
    return due if now - due > _LATE else now


def _spoils(error: BaseException) -> bool:
    return isinstance(error, SpoiltThread) or tells_of_cancellation(error)


def _log_failure(fn: Callable[[], object]) -> None:
    try:
        fn()
    except BaseException:  # SystemExit, too, is the application's
        log.exception("closing what the application has opened failed")


def open_pool(threads: int, queue_size: int) -> AbstractAsyncContextManager[ThreadPool]:
    """The `ThreadPool` of an application; leaving it waits until every thread has come back."""
    return hosting(lambda nursery: ThreadPool(nursery, threads, queue_size))
