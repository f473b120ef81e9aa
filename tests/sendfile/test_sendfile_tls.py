"""`TlsSender`, a step at a time: as on a plain socket, with one copy, and what is owed goes out as it was."""

from __future__ import annotations

import os
import socket
import ssl
from collections import deque
from typing import IO

import pytest
import trio
from sendfile_peers import ONE_VERSION, Peers
from sendfile_wires import content, reset, whole

from sendfile import PIECE, FileSpan, FileTooShort, Part, TlsSender
from sendfile.tls import describe


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
    sparse.truncate(5 * PIECE)
    socket_ = Refuses(peers.near, 0)
    sender = TlsSender(socket_, bytearray(PIECE))  # type: ignore[arg-type]
    parts: deque[Part] = deque([whole(sparse)])
    for _ in range(4):
        assert sender.step(parts, PIECE) == PIECE
    assert [len(data) >> 10 for data in socket_.offered] == [64] * 4 + [128] * 2 + [256] * 2
    socket_.refuse(2)
    for _ in range(2):
        with pytest.raises(trio.WouldBlock):
            sender.step(parts, PIECE)
    assert sender.step(parts, PIECE) == sender.sent - 4 * PIECE == PIECE  # what is owed remains as large as it was
    socket_.refuse(0)
    assert sender.step(deque([bytes(PIECE)]), 100_000) == 100_000
    assert [len(data) for data in socket_.offered] == [1 << 16, 100_000 - (1 << 16)]


async def test_small_blocks_are_joined_and_large_ones_are_not(peers: Peers) -> None:
    socket_ = Refuses(peers.near, 0)
    sender = TlsSender(socket_, bytearray(PIECE))  # type: ignore[arg-type]
    for _ in range(2):
        sender.step(deque([bytes(PIECE)]), PIECE)
    large, small = bytes(100_000), [bytes(30_000)] * 5
    socket_.refuse(0)
    parts: deque[Part] = deque([large, *small])
    assert sender.step(parts, PIECE) == 250_000
    assert [len(data) for data in socket_.offered] == [100_000, 1 << 16, 1 << 16, 150_000 - (2 << 16)]
    assert memoryview(socket_.offered[0]).obj is large


async def test_a_peer_that_breaks_the_rules_has_gone(peers: Peers) -> None:
    peers.fill(deque([bytes(1 << 20)]))
    reset(peers.far)
    with pytest.raises(ConnectionError):
        for _ in range(2):
            peers.sender.step(deque([bytes(1 << 20)]), PIECE)


@ONE_VERSION
async def test_a_buffer_that_no_file_can_be_read_into_is_refused(peers: Peers) -> None:
    """Where it is made: later a file would seem to be at its end."""
    for buffer in (bytearray(), bytes(10)):
        with pytest.raises(ValueError, match=r"bytearray\(PIECE\), not (0|10) bytes"):
            TlsSender(peers.near, buffer)  # type: ignore[arg-type]


def test_what_is_said_of_an_error_is_about_the_peer() -> None:
    """Not about a line of Python's own source, nor only that something failed."""
    cut = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol (_ssl.c:2427)")
    cut.reason = None  # type: ignore[assignment]  # as it comes from there
    assert describe(cut) == "TLS: eof occurred in violation of protocol"
    refused = ssl.SSLCertVerificationError(1, "[SSL: X] certificate verify failed: it is old (_ssl.c:1006)")
    refused.reason, refused.verify_message = "CERTIFICATE_VERIFY_FAILED", "certificate has expired"
    assert describe(refused) == "TLS: certificate verify failed: certificate has expired"
