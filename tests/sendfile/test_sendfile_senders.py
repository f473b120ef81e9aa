"""Threads that send to those who read as fast as they are sent to: the same bytes, and the same ends."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest
import trio
from faults import no_descriptor_left
from sendfile_pumps import begin, running
from sendfile_wires import Pair, queue, receive, reset, tcp_pair, unix_pair, whole
from waiting import until

from sendfile import FileSpan, FileTooShort, Part, Pump, Rate, Stalled
from sendfile.disk import Disk
from sendfile.senders import count_senders

SIZE = 96 << 20  # bytes: some turns of a thread
BLOCK = 1 << 20
TOLD = [bytes([number]) * 13 for number in range(SIZE // BLOCK)]  # a block ends with its number


class GateDisk(Disk):
    """A thread that looks waits until the test lets it; the event loop does not."""

    def __init__(self) -> None:
        self._loop = threading.get_ident()
        self.asking = threading.Semaphore(0)  # how many threads have asked
        self.gate = threading.Semaphore(0)

    def probe(self, fd: int, offset: int) -> bool | None:
        if threading.get_ident() != self._loop:
            self.asking.release()
            assert self.gate.acquire(timeout=30)
        return True

    async def reached(self) -> None:
        """A thread has a turn, and waits."""
        await until(lambda: self.asking.acquire(blocking=False))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("senders") / "long"
    with made.open("wb") as file:
        for told in TOLD:
            file.seek(BLOCK - len(told), os.SEEK_CUR)
            file.write(told)
    return made


@pytest.fixture
def file(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as opened:
        yield opened


@pytest.fixture
def disk() -> Iterator[GateDisk]:
    made = GateDisk()
    yield made
    made.gate.release(10**6)


@pytest.fixture
async def gated(disk: GateDisk) -> AsyncIterator[Pump]:
    async with running(Pump(disk=disk, senders=4)) as pump:
        yield pump
        disk.gate.release(10**6)


class Reader:
    """Reads as fast as it can, in a task of its own; remembers the end of each block."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.received = 0
        self.told: list[bytes] = []
        self.resting = False
        self.ended = False
        self._tail = b""
        self._buffer = memoryview(bytearray(BLOCK))

    async def run(self) -> None:
        with contextlib.suppress(ConnectionError, trio.ClosedResourceError):
            while not self.ended:
                if self.resting:
                    await trio.sleep(0.001)
                else:
                    await self._read()
        self.ended = True

    async def _read(self) -> None:
        buffer = self._buffer[: BLOCK - self.received % BLOCK]
        try:
            count = self._sock.recv_into(buffer)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(self._sock)
            return
        await trio.lowlevel.checkpoint()
        self.ended = not count
        self.received += count
        self._tail = (self._tail + bytes(buffer[max(0, count - 13) : count]))[-13:]
        if count and self.received % BLOCK == 0:
            self.told.append(self._tail)


def read(nursery: trio.Nursery, sock: socket.socket) -> Reader:
    reader = Reader(sock)
    nursery.start_soon(reader.run)
    return reader


async def lent(pump: Pump) -> None:
    """A thread sends."""
    await until(lambda: pump.holds_copies)


