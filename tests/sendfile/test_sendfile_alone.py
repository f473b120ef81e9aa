"""What goes wrong for one delivery ends that delivery, and nobody else's."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import IO

import pytest
import trio
from sendfile_disks import SlowDisk, until_fetching
from sendfile_pumps import begin
from sendfile_wires import PLENTY, Connect, Pair, content, queue, receive, unix_pairs
from trio.testing import wait_all_tasks_blocked

from sendfile import FileSpan, Pump


async def test_the_error_of_one_ends_no_other(pump: Pump, connect: Connect, nursery: trio.Nursery) -> None:
    pairs = [connect() for _ in range(6)]
    outcomes = [begin(nursery, pump, near, queue(PLENTY)) for near, _ in pairs]
    await wait_all_tasks_blocked()
    for _, far in pairs[::2]:
        far.close()
    for _, far in pairs[1::2]:
        assert len(await receive(far, len(PLENTY), 1 << 20)) == len(PLENTY)
    for outcome in outcomes:
        await outcome.wait_end()
    assert [type(outcome.error).__base__ for outcome in outcomes[::2]] == [ConnectionError] * 3
    assert [outcome.sent for outcome in outcomes[1::2]] == [len(PLENTY)] * 3


class Shelved:
    """An open file that forgets it when it is closed, as wrappers of applications do: another error than Python's."""

    def __init__(self, path: Path) -> None:
        self.file: IO[bytes] | None = path.open("rb")

    def fileno(self) -> int:
        return self.file.fileno()  # type: ignore[union-attr]

    def close(self) -> None:
        assert self.file is not None
        self.file.close()
        self.file = None


@pytest.mark.parametrize("plain", [True, False], ids=["file", "wrapper"])
async def test_a_file_closed_while_it_is_fetched_ends_its_own_deliveries_alone(
    cold_pump: Pump,
    disk: SlowDisk,
    plain: bool,
    tmp_path: Path,
    pair: Pair,
    noise: IO[bytes],
    nursery: trio.Nursery,
) -> None:
    """Those whose bytes are being fetched, and those who wait for a thread; the threads serve the next as before."""
    (tmp_path / "file").write_bytes(b"x" * 1000)
    file = (tmp_path / "file").open("rb") if plain else Shelved(tmp_path / "file")
    with unix_pairs(6) as pairs, trio.fail_after(10):
        cut = [begin(nursery, cold_pump, near, queue(FileSpan(file, 0, 1000))) for near, _ in pairs]
        await until_fetching(disk, 4)
        served = begin(nursery, cold_pump, pair[0], queue(FileSpan(noise, 0, 1000)))
        file.close()
        disk.gate.release(10)
        for outcome in cut:
            await outcome.wait_end()
            assert isinstance(outcome.error, ValueError if plain else AttributeError)
        assert await receive(pair[1], 1000) == content(FileSpan(noise, 0, 1000))
        await served.wait_end()
        await cold_pump.deliver(pair[0], queue(FileSpan(noise, 5000, 10)))


async def test_a_copy_of_a_descriptor_that_cannot_be_closed_is_an_error_of_its_fetch(
    cold_pump: Pump, disk: SlowDisk, pair: Pair, noise: IO[bytes], nursery: trio.Nursery
) -> None:
    """As after os.closerange() of the application, or on a network: it is told, and does not wait for ever."""
    outcome = begin(nursery, cold_pump, pair[0], queue(FileSpan(noise, 0, 1000)))
    await until_fetching(disk)
    os.close(disk.copies[0])
    disk.gate.release(10)
    await outcome.wait_end()
    assert isinstance(outcome.error, OSError)
    assert outcome.error.errno == errno.EBADF
