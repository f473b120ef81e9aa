"""One call on its way through a thread of the pool, and the slot whose thread runs it.

Laws:

* The loop gives calls to a slot through its inbox, the thread reports them back through `done` (`handover`); each
  belongs to whoever took it out last.
* A thread wakes the loop when its inbox is empty.
* An idle thread keeps no request alive.
"""

from __future__ import annotations

import itertools
import math
import queue
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any, NoReturn, Protocol

import trio

from trio_wsgi.net.pace import computed_by_all
from trio_wsgi.wsgi import bridge
from trio_wsgi.wsgi.call import call_app

try:
    import anyio
    import anyio.to_thread
except ImportError:
    anyio = None  # type: ignore[assignment]
try:
    from sniffio import current_async_library_cvar as _library
except ImportError:  # Trio brings it for as long as it needs it
    _library = None  # type: ignore[assignment]


class Abandoned(Exception):
    """The call was given up for the sake of whoever had asked for it."""


class LostThread(Exception):
    """The thread that runs the call ignores its cancellation; its caller goes on without a result."""


class SpoiltThread(Exception):
    """What the thread asks of the loop is cancelled for nobody's sake: another is to take its place."""


def tells_of_cancellation(error: BaseException) -> bool:
    """Whether a cancellation is what it says, or was raised from."""
    return any(map(bridge.is_cancellation, bridge.causes(error)))


def nothing() -> None:
    """What is to be called where there is nothing to call, not yet or no more: it keeps nothing alive."""


async def raise_error(error: BaseException, cancelled: bool) -> NoReturn:
    """Raise what a thread's work for a request ended with.

    The `Cancelled` that the thread saw is that of its slot; the request's task is to see its own, if it has one.

    Args:
        cancelled: for the sake of this request.

    Raises:
        Abandoned: so it was, and the task was not cancelled.
    """
    try:
        if not isinstance(error, trio.Cancelled | LostThread):
            raise error
        await trio.lowlevel.checkpoint_if_cancelled()
        if cancelled:
            raise Abandoned from error
        raise RuntimeError("a call raised the Cancelled of another one") from error
    finally:
        del error  # it would keep this frame, and the frame the error, and both what the app held


class Lasting(Protocol):
    """Work that keeps a thread of the pool while nobody else needs it."""

    @property
    def resting(self) -> bool:
        """Whether it has nothing to do at the moment."""

    def close(self) -> None:
        """End soon: the thread is needed. May be called again."""


class Running(Protocol):
    """The application's part in a request as it runs in a thread: a `Call`, or a `Ride` in the lane."""

    cancelled: bool  # while it ran; may be looked at from any thread
    context: Context  # that it runs in; of others once it has ended

    @property
    def running_since(self) -> float | None:
        """When a thread took it, by Trio's clock; None while it waits for one."""

    @property
    def thread(self) -> int:
        """The thread that runs it, by the number that the system has for it (gettid(2)); 0 while it waits for one."""

    def stack(self) -> str:
        """Where its thread is at this moment, as lines of a Python stack; empty while it waits for one."""

    def attend(self) -> bool:
        """On the loop: see to it that the loop has charge of its end; False where it has ended already."""


class Call:
    """One call on its way through a thread.

    Args:
        fn: what is called.
        closes: it frees what an app has opened.
        thread: the identifier of that which runs it if it is idle; 0 for none.
        dispose: called, in a thread, with a result that comes when the caller has given up.
        lasts: it is no request but serves many, until its thread is needed.

    Attributes:
        begins: called, on the loop, when a thread takes it.
    """

    __slots__ = ("begins", "cancelled", "closes", "context", "dispose", "error", "expires", "fn", "lasts", "patience",
                 "result", "slot", "spent", "task", "thread_wanted")  # fmt: skip

    def __init__(
        self,
        fn: Callable[[], Any],
        closes: bool = False,
        dispose: Callable[[Any], object] | None = None,
        lasts: Lasting | None = None,
        thread: int = 0,
    ) -> None:
        self.fn = fn
        self.closes = closes
        self.dispose = dispose
        self.begins: Callable[[], object] | None = None
        self.lasts = lasts
        self.thread_wanted = thread
        self.cancelled = False  # while it ran; may be looked at from any thread
        self.patience = math.inf  # seconds that it may wait for a thread
        self.expires = math.inf  # when it has waited so long
        self.context = context_of_thread()
        self.task: trio.lowlevel.Task | None = None  # who waits; None once nobody does
        self.slot: Slot | None = None  # whose inbox it was put into
        self.result: Any = None
        self.error: BaseException | None = None
        self.spent = (0.0, 0.0, 0.0)  # seconds of its thread, of a processor, and `computed_by_all`

    def resume(self) -> None:
        """Have its caller go on, which has not been told yet how it ended."""
        task, self.task = self.task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    # -- Running -------------------------------------------------------------------------------------------------

    def attend(self) -> bool:
        return True  # the loop has charge of it anyway

    @property
    def running_since(self) -> float | None:
        slot = self.slot
        return slot.since if slot is not None and slot.calls and slot.calls[0] is self else None

    @property
    def thread(self) -> int:
        return 0 if self.slot is None or self.running_since is None else self.slot.native_id

    def stack(self) -> str:
        return "" if self.slot is None or self.running_since is None else self.slot.stack()


