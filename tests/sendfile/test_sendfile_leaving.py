"""Peers that leave while a disk makes them wait, when nothing is sent that would tell."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import IO

import pytest
import trio
from sendfile_disks import SlowDisk, until_fetching
from sendfile_pumps import Outcome, begin, let_pass
from sendfile_wires import Pair, content, queue, receive, reset
from trio.testing import MockClock

from sendfile import FileSpan, Pump

COUNT = 2_500_000  # more than is fetched at once


def end_sending(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


@dataclass
class Waiting:
    """A delivery that waits for its disk."""

    disk: SlowDisk
    far: socket.socket
    span: FileSpan
    outcome: Outcome

    async def receive_fetched(self) -> bytes:
        """What the disk gives at its first answer."""
        self.disk.gate.release()
        while not self.disk.fetched:
            await trio.lowlevel.checkpoint()
        return await self._receive(self.disk.fetched[0][1] - self.span.offset)

    async def _receive(self, count: int) -> bytes:
        assert not self.outcome.ended, self.outcome.error  # or it would never come
        return await receive(self.far, count)

    async def arrives(self, before: bytes = b"") -> bool:
        """Whether the disk answers now, and all is delivered."""
        self.disk.gate.release(100)
        data = before + await self._receive(COUNT - len(before))
        await self.outcome.wait_end()
        return self.outcome.error is None and data == content(self.span)


async def pass_time(clock: MockClock, seconds: int) -> None:
    for _ in range(seconds):
        await let_pass(clock, 1)


Wait = Callable[[bool], Awaitable[Waiting]]


@pytest.fixture
async def wait(epoll: bool, disk: SlowDisk, pair: Pair, noise: IO[bytes], nursery: trio.Nursery) -> AsyncIterator[Wait]:
    async def wait(half_close: bool) -> Waiting:
        await nursery.start((pump := Pump(epoll=epoll, disk=disk, half_close=half_close)).run)
        span = FileSpan(noise, 7, COUNT)
        outcome = begin(nursery, pump, pair[0], queue(span))
        await until_fetching(disk)
        return Waiting(disk, pair[1], span, outcome)

    yield wait
    disk.gate.release(1000)


@pytest.mark.parametrize("half_close", [True, False])
async def test_a_reset_is_noticed(half_close: bool, wait: Wait, mock_clock: MockClock) -> None:
    """Within ten seconds, though nothing is sent."""
    waiting = await wait(half_close)
    reset(waiting.far)
    await pass_time(mock_clock, 10)
    assert isinstance(waiting.outcome.error, ConnectionResetError)


@pytest.mark.parametrize("leave", [socket.socket.close, end_sending])
async def test_an_end_is_noticed_where_a_half_close_is_one(
    leave: Callable[[socket.socket], None], wait: Wait, mock_clock: MockClock
) -> None:
    """A close looks the same as that (TCP), up to the next bytes that are sent."""
    waiting = await wait(True)
    leave(waiting.far)
    await pass_time(mock_clock, 10)
    assert isinstance(waiting.outcome.error, ConnectionResetError)


async def test_who_ends_sending_only_is_served_where_that_is_no_end(wait: Wait, mock_clock: MockClock) -> None:
    waiting = await wait(False)
    end_sending(waiting.far)
    await pass_time(mock_clock, 50)
    assert await waiting.arrives()


async def test_a_disk_that_is_merely_slow_cuts_nobody(wait: Wait, mock_clock: MockClock) -> None:
    """Who ends sending is served by a file in memory: so also by one that comes within five seconds a time."""
    waiting = await wait(True)
    end_sending(waiting.far)
    await pass_time(mock_clock, 4)
    first = await waiting.receive_fetched()
    await until_fetching(waiting.disk, 2)
    await pass_time(mock_clock, 4)
    assert await waiting.arrives(first)
