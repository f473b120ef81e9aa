"""`TlsSender` and the pump on TLS sockets: the promises of plain ones, with one copy and nothing unencrypted."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import pytest
import trio
import trio.testing
from authority import shared_authority
from sendfile_disks import Keepless
from sendfile_wires import Pair, content, reset, tcp_pair, tighten, whole

from sendfile import (
    FileSpan,
    FileTooShort,
    MinRate,
    Part,
    Pump,
    Rate,
    Stalled,
    TlsSender,
    TooSlow,
    send_all,
    send_nowait,
    send_some,
    send_some_nowait,
)
from sendfile.disk import Disk
from sendfile.tls import BURST, PIECE, describe

ONE_VERSION = pytest.mark.parametrize("peers", ["1.3"], indirect=True)
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Peers:
    """Two ends of a TLS connection over TCP; the near one has a small buffer and the sender."""

    def __init__(self, pair: Pair, version: ssl.TLSVersion) -> None:
        authority, certfile = shared_authority()
        server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), authority.client_context()
        server.load_cert_chain(certfile)
        server.maximum_version = version
        for sock in pair:
            sock.settimeout(10)
        with ThreadPoolExecutor(1) as other:
            shaking = other.submit(client.wrap_socket, pair[1], server_hostname="localhost")
            self.near = server.wrap_socket(pair[0], server_side=True)
            self.far = shaking.result()
        self.near.setblocking(False)
        self.far.setblocking(False)
        tighten(self.near)
        self.sender = TlsSender(self.near, bytearray(PIECE))

    def close(self) -> None:
        self.near.close()
        self.far.close()

    def received(self, most: int = 1 << 30) -> bytes:
        """What has arrived by now, decrypted."""
        data = bytearray()
        try:
            while len(data) < most and (piece := self.far.recv(min(1 << 16, most - len(data)))):
                data += piece
        except ssl.SSLWantReadError:
            pass
        return bytes(data)

    async def receive(self, count: int) -> bytes:
        """The next bytes, decrypted."""
        data = self.received(count)
        while len(data) < count:
            await trio.lowlevel.wait_readable(self.far)
            data += self.received(count - len(data))
        return data

    def fill(self, parts: deque[Part], limit: int = PIECE) -> int:
        """Take steps until the kernel is full within a record; returns the bytes that have left."""
        sent = 0
        with pytest.raises(trio.WouldBlock):
            while True:
                sent += self.sender.step(parts, limit)
        assert self.sender.owed
        return sent

    async def read_all_of(self, parts: deque[Part], total: int, limit: int = PIECE) -> bytes:
        """Take steps until all has left, and return the `total` bytes that arrive."""
        data = b""
        while parts:
            try:
                self.sender.step(parts, limit)
            except trio.WouldBlock:
                data += self.received()
                await trio.lowlevel.wait_writable(self.near)
        return data + await self.receive(total - len(data))


@pytest.fixture(params=VERSIONS)
def peers(request: pytest.FixtureRequest) -> Iterator[Peers]:
    made = Peers(tcp_pair(), VERSIONS[request.param])
    yield made
    made.close()


@pytest.fixture(params=["epoll", "loop"])
async def tls_pump(request: pytest.FixtureRequest) -> AsyncIterator[Pump]:
    made = Pump(epoll=request.param == "epoll")
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        assert made.jobs() == []
        nursery.cancel_scope.cancel()


# -- one step ----------------------------------------------------------------------------------------------------------


async def test_small_bytes_share_a_record_and_a_file_begins_one_of_its_own(peers: Peers, noise: IO[bytes]) -> None:
    parts: deque[Part] = deque([b"head", b"", memoryview(b"er"), FileSpan(noise, 5, 100_000), b"end"])
    assert peers.sender.step(parts, PIECE) == 6
    assert parts[0] == FileSpan(noise, 5, 100_000)
    peers.far.settimeout(10)
    assert peers.far.recv(100) == b"header"
    assert peers.sender.step(parts, 7) == 7
    assert list(parts) == [FileSpan(noise, 12, 99_993), b"end"]


async def test_nothing_to_send(peers: Peers, noise: IO[bytes]) -> None:
    parts: deque[Part] = deque([b"", FileSpan(noise, 0, 0)])
    assert peers.sender.step(parts, PIECE) == 0
    assert not parts


async def test_what_is_owed_is_sent_whatever_the_limit_of_the_next_step(peers: Peers) -> None:
    """SSL_write(3): a write that is tried again has to be given the same bytes; others are a "bad write retry"."""
    data = os.urandom(1_000_003)
    parts: deque[Part] = deque([data[:100_000], bytearray(data[100_000:100_010]), memoryview(data[100_010:])])
    left = peers.fill(parts)
    assert sum(map(len, parts)) == len(data) - left  # what is owed has not left
    assert await peers.read_all_of(parts, len(data), limit=1000) == data


async def test_bytes_that_are_appended_do_not_change_what_is_owed(peers: Peers) -> None:
    data = os.urandom(10_000)
    parts: deque[Part] = deque([data] * 5)
    while not peers.sender.owed:
        try:
            peers.sender.step(parts, PIECE)
            parts.append(data)
        except trio.WouldBlock:
            pass
    left = peers.sender.sent
    parts[-1] = bytes(parts[-1]) + b"more"  # as a backlog does that puts small blocks together
    expected = b"".join(map(content, parts))
    arrived = await peers.read_all_of(parts, left + len(expected))
    assert arrived[left:] == expected


async def test_a_file_that_changes_while_bytes_are_owed(peers: Peers, sparse: IO[bytes]) -> None:
    """They go out as they were, for they are encrypted; nothing is garbled."""
    sparse.truncate(500_000)
    parts: deque[Part] = deque([whole(sparse)])
    left, owed = peers.fill(parts), peers.sender.owed
    os.pwrite(sparse.fileno(), b"x" * 500_000, 0)
    arrived = await peers.read_all_of(parts, 500_000)
    assert len(arrived) == 500_000
    first = arrived.index(b"x")
    assert left < first <= left + owed
    assert arrived == bytes(first) + b"x" * (500_000 - first)


async def test_a_file_that_is_cut_while_bytes_are_owed(peers: Peers, sparse: IO[bytes]) -> None:
    sparse.truncate(500_000)
    parts: deque[Part] = deque([whole(sparse)])
    left = peers.fill(parts)
    sparse.truncate(left + 10)
    with pytest.raises(FileTooShort) as caught:
        await peers.read_all_of(parts, 500_000)
    assert caught.value.missing == 500_000 - left - 10
    assert list(parts) == [FileSpan(sparse, left, 500_000 - left)]


class Refuses:
    """In place of a TLS socket: takes nothing so many times, then all."""

    def __init__(self, sock: socket.socket, times: int) -> None:
        self._sock = sock
        self.refuse(times)

    def refuse(self, times: int) -> None:
        self._times = times
        self.offered: list[bytes | memoryview] = []

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, data: bytes | memoryview) -> int:
        self.offered.append(data)
        if len(self.offered) <= self._times:
            raise ssl.SSLWantWriteError
        return len(data)


async def test_what_is_owed_is_at_the_same_place_when_it_is_tried_again(peers: Peers, noise: IO[bytes]) -> None:
    """openssl#21202: where the kernel encrypts, OpenSSL sends what lies at the old place by then, whosever it is."""
    for parts in (deque[Part]([b"he", b"ad"]), deque[Part]([FileSpan(noise, 5, 1000)])):
        expected = b"".join(map(content, parts))
        refusing = Refuses(peers.near, 2)
        buffer = bytearray(PIECE)
        sender = TlsSender(refusing, buffer)  # type: ignore[arg-type]
        for _ in range(2):
            with pytest.raises(trio.WouldBlock):
                sender.step(parts, PIECE)
            buffer[:] = bytes(PIECE)  # somebody else's file
            if isinstance(parts[0], bytes):
                parts[1] = bytes(parts[1])[:2] + b"more"
        assert sender.step(parts, 1) == len(expected)
        first, *others = refusing.offered
        assert all(other is first or memoryview(other).obj is buffer for other in others)
        assert bytes(first) == expected


