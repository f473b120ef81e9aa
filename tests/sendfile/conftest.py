"""What the tests of `sendfile` are multiplied by: socket kinds, kernel and copy path, ways to deliver."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO

import pytest
from sendfile_disks import SlowDisk
from sendfile_peers import VERSIONS, Peers
from sendfile_pumps import Ways, running
from sendfile_wires import CONNECTIONS, Connect, Pair, tcp_pair

from sendfile import Pump


@pytest.fixture(params=[True, False], ids=["kernel", "copy"])
def kernel(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[True, False], ids=["epoll", "loop"])
def epoll(request: pytest.FixtureRequest) -> bool:
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


@pytest.fixture
def tcp() -> Iterator[Pair]:
    near, far = tcp_pair()
    with near, far:
        yield near, far


@pytest.fixture(params=VERSIONS)
def peers(request: pytest.FixtureRequest) -> Iterator[Peers]:
    made = Peers(tcp_pair(), VERSIONS[request.param])
    yield made
    made.close()


@pytest.fixture
async def pump(epoll: bool) -> AsyncIterator[Pump]:
    async with running(Pump(epoll=epoll)) as made:
        yield made


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


@pytest.fixture
async def cold_pump(epoll: bool, disk: SlowDisk) -> AsyncIterator[Pump]:
    async with running(Pump(epoll=epoll, disk=disk)) as made:
        yield made
    disk.gate.release(1000)


@pytest.fixture(params=["epoll", "loop", "send_all"])
async def ways(request: pytest.FixtureRequest) -> AsyncIterator[Ways]:
    async with running(Pump(epoll=request.param == "epoll")) as made:
        yield Ways(request.param, made)


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
