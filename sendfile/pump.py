"""The pump: one task that moves the bytes of many slow deliveries.

A task per download that wakes whenever its socket is writable costs a wake-up each time, and a burst of
thousands stands between a new event and its handler. The pump has an epoll (epoll(7)) of its own over the
sockets of its deliveries, nested in Trio's: its task waits until that epoll is readable, serves a bounded
batch, and yields.

Laws:

* A turn serves at most 64 sockets with one step each and ends after about 4 MiB or a millisecond; then everybody else
  on the loop has a turn. First come, first served: nobody has a second step before those who wait had a first.
* The caller of ``deliver`` stays parked in its own task under its own cancel scopes. Cancelling it takes the
  delivery out at once, before anything else can run.
* The error of a delivery goes to its caller and ends nothing else. When the pump ends, every caller is told.
* Bytes that are not in memory are fetched by a few threads first (``readers``): no step waits for a disk, unless no
  descriptor or thread is left to fetch with.
* Who pauses, or waits for bytes to be fetched, is in no epoll, and may be cancelled at any time. What no epoll tells is
  looked at from time to time (``alarms``).
* Who takes all it is given, of a long file, has a thread send for it, turn after turn (``senders``): it is in no epoll
  then, and no step is taken.
* Only its own epoll is closed here, never a socket or a file.
"""

from __future__ import annotations

import enum
import math
import select
import time
from collections import deque
from collections.abc import Callable

import trio

from sendfile.alarms import Alarms
from sendfile.delivery import Delivery, Transfer
from sendfile.disk import Disk
from sendfile.fallback import step_on
from sendfile.interest import Interest
from sendfile.parts import Parts, check_parts, head
from sendfile.rate import MinRate, Rate
from sendfile.readers import Readers
from sendfile.residency import Residency
from sendfile.senders import Senders
from sendfile.span import FileSpan, HasFileno
from sendfile.step import CLOSED, STEP, check_socket, send_step
from sendfile.tls import TlsSender
from sendfile.wheel import TICK

_BATCH = 64  # events a turn; 256 more than doubled the p99 of others beside 5,000 readers
_TURN_BYTES = 4 << 20
_TURN_SECONDS = 0.001  # of our own work, however slow the machine: what somebody else on the loop waits for us
_LONGEST = 8 << 20  # bytes of one step
_FEW = range(2, 17)  # deliveries that are all kept going by steps of 1 MiB; longer ones leave their readers waiting
DIRECT_BYTES = 256 << 10  # in the caller's task: all of a small answer, yet short when a crowd calls at once


class _State(enum.Enum):
    NEW = "not started"
    RUNNING = "running"
    CLOSED = "ended"


class _Abort:
    """Takes a delivery out of its pump when its task is cancelled; a closure would take six times as much."""

    __slots__ = ("_delivery", "_pump")

    def __init__(self, pump: Pump, delivery: Delivery) -> None:
        self._pump = pump
        self._delivery = delivery

    def __call__(self, _: object) -> trio.lowlevel.Abort:
        self._pump._remove(self._delivery)
        return trio.lowlevel.Abort.SUCCEEDED