class Slot:
    """One thread of the pool, with the scope of the task that hosts it.

    Args:
        kind: of thread, for its name.
        done: takes a report for every call that is done, and one without a call when the thread is there.
        attend: is called on the loop when there are reports and the loop may be asleep.
    """

    __slots__ = ("_attend", "_done", "_kind", "_token", "calls", "inbox", "lost", "native_id", "returned", "scope",
                 "since", "thread")  # fmt: skip

    def __init__(self, kind: str, done: queue.SimpleQueue[Report], attend: Callable[[], None]) -> None:
        self._kind = kind
        self.inbox: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        # Shielded: when all is cancelled, the requests are, one by one, by their connections; what runs on is what
        # closes files.
        self.scope = trio.CancelScope(shield=True)
        self._done = done
        self._attend = attend
        self._token = trio.lowlevel.current_trio_token()
        self.calls: deque[Call] = deque()  # that it was given and has not reported; it runs the first, or is done
        self.since = math.inf  # when its present call began; infinite while it is idle, or not woken yet
        self.returned = trio.Event()  # from the call that was cancelled
        self.lost = False
        self.thread = 0  # its identifier, once it is there
        self.native_id = 0

    def loop_in_thread(self) -> None:
        """Say that the thread is there, then run calls until None comes."""
        call: Call | None = None
        inbox, done = self.inbox, self._done
        self.thread, self.native_id = threading.get_ident(), threading.get_native_id()
        threading.current_thread().name = f"trio-wsgi {self._kind}"
        with bridge.hosted_by(self._token), suppress(trio.RunFinishedError):
            while True:
                # In this order: if what was in the inbox is taken back after we have looked, `done` is looked at.
                done.put((self, call))
                if inbox.empty():
                    self._token.run_sync_soon(self._attend)
                call = None  # an idle thread keeps no request alive
                call = inbox.get()
                if call is None:
                    return
                began, worked, computed = time.perf_counter(), time.thread_time(), computed_by_all()
                try:
                    call.result = call.context.run(call.fn)
                except BaseException as exc:
                    call.error = exc
                took, worked = time.perf_counter() - began, time.thread_time() - worked
                call.spent = took, worked, computed_by_all() - computed

    def runs_for(self, at: float) -> float:
        """Seconds that its present call has run by then; none while the thread waits for the interpreter to take it."""
        return at - self.since if self.inbox.qsize() < len(self.calls) else 0.0

    def stack(self) -> str:
        """Where its thread is at this moment, from the call on: what is below it is ours."""
        return stack_of(self.thread)


_OUTERMOST = {call_app.__code__, Slot.loop_in_thread.__code__}  # below them all is ours


def stack_of(thread: int) -> str:
    """Where a thread is at this moment in what it was given to do, as lines of a Python stack.

    Args:
        thread: its identifier.
    """
    frame = sys._current_frames().get(thread)
    if frame is None:
        return ""
    called = itertools.takewhile(lambda at: at[0].f_code not in _OUTERMOST, traceback.walk_stack(frame))
    stack = traceback.StackSummary.extract(iter(list(called)[::-1]))
    return "".join(stack.format()).rstrip()


def choose_park() -> Callable[..., Awaitable[None]]:
    """What a slot's thread is parked in. Where anyio is installed it is anyio's, so that `anyio.from_thread` works in
    the app, too; but for one that is too old for this Trio."""
    if anyio is not None:
        with suppress(Exception):
            anyio.get_cancelled_exc_class()  # imports its backend, which is not to be done by the first request
            return anyio.to_thread.run_sync
    return trio.to_thread.run_sync


def context_of_thread() -> Context:
    """A copy of the present context for an application's thread, where no event loop runs, whatever runs here."""
    context = copy_context()
    if _library is not None and _library.get() is not None:  # `anyio.run` says which, to everybody
        context.run(_library.set, None)
    return context


Report = tuple[Slot, Call | None]  # who, and which call is done; None: the thread is there
