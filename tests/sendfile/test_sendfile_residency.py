"""Cold files: looked at before a step, fetched by a few threads, and never waited for on the event loop."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import deque
from pathlib import Path
from typing import IO

import pytest
import trio
from faults import no_descriptor_left
from opened import descriptors_of
from sendfile_disks import SlowDisk, until_fetching
from sendfile_wires import Pair, content, fill, queue, receive, unix_pair
from trio.testing import MockClock, wait_all_tasks_blocked
from waiting import until

from sendfile import DiskStalled, FileSpan, Part, Pump
from sendfile.disk import Disk
from sendfile.residency import Frontier, Residency

KIB = 1 << 10


class Untold(SlowDisk):
    """A file system that cannot tell."""

    def probe(self, fd: int, offset: int) -> bool | None:
        return None


async def test_cold_bytes_are_fetched_before_they_are_sent(
    cold_pump: Pump, disk: SlowDisk, kernel: bool, pair: Pair, noise: IO[bytes], nursery: trio.Nursery
) -> None:
    near, far = pair
    parts = queue(b"head", FileSpan(noise, 3, 2_000_000), b"tail")
    expected = b"".join(map(content, parts))
    nursery.start_soon(lambda: cold_pump.deliver(near, parts, kernel=kernel))
    await until_fetching(disk)
    assert await receive(far, 4) == b"head"
    await wait_all_tasks_blocked(0.005)
    assert size_left(cold_pump) == 2_000_004, "the loop is free, and not a byte of the span is out"
    disk.gate.release(1000)
    with trio.fail_after(5):
        assert await receive(far, len(expected) - 4) == expected[4:]
    assert max(end - first for first, end in disk.fetched) <= 2 << 20
    assert sum(end - first for first, end in disk.fetched) == 2_000_000, "nothing twice"


def size_left(pump: Pump) -> int:
    return pump.jobs()[0].left


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


async def test_few_threads_serve_many_in_turn(cold_pump: Pump, disk: SlowDisk, noise: IO[bytes]) -> None:
    pairs = [unix_pair() for _ in range(30)]
    ended: list[int] = []

    async def run(n: int) -> None:
        await cold_pump.deliver(pairs[n][0], queue(FileSpan(noise, n * 5000, 4000)))
        ended.append(n)

    with trio.fail_after(10):
        async with trio.open_nursery() as callers:
            for n in range(30):
                callers.start_soon(run, n)
                await wait_all_tasks_blocked()
            await until_fetching(disk, 4)
            assert len(cold_pump.jobs()) == 30
            for served in range(1, 31):
                disk.gate.release()
                await until(lambda served=served: len(disk.fetched) == served)  # type: ignore[misc]
                assert max(disk.asked) // 5000 < served + 4, "first come, first served"
        for n, (near, far) in enumerate(pairs):
            assert await receive(far, 4000) == content(FileSpan(noise, n * 5000, 4000))
            near.close()
            far.close()
    assert sorted(ended) == list(range(30))
    assert disk.most_at_once == 4


class OneHangs(SlowDisk):
    """Each file is on a file system of its own; those of more than a MiB do not answer."""

    def device(self, fd: int) -> int:
        return os.fstat(fd).st_ino

    def fetch(self, fd: int, offset: int, count: int, kernel: bool = True) -> None:
        if os.fstat(fd).st_size < 1 << 20:
            self.gate.release()
        super().fetch(fd, offset, count, kernel)


async def test_a_file_system_that_hangs_holds_up_no_other(tmp_path: Path, pair: Pair, noise: IO[bytes]) -> None:
    """It keeps its four threads, and those who ask of it; who asks of another is served, again and again."""
    disk = OneHangs()
    (tmp_path / "small").write_bytes(b"x" * 5000)
    pairs = [unix_pair() for _ in range(6)]
    async with trio.open_nursery() as nursery:
        await nursery.start((pump := Pump(disk=disk)).run)
        for n, (near, _) in enumerate(pairs):
            nursery.start_soon(pump.deliver, near, queue(FileSpan(noise, 1_000_000 + n * 5000, 4000)))
        await until_fetching(disk, 4)
        with (tmp_path / "small").open("rb") as small, trio.fail_after(5):
            for n in range(6):
                await pump.deliver(pair[0], queue(FileSpan(small, n, 1)))
                assert await receive(pair[1], 1) == b"x"
        assert len(pump.jobs()) == 6
        nursery.cancel_scope.cancel()
    disk.gate.release(10)
    for near, far in pairs:
        near.close()
        far.close()


async def test_a_disk_that_gives_nothing_for_a_minute_ends_the_delivery(
    cold_pump: Pump, disk: SlowDisk, pair: Pair, noise: IO[bytes], mock_clock: MockClock
) -> None:
    """Its peer may have left long ago, and others who come and leave would pile up for as long as the disk hangs."""
    parts = queue(FileSpan(noise, 7, 1000))

    async def pass_time() -> None:
        await until_fetching_in_mock_time(disk)
        for _ in range(14):
            mock_clock.jump(5)
            await wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_time)
        with pytest.raises(DiskStalled, match="no bytes came from the disk for 60 seconds, at byte 7:"):
            await cold_pump.deliver(pair[0], parts)
    disk.gate.release()
    assert sum(map(len, parts)) == 1000


async def test_the_disk_is_not_the_peers_fault(
    cold_pump: Pump, disk: SlowDisk, pair: Pair, noise: IO[bytes], mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    near, far = pair
    nursery.start_soon(lambda: cold_pump.deliver(near, queue(FileSpan(noise, 0, 1000)), idle_timeout=1))
    await until_fetching_in_mock_time(disk)
    mock_clock.jump(50)
    await wait_all_tasks_blocked()
    (transfer,) = cold_pump.jobs()
    assert (transfer.stalled_for, transfer.left) == (0, 1000)
    disk.gate.release()
    assert len(await receive(far, 1000)) == 1000


async def until_fetching_in_mock_time(disk: SlowDisk) -> None:
    while not disk.copies:
        await trio.lowlevel.checkpoint()


async def test_after_the_disk_the_peer_may_stall(
    cold_pump: Pump, disk: SlowDisk, noise: IO[bytes], nursery: trio.Nursery
) -> None:
    near, far = unix_pair()
    fill(near)
    errors: list[BaseException] = []

    async def run() -> None:
        try:
            await cold_pump.deliver(near, queue(FileSpan(noise, 0, 1000)), idle_timeout=0.1)
        except TimeoutError as error:
            errors.append(error)

    nursery.start_soon(run)
    await until_fetching(disk)
    await trio.sleep(0.2)
    assert not errors
    disk.gate.release()
    await until(lambda: bool(errors))
    near.close()
    far.close()


async def test_an_error_of_the_disk_is_the_callers(
    cold_pump: Pump, disk: SlowDisk, pair: Pair, noise: IO[bytes]
) -> None:
    disk.error = OSError(errno.EIO, os.strerror(errno.EIO))
    disk.gate.release(10)
    parts: deque[Part] = queue(FileSpan(noise, 0, 1000))
    with trio.fail_after(5), pytest.raises(OSError, match=os.strerror(errno.EIO)):
        await cold_pump.deliver(pair[0], parts)
    assert list(parts) == [FileSpan(noise, 0, 1000)]


@pytest.mark.parametrize("epoll", [True, False])
async def test_the_pump_does_not_wait_for_the_disk_to_end(epoll: bool, pair: Pair, noise: IO[bytes]) -> None:
    disk = SlowDisk()
    pump = Pump(epoll=epoll, disk=disk)
    with trio.fail_after(5):
        async with trio.open_nursery() as callers:
            async with trio.open_nursery() as nursery:
                await nursery.start(pump.run)

                async def run() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await pump.deliver(pair[0], queue(FileSpan(noise, 0, 1000)))

                callers.start_soon(run)
                await until_fetching(disk)
                nursery.cancel_scope.cancel()
            disk.gate.release()


async def test_where_nobody_can_tell_a_file_is_fetched_once(pair: Pair, noise: IO[bytes]) -> None:
    disk = Untold(free=True)
    async with trio.open_nursery() as nursery:
        pump = Pump(disk=disk)
        await nursery.start(pump.run)
        for _ in range(3):
            await pump.deliver(pair[0], queue(FileSpan(noise, 10, 40_000)))
            assert await receive(pair[1], 40_000) == content(FileSpan(noise, 10, 40_000))
        assert disk.fetched == [(10, 40_010)]
        nursery.cancel_scope.cancel()


def test_where_nobody_can_tell_a_fast_fetch_speaks_for_the_next_64_mib(noise: IO[bytes]) -> None:
    for seconds, expected in ((1e-4, 8 << 20), (0.1, 0)):
        residency = Residency(Untold())
        fd = noise.fileno()
        residency.remember(fd, 0, 1 << 20, seconds, 5)
        assert residency.warm(fd, 0, 1 << 20, 6) == 1 << 20
        assert residency.warm(fd, 1 << 20, 8 << 20, 6) == expected
        assert residency.warm(fd, 0, 1 << 20, 16) == 0, "believed for ten seconds"


@pytest.mark.parametrize("in_memory", [True, False], ids=["tmpfs", "another"])
async def test_only_a_file_system_in_memory_is_taken_to_be_as_fast_farther_on(
    in_memory: bool, pair: Pair, noise: IO[bytes]
) -> None:
    """Of FUSE or NFS the beginning of a file may be in memory, and the rest a second away: no step waits for that."""
    disk = Untold(free=True)
    disk.is_in_memory = lambda fd: in_memory  # type: ignore[method-assign]
    size = noise.seek(0, os.SEEK_END)
    async with trio.open_nursery() as nursery:
        pump = Pump(disk=disk)
        await nursery.start(pump.run)
        nursery.start_soon(lambda: pump.deliver(pair[0], queue(FileSpan(noise, 0, size))))
        with trio.fail_after(10):
            await receive(pair[1], size)
        nursery.cancel_scope.cancel()
    fetched = sum(end - first for first, end in disk.fetched)
    assert (fetched < size) is in_memory


async def test_what_is_in_memory_costs_no_thread(pump: Pump, noise: IO[bytes], pair: Pair) -> None:
    if Disk().probe(noise.fileno(), 0) is None:
        pytest.skip("this file system cannot tell")
    Disk().fetch(noise.fileno(), 0, 3_000_017)
    threads = threading.active_count()
    with trio.testing.assert_checkpoints():
        await pump.deliver(pair[0], queue(FileSpan(noise, 0, 50_000)))
    assert threading.active_count() == threads


async def test_a_really_evicted_file(pump: Pump, kernel: bool, tmp_path: Path, pair: Pair) -> None:
    data = os.urandom(1 << 22)
    with (tmp_path / "cold").open("w+b", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        parts = queue(FileSpan(file, 0, len(data)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: pump.deliver(pair[0], parts, kernel=kernel))
            with trio.fail_after(10):
                assert await receive(pair[1], len(data)) == data
        assert Disk().probe(file.fileno(), 1 << 21) in (True, None)


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("lack", ["descriptors", "threads"])
async def test_what_cannot_be_fetched_is_sent_all_the_same(
    cold_pump: Pump, disk: SlowDisk, pair: Pair, noise: IO[bytes], lack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread to be had, or no copy for it (dup(2), EMFILE): a step may wait for the disk, and nobody is cut."""
    if lack == "threads":
        monkeypatch.setattr(trio.lowlevel, "start_thread_soon", no_thread)
    parts = queue(b"head", FileSpan(noise, 3, 1_000_000))
    expected = b"".join(map(content, parts))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: cold_pump.deliver(pair[0], parts))
        with trio.fail_after(10), no_descriptor_left() if lack == "descriptors" else contextlib.nullcontext():
            assert await receive(pair[1], len(expected)) == expected
    assert disk.asked == []
    await until(lambda: len(descriptors_of(Path(noise.name))) == 1)  # none was left open


