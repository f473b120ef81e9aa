"""The lane: one thread of the pool that serves brisk clients, request after request, without the event loop.

To wake a thread for a request, and the loop for its end, costs more than most requests. So the connection of a client
that asks again at once lends its wire to the lane, whose thread waits for all such clients, and for nothing else.

Laws:

* A ride has one owner. While its client is silent it stands in `waiting`, and is of whoever takes it out there: the
  thread when something arrives, the loop when it wants it back. What the thread gives back goes through `done`.
* The end of a request is the thread's, as long as the request is quick and asks nothing of the loop. It stands in
  `running` then, and is of whoever takes it out there: the thread when it has ended, or the loop before (`attend`),
  which from then on looks after deadline and disconnect, and gets the ride back with the answer.
* What the kernel does not take of an answer leaves from here, too, as room comes, as long as its client reads fast: to
  hand it over to the loop, and to take the ride in again, costs more than to send it.
* Nobody waits behind an application that lasts: the loop looks for one again and again (`lanes`), attends to it, takes
  all others back. To send what it has answered lasts only where the machine is busy, and no other thread would help.
* The lane is closed before its slot is cancelled, so that no other request sees that cancellation. Where one sees a
  cancellation that is nobody's, the thread gives all rides back and ends.
"""

from __future__ import annotations

import enum
import math
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Protocol

import trio

from trio_wsgi.net.slot import SpoiltThread, context_of_thread, nothing, stack_of

_SENDS = 2  # in a row, of some 0.5 ms each; then all who have asked have their turn


class Wants(enum.Enum):
    """What a ride waits for."""

    REQUEST = "the client's next request"
    ROOM = "room for what is left of an answer"
    LOOP = "nothing: it is given back"


REQUEST, ROOM, LOOP = Wants  # to look one up in its class takes a call, in Python 3.11


class Rider(Protocol):
    """A connection, as the lane sees it."""

    def go_on(self, ride: Ride) -> Wants:
        """In the lane's thread: serve what the client has sent, or send more of an answer. Does not raise."""

    def attend(self, ride: Ride, since: float) -> None:
        """On the loop: look after the present request, which began at `since`; the ride is given back at its end."""

    def lose(self, ride: Ride) -> Callable[[], None]:
        """On the loop: the thread ignores the cancellation of the present request, which goes on without it.

        Returns:
            what disposes of its end, if that comes after all; called in a thread.
        """


class Ride:
    """One connection's stay in the lane (`slot.Running` for its requests).

    Args:
        lane: which.
        sock: of the connection, non-blocking.
        rider: serves it.
    """

    __slots__ = ("_context", "_lane", "attended", "cancelled", "context", "error", "fd", "recalled", "rider", "stirred",
                 "task", "wants")  # fmt: skip

    def __init__(self, lane: Lane, sock: socket.socket, rider: Rider) -> None:
        self._lane = lane
        self.fd = sock.fileno()
        self.rider = rider
        self._context = context_of_thread()
        self.context = self._context  # of the present request
        self.stirred = lane.now()  # when its last request ended, or its client last took bytes
        self.wants = REQUEST
        self.cancelled = False  # its present request
        self.recalled = False  # the loop wants it back, and says so once
        self.attended = False  # the loop has charge of its present request, and gets it back
        self.error: BaseException | None = None  # that the lane itself had with it
        self.task: trio.lowlevel.Task | None = None  # who waits for it

    def __repr__(self) -> str:
        return f"<Ride of {self.rider!r}>"

    # -- in the lane's thread ------------------------------------------------------------------------------------

    def call(self, fn: Callable[[Ride], Wants]) -> Wants:
        """Call `fn`, which serves one request, in a context of its own."""
        self.context = self._context.copy()
        return self.context.run(fn, self)

    def call_again(self, fn: Callable[[Ride], Wants]) -> Wants:
        """Call `fn`, which goes on with that request."""
        return self.context.run(fn, self)

    def begin(self) -> None:
        """A request begins: from now on the loop may attend to it."""
        self._lane.running[self] = self._lane.now()

    def end(self) -> bool:
        """It has ended; whether that is the thread's own affair."""
        since = self._lane.running.pop(self, None)
        if since is None:
            return False
        self._lane.took += self._lane.now() - since
        self._lane.served += 1
        return True

    def spoil(self) -> None:
        """It was cancelled for nobody's sake: the thread is to serve no other one."""
        self._lane.spoilt = True

    def tell_loop(self, fn: Callable[[], object]) -> None:
        """Have `fn` called on the loop, in the context of the connection, some milliseconds later at most."""
        self._lane.told.put(partial(self._context.copy().run, fn))

    # -- on the event loop ---------------------------------------------------------------------------------------

    @property
    def running_since(self) -> float | None:
        """When the present request began."""
        since = self._lane.running.get(self)
        return self._lane.attended.get(self) if since is None else since

    @property
    def thread(self) -> int:
        """The lane's, while it runs a request of this ride; 0 else."""
        return 0 if self.running_since is None else self._lane.native_id

    def stack(self) -> str:
        """Where the application is at this moment, as lines of a Python stack."""
        return "" if self.running_since is None else stack_of(self._lane.thread)

    def attend(self) -> bool:
        """Have the loop look after the present request; False where it has ended."""
        if not self.attended:
            since = self._lane.running.pop(self, None)
            if since is None:
                return False
            self.attended = True
            self._lane.attended[self] = since
            self.rider.attend(self, since)
        return True

    async def carried(self) -> None:
        """Wait until it is given back (`Lane.carry`)."""
        await self._lane.carry(self)

    def recall(self) -> bool:
        """Want it back: at once (True) while the client is silent, else after the present request."""
        self.recalled = True  # said before it is looked for, as the thread puts it back before it looks at this
        return self._lane.take_back(self.fd)

    def abandon(self) -> None:
        """Give up the present request, to which the loop attends: its thread finds out as after a cancellation."""
        self._lane.cancel(self)

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """Its task was cancelled."""
        task, self.task = self.task, None  # whom Trio itself wakes then
        if self.recall():
            if self.wants is REQUEST:
                return trio.lowlevel.Abort.SUCCEEDED
            assert task is not None
            trio.lowlevel.reschedule(task)  # it sees the cancellation where it delivers what is left
            return trio.lowlevel.Abort.FAILED
        self.task = task
        self.cancelled = True
        if self.attend():
            self._lane.cancel(self)
        return trio.lowlevel.Abort.FAILED


