"""What only the pump promises: stalls, many at once, fairness, and sockets or a pump that go away."""

from __future__ import annotations

import os
import socket
import time
import tracemalloc
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import trio
from sendfile_wires import (
    PLENTY,
    Connect,
    Pair,
    content,
    drain,
    fill,
    queue,
    receive,
    tcp_pair,
    tighten,
    unix_pair,
    whole,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from sendfile import FileSpan, FileTooShort, Part, Pump, Stalled, Transfer
from sendfile.held import UNSENT, held_by_kernel

IDLE = 16.0
ALMOST = 15.75


class Outcome:
    """A delivery in a task of its own, and how it ended."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.sent: int | None = None
        self.scope = trio.CancelScope()
        self._end = trio.Event()

    async def wait_end(self) -> None:
        """Over TCP an event may be a moment late, so waiting until all are blocked is not enough."""
        with trio.fail_after(10):
            await self._end.wait()

    @property
    def ended(self) -> bool:
        return self.error is not None or self.sent is not None

    async def run(self, pump: Pump, sock: socket.socket, parts: deque[Part], idle: float = float("inf")) -> None:
        try:
            with self.scope:
                self.sent = await pump.deliver(sock, parts, idle_timeout=idle)
        except Exception as error:
            self.error = error
        self._end.set()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def tcp() -> Iterator[Pair]:
    near, far = tcp_pair()
    with near, far:
        yield near, far


async def test_a_stall_is_noticed_in_time(pump: Pump, pair: Pair, mock_clock: MockClock, nursery: trio.Nursery) -> None:
    near, _ = pair
    fill(near)
    parts: deque[Part] = queue(b"x")
    outcome = Outcome()
    nursery.start_soon(outcome.run, pump, near, parts, IDLE)
    await wait_all_tasks_blocked()
    mock_clock.jump(ALMOST)
    await wait_all_tasks_blocked()
    assert not outcome.ended, "not before its time"
    mock_clock.jump(IDLE * 0.1)
    await wait_all_tasks_blocked()
    assert isinstance(outcome.error, Stalled)
    assert isinstance(outcome.error, TimeoutError)
    assert outcome.error.seconds == IDLE
    assert list(parts) == [b"x"]


async def test_progress_moves_the_deadline(
    pump: Pump, pair: Pair, noise: IO[bytes], mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    near, far = pair
    tighten(near)
    outcome = Outcome()
    parts: deque[Part] = queue(whole(noise))
    nursery.start_soon(outcome.run, pump, near, parts, IDLE)
    for _ in range(6):
        await wait_all_tasks_blocked()
        before = len(parts[0])
        while len(parts[0]) == before:
            await receive(far, 16_000)
            await wait_all_tasks_blocked()
        mock_clock.jump(ALMOST)
    await wait_all_tasks_blocked()
    assert not outcome.ended
    (transfer,) = pump.jobs()
    assert transfer == Transfer(near, whole(noise).count - len(parts[0]), len(parts[0]), ALMOST, transfer.rate)
    assert transfer.rate > 0
    mock_clock.jump(IDLE * 0.1)
    await wait_all_tasks_blocked()
    assert isinstance(outcome.error, Stalled)


@pytest.mark.parametrize("idle", [0, -1, float("nan")])
async def test_an_idle_timeout_is_positive(pump: Pump, pair: Pair, idle: float) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        await pump.deliver(pair[0], queue(), idle_timeout=idle)


async def test_a_blocking_socket_is_refused(pump: Pump, pair: Pair) -> None:
    pair[0].setblocking(True)
    with pytest.raises(ValueError, match="non-blocking"):
        await pump.deliver(pair[0], queue())
    with pytest.raises(ValueError, match="non-blocking"):
        pump.push_nowait(pair[0], queue())


async def test_two_deliveries_on_one_socket_are_a_conflict(pump: Pump, pair: Pair, nursery: trio.Nursery) -> None:
    near, far = pair
    first = Outcome()
    nursery.start_soon(first.run, pump, near, queue(PLENTY))
    await wait_all_tasks_blocked()
    with pytest.raises(trio.BusyResourceError):
        await pump.deliver(near, queue(b"y"))
    assert await receive(far, len(PLENTY)) == PLENTY
    await first.wait_end()
    assert first.sent == len(PLENTY)


async def test_before_and_after_its_run(pair: Pair) -> None:
    pump = Pump()
    with pytest.raises(RuntimeError, match="not started"):
        await pump.deliver(pair[0], queue(b"x"))
    async with trio.open_nursery() as nursery:
        await nursery.start(pump.run)
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.ClosedResourceError):
        await pump.deliver(pair[0], queue(b"x"))
    with pytest.raises(RuntimeError, match="once"):
        await pump.run()


@pytest.mark.parametrize("epoll", [True, False])
async def test_when_the_pump_ends_nobody_is_left_waiting(epoll: bool, connect: Connect) -> None:
    pump = Pump(epoll=epoll)
    outcomes = [Outcome() for _ in range(5)]
    descriptors = open_descriptors()
    async with trio.open_nursery() as callers, trio.open_nursery() as nursery:
        await nursery.start(pump.run)
        for outcome in outcomes:
            near, _ = connect()
            descriptors += 2
            fill(near)
            callers.start_soon(outcome.run, pump, near, queue(PLENTY))
        await wait_all_tasks_blocked()
        assert len(pump.jobs()) == 5
        nursery.cancel_scope.cancel()
    assert all(isinstance(outcome.error, trio.ClosedResourceError) for outcome in outcomes)
    assert pump.jobs() == []
    assert open_descriptors() == descriptors


async def test_cancelled_with_the_pump_in_one_scope(pair: Pair) -> None:
    fill(pair[0])
    with trio.move_on_after(0.05) as scope:
        async with trio.open_nursery() as nursery:
            pump = Pump()
            await nursery.start(pump.run)
            await pump.deliver(pair[0], queue(b"x"))
    assert scope.cancelled_caught


async def test_notify_closing_ends_the_delivery(pump: Pump, pair: Pair, nursery: trio.Nursery) -> None:
    near, _ = pair
    fill(near)
    outcome = Outcome()
    nursery.start_soon(outcome.run, pump, near, queue(PLENTY))
    await wait_all_tasks_blocked()
    pump.notify_closing(near)
    pump.notify_closing(near)
    near.close()
    await outcome.wait_end()
    assert isinstance(outcome.error, trio.ClosedResourceError)


async def test_a_descriptor_used_again_after_a_cancellation(
    pump: Pump, noise: IO[bytes], nursery: trio.Nursery
) -> None:
    """Cancel, close, open: the new socket has the old number, and gets its own bytes only."""
    for _ in range(50):
        near, far = unix_pair()
        number = near.fileno()
        with near, far:
            filled = fill(near)
            old: deque[Part] = queue(b"old" * 1000)
            first, second = Outcome(), Outcome()
            nursery.start_soon(first.run, pump, near, old)
            await wait_all_tasks_blocked()
            await receive(far, filled)  # it is reported writable now, and cancelled in the same turn
            first.scope.cancel()
        again, peer = unix_pair()
        assert again.fileno() == number
        with again, peer:
            nursery.start_soon(second.run, pump, again, queue(b"new", FileSpan(noise, 0, 20)))
            assert await receive(peer, 23) == b"new" + content(FileSpan(noise, 0, 20))
            await second.wait_end()
            assert drain(peer) == 0
        assert first.scope.cancelled_caught
        assert list(old) == [b"old" * 1000]


async def test_a_descriptor_closed_and_used_again_under_a_delivery(connect: Connect, nursery: trio.Nursery) -> None:
    """Closing a socket in delivery is a mistake; its bytes still go to nobody who has the number next."""
    pump = Pump(epoll=True)
    await nursery.start(pump.run)
    near, far = unix_pair()
    fill(near)
    first, second = Outcome(), Outcome()
    nursery.start_soon(first.run, pump, near, queue(b"old"))
    await wait_all_tasks_blocked()
    number = near.fileno()
    near.close()
    again, peer = unix_pair()
    with again, peer, far:
        assert again.fileno() == number
        filled = fill(again)
        nursery.start_soon(second.run, pump, again, queue(b"new"))
        assert (await receive(peer, filled + 3))[filled:] == b"new"
        await second.wait_end()
        assert isinstance(first.error, trio.ClosedResourceError)
        assert second.sent == 3
    nursery.cancel_scope.cancel()


async def test_a_copy_of_a_closed_descriptor_does_not_keep_the_pump_busy(nursery: trio.Nursery) -> None:
    """epoll(7), Q6: a closed descriptor is reported as long as a copy of it is open."""
    pump = Pump(epoll=True)
    await nursery.start(pump.run)
    near, far = unix_pair()
    filled = fill(near)
    copy = near.dup()
    outcome = Outcome()
    nursery.start_soon(outcome.run, pump, near, queue(b"old"))
    await wait_all_tasks_blocked()
    near.close()
    with copy, far:
        await receive(far, filled)
        with trio.fail_after(5):
            await wait_all_tasks_blocked(0.01)  # which a pump that spins would not let pass
        assert isinstance(outcome.error, trio.ClosedResourceError)
        assert drain(far) == 0
    nursery.cancel_scope.cancel()


async def test_what_goes_at_once_needs_no_waiting(pump: Pump, pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    path = tmp_path / "small"
    path.write_bytes(b"small" * 100)
    with path.open("rb") as file:
        parts: deque[Part] = deque([b"head ", FileSpan(file, 5, 15)])
        assert pump.push_nowait(near, parts) == 20
        assert not parts
        assert far.recv(100) == b"head smallsmallsmall"
        parts = deque([PLENTY])
        sent = pump.push_nowait(near, parts)
        assert 0 < sent < len(PLENTY)  # the rest is for `deliver`
        assert sum(map(len, parts)) == len(PLENTY) - sent
        with pytest.raises(FileTooShort):
            while far.recv(1 << 20):
                pump.push_nowait(near, deque([FileSpan(file, 10_000, 1)]))


async def test_the_error_of_one_ends_no_other(pump: Pump, connect: Connect, nursery: trio.Nursery) -> None:
    pairs = [connect() for _ in range(6)]
    outcomes = [Outcome() for _ in pairs]
    for outcome, (near, _) in zip(outcomes, pairs, strict=True):
        nursery.start_soon(outcome.run, pump, near, queue(PLENTY))
    await wait_all_tasks_blocked()
    for _, far in pairs[::2]:
        far.close()
    for _, far in pairs[1::2]:
        assert len(await receive(far, len(PLENTY), 1 << 20)) == len(PLENTY)
    for outcome in outcomes:
        await outcome.wait_end()
    assert [type(outcome.error).__base__ for outcome in outcomes[::2]] == [ConnectionError] * 3
    assert [outcome.sent for outcome in outcomes[1::2]] == [len(PLENTY)] * 3


@pytest.fixture
def crowd() -> Iterator[list[Pair]]:
    pairs = [unix_pair() for _ in range(200)]
    yield pairs
    for near, far in pairs:
        near.close()
        far.close()


async def test_one_fast_reader_does_not_hold_the_slow_ones(
    pump: Pump, sparse: IO[bytes], tcp: Pair, crowd: list[Pair]
) -> None:
    """Beside a reader that never lets its buffer fill, 200 slow ones get theirs in every round."""
    sparse.truncate(1 << 40)
    _, fast_far = tcp
    taken = 0

    async def gulp() -> None:
        nonlocal taken
        nothing = bytearray(1 << 22)
        while True:
            await trio.lowlevel.wait_readable(fast_far)
            taken += fast_far.recv_into(nothing, 1 << 22, socket.MSG_TRUNC)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(gulp)
        for near, _ in [tcp, *crowd]:
            nursery.start_soon(Outcome().run, pump, near, queue(FileSpan(sparse, 0, 1 << 40)))
        for _ in range(3):
            before = taken
            for _, far in crowd:
                drain(far)
            with trio.fail_after(10):
                for _, far in crowd:
                    await receive(far, 1)
                while taken == before:
                    await trio.lowlevel.checkpoint()
        assert len(pump.jobs()) == 201
        nursery.cancel_scope.cancel()


async def test_those_left_over_by_a_turn_are_first_in_the_next(
    sparse: IO[bytes], monkeypatch: pytest.MonkeyPatch, crowd: list[Pair]
) -> None:
    """A turn's bytes end before its sockets do; yet nobody has a second step before everybody had a first."""
    sparse.truncate(1 << 40)
    pump = Pump(epoll=True)
    order: list[int] = []

    async with trio.open_nursery() as nursery:

        def sendfile(out: int, file: int, offset: int, count: int) -> int:
            order.append(out)
            if len(order) == 120:
                nursery.cancel_scope.cancel()
            return count

        await nursery.start(pump.run)
        monkeypatch.setattr(os, "sendfile", sendfile)
        for near, _ in crowd[:20]:
            nursery.start_soon(pump.deliver, near, queue(FileSpan(sparse, 0, 1 << 40)))
    first_pieces, steps = order[:20], order[20:120]
    assert len(set(first_pieces)) == 20
    for start in range(0, len(steps), 20):
        assert len(set(steps[start : start + 20])) == 20


@pytest.mark.parametrize(
    ("readers", "takes", "steps"),
    [
        pytest.param(1, 0.0, range((1 << 20) + 1, (8 << 20) + 1), id="alone on a fast machine"),
        pytest.param(1, 0.002, range((1 << 20) + 1), id="alone on a slow one"),
        pytest.param(2, 0.0, range((1 << 20) + 1), id="in company"),
        pytest.param(40, 0.0, range((1 << 20) + 1, (8 << 20) + 1), id="in a crowd on a fast machine"),
        pytest.param(40, 0.002, range((1 << 20) + 1), id="in a crowd on a slow one"),
    ],
)
async def test_a_step_is_as_long_as_the_others_can_do_without(
    readers: int, takes: float, steps: range, sparse: IO[bytes], monkeypatch: pytest.MonkeyPatch, crowd: list[Pair]
) -> None:
    """No step holds the loop for much more than a millisecond, and none is shorter than it need be."""
    sparse.truncate(1 << 40)
    pump = Pump(epoll=True)
    asked: list[int] = []

    def sendfile(out: int, file: int, offset: int, count: int) -> int:
        asked.append(count)
        time.sleep(takes)
        return count

    async with trio.open_nursery() as nursery:
        await nursery.start(pump.run)
        monkeypatch.setattr(os, "sendfile", sendfile)
        async with trio.open_nursery() as callers:
            for near, _ in crowd[:readers]:
                callers.start_soon(pump.deliver, near, queue(FileSpan(sparse, 0, (100 << 20) // readers)))
        nursery.cancel_scope.cancel()
    assert max(asked) in steps


async def test_a_stalled_gigabyte_costs_no_memory(
    pump: Pump, kernel: bool, sparse: IO[bytes], tcp: Pair, nursery: trio.Nursery
) -> None:
    sparse.truncate(1 << 30)
    near, _ = tcp
    parts: deque[Part] = queue(whole(sparse))
    tracemalloc.start()
    try:
        with trio.move_on_after(0.05):
            await pump.deliver(near, parts, kernel=kernel)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 300_000
    assert len(parts[0]) > 1 << 29


async def test_the_kernel_takes_little_ahead_for_who_reads_slowly(
    pump: Pump, tcp: Pair, mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    near, far = tcp
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    outcome = Outcome()
    parts = queue(PLENTY)
    nursery.start_soon(outcome.run, pump, near, parts)
    await wait_all_tasks_blocked()
    assert not outcome.ended
    assert held_by_kernel(near) < 3 * UNSENT, "of megabytes that its buffer may grow to"
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT
    mock_clock.jump(1)  # that its next bytes take
    before = len(parts[0])
    while len(parts[0]) == before:
        await receive(far, UNSENT // 2)
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT
    outcome.scope.cancel()
    await wait_all_tasks_blocked()
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 0, "what comes next is not bounded"


async def test_the_kernel_takes_all_it_likes_for_who_reads_fast(pump: Pump, tcp: Pair, nursery: trio.Nursery) -> None:
    near, far = tcp
    outcome = Outcome()
    nursery.start_soon(outcome.run, pump, near, queue(PLENTY))
    await wait_all_tasks_blocked()
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT
    received = 0
    while near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT):
        received += len(await receive(far, 1 << 20))
        assert received <= len(PLENTY) // 2
        await trio.lowlevel.checkpoint()
    assert not outcome.ended
    assert received + len(await receive(far, len(PLENTY) - received)) == len(PLENTY)
    await outcome.wait_end()
    assert outcome.sent == len(PLENTY)
