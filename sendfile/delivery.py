"""One delivery: the parts still to be sent on one socket, how far it has come, and when it counts as stalled.

Laws:

* A delivery knows nothing of how its socket is waited for; the pump decides when it takes a step.
* It is stepped only while it is open and its socket is the one it was made for: a descriptor that was closed
  and opened again by somebody else is never written to.
* A peer has stalled ``idle_timeout`` after its last byte was accepted, or after the end of a pause. A step notes only
  when it was; who looks at the right time are the `alarms`.
* While a delivery is paused, as when a thread sends for it, it takes no step, and no clock that blames the peer runs.
* The kernel takes little ahead for a reader who is slow, and much for one who is fast, in large packets (``held``).
  The waits for room tell them apart; up to the end of the first one everybody is slow. A socket is given back as it
  came.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from dataclasses import dataclass

import trio

from sendfile.held import UNSENT, bound_unsent, cork, held_by_kernel, unbound_unsent, uncork
from sendfile.parts import Parts, consume, head, size
from sendfile.rate import MinRate, Rate, Speed, TooSlow, Watch
from sendfile.readers import Fetch
from sendfile.residency import Frontier, Residency
from sendfile.senders import LEAST
from sendfile.span import FileSpan, HasFileno
from sendfile.step import CLOSED, STEP, send_step
from sendfile.tls import PIECE, TlsSender

FAST = 1 << 20  # bytes per second, from which on a reader is fast
_SWIFT = 16 << 20  # and from which on it may be worth a thread
_POLLRDHUP: int = getattr(select, "POLLRDHUP", 0)  # Linux


@dataclass(frozen=True, slots=True)
class Transfer:
    """How one delivery stands, for whoever asks.

    Attributes:
        sock: its socket, as given to ``deliver``.
        done: bytes the kernel has taken.
        left: bytes in its queue.
        stalled_for: seconds since the last byte was taken; 0 while we ourselves hold it back.
        rate: bytes per second, smoothed over some four seconds.
    """

    sock: HasFileno
    done: int
    left: int
    stalled_for: float
    rate: float


class Delivery:
    """The state of one ``Pump.deliver`` call, whose arguments it takes. Its fields are written by the pump (`interest`,
    `fallback`) alone.

    Raises:
        ValueError: ``idle_timeout`` is out of bounds; or the sender is that of another socket, which would be sent
            these bytes.
    """

    __slots__ = ("away", "corked", "done", "error", "fd", "fetch", "frontier", "full_at", "idle_timeout", "kernel",
                 "lent", "lowat", "moved_at", "open", "parts", "paused_at", "progress", "queued", "rate", "scope",
                 "sender", "sock", "speed", "started_at", "swift", "task", "turn_at", "watch", "watched")  # fmt: skip

    def __init__(
        self,
        sock: HasFileno,
        parts: Parts,
        idle_timeout: float,
        kernel: bool,
        progress: Callable[[int], None] | None,
        sender: TlsSender | None,
        rate: Rate | None,
        min_rate: MinRate | None,
    ) -> None:
        if not idle_timeout > 0:
            raise ValueError(f"idle_timeout must be more than 0 seconds, not {idle_timeout}")
        if sender is not None and sender.sock is not sock:
            raise ValueError(f"the sender must be that of {sock!r}, not {sender!r}")
        self.sock = sock
        self.fd = sock.fileno()
        self.parts = parts
        self.idle_timeout = idle_timeout
        self.kernel = kernel
        self.progress = progress
        self.sender = sender
        self.rate = rate
        self.watch = None if min_rate is None else Watch(min_rate)
        self.done = 0
        self.open = False  # is it on a pump's table?
        self.queued = False  # is it about to be stepped?
        self.watched = False  # is its socket in the pump's epoll?
        self.lowat: int | None = None  # that the socket came with, while the kernel takes little ahead
        self.corked = False  # do small packets wait for more?
        self.lent = False  # does a thread send for it (`senders`), or is about to?
        self.swift = False  # did its last wait for room end so soon that one is worth it?
        self.task: trio.lowlevel.Task | None = None  # that waits for its end, or that of its fetch
        self.scope: trio.CancelScope | None = None  # where there is no epoll: ends its task's other waits
        self.error: BaseException | None = None  # why it ended, if not well
        # Of whoever sends: the event loop, or the thread whose turn it is.
        self.frontier = Frontier((sender is not None or not kernel) and hasattr(os, "pread"))
        self.fetch: Fetch | None = None  # what it waits for
        self.full_at: float | None = None  # since when the kernel has had no room
        self.started_at = self.moved_at = self.turn_at = trio.current_time()  # `turn_at`: when one may have it again
        self.speed = Speed(self.started_at)
        self.paused_at: float | None = None
        self.away = 0.0  # seconds spent in pauses that have ended

    def __repr__(self) -> str:
        state = "open" if self.open else "ended"
        return f"<Delivery {state} fd={self.fd} done={self.done} left={self.left}>"

    @property
    def left(self) -> int:
        return sum(map(size, self.parts))

    def owns_its_descriptor(self) -> bool:
        """Whether the socket is still open under the number it was registered with."""
        try:
            return self.sock.fileno() == self.fd
        except (OSError, ValueError):  # what some objects have to say when they are closed
            return False

    def room(self, now: float, most: int = STEP) -> int:
        """Most bytes of the next step, not more than ``most``; 0 when it has to pause until ``rate.ready_at()``."""
        most = most if self.sender is None else PIECE
        return most if self.rate is None else min(most, self.rate.allowance(now))

    def warm(self, now: float, residency: Residency, enough: int = STEP) -> int:
        """Most bytes of the next step that do not wait for the disk; 0 when they have to be fetched first.

        ``enough``: more than so many need not be looked for.
        """
        first = head(self.parts)
        if isinstance(first, FileSpan):
            return self.frontier.warm(residency, first, now, enough)
        return enough

    def push(self, limit: int, residency: Residency) -> None:
        """Before it is on a pump's table: steps until all is out, the kernel is full, it has to wait for something
        else, or ``limit`` bytes are out."""
        if self.left > UNSENT and held_by_kernel(self.sock) <= 2 * UNSENT:
            self._bound(True)  # with more in it already it would be heard of late
        while self.parts and limit > 0:
            now = trio.current_time()
            room = min(limit, self.room(now), self.warm(now, residency))
            if not room:
                return
            try:
                sent = self._send(now, room)
            except trio.WouldBlock:
                return
            limit -= sent

    def step(self, now: float, limit: int) -> int:
        """One step; returns its bytes, 0 if the socket took none.

        Raises what ``send_step`` raises (except WouldBlock) and what ``progress`` raises.
        """
        if not self.owns_its_descriptor():
            raise trio.ClosedResourceError(CLOSED)
        try:
            return self._send(now, limit)
        except trio.WouldBlock:
            return 0

    def _send(self, now: float, limit: int) -> int:
        if self.sender is not None:
            sent = self.sender.step(self.parts, limit)
        else:  # Corked, the end of a piece would wait 200 ms for a next piece that is not to come before.
            sent = send_step(self.sock, self.parts, limit, kernel=self.kernel, cork=self.rate is None)
        if sent:
            if self.rate is not None:
                self.rate.spend(now, sent)
            if self.full_at is not None and self.parts:
                fast = sent >= FAST * (now - self.full_at)
                self.swift = sent >= _SWIFT * (now - self.full_at)
                self._bound(not fast)
                self._cork(fast)
                self.full_at = None
            self._moved(now, sent)
        return sent

    def _moved(self, now: float, sent: int) -> None:
        self.moved_at = now
        self.done += sent
        self.speed.note(now, self.done)
        if self.progress is not None:
            self.progress(sent)

    def worth_a_thread(self, now: float) -> bool:
        """Whether one may send for it now: what is at its head."""
        if not self.swift or now < self.turn_at or not self.kernel or self.rate is not None or self.sender is not None:
            return False
        first = head(self.parts)
        return isinstance(first, FileSpan) and first.count >= LEAST

    def sent_by_thread(self, sent: int, now: float) -> None:
        """A thread has had its turn, whose time counts as its bytes do. Raises what ``progress`` raises."""
        self.paused_at = self.full_at = None
        if sent < LEAST:  # not before as long again as up to now: it is rarely tried in vain
            self.swift = False
            self.turn_at = now + max(1.0, now - self.started_at)
        if sent:
            consume(self.parts, sent)
            self._moved(now, sent)

    def await_room(self, now: float) -> None:
        """The kernel is full: how long it takes to have room again is the reader's doing."""
        if self.full_at is None:
            self.full_at = now

    def _bound(self, bounded: bool) -> None:
        if bounded and self.lowat is None:
            self.lowat = bound_unsent(self.sock)
        elif not bounded and self.lowat is not None:
            unbound_unsent(self.sock, self.lowat)
            self.lowat = None

    def _cork(self, corked: bool) -> None:
        if corked and not self.corked:
            self.corked = self.rate is None and cork(self.sock)
        elif not corked and self.corked:
            uncork(self.sock)
            self.corked = False

    def release(self) -> None:
        """It takes no more steps: what is sent after it is somebody else's."""
        self._bound(False)
        self._cork(False)

    def pause(self, now: float) -> None:
        """From here on it is held back."""
        self.paused_at = now

    def resume(self, now: float) -> None:
        """The pause, if there was one, has ended."""
        if self.paused_at is not None:
            self.away += now - self.paused_at
            self.paused_at = None
            self.moved_at = now

    def next_fetch(self, done: Callable[[Exception | None], None]) -> Fetch:
        """What has to be fetched before its next step, when `warm` was 0; ``done`` as for `Fetch`."""
        span = self.parts[0]
        assert isinstance(span, FileSpan)
        owed = self.sender is not None and self.sender.owed  # of a file: is read again, so it has to remain one
        return Fetch(span, self.frontier.wanted(span), self.kernel, self.frontier.copies and not owed, done)

    def fetched(self, fetch: Fetch, residency: Residency, now: float) -> None:
        """Its next bytes may be sent now."""
        span, data = fetch.span, fetch.data
        if fetch.skipped:
            self.frontier.dare(span, now)
        elif data:
            self.frontier.believe(span, len(data), now)
            self.parts[0] = data
            if rest := span.advance(len(data)):
                self.parts.insert(1, rest)
        else:
            residency.remember(span.file.fileno(), span.offset, fetch.count, fetch.seconds, now)
            self.frontier.believe(span, fetch.count, now)

    def wake(self) -> None:
        """What its task has waited for has come."""
        assert self.task is not None
        task, self.task = self.task, None
        trio.lowlevel.reschedule(task)

    def end(self, error: BaseException | None) -> None:
        """Its task is to return, or to raise ``error``."""
        self.error = error
        if self.task is not None:
            self.wake()
        elif self.scope is not None:
            self.scope.cancel()

    def raise_error(self) -> None:
        """Raise what it ended with, and keep it no longer: it holds the caller's frame."""
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
        finally:
            del error

    def stalls_at(self, now: float) -> float:
        """When its peer will have stalled, if it takes nothing up to then; not after ``now``: it has."""
        return (self.moved_at if self.paused_at is None else now) + self.idle_timeout

    def awaits_disk(self, now: float, patience: float) -> FileSpan | None:
        """The bytes that were to be fetched ``patience`` seconds ago or earlier, and have not come."""
        if self.fetch is None or self.paused_at is None or now - self.paused_at < patience:
            return None
        return self.fetch.span

    def has_no_peer(self, half_close: bool) -> bool:
        """Whether its peer has closed or reset the connection; never waits. False where that cannot be asked.

        ``half_close``: or has ended its sending side, at least.
        """
        if not hasattr(select, "poll"):  # Windows
            return False
        look = select.poll()
        look.register(self.fd, _POLLRDHUP if half_close else 0)
        return bool(look.poll(0))

    def too_slow(self, now: float) -> TooSlow | None:
        """Judge a peer that has to take bytes at a minimum rate."""
        assert self.watch is not None
        away = self.away if self.paused_at is None else self.away + now - self.paused_at
        return self.watch.look(now - self.started_at - away, self.done)

    def snapshot(self, now: float) -> Transfer:
        stalled_for = now - self.moved_at if self.paused_at is None else 0.0
        return Transfer(self.sock, self.done, self.left, stalled_for, self.speed.at(now, self.done))
