"""What the tests of `sendfile` are multiplied by: socket kinds, kernel and copy path, ways to deliver."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO

import pytest
import trio
from sendfile_disks import SlowDisk
from sendfile_wires import CONNECTIONS, Connect, Pair, Ways

from sendfile import Pump


@pytest.fixture(params=[True, False], ids=["kernel", "copy"])
def kernel(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=list(CONNECTIONS))
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    opened: list[Pair] = []

    def make() -> Pair:
        opened.append(CONNECTIONS[request.param]())
        return opened[-1]

    yield make
    for near, far in opened:
        near.close()
        far.close()


@pytest.fixture
def pair(connect: Connect) -> Pair:
    return connect()


@pytest.fixture(params=["epoll", "loop"])
async def pump(request: pytest.FixtureRequest) -> AsyncIterator[Pump]:
    made = Pump(epoll=request.param == "epoll")
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        assert made.jobs() == [], "every delivery has ended with its test"
        nursery.cancel_scope.cancel()


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


@pytest.fixture(params=["epoll", "loop"])
async def cold_pump(request: pytest.FixtureRequest, disk: SlowDisk) -> AsyncIterator[Pump]:
    pump = Pump(epoll=request.param == "epoll", disk=disk)
    async with trio.open_nursery() as nursery:
        await nursery.start(pump.run)
        yield pump
        assert pump.jobs() == []
        nursery.cancel_scope.cancel()
    disk.gate.release(1000)


@pytest.fixture(params=["epoll", "loop", "send_all"])
async def ways(request: pytest.FixtureRequest) -> AsyncIterator[Ways]:
    made = Pump(epoll=request.param == "epoll")
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield Ways(request.param, made)
        assert made.jobs() == [], "every delivery has ended with its test"
        nursery.cancel_scope.cancel()


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IO[bytes]]:
    """An open file of 3,000,017 bytes that look alike nowhere."""
    path = tmp_path_factory.mktemp("sendfile") / "noise"
    path.write_bytes(random.Random(3).randbytes(3_000_017))
    with path.open("rb") as file:
        yield file


@pytest.fixture
def sparse(tmp_path: Path) -> Iterator[IO[bytes]]:
    """An open, writable, empty file; `truncate` makes it long without using the disk."""
    with (tmp_path / "sparse").open("w+b", buffering=0) as file:
        yield file