async def test_the_more_a_peer_takes_the_larger_the_writes(peers: Peers, sparse: IO[bytes]) -> None:
    """Large ones cost less; a small one is what is read again in vain for a reader who takes little."""
    sparse.truncate(5 * BURST)
    socket_ = Refuses(peers.near, 0)
    sender = TlsSender(socket_, bytearray(PIECE))  # type: ignore[arg-type]
    parts: deque[Part] = deque([whole(sparse)])
    for _ in range(4):
        assert sender.step(parts, BURST) == BURST
    assert [len(data) >> 10 for data in socket_.offered] == [64] * 4 + [128] * 2 + [256] * 2
    socket_.refuse(2)
    for _ in range(2):
        with pytest.raises(trio.WouldBlock):
            sender.step(parts, BURST)
    assert sender.step(parts, BURST) == sender.sent - 4 * BURST == BURST  # what is owed remains as large as it was
    socket_.refuse(0)
    assert sender.step(deque([bytes(BURST)]), 100_000) == 100_000
    assert [len(data) for data in socket_.offered] == [1 << 16, 100_000 - (1 << 16)]


async def test_small_blocks_are_joined_and_large_ones_are_not(peers: Peers) -> None:
    socket_ = Refuses(peers.near, 0)
    sender = TlsSender(socket_, bytearray(PIECE))  # type: ignore[arg-type]
    for _ in range(2):
        sender.step(deque([bytes(BURST)]), BURST)
    large, small = bytes(100_000), [bytes(30_000)] * 5
    socket_.refuse(0)
    parts: deque[Part] = deque([large, *small])
    assert sender.step(parts, BURST) == 250_000
    assert [len(data) for data in socket_.offered] == [100_000, 1 << 16, 1 << 16, 150_000 - (2 << 16)]
    assert memoryview(socket_.offered[0]).obj is large


