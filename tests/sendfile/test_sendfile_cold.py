"""Files that are not in memory: fetched by a few threads, and never waited for on the event loop."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import trio
from faults import no_descriptor_left
from opened import descriptors_of
from sendfile_disks import SlowDisk, Untold, no_thread, until_fetching
from sendfile_pumps import begin, let_pass, running
from sendfile_wires import Pair, content, fill, queue, receive, unix_pair, unix_pairs, whole
from trio.testing import MockClock, wait_all_tasks_blocked
from waiting import until

from sendfile import DiskStalled, FileSpan, Part, Pump, Stalled, residency
from sendfile.disk import Disk

KIB = 1 << 10


async def test_cold_bytes_are_fetched_before_they_are_sent(
    cold_pump: Pump, disk: SlowDisk, kernel: bool, pair: Pair, noise: IO[bytes], nursery: trio.Nursery
) -> None:
    near, far = pair
    parts = queue(b"head", FileSpan(noise, 3, 2_000_000), b"tail")
    expected = b"".join(map(content, parts))
    begin(nursery, cold_pump, near, parts, kernel=kernel)
    await until_fetching(disk)
    assert await receive(far, 4) == b"head"
    await wait_all_tasks_blocked(0.005)
    assert cold_pump.jobs()[0].left == 2_000_004, "the loop is free, and not a byte of the span is out"
    disk.gate.release(1000)
    with trio.fail_after(5):
        assert await receive(far, len(expected) - 4) == expected[4:]
    assert max(end - first for first, end in disk.fetched) <= 2 << 20
    assert sum(end - first for first, end in disk.fetched) == 2_000_000, "nothing twice"


async def test_cancelled_while_the_disk_does_not_answer(
    cold_pump: Pump, disk: SlowDisk, pair: Pair, tmp_path: Path
) -> None:
    """At once, and the file may be closed then: the thread has a copy of the descriptor, and closes it."""
    (tmp_path / "file").write_bytes(b"x" * 1000)
    with (tmp_path / "file").open("rb") as file:
        parts = queue(FileSpan(file, 0, 1000))
        with trio.fail_after(5), trio.move_on_after(0.05) as scope:
            await cold_pump.deliver(pair[0], parts)
        assert scope.cancelled_caught
        assert list(parts) == [FileSpan(file, 0, 1000)]
        assert cold_pump.jobs() == []
        original = file.fileno()
    (copy,) = disk.copies
    assert copy != original
    os.fstat(copy)
    disk.gate.release()
    await until(lambda: not Path(f"/proc/self/fd/{copy}").exists())


async def test_few_threads_serve_many_in_turn(
    cold_pump: Pump, disk: SlowDisk, noise: IO[bytes], nursery: trio.Nursery
) -> None:
    spans = [FileSpan(noise, n * 5000, 4000) for n in range(30)]
    with unix_pairs(30) as pairs, trio.fail_after(10):
        outcomes = []
        for (near, _), span in zip(pairs, spans, strict=True):
            outcomes.append(begin(nursery, cold_pump, near, queue(span)))
            await wait_all_tasks_blocked()
        await until_fetching(disk, 4)
        assert len(cold_pump.jobs()) == 30
        for served in range(1, 31):
            disk.gate.release()
            await until(lambda served=served: len(disk.fetched) == served)  # type: ignore[misc]
            assert max(disk.asked) // 5000 < served + 4, "first come, first served"
        for (_, far), span in zip(pairs, spans, strict=True):
            assert await receive(far, 4000) == content(span)
        for outcome in outcomes:
            await outcome.wait_end()
            assert outcome.sent == 4000
    assert disk.most_at_once == 4


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    with unix_pairs(6) as opened:
        yield opened


class OneHangs(SlowDisk):
    """Each file is on a file system of its own; those of more than a MiB do not answer."""

    def device(self, fd: int) -> int:
        return os.fstat(fd).st_ino

    def fetch(self, fd: int, offset: int, count: int, kernel: bool = True) -> None:
        if os.fstat(fd).st_size < 1 << 20:
            self.gate.release()
        super().fetch(fd, offset, count, kernel)


async def test_a_file_system_that_hangs_holds_up_no_other(
    tmp_path: Path, pair: Pair, pairs: list[Pair], noise: IO[bytes]
) -> None:
    """It keeps its four threads, and those who ask of it; who asks of another is served, again and again."""
    disk = OneHangs()
    (tmp_path / "small").write_bytes(b"x" * 5000)
    async with trio.open_nursery() as nursery:
        await nursery.start((pump := Pump(disk=disk)).run)
        for n, (near, _) in enumerate(pairs):
            begin(nursery, pump, near, queue(FileSpan(noise, 1_000_000 + n * 5000, 4000)))
        await until_fetching(disk, 4)
        with (tmp_path / "small").open("rb") as small, trio.fail_after(5):
            for n in range(6):
                await pump.deliver(pair[0], queue(FileSpan(small, n, 1)))
                assert await receive(pair[1], 1) == b"x"
        assert len(pump.jobs()) == 6
        nursery.cancel_scope.cancel()
    disk.gate.release(10)


async def test_a_disk_that_gives_nothing_for_a_minute_ends_the_delivery(
    cold_pump: Pump, disk: SlowDisk, pair: Pair, noise: IO[bytes], mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Its peer may have left long ago, and others who come and leave would pile up for as long as the disk hangs."""
    parts = queue(FileSpan(noise, 7, 1000))
    outcome = begin(nursery, cold_pump, pair[0], parts)
    await until_fetching(disk)
    for seconds in range(0, 65, 5):
        assert not outcome.ended or seconds >= 60
        await let_pass(mock_clock, 5)
    assert isinstance(outcome.error, DiskStalled)
    assert str(outcome.error).startswith("no bytes came from the disk for 60 seconds, at byte 7:")
    disk.gate.release()
    assert sum(map(len, parts)) == 1000


