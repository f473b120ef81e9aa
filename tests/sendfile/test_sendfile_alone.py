"""What goes wrong for one delivery ends that delivery, and nobody else's."""

from __future__ import annotations

import errno
import math
import os
import select
import socket
from pathlib import Path
from typing import IO

import pytest
import trio
from sendfile_disks import SlowDisk, until_fetching
from sendfile_wires import PLENTY, Pair, content, fill, queue, receive, unix_pair
from trio.testing import MockClock, wait_all_tasks_blocked
from waiting import until

from sendfile import FileSpan, Pump
from sendfile.held import held_by_kernel
from sendfile.span import HasFileno


async def deliver_in_vain(pump: Pump, sock: HasFileno) -> None:
    """On a socket that is closed meanwhile."""
    with pytest.raises(trio.ClosedResourceError):
        await pump.deliver(sock, queue(b"lost"))


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


def no_descriptor(*_: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_where_no_descriptor_is_left_a_stale_epoll_has_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else may be faster to take the last one. Deliveries go on; once there is one the pump comes to rest."""
    (near, far), (other, reader) = unix_pair(), unix_pair()
    filled, before = fill(near), fill(other)
    async with trio.open_nursery() as nursery:
        await nursery.start((pump := Pump(epoll=True)).run)

        nursery.start_soon(deliver_in_vain, pump, near)
        nursery.start_soon(pump.deliver, other, queue(b"arrives"))
        await wait_all_tasks_blocked()
        with near.dup(), far, other, reader, monkeypatch.context() as poor, trio.fail_after(10):
            poor.setattr(select, "epoll", no_descriptor)
            near.close()
            await receive(far, filled)  # reported from now on, under a number that is closed
            await until(lambda: len(pump.jobs()) == 1)
            assert (await receive(reader, before + 7))[before:] == b"arrives"
            poor.undo()
            await wait_all_tasks_blocked(0.01)  # which a pump that spins would not let pass
        nursery.cancel_scope.cancel()


async def test_numbers_closed_behind_their_sockets_end_their_own_deliveries() -> None:
    """As os.closerange() does it: the objects know nothing of it, and a new epoll refuses the number."""
    pairs = [unix_pair() for _ in range(3)]
    filled = [fill(near) for near, _ in pairs]
    copies = [near.dup() for near, _ in pairs]
    async with trio.open_nursery() as nursery:
        await nursery.start((pump := Pump(epoll=True)).run)

        async def cut(near: socket.socket) -> None:
            with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
                await pump.deliver(near, queue(b"lost"))

        for near, _ in pairs[:2]:
            nursery.start_soon(cut, near)
        nursery.start_soon(pump.deliver, pairs[2][0], queue(b"arrives"))
        await wait_all_tasks_blocked()
        for near, _ in pairs[:2]:
            os.close(near.fileno())
        await receive(pairs[0][1], filled[0])  # one is reported, and the epoll made anew, without both
        with trio.fail_after(5):
            await until(lambda: len(pump.jobs()) == 1)
            assert (await receive(pairs[2][1], filled[2] + 7))[filled[2] :] == b"arrives"
        nursery.cancel_scope.cancel()
    for near, _ in pairs[:2]:
        near.detach()
    for end in (*(end for pair in pairs for end in pair), *copies):
        end.close()


async def test_a_socket_whose_object_raises_once_it_is_closed() -> None:
    """A SocketIO does; it is closed like any other, for whoever has its number next as well."""
    near, far = unix_pair()
    fill(near)
    raw = near.makefile("rwb", buffering=0)
    number = near.fileno()
    async with trio.open_nursery() as nursery:
        await nursery.start((pump := Pump(epoll=True)).run)

        nursery.start_soon(deliver_in_vain, pump, raw)
        await wait_all_tasks_blocked()
        near.close()
        raw.close()
        far.close()
        again, reader = unix_pair()
        assert again.fileno() == number
        with again, reader:
            await pump.deliver(again, queue(b"arrives"))
            assert reader.recv(100) == b"arrives"
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("idle", [math.inf, 2.0], ids=["for ever", "stalls"])
@pytest.mark.parametrize("trio_socket", [False, True], ids=["stdlib", "trio"])
async def test_a_socket_closed_under_its_delivery_is_noticed(
    pump: Pump, pair: Pair, trio_socket: bool, idle: float, mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Within five seconds, and as what it is: no epoll tells of it, and it is no stall of the peer."""
    sock = trio.socket.from_stdlib_socket(pair[0]) if trio_socket else pair[0]
    ended = trio.Event()

    async def cut() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await pump.deliver(sock, queue(PLENTY), idle_timeout=idle)
        ended.set()

    nursery.start_soon(cut)
    await wait_all_tasks_blocked()
    sock.close()
    for _ in range(6):
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
    assert ended.is_set()
