"""Peers that leave while a disk makes them wait, when nothing is sent that would tell."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import IO

import pytest
import trio
from sendfile_disks import SlowDisk
from sendfile_wires import Pair, content, queue, receive, reset
from trio.testing import MockClock, wait_all_tasks_blocked

from sendfile import FileSpan, Pump

COUNT = 2_500_000  # more than is fetched at once


def end_sending(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


class Waiting:
    """A delivery that waits for its disk."""

    def __init__(self, disk: SlowDisk, pair: Pair, file: IO[bytes]) -> None:
        self.disk = disk
        self.near, self.far = pair
        self.span = FileSpan(file, 7, COUNT)
        self.error: Exception | None = None
        self.ended = trio.Event()

    async def run(self, pump: Pump) -> None:
        try:
            await pump.deliver(self.near, queue(self.span))
        except Exception as error:
            self.error = error
            self.near.close()  # or who receives would wait for ever
        self.ended.set()

    async def until_asked(self, times: int) -> None:
        """Of the disk."""
        while len(self.disk.copies) < times and not self.ended.is_set():
            await trio.lowlevel.checkpoint()

    async def receive_fetched(self) -> bytes:
        """What the disk gives at its first answer."""
        self.disk.gate.release()
        while not self.disk.fetched:
            await trio.lowlevel.checkpoint()
        return await receive(self.far, self.disk.fetched[0][1] - self.span.offset)

    async def arrives(self, before: bytes = b"") -> bool:
        """Whether the disk answers now, and all is delivered."""
        self.disk.gate.release(100)
        data = before + await receive(self.far, COUNT - len(before))
        await self.ended.wait()
        return self.error is None and data == content(self.span)


async def pass_time(clock: MockClock, seconds: int) -> None:
    for _ in range(seconds):
        clock.jump(1)
        await wait_all_tasks_blocked()


Wait = Callable[[bool], Awaitable[Waiting]]


@pytest.fixture(params=[True, False], ids=["epoll", "loop"])
async def wait(
    request: pytest.FixtureRequest,
    disk: SlowDisk,
    pair: Pair,
    noise: IO[bytes],
    nursery: trio.Nursery,
) -> AsyncIterator[Wait]:
    async def begin(half_close: bool) -> Waiting:
        waiting = Waiting(disk, pair, noise)
        await nursery.start((pump := Pump(epoll=request.param, disk=disk, half_close=half_close)).run)
        nursery.start_soon(waiting.run, pump)
        await waiting.until_asked(1)
        return waiting

    yield begin
    disk.gate.release(1000)


@pytest.mark.parametrize("half_close", [True, False])
async def test_a_reset_is_noticed(half_close: bool, wait: Wait, mock_clock: MockClock) -> None:
    """Within ten seconds, though nothing is sent."""
    waiting = await wait(half_close)
    reset(waiting.far)
    await pass_time(mock_clock, 10)
    assert isinstance(waiting.error, ConnectionResetError)


@pytest.mark.parametrize("leave", [socket.socket.close, end_sending])
async def test_an_end_is_noticed_where_a_half_close_is_one(
    leave: Callable[[socket.socket], None], wait: Wait, mock_clock: MockClock
) -> None:
    """A close looks the same as that (TCP), up to the next bytes that are sent."""
    waiting = await wait(True)
    leave(waiting.far)
    await pass_time(mock_clock, 10)
    assert isinstance(waiting.error, ConnectionResetError)


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
    await waiting.until_asked(2)
    await pass_time(mock_clock, 4)
    assert await waiting.arrives(first)