def test_what_was_not_fetched_is_not_remembered(noise: IO[bytes]) -> None:
    """The next delivery of the file is not told that it is in memory; this one believes it for a second."""
    frontier, residency = Frontier(), Residency(Untold())
    span = FileSpan(noise, 0, 3_000_000)
    frontier.dare(span, 5)
    assert frontier.warm(residency, span, 5) == 256 * KIB
    assert frontier.warm(residency, span, 7) == 0
    assert Frontier().warm(residency, span, 5) == 0


async def test_who_does_without_sendfile_fetches_without_it(
    pair: Pair, noise: IO[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``kernel=False``: for file systems whose sendfile(2) misbehaves, which may be by any call of it."""
    monkeypatch.setattr(os, "sendfile", None)  # a call of it is an error that ends the delivery
    async with trio.open_nursery() as nursery:
        await nursery.start((pump := Pump(disk=SlowDisk(free=True))).run)
        with trio.fail_after(5):
            nursery.start_soon(lambda: pump.deliver(pair[0], queue(FileSpan(noise, 10, 40_000)), kernel=False))
            assert await receive(pair[1], 40_000) == content(FileSpan(noise, 10, 40_000))
        nursery.cancel_scope.cancel()


async def test_what_is_not_in_memory_is_not_pushed(cold_pump: Pump, disk: SlowDisk, tmp_path: Path) -> None:
    """Bytes are, and of a file what is in memory; nothing is fetched for it."""
    path = tmp_path / "half"
    path.write_bytes(content(400 * KIB))
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


class Map(Disk):
    """In memory is what the test says."""

    def __init__(self, *warm: tuple[int, int]) -> None:
        self.warm = list(warm)
        self.probes = 0

    def probe(self, fd: int, offset: int) -> bool | None:
        self.probes += 1
        return any(first <= offset < end for first, end in self.warm)


@pytest.mark.parametrize(
    ("warm", "offset", "count", "expected"),
    [
        ([], 0, 1, 0),
        ([(0, 4096)], 0, 4096, 4096),
        ([(0, 4096)], 10, 100, 100),
        ([(0, 4096)], 0, 4097, 0),  # the last byte is not
        ([(0, 256 * KIB)], 0, 256 * KIB, 256 * KIB),
        ([(0, 300 * KIB)], 0, 1 << 20, 256 * KIB),  # up to the last page that was seen
        ([(0, 1 << 20)], 1 << 20, 5, 0),
        ([(0, 1 << 30)], 77, 8 << 20, 8 << 20),
    ],
)
def test_bytes_between_two_pages_in_memory_count_as_such(
    warm: list[tuple[int, int]], offset: int, count: int, expected: int
) -> None:
    assert Residency(Map(*warm)).warm(0, offset, count, 0) == expected


def test_the_further_it_gets_the_rarer_it_asks(noise: IO[bytes]) -> None:
    disk = Map((0, 1 << 40))
    frontier, residency = Frontier(), Residency(disk)
    span = FileSpan(noise, 0, 1 << 30)
    while span.count:
        span = span.advance(min(1 << 20, frontier.warm(residency, span, 0)))
    assert disk.probes < 1000, "less than one probe per step of 1 MiB"


def test_what_was_found_is_believed_for_a_second(noise: IO[bytes]) -> None:
    disk = Map((0, 1 << 40))
    frontier, residency = Frontier(), Residency(disk)
    small = FileSpan(noise, 0, 100_000)
    assert frontier.warm(residency, small, 0) == 100_000
    disk.warm = []
    assert frontier.warm(residency, small.advance(10), 0.9) == 99_990
    assert frontier.warm(residency, small.advance(10), 1.1) == 0
    assert frontier.wanted(small.advance(10)) == 99_990


def test_a_file_system_that_cannot_tell(tmp_path: Path) -> None:
    """preadv2(2): EOPNOTSUPP where the file system has no RWF_NOWAIT. A pipe stands for it, with ESPIPE."""
    here, there = os.pipe()
    try:
        assert Disk().probe(here, 0) is None
    finally:
        os.close(here)
        os.close(there)
    with (tmp_path / "empty").open("w+b") as file:
        assert Disk().probe(file.fileno(), 100) in (True, None), "beyond the end: sending tells, at once"


@pytest.mark.parametrize("code", [None, errno.EINVAL, errno.ENOTSOCK, errno.EMFILE])
def test_a_fetch_brings_it_into_memory(code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sendfile(2) to /dev/null, or by reading where that cannot be had, or cannot be opened."""
    if code in (errno.EINVAL, errno.ENOTSOCK):

        def sendfile(*_: object) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "sendfile", sendfile)
    with (tmp_path / "cold").open("w+b", buffering=0) as file:
        file.write(bytes(1 << 20))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with no_descriptor_left() if code == errno.EMFILE else contextlib.nullcontext():
            Disk().fetch(file.fileno(), 0, 1 << 20)
        Disk().fetch(file.fileno(), 1 << 19, 1 << 20)  # beyond the end: no error, and an end
        for offset in range(0, 1 << 20, 1 << 17):
            assert Disk().probe(file.fileno(), offset) in (True, None)