class Lane:
    """One stay of a thread with its riders.

    Args:
        now: Trio's clock.
        cancel_call: cancels the slot that the lane's call runs in.

    Raises:
        OSError: descriptors ran out.
    """

    def __init__(self, now: Callable[[], float], cancel_call: Callable[[], None]) -> None:
        self.now = now
        self._cancel_call = cancel_call
        with ExitStack() as stack:
            self._wake = os.eventfd(0)  # CLOEXEC is its default
            stack.callback(os.close, self._wake)
            self._epoll = stack.enter_context(select.epoll())
            self._room = stack.enter_context(select.epoll())  # for who wants room: in the other one, one among many
            for one in (self._wake, self._room):
                self._epoll.register(one, select.EPOLLIN)
            self._descriptors = stack.pop_all()
        self._token = trio.lowlevel.current_trio_token()
        self._waiting: dict[int, Ride] = {}  # by descriptor
        self.running: dict[Ride, float] = {}  # since when; one at most
        self.attended: dict[Ride, float] = {}  # likewise; the loop's alone
        self._done: queue.SimpleQueue[Ride] = queue.SimpleQueue()
        self.told: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._late: list[Callable[[], None]] = []  # dispose of what a lost thread may bring
        self.rides: set[Ride] = set()  # the loop's account
        self.closed = False  # the loop says so, once
        self.spoilt = False  # the thread's alone
        self.served = 0  # requests that the thread itself has ended,
        self.took = 0.0  # and the seconds that they took
        self.thread = self.native_id = 0
        self._processor_clock = -1  # of its thread (clock_gettime(2)); -1 before it is there

    def __repr__(self) -> str:
        return f"<Lane of {len(self.rides)}{', closed' if self.closed else ''}>"

    # -- in its thread -------------------------------------------------------------------------------------------

    def run_in_thread(self) -> None:
        """Serve the riders until it is closed.

        Raises:
            SpoiltThread: a request of theirs was cancelled for nobody's sake.
        """
        self._processor_clock = time.pthread_getcpuclockid(threading.get_ident())
        self.native_id = threading.get_native_id()
        self.thread = threading.get_ident()  # last: by this the loop knows that the thread is there
        room = self._room.fileno()
        try:
            while not self.closed:
                for fd, _ in self._epoll.poll():
                    if fd != room:
                        self._serve(fd)
                    else:
                        for sender, _ in self._room.poll(0, _SENDS):  # by turns (epoll_wait(2), NOTES)
                            self._serve(sender)
        finally:
            with suppress(KeyError):
                while True:
                    self._give_back(*self._waiting.popitem())

    def _serve(self, fd: int) -> None:
        waiting = self._waiting
        ride = None if self.closed else waiting.pop(fd, None)  # None: taken back, or only to be woken
        if ride is None:
            return
        wants = self._go_on(ride)
        if wants is LOOP or (wants is not ride.wants and not self._change(fd, ride, wants)):
            self._give_back(fd, ride)
            if self.spoilt:
                raise SpoiltThread
            return
        waiting[fd] = ride
        if ride.recalled and waiting.pop(fd, None) is not None:
            self._give_back(fd, ride)

    def _go_on(self, ride: Ride) -> Wants:
        try:
            return ride.rider.go_on(ride)
        except BaseException as exc:
            ride.error = exc
            return LOOP

    def _change(self, fd: int, ride: Ride, wants: Wants) -> bool:
        with suppress(ValueError, OSError):  # as in `carry`; as in `_give_back`
            self._unwatch(fd, ride)
            ride.wants = wants
            self._watch(fd, ride)
            return True
        return False

    def _watch(self, fd: int, ride: Ride) -> None:
        if ride.wants is REQUEST:
            self._epoll.register(fd, select.EPOLLIN)
        else:
            self._room.register(fd, select.EPOLLOUT)

    def _unwatch(self, fd: int, ride: Ride) -> None:
        (self._epoll if ride.wants is REQUEST else self._room).unregister(fd)

    def _give_back(self, fd: int, ride: Ride) -> None:
        with suppress(ValueError, OSError):  # the lane was dissolved without this thread, which was lost
            self._unwatch(fd, ride)
        self._done.put(ride)
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self.collect)

    def dispose(self, _: object) -> None:
        """In a thread: what a lost thread has brought, after all."""
        for dispose in self._late:
            dispose()

    # -- on the event loop ---------------------------------------------------------------------------------------

    @property
    def resting(self) -> bool:
        """Whether no request runs (`slot.Lasting`)."""
        return not self.running and not self.attended

    def processor_time(self) -> float:
        """Seconds of a processor that the thread has had; while it is there and not closed."""
        return time.clock_gettime(self._processor_clock)

    async def carry(self, ride: Ride) -> None:
        """Have the thread serve a ride until it is given back.

        Cancellation: at once while the client is silent; else the request finds out.
        """
        ride.task = trio.lowlevel.current_task()
        try:
            self._watch(ride.fd, ride)
        except OSError:  # the system's limit (epoll_ctl(2), ENOSPC): the loop waits for the client, as for others
            return
        self._waiting[ride.fd] = ride  # last: whoever takes it out unregisters it
        self.rides.add(ride)
        try:
            await trio.lowlevel.wait_task_rescheduled(ride.abort)
        finally:
            self.rides.discard(ride)
        if ride.error is not None:
            raise ride.error

    def take_back(self, fd: int) -> bool:
        """Give a silent ride back, now; False where there is none."""
        ride = self._waiting.pop(fd, None)
        if ride is None:
            return False
        self._unwatch(fd, ride)
        self._hear()  # of its requests, before more is told of it
        self._resume(ride)
        return True

    def take_back_silent(self, since: float) -> None:
        """Give those back whose clients have been silent since before then."""
        for fd in list(self._waiting):  # in one go, unlike its items, which the thread may change meanwhile
            ride = self._waiting.get(fd)
            if ride is not None and ride.stirred < since:
                self.take_back(fd)

    def attend_to_stuck(self, before: float) -> bool:
        """Attend to a request that began before then; whether there is one."""
        for ride in list(self.running):
            if self.running.get(ride, math.inf) <= before and ride.attend() and ride.cancelled:
                self.cancel(ride)
        return any(since <= before for since in self.attended.values())

    def close(self) -> None:
        """Let the thread end (`slot.Lasting`); silent rides are given back now, the others by the thread."""
        if not self.closed:
            self.closed = True
            os.eventfd_write(self._wake, 1)
        self.take_back_silent(math.inf)

    def cancel(self, ride: Ride) -> None:
        """Have the present request of a ride see a cancellation, and no other one."""
        self.close()
        self.collect()  # in this order: the thread begins nothing after it has given something back to a closed lane
        if ride in self.attended:
            ride.cancelled = True
            self._cancel_call()

    def collect(self) -> None:
        """See what the thread has done."""
        self._hear()
        while not self._done.empty():
            ride = self._done.get_nowait()
            self.attended.pop(ride, None)
            self._resume(ride)

    def _hear(self) -> None:
        while not self.told.empty():
            self.told.get_nowait()()

    def dissolve(self) -> None:
        """Free the lane; its thread has ended, was never there, or is lost: whom it keeps goes on without it."""
        self.close()
        self.collect()
        while self.attended:
            ride, _ = self.attended.popitem()
            self._late.append(ride.rider.lose(ride))
            self._resume(ride)
        self._descriptors.close()
        self._cancel_call = nothing  # it refers to the call, and the call to this

    def _resume(self, ride: Ride) -> None:
        task, ride.task = ride.task, None
        if task is not None:
            trio.lowlevel.reschedule(task)
