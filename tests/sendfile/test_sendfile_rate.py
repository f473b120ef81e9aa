"""Rates: the account by itself, the wheel by itself, and both in the pump under a clock that the tests move."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import IO

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from sendfile_pumps import begin, let_pass
from sendfile_wires import Pair, content, drain, fill, queue, receive, tighten, unix_pairs, whole
from trio.testing import MockClock, wait_all_tasks_blocked

from sendfile import FileSpan, MinRate, Part, Pump, Rate, Stalled, TooSlow
from sendfile.rate import Speed, Watch
from sendfile.wheel import TICK, Wheel


def spend_all(rate: Rate, start: float, seconds: float, most: int = 1 << 20) -> int:
    """What goes out when every tick takes all that it may."""
    total = 0
    for tick in range(int(seconds / TICK) + 1):
        now = start + tick * TICK
        while sent := min(most, rate.allowance(now)):
            rate.spend(now, sent)
            total += sent
    return total


@pytest.mark.parametrize("per_second", [1, 3, 10, 999, 50_000, 1 << 20, 123_456_789, 2_000_000_000])
@pytest.mark.parametrize("after", [0, 1, 100_000])
@pytest.mark.parametrize("most", [1 << 20, 70_001])
def test_ten_seconds_are_accurate_within_five_percent(per_second: int, after: int, most: int) -> None:
    total = spend_all(Rate(per_second, after), 1e9 + 0.007, 10, most)
    assert abs(total - after - 10 * per_second) <= max(0.05 * 10 * per_second, 2)


def test_who_was_slow_catches_up_by_less_than_half_a_second() -> None:
    rate = Rate(80_000)
    spend_all(rate, 1000, 1)
    assert spend_all(rate, 2000, 0) == 35_000
    assert 9.5 <= spend_all(rate, 2000 + TICK, 10) / 80_000 <= 10.1


def test_the_first_piece_is_free_and_the_next_is_a_quarter_of_a_second_later() -> None:
    rate = Rate(4000)
    assert (rate.ready_at(), rate.allowance(5)) == (-math.inf, 1000)
    rate.spend(5, 1000)
    assert (rate.ready_at(), rate.allowance(5.2), rate.allowance(5.25)) == (5.25, 0, 1000)
    assert Rate(4000, after=500).allowance(5) == 1500


def test_bounds() -> None:
    for number in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="more than 0"):
            Rate(number)
        with pytest.raises(ValueError, match="more than 0"):
            MinRate(number, 1)
        with pytest.raises(ValueError, match="more than 0"):
            MinRate(1, number)
    with pytest.raises(ValueError, match="0 or more"):
        Rate(1, after=-1)


@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.floats(0, 1e10))), max_size=40))
def test_the_wheel_wakes_all_and_nobody_early(moves: list[tuple[int, float | None]]) -> None:
    wheel: Wheel[int] = Wheel()
    expected: dict[int, float] = {}
    for thing, when in moves:
        if when is None:
            wheel.drop(thing)
            expected.pop(thing, None)
        else:
            wheel.set(thing, when)
            expected[thing] = when
    assert len(wheel) == len(expected)
    while (now := wheel.due_at()) < math.inf:
        assert wheel.pop_due(math.nextafter(now, -1)) == []
        for thing in wheel.pop_due(now):
            assert 0 <= now - expected.pop(thing) <= TICK
    assert not expected
    assert not len(wheel)


def test_speed_is_a_smoothed_mean() -> None:
    speed = Speed(100.0)
    assert speed.at(100.0, 0) == 0
    for tick in range(1, 300):
        speed.note(100 + tick / 10, tick * 50)
    assert speed.at(130, 15_000) == pytest.approx(500, rel=0.01)
    assert 170 < speed.at(134, 15_000) < 230, "after four seconds of nothing it has fallen to about 1/e"


def test_a_reader_is_judged_by_the_window_and_not_before() -> None:
    watch = Watch(MinRate(100, 8))
    assert watch.interval == 2
    assert [watch.look(clock, 0) for clock in (2, 4, 6)] == [None] * 3
    assert watch.look(8, 801) is None
    assert watch.look(10, 801) is None
    assert watch.look(12, 801) is None
    assert watch.look(14, 801) is None
    assert watch.look(16, 801) is not None, "the window slides"
    watch = Watch(MinRate(100, 8))
    for clock in range(0, 100, 2):
        assert watch.look(clock, 100 * clock) is None
    late = watch.look(100, 99 * 100)
    assert late is not None
    assert (late.seconds, round(late.rate)) == (8, 88)


def test_a_look_that_comes_late_counts_no_more_than_one_in_time() -> None:
    """A process that was stopped, or a machine that stood still, has let no reader read."""
    watch = Watch(MinRate(100, 8))
    for clock in range(0, 20, 2):
        assert watch.look(clock, 101 * clock) is None
    assert watch.look(1020, 101 * 20) is None
    for clock in range(1022, 1040, 2):
        assert watch.look(clock, 101 * (clock - 1000)) is None
    assert [watch.look(clock, 101 * 38) for clock in (1040, 1042)][-1] is not None


async def steer(clock: MockClock, seconds: float, fars: list[Pair]) -> list[int]:
    """Let time pass tick by tick while every peer reads all there is; returns what each has read."""
    got = [0] * len(fars)
    for _ in range(round(seconds / TICK)):
        await wait_all_tasks_blocked()
        for n, (_, far) in enumerate(fars):
            got[n] += drain(far)
        clock.jump(TICK)
    await wait_all_tasks_blocked()
    return got


@pytest.mark.parametrize("body", ["span", "bytes"])
async def test_a_delivery_keeps_to_its_rate(
    pump: Pump, kernel: bool, body: str, sparse: IO[bytes], mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    sparse.truncate(1 << 24)
    part: Part = whole(sparse) if body == "span" else bytes(1 << 24)
    rate = Rate(40_000, after=10_000)
    with unix_pairs(1) as pairs:
        outcome = begin(nursery, pump, pairs[0][0], queue(b"head", part), rate=rate, kernel=kernel, idle_timeout=0.1)
        (got,) = await steer(mock_clock, 10, pairs)
        assert got - 10_000 == pytest.approx(400_000, rel=0.05)
        (transfer,) = pump.jobs()
        assert transfer.rate == pytest.approx(40_000, rel=0.1)
        assert transfer.stalled_for == 0
        outcome.scope.cancel()
        await wait_all_tasks_blocked()


async def test_the_head_does_not_wait(pump: Pump, pair: Pair, noise: IO[bytes]) -> None:
    """Nor is it held back by MSG_MORE until what follows it may go out."""
    near, far = pair
    with trio.move_on_after(0.1):
        await pump.deliver(near, queue(b"h" * 100, whole(noise)), rate=Rate(400))
    assert drain(far) == 100


async def test_all_arrives_in_order_at_a_rate(pump: Pump, pair: Pair, noise: IO[bytes], nursery: trio.Nursery) -> None:
    near, far = pair
    parts = queue(b"head", FileSpan(noise, 3, 200_000), b"tail")
    expected = b"".join(map(content, parts))
    before = time.perf_counter()
    with trio.fail_after(10):
        begin(nursery, pump, near, parts, rate=Rate(400_000))
        assert await receive(far, len(expected)) == expected
    assert 0.2 < time.perf_counter() - before < 1.5


async def test_a_shared_rate_bounds_all_together(pump: Pump, sparse: IO[bytes], mock_clock: MockClock) -> None:
    sparse.truncate(1 << 24)
    rate = Rate(100_000)
    with unix_pairs(4) as pairs:
        async with trio.open_nursery() as callers:
            for near, _ in pairs:
                begin(callers, pump, near, queue(whole(sparse)), rate=rate)
            got = await steer(mock_clock, 10, pairs)
            callers.cancel_scope.cancel()
    assert sum(got) == pytest.approx(1_000_000, rel=0.05)
    assert min(got) > 50_000, "turn by turn with epoll, by chance without"


async def test_deliveries_of_one_response_share_its_rate(
    pump: Pump, pair: Pair, mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    near, _ = pair
    rate = Rate(20_000)

    async def blocks() -> None:
        for _ in range(100):
            await pump.deliver(near, queue(bytes(10_000)), rate=rate)

    nursery.start_soon(blocks)
    (got,) = await steer(mock_clock, 10, [pair])
    assert got == pytest.approx(200_000, rel=0.06)
    nursery.cancel_scope.cancel()


async def test_a_reader_that_stops_is_a_stall_at_any_rate(
    pump: Pump, pair: Pair, sparse: IO[bytes], mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The clock of a stall starts when a pause ends and nothing is taken."""
    near, _ = pair
    tighten(near)
    sparse.truncate(1 << 24)
    outcome = begin(nursery, pump, near, queue(whole(sparse)), rate=Rate(100_000), idle_timeout=2)
    for _ in range(round(200 / TICK)):
        await wait_all_tasks_blocked()
        if outcome.ended:
            break
        mock_clock.jump(TICK)
    assert isinstance(outcome.error, Stalled)