async def test_a_peer_that_breaks_the_rules_has_gone(peers: Peers) -> None:
    peers.fill(deque([bytes(1 << 20)]))
    reset(peers.far)
    with pytest.raises(ConnectionError):
        for _ in range(2):
            peers.sender.step(deque([bytes(1 << 20)]), PIECE)


# -- never unencrypted -------------------------------------------------------------------------------------------------


async def test_a_tls_socket_without_its_sender_is_refused(peers: Peers, tls_pump: Pump, noise: IO[bytes]) -> None:
    """By its descriptor, sendfile(2) would write the file as it is between the records."""
    with pytest.raises(ValueError, match="TlsSender"):
        await tls_pump.deliver(peers.near, deque([whole(noise)]))
    with pytest.raises(ValueError, match="TlsSender"):
        await send_all(peers.near, whole(noise))
    with pytest.raises(ValueError, match="TlsSender"):
        await send_some(peers.near, b"secret")
    with pytest.raises(ValueError, match="TlsSender"):
        send_some_nowait(peers.near, whole(noise))
    with pytest.raises(ValueError, match="TlsSender"):
        send_nowait(peers.near, deque([whole(noise)]))
    with pytest.raises(ValueError, match="TlsSender"):
        tls_pump.push_nowait(peers.near, deque([whole(noise)]))
    plain, other = socket.socketpair()
    with plain, other:
        plain.setblocking(False)
        with pytest.raises(ValueError, match="TlsSender"):
            await tls_pump.deliver(plain, deque([b"x"]), sender=peers.sender)
    with pytest.raises(ssl.SSLWantReadError):
        peers.far.recv(1)


async def test_the_sender_of_another_socket_is_refused(peers: Peers, tls_pump: Pump) -> None:
    """Its peer would be sent what is meant for somebody else."""
    stranger = Peers(tcp_pair(), VERSIONS["1.3"])
    parts: deque[Part] = deque([b"secret"])
    with pytest.raises(ValueError, match="must be that of"):
        await tls_pump.deliver(peers.near, parts, sender=stranger.sender)
    assert list(parts) == [b"secret"]
    with pytest.raises(ssl.SSLWantReadError):
        stranger.far.recv(1)
    stranger.close()


@ONE_VERSION
async def test_a_buffer_that_no_file_can_be_read_into_is_refused(peers: Peers) -> None:
    """Where it is made: later a file would seem to be at its end."""
    for buffer in (bytearray(), bytes(10)):
        with pytest.raises(ValueError, match=r"bytearray\(PIECE\), not (0|10) bytes"):
            TlsSender(peers.near, buffer)  # type: ignore[arg-type]


# -- the pump ----------------------------------------------------------------------------------------------------------


@ONE_VERSION
async def test_all_arrives_once_and_in_order(peers: Peers, tls_pump: Pump, noise: IO[bytes]) -> None:
    parts: deque[Part] = deque(
        [b"head", b"", FileSpan(noise, 13, 400_009), FileSpan(noise, 0, 0), bytearray(b"tail"), FileSpan(noise, 7, 1)]
    )
    expected = b"".join(map(content, parts))
    steps: list[int] = []
    arrived: list[bytes] = []

    async def read() -> None:
        arrived.append(await peers.receive(len(expected)))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            result = await tls_pump.deliver(peers.near, parts, sender=peers.sender, progress=steps.append)
    assert arrived == [expected]
    assert not parts
    assert result == sum(steps) == len(expected)