class Pump:
    """Moves the bytes of many deliveries in one task.

    Args:
        epoll: whether to use an epoll of its own; None where the platform has it. Without one each caller's
            task waits for its own socket: the same behaviour, at the price of a wake-up per writable socket. (A Trio
            socket's ``close()`` is told at once then.)
        disk: tells what is in memory and fetches what is not; None for the real one.
        half_close: whether a peer that has ended its sending side counts as gone when a disk makes it wait for long.
            Else it goes unnoticed until the next bytes are sent to it, if all it did was to close.
        senders: how many threads may send to those who read as fast as they are sent to; None for as many as this
            process may use processors beside one, four at most. Without an epoll there are none.

    Start it with ``await nursery.start(pump.run)``; it runs until it is cancelled, once.
    """

    def __init__(
        self,
        *,
        epoll: bool | None = None,
        disk: Disk | None = None,
        half_close: bool = False,
        senders: int | None = None,
    ) -> None:
        disk = Disk() if disk is None else disk
        self._residency = Residency(disk)
        self._readers = Readers(disk)
        self._senders = Senders(self._residency, senders)
        self._wants_epoll = hasattr(select, "epoll") if epoll is None else epoll
        self._state = _State.NEW
        self._table: dict[int, Delivery] = {}  # by descriptor
        self._ready: deque[Delivery] = deque()  # to be stepped, first come first served
        self._interest: Interest | None = None
        self._alarms = Alarms(half_close)
        self._token: trio.lowlevel.TrioToken | None = None  # of its event loop, once it runs
        self._step = STEP  # bytes of a step where a long one is best: as many as a turn's time allows
        self._now = trio.current_time  # its clock's own, once it runs: `push_nowait` is called from threads, too

    def __repr__(self) -> str:
        return f"<Pump {self._state.value}, {len(self._table)} deliveries>"

    @property
    def holds_copies(self) -> bool:
        """Whether there may be copies of sockets, which a child that is forked now gets as well."""
        return self._senders.taken > 0

    def jobs(self) -> list[Transfer]:
        """How the deliveries that are under way stand now. Costs a look at each of their parts."""
        now = trio.current_time()
        return [delivery.snapshot(now) for delivery in self._table.values()]

    @trio.lowlevel.enable_ki_protection  # half a step would be remembered by all deliveries
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The pump's task. Runs until cancelled; deliveries under way then raise trio.ClosedResourceError.

        Raises:
            RuntimeError: it was started before.
        """
        if self._state is not _State.NEW:
            raise RuntimeError(f"a pump runs once, and this one is {self._state.value}")
        self._state = _State.RUNNING
        self._token = trio.lowlevel.current_trio_token()
        self._now = trio.lowlevel.current_clock().current_time
        try:
            if self._wants_epoll:
                self._interest = Interest()
            task_status.started()
            while True:
                with self._alarms.nap():
                    if self._interest is None:
                        await trio.sleep_forever()
                    while True:
                        await self._wait_ready(self._interest)
                        self._serve()
                self._heed_alarms()
        finally:
            self._state = _State.CLOSED
            for delivery in list(self._table.values()):
                self._end(delivery, trio.ClosedResourceError("the pump has ended"))
            if self._interest is not None:
                self._interest.close()

    async def deliver(
        self,
        sock: HasFileno,
        parts: Parts,
        *,
        idle_timeout: float = math.inf,
        kernel: bool = True,
        progress: Callable[[int], None] | None = None,
        rate: Rate | None = None,
        min_rate: MinRate | None = None,
        sender: TlsSender | None = None,
    ) -> int:
        """Send all of ``parts`` on ``sock``; returns when it is empty and the kernel has it all.

        Args:
            sock: a non-blocking stream socket. Nobody else sends on it meanwhile, and nobody closes it before
                this call has ended: cancel it first (or see ``notify_closing``).
            parts: what to send; consumed in place. What is appended meanwhile goes out too.
            idle_timeout: seconds the peer may take no byte at all; more than 0.
            kernel: False copies files through Python instead of using sendfile(2).
            progress: called on the event loop with the number of bytes after each step; it must be quick, and
                an error it raises ends this delivery with it.
            rate: most bytes per second; None as fast as the peer reads. Pauses do not count as a stall.
            min_rate: fewest bytes per second the peer has to take; None for none. Pauses do not count.
            sender: of a TLS socket; None for a plain one.

        Returns:
            The bytes sent.

        Raises:
            Stalled: the peer took nothing for ``idle_timeout`` seconds (noticed within a tick more: 1/32 s).
            TooSlow: the peer took less than ``min_rate`` (noticed within a quarter of its window more).
            DiskStalled: the next bytes of a file did not come into memory for 60 seconds (noticed within 5 more).
            FileTooShort: a file ended before its span.
            ConnectionError: the peer has gone (while a disk makes it wait noticed within ten seconds, see
                ``half_close``); any other OSError comes from the network or from reading the file.
            trio.BusyResourceError: there is a delivery on this socket already.
            trio.ClosedResourceError: the socket was closed on this side (noticed within some five seconds, unless
                ``notify_closing`` was called), or the pump has ended.
            RuntimeError: the pump was not started, or runs on the event loop of another thread.
            TypeError: ``parts`` cannot be consumed in place.
            ValueError: the socket would block, or ``sender`` is not its own; or an argument is out of bounds.

            After any of these ``parts`` holds what has not been sent, be it that bytes stand for some of a file.

        Cancellation: may happen at any time; ``parts`` then holds what has not been sent. Where a thread is sending it
            waits for the end of its turn, some 50 ms.
        """
        check_socket(sock, tls=sender is not None)
        check_parts(parts)
        if self._state is _State.CLOSED:
            raise trio.ClosedResourceError("the pump has ended")
        if self._state is _State.NEW:
            raise RuntimeError("the pump was not started: await nursery.start(pump.run)")
        if trio.lowlevel.current_trio_token() is not self._token:
            raise RuntimeError("the pump runs on the event loop of another thread")
        delivery = Delivery(sock, parts, idle_timeout, kernel, progress, sender, rate, min_rate)
        self._check_free(delivery.fd)
        # Thousands wait here: each function between this one and the wait would hold some 250 bytes for each of them.
        while True:  # again for what is appended when all was sent, and we were about to return
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                delivery.push(DIRECT_BYTES, self._residency)
                if not parts:  # the other half of the checkpoint; not cancellable, since all is sent
                    await trio.lowlevel.cancel_shielded_checkpoint()
                else:
                    self._open(delivery)
                    if self._interest is None:
                        await step_on(delivery, self._residency, self._wait_fetched)
                    else:
                        self._start(delivery)
                        while delivery.open:
                            await trio.lowlevel.wait_task_rescheduled(self._park(delivery))
                            if delivery.lent:
                                await self._send_by_thread(delivery)
            finally:
                self._remove(delivery)
                delivery.release()
            delivery.raise_error()
            if not parts:
                return delivery.done

    def push_nowait(self, sock: HasFileno, parts: Parts, limit: int = DIRECT_BYTES, *, kernel: bool = True) -> int:
        """Send what of ``parts`` is in memory and the kernel takes at once, a quarter of a MiB at most, or ``limit``.

        For those who have most answers gone with this, and ``deliver`` what is left. Args and errors are those of
        ``deliver``, except that it never waits. It may be called in any thread while nobody else sends on the socket.

        Returns:
            The bytes sent.
        """
        check_socket(sock)
        check_parts(parts)
        return self.push_unchecked(sock, parts, limit, kernel=kernel)

    def push_unchecked(self, sock: HasFileno, parts: Parts, limit: int = DIRECT_BYTES, *, kernel: bool = True) -> int:
        """``push_nowait`` on a socket that is known to be non-blocking and without TLS."""
        self._check_free(sock.fileno())
        now, left = self._now(), limit
        while parts and left and (first := head(parts)) is not None:
            most = left
            if isinstance(first, FileSpan):
                most = self._residency.warm(first.file.fileno(), first.offset, min(most, first.count), now, not kernel)
                if not most:
                    break
            try:
                left -= send_step(sock, parts, most, kernel=kernel)
            except trio.WouldBlock:
                break
        return limit - left

    def notify_closing(self, sock: HasFileno) -> None:
        """End the delivery on ``sock``, if any, with trio.ClosedResourceError, before its owner closes it."""
        if (delivery := self._table.get(sock.fileno())) is not None:
            self._end(delivery, trio.ClosedResourceError(CLOSED))

    # -- the table of deliveries ----------------------------------------------------------------------------------

    def _check_free(self, fd: int) -> None:
        """Nobody else may deliver on this socket; one whose descriptor was closed under it ends here."""
        if fd < 0:
            raise trio.ClosedResourceError(CLOSED)
        other = self._table.get(fd)
        if other is None:
            return
        if other.owns_its_descriptor():
            raise trio.BusyResourceError("there is a delivery on this socket already")
        self._end(other, trio.ClosedResourceError(CLOSED))

    def _open(self, delivery: Delivery) -> None:
        """Put it on the table; its clocks run from now on."""
        self._check_free(delivery.fd)  # again: `progress` may have run anything
        self._table[delivery.fd] = delivery
        delivery.open = True
        delivery.moved_at = now = trio.current_time()
        self._alarms.start(delivery, now)

    def _remove(self, delivery: Delivery) -> None:
        """Take it off the table, out of the epoll and off the alarms: from here on it is never stepped. Idempotent."""
        if not delivery.open:
            return
        delivery.open = False
        del self._table[delivery.fd]
        self._unwatch(delivery)
        self._alarms.drop(delivery)
        if delivery.fetch is not None:
            self._readers.forget(delivery.fetch)
            delivery.fetch = None

    def _end(self, delivery: Delivery, error: BaseException | None) -> None:
        """Its caller is to return, or to raise ``error``."""
        self._remove(delivery)
        delivery.end(error)

    # -- what a delivery waits for --------------------------------------------------------------------------------

    def _start(self, delivery: Delivery) -> None:
        """Have it stepped when it can be."""
        now = trio.current_time()
        if not delivery.room(now):
            self._pause(delivery, now)
        elif not delivery.warm(now, self._residency):
            self._fetch(delivery, now)
        else:
            self._watch(delivery, now)

    def _park(self, delivery: Delivery) -> _Abort:
        """The present task is about to wait: up to its end; or up to that of its fetch, where there is no epoll.

        Returns:
            What to do when the task is cancelled meanwhile.
        """
        delivery.task = trio.lowlevel.current_task()
        return _Abort(self, delivery)

    def _watch(self, delivery: Delivery, now: float) -> None:
        assert self._interest is not None
        delivery.await_room(now)
        self._interest.add(delivery)

    def _unwatch(self, delivery: Delivery) -> None:
        if self._interest is not None:
            self._interest.discard(delivery)

    def _pause(self, delivery: Delivery, now: float, more: float = 0) -> None:
        """``more``: who has just sent gives way to the others with whom it may share its rate."""
        assert delivery.rate is not None
        self._unwatch(delivery)
        delivery.pause(now)
        self._alarms.pause(delivery, delivery.rate.ready_at() + more)

    def _fetch(self, delivery: Delivery, now: float) -> None:
        """Have the next bytes brought into memory, and it stepped then."""

        def done(error: Exception | None) -> None:
            delivery.fetch = None
            now = trio.current_time()
            delivery.resume(now)
            if error is not None:
                self._end(delivery, error)
                return
            delivery.fetched(fetch, self._residency, now)
            if self._interest is None:
                delivery.wake()
            else:
                self._enqueue(delivery)
                self._alarms.end_nap()

        self._unwatch(delivery)
        delivery.pause(now)
        delivery.fetch = fetch = delivery.next_fetch(done)
        self._readers.ask(fetch)

    def _lend(self, delivery: Delivery, now: float) -> None:
        """Have its caller's task see to `_send_by_thread`."""
        self._unwatch(delivery)
        delivery.pause(now)
        delivery.lent = True
        self._senders.take()
        delivery.wake()

    async def _send_by_thread(self, delivery: Delivery) -> None:
        """One turn of a thread; after it, it is stepped again when it can be, or was ended."""
        try:
            span = delivery.parts[0]
            assert isinstance(span, FileSpan)
            sent = await self._senders.send(delivery.sock, span, delivery.frontier) if delivery.open else 0
        finally:
            delivery.lent = False
            self._senders.give_back()
        now = trio.current_time()
        delivery.sent_by_thread(sent, now)
        if not delivery.open:
            return
        if not delivery.owns_its_descriptor():
            raise trio.ClosedResourceError(CLOSED)
        if delivery.parts:
            self._start(delivery)
        else:
            self._remove(delivery)

    async def _wait_fetched(self, delivery: Delivery, now: float) -> None:
        """The same in the caller's task, where there is no epoll: until they are there, or it was ended."""
        self._fetch(delivery, now)
        await trio.lowlevel.wait_task_rescheduled(self._park(delivery))

    # -- the ready queue ------------------------------------------------------------------------------------------

    def _enqueue(self, delivery: Delivery) -> None:
        if not delivery.queued:
            delivery.queued = True
            self._ready.append(delivery)

    def _heed_alarms(self) -> None:
        """After a nap."""
        now = trio.current_time()
        for delivery in self._alarms.pauses_over(now):
            delivery.resume(now)
            self._enqueue(delivery)
        for delivery, error in self._alarms.failures(now):
            self._end(delivery, error)

    async def _wait_ready(self, interest: Interest) -> None:
        """Return with something to serve, after exactly one checkpoint or more."""
        self._poll(interest)
        if self._ready:
            await trio.lowlevel.checkpoint()
            return
        while not self._ready:
            await trio.lowlevel.wait_readable(interest.fileno())
            self._poll(interest)

    def _poll(self, interest: Interest) -> None:
        for delivery, error in interest.renew(self._table.values()).items():
            self._end(delivery, error or trio.ClosedResourceError(CLOSED))
        for delivery in interest.poll(_BATCH):
            self._enqueue(delivery)

    # -- a turn ---------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """One turn: a step for each reported socket, until the turn's bytes or its time are used up."""
        now, began = trio.current_time(), time.perf_counter()
        budget = _TURN_BYTES
        most = STEP if len(self._ready) in _FEW else self._step
        hot: list[Delivery] = []  # took all it was offered; asking epoll before its next step cost a quarter
        for _ in range(min(_BATCH, len(self._ready))):
            if budget <= 0 or (at := time.perf_counter()) - began > _TURN_SECONDS:
                break
            delivery = self._ready.popleft()
            delivery.queued = False
            if not delivery.open:
                continue
            try:
                if self._senders.free and delivery.worth_a_thread(now):
                    self._lend(delivery, now)
                    continue
                room = delivery.room(now, most)
                if room and not (warm := delivery.warm(now, self._residency, room)):
                    self._fetch(delivery, now)
                    continue
                sent = delivery.step(now, room := min(room, warm)) if room else 0
                budget -= sent
                if not delivery.open:
                    continue  # `progress` has seen to that
                if not delivery.parts:
                    self._end(delivery, None)
                elif not delivery.room(now):
                    self._pause(delivery, now, TICK if sent else 0)
                elif sent == room:
                    hot.append(delivery)
                    if room == self._step:
                        self._adapt(time.perf_counter() - at)
                else:
                    self._watch(delivery, now)
            except BaseException as error:  # be it SystemExit, out of `progress`: it is its caller's
                if delivery.open:
                    self._end(delivery, error)
        for delivery in hot:
            self._enqueue(delivery)

    def _adapt(self, seconds: float) -> None:
        """A step took so long, and its reader could have taken more."""
        if seconds > _TURN_SECONDS:
            self._step = max(STEP, self._step // 2)
        elif seconds < _TURN_SECONDS / 2:
            self._step = min(_LONGEST, self._step * 2)
