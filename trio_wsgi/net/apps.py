"""The application's threads: who gets one, who waits, who is turned away.

Laws:

* A slot is a task of the pool parked in one long `to_thread.run_sync`; calls reach its thread through the slot's inbox
  and come back by `run_sync_soon`. So `trio.from_thread` works in the app, and a call costs two hand-overs, no new
  thread.
* Which slot runs a call is decided on the loop and nowhere else. The slot that was idle last goes first: its thread is
  warm, and no more of them are awake than the load needs.
* A thread that ignores its cancellation for `LOST_AFTER` seconds is lost: it is reported with its stack, its caller
  goes on without it, and another thread takes its place. When it comes back it ends, and what it brings is disposed of.
* Cancelling a caller cancels the scope of the slot that runs its call: the app sees `Cancelled` in whatever it asks of
  the loop. The caller waits for the thread all the same; such a slot ends and is replaced.
* Calls that close what an app has opened (`run_closing`) are always admitted, go first, and run even when their caller
  has gone.
"""

from __future__ import annotations

import logging
import math
import queue
import sys
import threading
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

import outcome
import trio

try:  # where anyio is installed, `anyio.from_thread` is to work in the app, too
    from anyio import get_cancelled_exc_class as _load_backend
    from anyio.to_thread import run_sync as _park
except ImportError:
    _load_backend = Exception  # type: ignore[assignment]
    _park = trio.to_thread.run_sync  # type: ignore[assignment]

log = logging.getLogger("trio_wsgi.error")

_OUTERMOST = "call_app"  # the function of ours that calls the app
LOST_AFTER = 5.0  # seconds that a cancelled thread has to come back


class Overloaded(Exception):
    """All threads are busy and the queue is full: answer 503."""


class LostThread(Exception):
    """The thread that runs the call ignores its cancellation; its caller goes on without a result."""


class Call:
    """One call on its way through a thread.

    Args:
        fn: what is called.
        closes: it frees what an app has opened.
        dispose: called, in a thread, with a result that comes when the caller has given up.
        begins: called, on the loop, when a thread takes it.
    """

    __slots__ = ("begins", "cancelled", "closes", "context", "dispose", "fn", "queued", "result", "slot", "task")

    def __init__(
        self,
        fn: Callable[[], Any],
        closes: bool = False,
        dispose: Callable[[Any], object] | None = None,
        begins: Callable[[], object] | None = None,
    ) -> None:
        self.fn = fn
        self.closes = closes
        self.dispose = dispose
        self.begins = begins
        self.cancelled = False  # while it ran; may be looked at from any thread
        self.queued: trio.CancelScope | None = None  # bounds the wait for a thread, and nothing more
        self.context: Context = copy_context()
        self.task: trio.lowlevel.Task | None = None  # who waits; None once nobody does
        self.slot: _Slot | None = None  # who runs it; None while it waits
        self.result: outcome.Outcome[Any] | None = None

    @property
    def running_since(self) -> float | None:
        """When a thread took it, by Trio's clock; None while it waits for one."""
        return None if self.slot is None else self.slot.since

    @property
    def thread(self) -> int:
        """The thread that runs it, by the number that the system has for it (gettid(2)); 0 while it waits for one."""
        return 0 if self.slot is None else self.slot.native_id

    def stack(self) -> str:
        """Where its thread is at this moment, as lines of a Python stack; empty while it waits for one."""
        return "" if self.slot is None else self.slot.stack()


class _Slot:
    """One thread of the pool, with the scope of the task that hosts it."""

    __slots__ = ("_report", "_token", "inbox", "lost", "native_id", "returned", "scope", "since", "thread")

    def __init__(self, report: Callable[[_Slot, Call | None], None]) -> None:
        self.inbox: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        # Shielded: when all is cancelled, the requests are, one by one, by their connections; what runs on is what
        # closes files.
        self.scope = trio.CancelScope(shield=True)
        self._report = report
        self._token = trio.lowlevel.current_trio_token()
        self.since = math.inf  # when its present call began; infinite while it is idle
        self.returned = trio.Event()  # from the call that was cancelled
        self.lost = False
        self.thread = 0  # its identifier, once it is there
        self.native_id = 0

    def loop_in_thread(self) -> None:
        """Say that the thread is there, then run calls until None comes."""
        call: Call | None = None
        self.thread, self.native_id = threading.get_ident(), threading.get_native_id()
        threading.current_thread().name = "trio-wsgi app"
        with suppress(trio.RunFinishedError):
            while True:
                self._token.run_sync_soon(self._report, self, call)
                call = None  # an idle thread keeps no request alive
                call = self.inbox.get()
                if call is None:
                    return
                call.result = outcome.capture(call.context.run, call.fn)

    def stack(self) -> str:
        """Where its thread is at this moment, from the call on: what is below it is ours."""
        frame = sys._current_frames().get(self.thread)
        if frame is None:
            return ""
        stack = traceback.extract_stack(frame)
        ours = [index for index, summary in enumerate(stack) if summary.name == _OUTERMOST]
        return "".join(traceback.format_list(stack[ours[-1] + 1 :] if ours else stack)).rstrip()


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


