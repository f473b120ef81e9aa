"""The turns of a pump: nobody waits for somebody else's bytes, and no step is shorter than it need be."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from typing import IO

import pytest
import trio
from sendfile_pumps import begin
from sendfile_wires import Pair, drain, queue, receive, unix_pairs

from sendfile import FileSpan, Pump


@pytest.fixture
def crowd() -> Iterator[list[Pair]]:
    with unix_pairs(200) as pairs:
        yield pairs


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
            begin(nursery, pump, near, queue(FileSpan(sparse, 0, 1 << 40)))
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
    pump = Pump(epoll=True, senders=0)
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
    pump = Pump(epoll=True, senders=0)
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
