"""What goes wrong for one delivery ends that delivery, and nobody else's."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import IO

import pytest
import trio
from sendfile_disks import SlowDisk, until_fetching
from sendfile_wires import Pair, content, fill, queue, receive, unix_pair

from sendfile import FileSpan, Pump
from sendfile.held import held_by_kernel


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
    cold_pump: Pump, disk: SlowDisk, plain: bool, tmp_path: Path, pair: Pair, noise: IO[bytes]
) -> None:
    """Those whose bytes are being fetched, and those who wait for a thread; the threads serve the next as before."""
    (tmp_path / "file").write_bytes(b"x" * 1000)
    file = (tmp_path / "file").open("rb") if plain else Shelved(tmp_path / "file")
    pairs = [unix_pair() for _ in range(6)]

    async def cut(near: socket.socket) -> None:
        with pytest.raises(ValueError if plain else AttributeError):
            await cold_pump.deliver(near, queue(FileSpan(file, 0, 1000)))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for near, _ in pairs:
                nursery.start_soon(cut, near)
            await until_fetching(disk, 4)
            nursery.start_soon(cold_pump.deliver, pair[0], queue(FileSpan(noise, 0, 1000)))
            file.close()
            disk.gate.release(10)
        assert await receive(pair[1], 1000) == content(FileSpan(noise, 0, 1000))
        await cold_pump.deliver(pair[0], queue(FileSpan(noise, 5000, 10)))
    for end in (end for both in pairs for end in both):
        end.close()


async def test_a_copy_of_a_descriptor_that_cannot_be_closed_is_an_error_of_its_fetch(
    cold_pump: Pump, disk: SlowDisk, pair: Pair, noise: IO[bytes]
) -> None:
    """As after os.closerange() of the application, or on a network: it is told, and does not wait for ever."""

    async def cut() -> None:
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            await cold_pump.deliver(pair[0], queue(FileSpan(noise, 0, 1000)))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            await until_fetching(disk)
            os.close(disk.copies[0])
            disk.gate.release(10)


@pytest.mark.parametrize("trio_socket", [False, True], ids=["stdlib", "trio"])
async def test_the_kernel_holds_nothing_of_a_closed_socket(trio_socket: bool, pair: Pair) -> None:
    """Whoever looks at many, as a drain does, may come after a connection has closed."""
    sock = trio.socket.from_stdlib_socket(pair[0]) if trio_socket else pair[0]
    fill(pair[0])
    assert held_by_kernel(sock) > 0
    sock.close()
    assert held_by_kernel(sock) == 0