class AppThreads:
    """Runs calls in a bounded number of threads; made by `open_threads`.

    Args:
        nursery: hosts the slots.
        threads: how many at most; they are started when they are needed.
        queue_size: calls that may wait for one.
    """

    def __init__(self, nursery: trio.Nursery, threads: int, queue_size: int) -> None:
        self._nursery = nursery
        self._threads = threads
        self._queue_size = queue_size
        self._limiter = trio.CapacityLimiter(threads)  # its own: slots must not eat the one that everybody shares
        self._slots: set[_Slot] = set()
        self._starting = 0  # slots whose thread is not there yet
        self._idle: list[_Slot] = []  # the last one is the warmest
        self._waiting: deque[Call] = deque()
        self._lost: set[_Slot] = set()
        self._closing = False

    def __repr__(self) -> str:
        return (
            f"<AppThreads {len(self._slots)} of {self._threads}, {len(self._idle)} idle, {len(self._waiting)} waiting>"
        )

    async def run(self, call: Call | Callable[[], Any], queue_timeout: float = math.inf) -> Any:
        """Run a call in a thread and return its result.

        Args:
            call: a `Call` where somebody will want to know how it goes.
            queue_timeout: seconds to wait for a thread.

        Raises:
            Overloaded: there is no thread and no place in the queue, or none came free in time.
            LostThread: the call was cancelled, and its thread does not come back.

        Cancellation: at once while the call waits. When it runs, it finds out through `trio.from_thread`, and its
        result is still returned.
        """
        call = call if isinstance(call, Call) else Call(call)
        await trio.lowlevel.checkpoint_if_cancelled()
        free = len(self._idle) + self._starting + self._threads - len(self._slots)
        if len(self._waiting) >= self._queue_size + free:
            raise Overloaded("all threads are busy and queue_size is reached")
        self._waiting.append(call)
        self._hand_out()
        if call.slot is not None:
            return await self._wait(call, self._abort_request)
        with trio.move_on_after(queue_timeout) as call.queued:
            return await self._wait(call, self._abort_request)
        raise Overloaded(f"no thread came free within {queue_timeout:g} s (queue_timeout)")

    async def run_closing(self, fn: Callable[[], object]) -> None:
        """Run `fn`, which frees what an app has opened, before any request that waits; log what it raises.

        Cancellation: stops the waiting; `fn` is run all the same.
        """
        call = Call(partial(_log_failure, fn), closes=True)
        self._waiting.appendleft(call)
        self._hand_out()
        await self._wait(call, self._abort_closing)

    async def _wait(self, call: Call, abort: Callable[[Call], trio.lowlevel.Abort]) -> Any:
        call.task = trio.lowlevel.current_task()
        result = await trio.lowlevel.wait_task_rescheduled(lambda _: abort(call))  # noqa: F821 - deleted when all is over
        if isinstance(result, outcome.Error) and isinstance(result.error, trio.Cancelled):
            # The thread saw the cancellation of its slot; this task is to see its own.
            await trio.lowlevel.checkpoint_if_cancelled()
            raise RuntimeError("a call raised the Cancelled of another one") from result.error
        if isinstance(result, outcome.Error) and isinstance(result.error, LostThread):
            await trio.lowlevel.checkpoint_if_cancelled()  # what it was cancelled for
        try:
            return result.unwrap()
        finally:
            del result, call  # an error would keep this frame, and the frame the error, and both what the app held

    def _abort_request(self, call: Call) -> trio.lowlevel.Abort:
        if call.slot is None:
            self._waiting.remove(call)
            return trio.lowlevel.Abort.SUCCEEDED
        if not call.slot.scope.cancel_called:
            call.cancelled = True
            call.slot.scope.cancel()
            self._nursery.start_soon(self._await_return, call.slot, call)
        return trio.lowlevel.Abort.FAILED

    async def _await_return(self, slot: _Slot, call: Call) -> None:
        """Give a cancelled thread its time; then let its caller go on, and put another thread in its place."""
        with trio.move_on_after(LOST_AFTER, shield=True):
            await slot.returned.wait()
            return
        slot.lost = True
        self._slots.discard(slot)
        self._lost.add(slot)
        self._limiter.total_tokens += 1
        log.error(
            "application thread %d ignores its cancellation for %g s and is left to itself; it is at:\n%s",
            slot.native_id,
            LOST_AFTER,
            slot.stack(),
        )
        task, call.task = call.task, None
        if task is not None:
            trio.lowlevel.reschedule(task, outcome.Value(outcome.Error(LostThread())))
        self._hand_out()

    def _abort_closing(self, call: Call) -> trio.lowlevel.Abort:
        call.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def counts(self) -> ThreadCounts:
        """How many threads do what, now."""
        return ThreadCounts(
            busy=len(self._slots) - len(self._idle) - self._starting,
            idle=len(self._idle),
            lost=len(self._lost),
            queued=len(self._waiting),
        )

    def lost_stacks(self) -> tuple[str, ...]:
        """Where the lost threads are, each as lines of a Python stack."""
        return tuple(slot.stack() for slot in self._lost)

    # -- slots ---------------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Give waiting calls to idle slots, and start slots for the others."""
        while self._waiting and self._idle:
            slot = self._idle.pop()
            call = self._waiting.popleft()
            call.slot = slot
            if call.queued is not None:
                call.queued.deadline = math.inf
            if call.begins is not None:
                call.begins()
            slot.since = trio.current_time()
            slot.inbox.put(call)
        while len(self._waiting) > self._starting and len(self._slots) < self._threads:
            slot = _Slot(self._report)
            self._slots.add(slot)
            self._starting += 1
            self._nursery.start_soon(self._host, slot)

    async def _host(self, slot: _Slot) -> None:
        """The task that a slot's thread runs in; `trio.from_thread` of the app's is executed here."""
        try:
            with slot.scope:
                await _park(slot.loop_in_thread, limiter=self._limiter)  # type: ignore[arg-type]
        except RuntimeError as exc:  # threading's own, for want of memory or of the system's leave
            self._slots.discard(slot)
            self._starting -= 1
            log.error("cannot start a thread for the application: %s; %d are running", exc, len(self._slots))
            if not self._slots:
                self._turn_away()
        else:
            self._slots.discard(slot)
            if slot.lost:
                self._lost.discard(slot)
                self._limiter.total_tokens -= 1
            self._hand_out()

    def _turn_away(self) -> None:
        """There is no thread, and none to come; what closes something waits for the next attempt."""
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            if call.closes:
                self._waiting.append(call)
            elif call.task is not None:
                trio.lowlevel.reschedule(call.task, outcome.Value(outcome.Error(Overloaded())))

    def _report(self, slot: _Slot, call: Call | None) -> None:
        """On the loop: a thread has started (None), or is done with a call."""
        if call is None:
            self._starting -= 1
        elif call.task is not None:
            result, call.result = call.result, None  # whoever looks at the call keeps no answer alive
            trio.lowlevel.reschedule(call.task, outcome.Value(result))
        elif call.dispose is not None and isinstance(call.result, outcome.Value):
            dispose = partial(_log_failure, partial(call.dispose, call.result.value))
            self._waiting.appendleft(Call(dispose, closes=True))
        slot.since = math.inf
        if slot.scope.cancel_called:
            slot.returned.set()
            slot.inbox.put(None)
            self._hand_out()
            return
        self._idle.append(slot)
        self._hand_out()
        if self._closing:
            self._end_idle()

    def close(self) -> None:
        """Let every thread end when it has nothing left to do; for the owner of the nursery."""
        self._closing = True
        self._end_idle()

    def _end_idle(self) -> None:
        while self._idle:
            self._idle.pop().inbox.put(None)


def _log_failure(fn: Callable[[], object]) -> None:
    try:
        fn()
    except BaseException:  # SystemExit, too, is the application's
        log.exception("closing what the application has opened failed")


@asynccontextmanager
async def open_threads(threads: int, queue_size: int) -> AsyncIterator[AppThreads]:
    """The pool of application threads; leaving it waits until every thread has come back.

    Args:
        threads: how many at most.
        queue_size: calls that may wait for one.
    """
    _load_backend()  # anyio imports it with its first use, which is not to be the first request
    async with trio.open_nursery() as nursery:
        pool = AppThreads(nursery, threads, queue_size)
        try:
            yield pool
        finally:
            pool.close()
