"""What only the pump promises of a delivery: its stalls, its memory, its end with the pump's, what goes at once."""

from __future__ import annotations

import tracemalloc
from collections import deque
from pathlib import Path
from typing import IO

import pytest
import trio
from opened import count_descriptors
from sendfile_pumps import begin, let_pass
from sendfile_wires import PLENTY, Connect, Pair, fill, queue, receive, tighten, whole
from trio.testing import MockClock, wait_all_tasks_blocked

from sendfile import FileSpan, FileTooShort, Part, Pump, Stalled, Transfer

IDLE = 16.0
ALMOST = 15.75


async def test_a_stall_is_noticed_in_time(pump: Pump, pair: Pair, mock_clock: MockClock, nursery: trio.Nursery) -> None:
    near, _ = pair
    fill(near)
    parts: deque[Part] = queue(b"x")
    outcome = begin(nursery, pump, near, parts, idle_timeout=IDLE)
    await wait_all_tasks_blocked()
    await let_pass(mock_clock, ALMOST)
    assert not outcome.ended, "not before its time"
    await let_pass(mock_clock, IDLE * 0.1)
    assert isinstance(outcome.error, Stalled)
    assert isinstance(outcome.error, TimeoutError)
    assert outcome.error.seconds == IDLE
    assert list(parts) == [b"x"]


async def test_progress_moves_the_deadline(
    pump: Pump, pair: Pair, noise: IO[bytes], mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    near, far = pair
    tighten(near)
    parts: deque[Part] = queue(whole(noise))
    outcome = begin(nursery, pump, near, parts, idle_timeout=IDLE)
    for _ in range(6):
        await wait_all_tasks_blocked()
        before = len(parts[0])
        while len(parts[0]) == before:
            await receive(far, 16_000)
            await wait_all_tasks_blocked()
        await let_pass(mock_clock, ALMOST)
    assert not outcome.ended
    (transfer,) = pump.jobs()
    assert transfer == Transfer(near, whole(noise).count - len(parts[0]), len(parts[0]), ALMOST, transfer.rate)
    assert transfer.rate > 0
    await let_pass(mock_clock, IDLE * 0.1)
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
    first = begin(nursery, pump, near, queue(PLENTY))
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


async def test_when_the_pump_ends_nobody_is_left_waiting(epoll: bool, connect: Connect) -> None:
    pump = Pump(epoll=epoll)
    before = count_descriptors()
    async with trio.open_nursery() as callers, trio.open_nursery() as nursery:
        await nursery.start(pump.run)
        nears = [connect()[0] for _ in range(5)]
        for near in nears:
            fill(near)
        outcomes = [begin(callers, pump, near, queue(PLENTY)) for near in nears]
        await wait_all_tasks_blocked()
        assert len(pump.jobs()) == 5
        nursery.cancel_scope.cancel()
    assert all(isinstance(outcome.error, trio.ClosedResourceError) for outcome in outcomes)
    assert pump.jobs() == []
    assert count_descriptors() == before + 2 * 5


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
    outcome = begin(nursery, pump, near, queue(PLENTY))
    await wait_all_tasks_blocked()
    pump.notify_closing(near)
    pump.notify_closing(near)
    near.close()
    await outcome.wait_end()
    assert isinstance(outcome.error, trio.ClosedResourceError)


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