async def test_the_disk_is_not_the_peers_fault(
    cold_pump: Pump, disk: SlowDisk, pair: Pair, noise: IO[bytes], mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    near, far = pair
    begin(nursery, cold_pump, near, queue(FileSpan(noise, 0, 1000)), idle_timeout=1)
    await until_fetching(disk)
    await let_pass(mock_clock, 50)
    (transfer,) = cold_pump.jobs()
    assert (transfer.stalled_for, transfer.left) == (0, 1000)
    disk.gate.release()
    assert len(await receive(far, 1000)) == 1000


async def test_after_the_disk_the_peer_may_stall(
    cold_pump: Pump, disk: SlowDisk, noise: IO[bytes], mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    near, far = unix_pair()
    with near, far:
        fill(near)
        outcome = begin(nursery, cold_pump, near, queue(FileSpan(noise, 0, 1000)), idle_timeout=1)
        await until_fetching(disk)
        await let_pass(mock_clock, 2)
        disk.gate.release()
        while cold_pump.jobs()[0].stalled_for == 0:  # the disk's answer comes from a thread
            assert not outcome.ended, "not before the peer has had a second of its own"
            await trio.lowlevel.checkpoint()
            mock_clock.jump(1e-6)
        await let_pass(mock_clock, 2)
        assert isinstance(outcome.error, Stalled)


async def test_an_error_of_the_disk_is_the_callers(
    cold_pump: Pump, disk: SlowDisk, pair: Pair, noise: IO[bytes]
) -> None:
    disk.error = OSError(errno.EIO, os.strerror(errno.EIO))
    disk.gate.release(10)
    parts: deque[Part] = queue(FileSpan(noise, 0, 1000))
    with trio.fail_after(5), pytest.raises(OSError, match=os.strerror(errno.EIO)):
        await cold_pump.deliver(pair[0], parts)
    assert list(parts) == [FileSpan(noise, 0, 1000)]


async def test_the_pump_does_not_wait_for_the_disk_to_end(
    epoll: bool, disk: SlowDisk, pair: Pair, noise: IO[bytes], nursery: trio.Nursery
) -> None:
    with trio.fail_after(5):
        async with trio.open_nursery() as its:
            await its.start((pump := Pump(epoll=epoll, disk=disk)).run)
            outcome = begin(nursery, pump, pair[0], queue(FileSpan(noise, 0, 1000)))
            await until_fetching(disk)
            its.cancel_scope.cancel()
        await outcome.wait_end()
    assert isinstance(outcome.error, trio.ClosedResourceError)
    disk.gate.release()


async def test_where_nobody_can_tell_a_file_is_fetched_once(pair: Pair, noise: IO[bytes]) -> None:
    disk = Untold(free=True)
    async with running(Pump(disk=disk)) as pump:
        for _ in range(3):
            await pump.deliver(pair[0], queue(FileSpan(noise, 10, 40_000)))
            assert await receive(pair[1], 40_000) == content(FileSpan(noise, 10, 40_000))
    assert disk.fetched == [(10, 40_010)]


@pytest.mark.parametrize("in_memory", [True, False], ids=["tmpfs", "another"])
async def test_only_a_file_system_in_memory_is_taken_to_be_as_fast_farther_on(
    in_memory: bool, pair: Pair, noise: IO[bytes], nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of FUSE or NFS the beginning of a file may be in memory, and the rest a second away: no step waits for that."""
    monkeypatch.setattr(residency, "_MEMORY_SPEED", 1)  # as if it took no time, be the machine as busy as it may
    disk = Untold(free=True)
    disk.is_in_memory = lambda fd: in_memory  # type: ignore[method-assign]
    span = whole(noise)
    async with running(Pump(disk=disk)) as pump:
        outcome = begin(nursery, pump, pair[0], queue(span))
        with trio.fail_after(10):
            await receive(pair[1], span.count)
        await outcome.wait_end()
    fetched = sum(end - first for first, end in disk.fetched)
    assert (fetched < span.count) is in_memory


async def test_what_is_in_memory_costs_no_thread(pump: Pump, noise: IO[bytes], pair: Pair) -> None:
    if Disk().probe(noise.fileno(), 0) is None:
        pytest.skip("this file system cannot tell")
    Disk().fetch(noise.fileno(), 0, 3_000_017)
    threads = threading.active_count()
    with trio.testing.assert_checkpoints():
        await pump.deliver(pair[0], queue(FileSpan(noise, 0, 50_000)))
    assert threading.active_count() == threads


async def test_a_really_evicted_file(
    pump: Pump, kernel: bool, tmp_path: Path, pair: Pair, nursery: trio.Nursery
) -> None:
    data = os.urandom(1 << 22)
    with (tmp_path / "cold").open("w+b", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        outcome = begin(nursery, pump, pair[0], queue(whole(file)), kernel=kernel)
        with trio.fail_after(10):
            assert await receive(pair[1], len(data)) == data
        await outcome.wait_end()
        assert Disk().probe(file.fileno(), 1 << 21) in (True, None)


@pytest.mark.parametrize("lack", ["descriptors", "threads"])
async def test_what_cannot_be_fetched_is_sent_all_the_same(
    cold_pump: Pump,
    disk: SlowDisk,
    pair: Pair,
    noise: IO[bytes],
    lack: str,
    monkeypatch: pytest.MonkeyPatch,
    nursery: trio.Nursery,
) -> None:
    """No thread to be had, or no copy for it (dup(2), EMFILE): a step may wait for the disk, and nobody is cut."""
    if lack == "threads":
        monkeypatch.setattr(trio.lowlevel, "start_thread_soon", no_thread)
    parts = queue(b"head", FileSpan(noise, 3, 1_000_000))
    expected = b"".join(map(content, parts))
    outcome = begin(nursery, cold_pump, pair[0], parts)
    with trio.fail_after(10), no_descriptor_left() if lack == "descriptors" else contextlib.nullcontext():
        assert await receive(pair[1], len(expected)) == expected
    await outcome.wait_end()
    assert disk.asked == []
    await until(lambda: len(descriptors_of(Path(noise.name))) == 1)  # none was left open


async def test_what_could_not_be_fetched_is_fetched_for_the_next(
    epoll: bool, pair: Pair, noise: IO[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody can tell what is in memory, only a fetch that took place is remembered."""
    disk, span = Untold(free=True), FileSpan(noise, 10, 40_000)
    async with running(Pump(epoll=epoll, disk=disk)) as pump:
        with monkeypatch.context() as poor:
            poor.setattr(trio.lowlevel, "start_thread_soon", no_thread)
            await pump.deliver(pair[0], queue(span))
        assert disk.asked == []
        await pump.deliver(pair[0], queue(span))
    assert disk.asked == [10]


async def test_who_does_without_sendfile_fetches_without_it(
    pair: Pair, noise: IO[bytes], monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """``kernel=False``: for file systems whose sendfile(2) misbehaves, which may be by any call of it."""
    monkeypatch.setattr(os, "sendfile", None)  # a call of it is an error that ends the delivery
    async with running(Pump(disk=SlowDisk(free=True))) as pump:
        outcome = begin(nursery, pump, pair[0], queue(FileSpan(noise, 10, 40_000)), kernel=False)
        with trio.fail_after(5):
            assert await receive(pair[1], 40_000) == content(FileSpan(noise, 10, 40_000))
        await outcome.wait_end()


async def test_what_is_not_in_memory_is_not_pushed(cold_pump: Pump, disk: SlowDisk, tmp_path: Path) -> None:
    """Bytes are, and of a file what is in memory; nothing is fetched for it."""
    path = tmp_path / "half"
    path.write_bytes(bytes(400 * KIB))
    near, far = unix_pair()
    with path.open("rb") as file, near, far:
        parts: deque[Part] = deque([b"head", FileSpan(file, 0, 0), b"", FileSpan(file, 0, 400 * KIB)])
        assert cold_pump.push_nowait(near, parts) == 4
        assert list(parts) == [FileSpan(file, 0, 400 * KIB)]
        disk.fetched.append((0, 256 * KIB))
        sent = cold_pump.push_nowait(near, parts)
        assert 0 < sent <= 256 * KIB
        assert list(parts) == [FileSpan(file, sent, 400 * KIB - sent)]
        assert disk.asked == []
        assert far.recv(4) == b"head"
