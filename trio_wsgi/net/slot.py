"""One call on its way through a thread of the pool, and the slot whose thread runs it.

Laws:

* The loop gives calls to a slot through its inbox, the thread reports them back through the pool's `done`; each belongs
  to whoever took it out last.
* A thread wakes the loop when its inbox is empty, but not for a call that has nothing urgent to report while its caller
  listens to the client: it goes on when the client does. If that takes longer than `QUIET`, it is told all the same.
* An idle thread keeps no request alive.
"""

from __future__ import annotations

import enum
import math
import queue
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any

import trio

QUIET = 0.005  # seconds that a report may wait for the client's next request to wake the loop
_OUTERMOST = "call_app"  # the function of ours that calls the app


class Waits(enum.Enum):
    """What the caller of a call waits for."""

    FOR_END = "the end of the call"
    FOR_CLIENT = "that, or until its client stirs"
    NOT = "it looks for itself"


class Call:
    """One call on its way through a thread.

    Args:
        fn: what is called.
        closes: it frees what an app has opened.
        dispose: called, in a thread, with a result that comes when the caller has given up.
        begins: called, on the loop, when a thread takes it.
        sock: of the client, where what it sends next may end the wait for a call whose answer has left.
    """

    __slots__ = (
        "begins",
        "cancelled",
        "closes",
        "context",
        "dispose",
        "error",
        "expires",
        "fn",
        "heard",
        "left",
        "patience",
        "result",
        "slot",
        "sock",
        "task",
        "waits",
    )

    def __init__(
        self,
        fn: Callable[[], Any],
        closes: bool = False,
        dispose: Callable[[Any], object] | None = None,
        begins: Callable[[], object] | None = None,
        sock: socket.socket | None = None,
    ) -> None:
        self.fn = fn
        self.closes = closes
        self.dispose = dispose
        self.begins = begins
        self.sock = sock
        self.cancelled = False  # while it ran; may be looked at from any thread
        self.patience = math.inf  # seconds that it may wait for a thread
        self.expires = math.inf  # when it has waited so long
        self.context: Context = copy_context()
        self.task: trio.lowlevel.Task | None = None  # who waits; None once nobody does
        self.slot: Slot | None = None  # whose inbox it was put into
        self.result: Any = None
        self.error: BaseException | None = None
        self.waits = Waits.FOR_END  # its caller; the loop says so, and its thread looks
        self.heard = False  # the client, before anything else ended the listening
        self.left = False  # the answer, whole: the thread says so before it reports, and its caller need not hurry

    @property
    def stands_alone(self) -> bool:
        """Whether its thread, which asks, was given nothing more, and its caller listens to the client."""
        return self.waits is Waits.FOR_CLIENT and self.slot is not None and self.slot.inbox.empty()

    async def listen(self) -> None:
        """For its caller: wait until the client stirs (`heard`), or for its end. Afterwards it waits for nothing."""
        assert self.sock is not None
        self.waits = Waits.FOR_CLIENT
        try:
            await trio.lowlevel.wait_readable(self.sock)
            self.heard = True
        except trio.ClosedResourceError:  # `end_listening`
            pass
        except trio.Cancelled:  # as the next wait will be, which knows what is to be done
            pass
        # Said before the reports are read, as the thread reports before it looks at this: one sees the other.
        self.waits = Waits.NOT

    def end_listening(self) -> None:
        """Have its caller go on, which listens."""
        assert self.sock is not None
        trio.lowlevel.notify_closing(self.sock)  # ends the wait; the socket stays open

    def resume(self) -> None:
        """Have its caller go on, which has not been told yet how it ended."""
        task, self.task = self.task, None
        if self.waits is Waits.FOR_CLIENT:
            self.end_listening()
        elif self.waits is Waits.FOR_END and task is not None:
            trio.lowlevel.reschedule(task)

    @property
    def running_since(self) -> float | None:
        """When a thread took it, by Trio's clock; None while it waits for one."""
        slot = self.slot
        return slot.since if slot is not None and slot.calls and slot.calls[0] is self else None

    @property
    def thread(self) -> int:
        """The thread that runs it, by the number that the system has for it (gettid(2)); 0 while it waits for one."""
        return 0 if self.slot is None or self.running_since is None else self.slot.native_id

    def stack(self) -> str:
        """Where its thread is at this moment, as lines of a Python stack; empty while it waits for one."""
        return "" if self.slot is None or self.running_since is None else self.slot.stack()


class Slot:
    """One thread of the pool, with the scope of the task that hosts it.

    Args:
        done: takes a report for every call that is done, and one without a call when the thread is there.
        attend: is called on the loop when there are reports and the loop may be asleep.
    """

    __slots__ = (
        "_attend",
        "_done",
        "_token",
        "calls",
        "inbox",
        "lost",
        "native_id",
        "returned",
        "scope",
        "since",
        "thread",
    )

    def __init__(self, done: queue.SimpleQueue[Report], attend: Callable[[], None]) -> None:
        self.inbox: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        # Shielded: when all is cancelled, the requests are, one by one, by their connections; what runs on is what
        # closes files.
        self.scope = trio.CancelScope(shield=True)
        self._done = done
        self._attend = attend
        self._token = trio.lowlevel.current_trio_token()
        self.calls: deque[Call] = deque()  # that it was given and has not reported; it runs the first, or is done
        self.since = math.inf  # when its present call began; infinite while it is idle
        self.returned = trio.Event()  # from the call that was cancelled
        self.lost = False
        self.thread = 0  # its identifier, once it is there
        self.native_id = 0

    def loop_in_thread(self) -> None:
        """Say that the thread is there, then run calls until None comes."""
        call: Call | None = None
        inbox, done = self.inbox, self._done
        self.thread, self.native_id = threading.get_ident(), threading.get_native_id()
        threading.current_thread().name = "trio-wsgi app"
        with suppress(trio.RunFinishedError):
            while True:
                # In this order: if what was in the inbox is taken back after we have looked, `done` is looked at.
                done.put((self, call))
                following = self._take_soon(call)
                call = None  # an idle thread keeps no request alive
                call = following or inbox.get()
                if call is None:
                    return
                try:
                    call.result = call.context.run(call.fn)
                except BaseException as exc:
                    call.error = exc

    def _take_soon(self, call: Call | None) -> Call | None:
        """Wake the loop, if it has to know of the end of a call; or the next call, if it came before that."""
        following: Call | None = None
        if call is not None and call.left and call.waits is Waits.FOR_CLIENT:
            try:
                following = self.inbox.get(timeout=QUIET)
            except queue.Empty:
                self._wake_loop()
            else:
                if following is None:  # the end: `loop_in_thread` is to take it
                    self.inbox.put(None)
                elif call.waits is Waits.FOR_CLIENT:  # or it would wait for the end of what runs now
                    self._wake_loop()
        elif self.inbox.empty():
            self._wake_loop()
        return following

    def _wake_loop(self) -> None:
        self._token.run_sync_soon(self._attend)

    def stack(self) -> str:
        """Where its thread is at this moment, from the call on: what is below it is ours."""
        frame = sys._current_frames().get(self.thread)
        if frame is None:
            return ""
        stack = traceback.extract_stack(frame)
        ours = [index for index, summary in enumerate(stack) if summary.name == _OUTERMOST]
        return "".join(traceback.format_list(stack[ours[-1] + 1 :] if ours else stack)).rstrip()


Report = tuple[Slot, Call | None]  # who, and which call is done; None: the thread is there