async def test_a_slow_reader_is_ended(pump: Pump, pair: Pair, mock_clock: MockClock, nursery: trio.Nursery) -> None:
    fill(pair[0])
    outcome = begin(nursery, pump, pair[0], queue(b"x"), min_rate=MinRate(1000, 4), idle_timeout=60)
    await wait_all_tasks_blocked()
    for _ in range(7):
        assert not outcome.ended
        await let_pass(mock_clock, 0.5)
    await let_pass(mock_clock, 1.5)
    assert isinstance(outcome.error, TooSlow)
    assert isinstance(outcome.error, TimeoutError)
    assert (outcome.error.rate, outcome.error.seconds) == (0, 4)


async def test_a_reader_above_the_minimum_is_not(
    pump: Pump, sparse: IO[bytes], mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    sparse.truncate(1 << 30)
    with unix_pairs(1) as pairs:
        outcome = begin(nursery, pump, pairs[0][0], queue(whole(sparse)), min_rate=MinRate(100_000, 1))
        await steer(mock_clock, 5, pairs)
        assert not outcome.ended
        outcome.scope.cancel()
        await wait_all_tasks_blocked()


async def test_our_own_pauses_are_not_the_readers_fault(
    pump: Pump, sparse: IO[bytes], mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    sparse.truncate(1 << 24)
    bounds = {"rate": Rate(1000), "min_rate": MinRate(50_000, 2), "idle_timeout": 0.1}
    with unix_pairs(1) as pairs:
        outcome = begin(nursery, pump, pairs[0][0], queue(whole(sparse)), **bounds)
        (got,) = await steer(mock_clock, 10, pairs)
        assert got == pytest.approx(10_000, rel=0.05)
        outcome.scope.cancel()
        await wait_all_tasks_blocked()


async def test_a_paused_delivery_can_be_cancelled_closed_and_ended(epoll: bool, pair: Pair, noise: IO[bytes]) -> None:
    near, _ = pair
    parts: deque[Part] = queue(whole(noise))
    pump = Pump(epoll=epoll)
    async with trio.open_nursery() as callers, trio.open_nursery() as nursery:
        await nursery.start(pump.run)
        with trio.move_on_after(0.02) as scope:
            await pump.deliver(near, parts, rate=Rate(40))
        assert scope.cancelled_caught
        assert len(parts[0]) == 3_000_017 - 10
        assert pump.jobs() == []
        outcome = begin(callers, pump, near, queue(whole(noise)), rate=Rate(40))
        await wait_all_tasks_blocked(0.01)
        pump.notify_closing(near)
        await wait_all_tasks_blocked(0.01)
        assert isinstance(outcome.error, trio.ClosedResourceError)
        outcome = begin(callers, pump, near, queue(whole(noise)), rate=Rate(40))
        await wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    assert isinstance(outcome.error, trio.ClosedResourceError)


@pytest.mark.slow
async def test_hundreds_at_once_in_real_time(sparse: IO[bytes]) -> None:
    """Each of 400 within 5 % of its rate.

    Nobody may ever be ahead by more. Who is behind is looked at five times a second for the last two seconds, for at
    any one look the machine may just have stood still.
    """
    sparse.truncate(1 << 30)
    slowest: list[float] = []  # of each look: the least that anybody got, as a part of what he should have
    with unix_pairs(400) as pairs:
        async with trio.open_nursery() as nursery:
            await nursery.start((pump := Pump(epoll=True)).run)
            for near, _ in pairs:
                begin(nursery, pump, near, queue(whole(sparse)), rate=Rate(20_000))
            got = [0] * len(pairs)
            start = trio.current_time()
            while (seconds := trio.current_time() - start) < 12:
                if seconds > 10:
                    slowest.append(min(got) / (20_000 * seconds))
                    assert max(got) < 1.05 * 20_000 * seconds
                await trio.sleep(0.2)
                for n, (_, far) in enumerate(pairs):
                    got[n] += drain(far)
            nursery.cancel_scope.cancel()
    assert max(slowest) > 0.95
