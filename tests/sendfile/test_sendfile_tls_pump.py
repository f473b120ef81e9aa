"""The pump on TLS sockets: the promises of plain ones, and nothing leaves unencrypted."""

from __future__ import annotations

import os
import socket
import ssl
from collections import deque
from typing import IO

import pytest
import trio
from sendfile_disks import Keepless, SlowDisk, no_thread
from sendfile_peers import ONE_VERSION, VERSIONS, Peers
from sendfile_pumps import begin, running
from sendfile_wires import content, queue, tcp_pair, whole
from trio.testing import MockClock, wait_all_tasks_blocked
from waiting import until

from sendfile import (
    PIECE,
    FileSpan,
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


async def test_a_tls_socket_without_its_sender_is_refused(peers: Peers, pump: Pump, noise: IO[bytes]) -> None:
    """By its descriptor, sendfile(2) would write the file as it is between the records."""
    with pytest.raises(ValueError, match="TlsSender"):
        await pump.deliver(peers.near, deque([whole(noise)]))
    with pytest.raises(ValueError, match="TlsSender"):
        await send_all(peers.near, whole(noise))
    with pytest.raises(ValueError, match="TlsSender"):
        await send_some(peers.near, b"secret")
    with pytest.raises(ValueError, match="TlsSender"):
        send_some_nowait(peers.near, whole(noise))
    with pytest.raises(ValueError, match="TlsSender"):
        send_nowait(peers.near, deque([whole(noise)]))
    with pytest.raises(ValueError, match="TlsSender"):
        pump.push_nowait(peers.near, deque([whole(noise)]))
    plain, other = socket.socketpair()
    with plain, other:
        plain.setblocking(False)
        with pytest.raises(ValueError, match="TlsSender"):
            await pump.deliver(plain, deque([b"x"]), sender=peers.sender)
    with pytest.raises(ssl.SSLWantReadError):
        peers.far.recv(1)


async def test_the_sender_of_another_socket_is_refused(peers: Peers, pump: Pump) -> None:
    """Its peer would be sent what is meant for somebody else."""
    stranger = Peers(tcp_pair(), VERSIONS["1.3"])
    parts: deque[Part] = deque([b"secret"])
    with pytest.raises(ValueError, match="must be that of"):
        await pump.deliver(peers.near, parts, sender=stranger.sender)
    assert list(parts) == [b"secret"]
    with pytest.raises(ssl.SSLWantReadError):
        stranger.far.recv(1)
    stranger.close()


@ONE_VERSION
async def test_all_arrives_once_and_in_order(peers: Peers, pump: Pump, noise: IO[bytes], nursery: trio.Nursery) -> None:
    parts: deque[Part] = deque(
        [b"head", b"", FileSpan(noise, 13, 400_009), FileSpan(noise, 0, 0), bytearray(b"tail"), FileSpan(noise, 7, 1)]
    )
    expected = b"".join(map(content, parts))
    steps: list[int] = []
    outcome = begin(nursery, pump, peers.near, parts, sender=peers.sender, progress=steps.append)
    with trio.fail_after(20):
        assert await peers.receive(len(expected)) == expected
    await outcome.wait_end()
    assert not parts
    assert outcome.sent == sum(steps) == len(expected)


@ONE_VERSION
async def test_cancelled_half_way_the_rest_can_be_sent_later(
    peers: Peers, pump: Pump, noise: IO[bytes], nursery: trio.Nursery
) -> None:
    parts = queue(whole(noise))
    expected = content(parts[0])
    cut = begin(nursery, pump, peers.near, parts, sender=peers.sender)
    await until(lambda: peers.sender.owed)
    cut.scope.cancel()
    await wait_all_tasks_blocked()
    assert parts
    assert pump.jobs() == []
    begin(nursery, pump, peers.near, parts, sender=peers.sender)
    with trio.fail_after(20):
        assert await peers.receive(len(expected)) == expected


@ONE_VERSION
async def test_a_peer_that_does_not_read_stalls(peers: Peers, pump: Pump, noise: IO[bytes]) -> None:
    parts: deque[Part] = deque([whole(noise)])
    with pytest.raises(Stalled):
        await pump.deliver(peers.near, parts, sender=peers.sender, idle_timeout=0.1)
    assert parts


@ONE_VERSION
async def test_rates_hold(peers: Peers, pump: Pump, noise: IO[bytes]) -> None:
    parts: deque[Part] = deque([FileSpan(noise, 0, 40_000)])
    began = trio.current_time()
    await pump.deliver(peers.near, parts, sender=peers.sender, rate=Rate(40_000))
    assert trio.current_time() - began > 0.5
    assert await peers.receive(40_000) == content(FileSpan(noise, 0, 40_000))


@ONE_VERSION
async def test_a_reader_that_is_too_slow(peers: Peers, pump: Pump, noise: IO[bytes]) -> None:
    with pytest.raises(TooSlow):
        await pump.deliver(peers.near, deque([whole(noise)]), sender=peers.sender, min_rate=MinRate(10_000_000, 0.5))


@ONE_VERSION
async def test_cold_bytes_are_fetched_before_they_are_read(
    cold_pump: Pump, disk: SlowDisk, peers: Peers, noise: IO[bytes], nursery: trio.Nursery
) -> None:
    """The head leaves at once; the event loop never reads what would have it wait for the disk."""
    parts = queue(b"head", FileSpan(noise, 3, 1_000_000))
    expected = content(parts[1])
    begin(nursery, cold_pump, peers.near, parts, sender=peers.sender)
    with trio.fail_after(20):
        assert await peers.receive(4) == b"head"
        await wait_all_tasks_blocked(0.01)
        assert peers.received() == b""
        disk.gate.release(1000)
        assert await peers.receive(1_000_000) == expected
    await wait_all_tasks_blocked(0.01)
    assert sum(end - first for first, end in disk.fetched) == 1_000_000


@ONE_VERSION
async def test_what_a_thread_has_read_is_encrypted_from_there(
    peers: Peers, sparse: IO[bytes], nursery: trio.Nursery
) -> None:
    """Where a file system keeps nothing in memory, or may ask its server again: the event loop does not read it."""
    said = os.urandom(1_000_003)
    sparse.truncate(len(said))
    async with running(Pump(disk=Keepless(said))) as pump:
        begin(nursery, pump, peers.near, queue(whole(sparse)), sender=peers.sender)
        with trio.fail_after(20):
            assert await peers.receive(len(said)) == said
        await wait_all_tasks_blocked(0.01)


@ONE_VERSION
@pytest.mark.parametrize("records", range(4))
async def test_what_is_owed_of_a_file_is_not_handed_over(
    epoll: bool,
    records: int,
    peers: Peers,
    sparse: IO[bytes],
    mock_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    nursery: trio.Nursery,
) -> None:
    """It is read again to where it was; bytes from a thread lie elsewhere, and others have used that place since.

    The records ahead of it are for the kernel to be full at each of the four of a write: only what follows that one is
    still to be encrypted.
    """
    ahead, said = bytes(records << 14), os.urandom(1_000_003)
    sparse.write(said)
    buffer = bytearray(PIECE)
    sender = TlsSender(peers.near, buffer)
    async with running(Pump(epoll=epoll, disk=Keepless(said))) as pump:
        with monkeypatch.context() as poor:
            poor.setattr(trio.lowlevel, "start_thread_soon", no_thread)
            begin(nursery, pump, peers.near, queue(ahead, whole(sparse)), sender=sender)
            await wait_all_tasks_blocked()
        assert sender.owed
        buffer[:] = bytes(PIECE)
        mock_clock.jump(2)  # after which nothing is believed to be in memory
        assert await peers.receive(len(ahead) + len(said)) == ahead + said
        await wait_all_tasks_blocked(0.01)