@pytest.mark.parametrize(
    ("processors", "processes", "threads"),
    [(1, 1, 0), (2, 1, 1), (64, 1, 4), (2, 2, 0), (8, 4, 1), (8, 3, 1), (2, 5, 0)],
)
def test_no_more_threads_than_other_processors(
    processors: int, processes: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two, four threads doubled the p99 of others; where each has its own process, that sends by itself."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    assert count_senders(processes) == threads


@pytest.mark.parametrize("senders", [4, 1, 0])
async def test_all_arrive_as_they_are(path: Path, nursery: trio.Nursery, senders: int) -> None:
    """More readers than threads: each has its file, its last bytes that follow it, and its progress told."""
    seen = 0
    async with running(Pump(senders=senders)) as pump:
        with contextlib.ExitStack() as opened:
            nears, readers, outcomes, progress = [], [], [], []
            for number in range(6):
                near, far = map(opened.enter_context, tcp_pair())
                file = opened.enter_context(path.open("rb"))
                steps: list[int] = []
                progress.append(steps)
                parts = queue(b"h" * BLOCK, whole(file), bytes([number]) * BLOCK)
                outcomes.append(begin(nursery, pump, near, parts, progress=steps.append))
                nears.append(near)
                readers.append(read(nursery, far))
            while not all(outcome.ended for outcome in outcomes):
                seen += pump.holds_copies
                await trio.sleep(0.001)
            total = SIZE + 2 * BLOCK
            assert [outcome.sent for outcome in outcomes] == [total] * 6
            await until(lambda: all(reader.received == total for reader in readers))
            assert [sum(steps) for steps in progress] == [total] * 6
            for number, reader in enumerate(readers):
                assert reader.told == [b"h" * 13, *TOLD, bytes([number]) * 13]
            for near in nears:
                near.close()
            await until(lambda: all(reader.ended for reader in readers))
        assert not pump.holds_copies
    assert bool(seen) is bool(senders)


async def test_who_is_cancelled_in_a_turn_has_what_was_not_sent(
    gated: Pump, disk: GateDisk, tcp: Pair, file: IO[bytes], nursery: trio.Nursery
) -> None:
    """Cancellation waits for the turn, and the queue tells what of it has left."""
    near, far = tcp
    parts = queue(whole(file))
    outcome, reader = begin(nursery, gated, near, parts), read(nursery, far)
    await disk.reached()
    outcome.scope.cancel()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert gated.holds_copies
    disk.gate.release(10**6)
    await outcome.wait_end()
    assert outcome.scope.cancelled_caught
    left = parts[0]
    assert isinstance(left, FileSpan)
    assert 0 < left.count < SIZE
    near.close()
    await until(lambda: reader.received == left.offset)


async def test_a_pump_that_ends_in_a_turn(disk: GateDisk, tcp: Pair, file: IO[bytes], nursery: trio.Nursery) -> None:
    """Its caller is told once the turn is over, and what has left is off the queue."""
    near, far = tcp
    parts = queue(whole(file))
    async with trio.open_nursery() as pumping:
        await pumping.start((pump := Pump(disk=disk, senders=4)).run)
        outcome, reader = begin(nursery, pump, near, parts), read(nursery, far)
        await disk.reached()
        pumping.cancel_scope.cancel()
    assert not outcome.ended
    disk.gate.release(10**6)
    await outcome.wait_end()
    assert isinstance(outcome.error, trio.ClosedResourceError)
    near.close()
    await until(lambda: reader.received == parts[0].offset)  # type: ignore[union-attr]


@pytest.mark.parametrize("told", [True, False])
async def test_a_number_that_is_somebody_elses_by_then(
    gated: Pump, disk: GateDisk, file: IO[bytes], nursery: trio.Nursery, told: bool
) -> None:
    """Closed in a turn, be it without a word: not a byte goes to who has the number next."""
    near, far = tcp_pair()
    with near, far:
        outcome, reader = begin(nursery, gated, near, queue(whole(file))), read(nursery, far)
        await disk.reached()
        number = near.fileno()
        if told:
            gated.notify_closing(near)
        near.close()
        again, peer = unix_pair()
        with again, peer:
            assert again.fileno() == number
            disk.gate.release(10**6)
            await outcome.wait_end()
            assert isinstance(outcome.error, trio.ClosedResourceError)
            for end in (again, peer):
                with pytest.raises(BlockingIOError):
                    end.recv(1)
        await until(lambda: reader.ended)


async def test_a_file_that_is_closed_in_a_turn(
    gated: Pump, disk: GateDisk, tcp: Pair, file: IO[bytes], nursery: trio.Nursery
) -> None:
    """As on the event loop: ValueError."""
    outcome = begin(nursery, gated, tcp[0], queue(whole(file)))
    read(nursery, tcp[1])
    await disk.reached()
    file.close()
    disk.gate.release(10**6)
    await outcome.wait_end()
    assert isinstance(outcome.error, ValueError)


async def test_a_file_that_is_cut_in_a_turn(
    gated: Pump, disk: GateDisk, tcp: Pair, sparse: IO[bytes], nursery: trio.Nursery
) -> None:
    sparse.truncate(SIZE)
    outcome = begin(nursery, gated, tcp[0], queue(whole(sparse)))
    read(nursery, tcp[1])
    await disk.reached()
    sparse.truncate(BLOCK)
    disk.gate.release(10**6)
    await outcome.wait_end()
    assert isinstance(outcome.error, FileTooShort)


async def test_a_peer_that_resets_in_a_turn(
    gated: Pump, disk: GateDisk, file: IO[bytes], nursery: trio.Nursery
) -> None:
    near, far = tcp_pair()
    with near:
        outcome = begin(nursery, gated, near, queue(whole(file)))
        reader = read(nursery, far)
        await disk.reached()
        reader.resting = True
        await trio.testing.wait_all_tasks_blocked(0.01)
        trio.lowlevel.notify_closing(far)
        reset(far)
        disk.gate.release(10**6)
        await outcome.wait_end()
    assert isinstance(outcome.error, ConnectionError)


async def test_who_stops_reading_gives_its_thread_back(tcp: Pair, file: IO[bytes], nursery: trio.Nursery) -> None:
    """And stalls as any other."""
    async with running(Pump(senders=4)) as pump:
        outcome = begin(nursery, pump, tcp[0], queue(whole(file)), idle_timeout=0.5)
        reader = read(nursery, tcp[1])
        await lent(pump)
        reader.resting = True
        await until(lambda: not pump.holds_copies)
        assert not outcome.ended
        await outcome.wait_end()
        assert isinstance(outcome.error, Stalled)


async def test_who_reads_slowly_again_keeps_no_thread_busy(tcp: Pair, file: IO[bytes], nursery: trio.Nursery) -> None:
    """It has bytes from the event loop, and all of them in the end."""
    async with running(Pump(senders=4)) as pump:
        outcome = begin(nursery, pump, tcp[0], queue(whole(file)))
        reader = read(nursery, tcp[1])
        await lent(pump)
        reader.resting = True
        await until(lambda: not pump.holds_copies)
        held = reader.received
        for _ in range(20):
            assert len(await receive(tcp[1], 100_000)) == 100_000
            await trio.sleep(0.002)
            reader.received += 100_000
            assert not pump.holds_copies
        assert reader.received == held + 2_000_000
        reader.resting = False
        await outcome.wait_end()
        await until(lambda: reader.received == SIZE)


@pytest.mark.usefixtures("no_thread")
async def test_where_no_thread_is_left_the_loop_sends(tcp: Pair, file: IO[bytes], nursery: trio.Nursery) -> None:
    await _arrives(tcp, file, nursery)


async def test_where_no_descriptor_is_left_the_loop_sends(tcp: Pair, file: IO[bytes], nursery: trio.Nursery) -> None:
    """dup(2), EMFILE."""
    await _arrives(tcp, file, nursery, no_descriptor_left())


async def test_what_the_kernel_refuses_to_a_thread_the_loop_copies(
    tcp: Pair, file: IO[bytes], nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sendfile(2), EINVAL: of a file that it has sent a part of."""
    sendfile, loop = os.sendfile, threading.get_ident()

    def refuse(out: int, file: int, offset: int, count: int) -> int:
        if threading.get_ident() != loop:
            monkeypatch.setattr(os, "sendfile", refuse_all)
            raise OSError(errno.EINVAL, "refused")
        return sendfile(out, file, offset, count)

    def refuse_all(*_: object) -> int:
        raise OSError(errno.EINVAL, "refused")

    monkeypatch.setattr(os, "sendfile", refuse)
    await _arrives(tcp, file, nursery)


async def _arrives(
    tcp: Pair, file: IO[bytes], nursery: trio.Nursery, lack: AbstractContextManager[None] | None = None
) -> None:
    async with running(Pump(senders=4)) as pump:
        with lack or contextlib.nullcontext():
            outcome, reader = begin(nursery, pump, tcp[0], queue(whole(file))), read(nursery, tcp[1])
            await outcome.wait_end()
        assert outcome.sent == SIZE
        await until(lambda: reader.told == TOLD)
        assert not pump.holds_copies


async def test_what_is_not_in_memory_any_more_is_fetched(tcp: Pair, file: IO[bytes], nursery: trio.Nursery) -> None:
    """A thread sends nothing that it would wait for: a cancellation would wait for that disk."""

    class Evicting(Disk):
        """From the middle on, nothing is there that was not fetched."""

        fetched = SIZE // 2

        def probe(self, fd: int, offset: int) -> bool | None:
            return offset < self.fetched

        def fetch(self, fd: int, offset: int, count: int, kernel: bool = True) -> None:
            super().fetch(fd, offset, count, kernel)
            self.fetched = max(self.fetched, offset + count)

    async with running(Pump(disk=Evicting(), senders=4)) as pump:
        outcome, reader = begin(nursery, pump, tcp[0], queue(whole(file))), read(nursery, tcp[1])
        await lent(pump)
        await outcome.wait_end()
        await until(lambda: reader.told == TOLD)


async def test_what_is_appended_in_a_turn_goes_out(
    gated: Pump, disk: GateDisk, tcp: Pair, file: IO[bytes], nursery: trio.Nursery
) -> None:
    parts = queue(whole(file))
    outcome, reader = begin(nursery, gated, tcp[0], parts), read(nursery, tcp[1])
    await disk.reached()
    parts.append(b"e" * BLOCK)
    disk.gate.release(10**6)
    await outcome.wait_end()
    assert outcome.sent == SIZE + BLOCK
    await until(lambda: reader.told == [*TOLD, b"e" * 13])


async def test_what_progress_raises_in_a_turn_ends_it(tcp: Pair, file: IO[bytes], nursery: trio.Nursery) -> None:
    """With that error, as in any other step."""

    def progress(sent: int) -> None:
        if sent > 8 << 20:  # a step of the event loop is never so long
            raise LookupError("because")

    async with running(Pump(senders=4)) as pump:
        outcome = begin(nursery, pump, tcp[0], queue(whole(file)), progress=progress)
        reader = read(nursery, tcp[1])
        await outcome.wait_end()
        assert isinstance(outcome.error, LookupError)
        assert not pump.holds_copies
    tcp[0].close()
    await until(lambda: reader.ended)


@pytest.mark.parametrize("options", [{"kernel": False}, {"rate": Rate(1 << 40)}], ids=["copied", "limited"])
async def test_others_have_no_thread(
    disk: GateDisk, tcp: Pair, file: IO[bytes], nursery: trio.Nursery, options: dict[str, object]
) -> None:
    """Copies hold the interpreter, and who is limited is held back by the loop. (One that had a turn would not end.)"""
    async with running(Pump(disk=disk, senders=4)) as pump:
        outcome, reader = begin(nursery, pump, tcp[0], queue(whole(file)), **options), read(nursery, tcp[1])
        await outcome.wait_end()
        await until(lambda: reader.told == TOLD)


async def test_the_loop_serves_others_in_a_turn(
    gated: Pump, disk: GateDisk, tcp: Pair, file: IO[bytes], nursery: trio.Nursery
) -> None:
    parts: list[Part] = [whole(file)]
    begin(nursery, gated, tcp[0], parts)
    read(nursery, tcp[1])
    await disk.reached()
    near, far = tcp_pair()
    with near, far:
        other = begin(nursery, gated, near, queue(b"a" * SIZE))
        reader = read(nursery, far)
        await other.wait_end()
        await until(lambda: reader.received == SIZE)
        near.close()
        await until(lambda: reader.ended)
    (job,) = gated.jobs()
    assert job.stalled_for == 0, "nobody knows what it takes meanwhile"
    disk.gate.release(10**6)