@ONE_VERSION
async def test_cancelled_half_way_the_rest_can_be_sent_later(peers: Peers, tls_pump: Pump, noise: IO[bytes]) -> None:
    parts: deque[Part] = deque([whole(noise)])
    expected = content(parts[0])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: tls_pump.deliver(peers.near, parts, sender=peers.sender))
        while not peers.sender.owed:  # noqa: ASYNC110
            await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    assert parts
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: tls_pump.deliver(peers.near, parts, sender=peers.sender))
            arrived = await peers.receive(len(expected))
    assert arrived == expected


@ONE_VERSION
async def test_a_peer_that_does_not_read_stalls(peers: Peers, tls_pump: Pump, noise: IO[bytes]) -> None:
    parts: deque[Part] = deque([whole(noise)])
    with pytest.raises(Stalled):
        await tls_pump.deliver(peers.near, parts, sender=peers.sender, idle_timeout=0.1)
    assert parts


@ONE_VERSION
async def test_rates_hold(peers: Peers, tls_pump: Pump, noise: IO[bytes]) -> None:
    parts: deque[Part] = deque([FileSpan(noise, 0, 40_000)])
    began = trio.current_time()
    await tls_pump.deliver(peers.near, parts, sender=peers.sender, rate=Rate(40_000))
    assert trio.current_time() - began > 0.5
    assert await peers.receive(40_000) == content(FileSpan(noise, 0, 40_000))


@ONE_VERSION
async def test_a_reader_that_is_too_slow(peers: Peers, tls_pump: Pump, noise: IO[bytes]) -> None:
    with pytest.raises(TooSlow):
        await tls_pump.deliver(
            peers.near, deque([whole(noise)]), sender=peers.sender, min_rate=MinRate(10_000_000, 0.5)
        )


class ColdDisk(Disk):
    """Nothing is in memory but what was fetched, and that is noted."""

    def __init__(self) -> None:
        self.fetched: list[tuple[int, int]] = []
        self.gate = threading.Event()

    def probe(self, fd: int, offset: int) -> bool:
        return any(first <= offset < end for first, end in self.fetched)

    def fetch(self, fd: int, offset: int, count: int, kernel: bool = True) -> None:
        assert self.gate.wait(20)
        self.fetched.append((offset, offset + count))


@ONE_VERSION
@pytest.mark.parametrize("epoll", [True, False])
async def test_cold_bytes_are_fetched_before_they_are_read(epoll: bool, peers: Peers, noise: IO[bytes]) -> None:
    """The head leaves at once; the event loop never reads what would have it wait for the disk."""
    disk = ColdDisk()
    pump = Pump(epoll=epoll, disk=disk)
    parts: deque[Part] = deque([b"head", FileSpan(noise, 3, 1_000_000)])
    expected = content(parts[1])
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(pump.run)
            nursery.start_soon(lambda: pump.deliver(peers.near, parts, sender=peers.sender))
            assert await peers.receive(4) == b"head"
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert peers.received() == b""
            disk.gate.set()
            assert await peers.receive(1_000_000) == expected
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
    assert sum(end - first for first, end in disk.fetched) == 1_000_000


@ONE_VERSION
async def test_what_a_thread_has_read_is_encrypted_from_there(peers: Peers, sparse: IO[bytes]) -> None:
    """Where a file system keeps nothing in memory, or may ask its server again: the event loop does not read it."""
    said = os.urandom(1_000_003)
    sparse.truncate(len(said))
    async with trio.open_nursery() as nursery:
        await nursery.start((pump := Pump(disk=Keepless(said))).run)
        nursery.start_soon(lambda: pump.deliver(peers.near, deque([whole(sparse)]), sender=peers.sender))
        with trio.fail_after(20):
            assert await peers.receive(len(said)) == said
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()


def test_what_is_said_of_an_error_is_about_the_peer() -> None:
    """Not about a line of Python's own source, nor only that something failed."""
    cut = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol (_ssl.c:2427)")
    cut.reason = None  # type: ignore[assignment]  # as it comes from there
    assert describe(cut) == "TLS: eof occurred in violation of protocol"
    refused = ssl.SSLCertVerificationError(1, "[SSL: X] certificate verify failed: it is old (_ssl.c:1006)")
    refused.reason, refused.verify_message = "CERTIFICATE_VERIFY_FAILED", "certificate has expired"
    assert describe(refused) == "TLS: certificate verify failed: certificate has expired"
