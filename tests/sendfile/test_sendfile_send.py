"""The non-blocking steps and their two waits: what the kernel took is what counts."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Iterable
from typing import IO

import pytest
import trio
from sendfile_wires import Connect, Pair, drain, fill, queue, receive, reset, tcp_pair, tighten

from sendfile import STEP, FileSpan, FileTooShort, Part, send_all, send_nowait, send_some, send_some_nowait

HOLE = 5 * 2**30 + 7


def data_segments(sock: socket.socket) -> int:
    """tcpi_data_segs_out of struct tcp_info (linux/tcp.h)."""
    return int(struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160), 156)[0])


def test_an_empty_part_takes_no_call(pair: Pair, noise: IO[bytes]) -> None:
    near, _ = pair
    fill(near)
    assert send_some_nowait(near, b"") == send_some_nowait(near, FileSpan(noise, 9, 0)) == 0


def test_a_full_buffer_is_would_block(pair: Pair, noise: IO[bytes], kernel: bool) -> None:
    near, _ = pair
    fill(near)
    for part in (b"x", FileSpan(noise, 0, 10)):
        with pytest.raises(trio.WouldBlock):
            send_some_nowait(near, part, kernel=kernel)


def test_a_step_stays_below_its_limit(pair: Pair, noise: IO[bytes], kernel: bool) -> None:
    near, far = pair
    assert send_some_nowait(near, FileSpan(noise, 5, 1000), 7, kernel=kernel) == 7
    assert send_some_nowait(near, memoryview(b"abcdefgh").cast("I"), 3) == 3
    noise.seek(5)
    assert far.recv(100) == noise.read(7) + b"abc"
    with pytest.raises(ValueError, match="at least 1"):
        send_some_nowait(near, b"x", 0)


def test_an_offset_beyond_4_gib(pair: Pair, sparse: IO[bytes], kernel: bool) -> None:
    sparse.seek(HOLE)
    sparse.write(b"behind the hole")
    near, far = pair
    assert send_some_nowait(near, FileSpan(sparse, HOLE - 2, 17), kernel=kernel) == 17
    assert far.recv(100) == b"\0\0behind the hole"


def test_a_file_that_ended_early(pair: Pair, sparse: IO[bytes], kernel: bool) -> None:
    near, far = pair
    sparse.write(b"12345")
    parts: deque[Part] = deque([FileSpan(sparse, 2, 10), b"never"])
    with pytest.raises(FileTooShort, match="7 bytes early") as caught:
        while parts:
            send_nowait(near, parts, kernel=kernel)
    assert (caught.value.missing, caught.value.span) == (7, FileSpan(sparse, 5, 7))
    assert list(parts) == [FileSpan(sparse, 5, 7), b"never"]
    assert far.recv(100) == b"345"


@pytest.mark.parametrize(
    "code", ["EPERM", "EINVAL", "ENOSYS", "EOPNOTSUPP", "ENOTSUP", "ENOTSOCK", "EOVERFLOW", "missing"]
)
def test_where_the_kernel_cannot_the_bytes_are_copied(
    code: str, noise: IO[bytes], monkeypatch: pytest.MonkeyPatch, pair: Pair
) -> None:
    def sendfile(*_: object) -> int:
        number = getattr(errno, code)
        raise OSError(number, os.strerror(number))

    if code == "missing":
        monkeypatch.delattr(os, "sendfile")
    else:
        monkeypatch.setattr(os, "sendfile", sendfile)
    near, far = pair
    assert send_some_nowait(near, FileSpan(noise, 1, 2000)) == 2000
    noise.seek(1)
    assert far.recv(4000) == noise.read(2000)


def test_an_error_of_the_file_is_not_a_connection_error(
    noise: IO[bytes], monkeypatch: pytest.MonkeyPatch, pair: Pair
) -> None:
    def sendfile(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "sendfile", sendfile)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
        send_some_nowait(pair[0], FileSpan(noise, 0, 10))
    assert not isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize("bytes_part", [True, False], ids=["bytes", "span"])
def test_a_peer_that_has_gone(bytes_part: bool, pair: Pair, noise: IO[bytes], kernel: bool) -> None:
    near, far = pair
    reset(far)
    with pytest.raises(ConnectionError):
        for _ in range(3):
            send_some_nowait(near, b"x" if bytes_part else FileSpan(noise, 0, 10), kernel=kernel)


def test_a_socket_closed_on_this_side(pair: Pair, noise: IO[bytes], kernel: bool) -> None:
    pair[0].close()
    for part in (b"x", FileSpan(noise, 0, 10)):
        with pytest.raises(trio.ClosedResourceError):
            send_some_nowait(pair[0], part, kernel=kernel)


def test_a_queue_is_consumed_as_far_as_the_kernel_took_it(pair: Pair, noise: IO[bytes], kernel: bool) -> None:
    near, far = pair
    tighten(near)
    parts: deque[Part] = deque([b"", b"head", FileSpan(noise, 11, 300_007), b"", bytearray(b"tail"), b""])
    noise.seek(11)
    expected = b"head" + noise.read(300_007) + b"tail"
    far.settimeout(5)
    got = bytearray()
    while parts:
        left = sum(map(len, parts))
        took = send_nowait(near, parts, kernel=kernel)
        assert left - took == sum(map(len, parts))
        readable, _, _ = select.select([far], [near] if parts else [], [], 5)
        if readable:
            got += far.recv(7919)
    while len(got) < len(expected):
        got += far.recv(1 << 20)
    assert got == expected


def test_a_limit_bounds_one_call(pair: Pair, noise: IO[bytes], kernel: bool) -> None:
    near, far = pair
    parts: deque[Part] = deque([b"abc", b"def", FileSpan(noise, 0, 100)])
    assert send_nowait(near, parts, 5, kernel=kernel) == 5
    assert bytes(parts[0]) == b"f"  # type: ignore[arg-type]
    assert send_nowait(near, parts, 11, kernel=kernel) == 11
    assert parts == deque([FileSpan(noise, 10, 90)])
    noise.seek(0)
    assert far.recv(100) == b"abcdef" + noise.read(10)


def test_more_than_64_buffers(pair: Pair) -> None:
    near, far = pair
    parts: deque[Part] = deque(bytes([n]) for n in range(200))
    assert send_nowait(near, parts) == 200
    assert not parts
    assert far.recv(1000) == bytes(range(200))


def test_nothing_is_consumed_when_the_buffer_is_full(pair: Pair, noise: IO[bytes]) -> None:
    near, far = pair
    filled = fill(near)
    parts: deque[Part] = deque([b"abc", FileSpan(noise, 0, 100)])
    assert send_nowait(near, parts) == 0
    assert parts == deque([b"abc", FileSpan(noise, 0, 100)])
    assert drain(far) == filled


@pytest.mark.parametrize("trio_socket", [False, True], ids=["stdlib", "trio"])
@pytest.mark.parametrize("body", [0, 1000])
async def test_head_and_small_body_share_one_packet(body: int, trio_socket: bool, noise: IO[bytes]) -> None:
    near, far = tcp_pair()
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with far:
        sock = trio.socket.from_stdlib_socket(near) if trio_socket else near
        with sock:
            assert send_nowait(sock, deque([b"h" * 100, b"-" * 100, FileSpan(noise, 0, body)])) == 200 + body
            assert data_segments(near) == 1
            assert len(far.recv(9999)) == 200 + body
            assert sock.fileno() >= 0
            assert send_nowait(sock, deque([b"still open"])) == 10


async def test_a_trio_socket_under_a_default_timeout(noise: IO[bytes]) -> None:
    """The socket module's default timeout must not make a borrowed descriptor wait."""
    near, far = tcp_pair()
    sock = trio.socket.from_stdlib_socket(near)
    with sock, far:
        fill(near)
        socket.setdefaulttimeout(30)
        try:
            with pytest.raises(trio.WouldBlock):
                send_some_nowait(sock, b"x")
        finally:
            socket.setdefaulttimeout(None)


async def test_send_some_waits_and_reports(pair: Pair, noise: IO[bytes], kernel: bool) -> None:
    near, far = pair
    filled = fill(near)
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            await trio.testing.wait_all_tasks_blocked()
            await receive(far, filled)

        nursery.start_soon(read)
        sent = await send_some(near, FileSpan(noise, 0, 50), kernel=kernel)
    assert 1 <= sent <= 50
    assert len(await receive(far, sent)) == sent


async def test_send_some_cancelled_has_sent_nothing(pair: Pair) -> None:
    near, far = pair
    with trio.CancelScope() as scope:
        scope.cancel()
        await send_some(near, b"x")
    assert scope.cancelled_caught
    assert drain(far) == 0


@pytest.mark.parametrize("full", [False, True])
async def test_both_execute_a_checkpoint(pair: Pair, full: bool) -> None:
    near, _ = pair
    with trio.testing.assert_checkpoints():
        await send_some(near, b"x")
    with trio.testing.assert_checkpoints():
        await send_all(near, b"" if full else b"x")


async def test_a_blocking_socket_is_refused(pair: Pair) -> None:
    """It would hold the event loop; the same for those that never wait."""
    pair[0].setblocking(True)
    parts = queue(b"x")
    for send in (lambda: send_some_nowait(pair[0], b"x"), lambda: send_nowait(pair[0], parts)):
        with pytest.raises(ValueError, match="non-blocking"):
            send()
    with pytest.raises(ValueError, match="non-blocking"):
        await send_some(pair[0], b"x")
    with pytest.raises(ValueError, match="non-blocking"):
        await send_all(pair[0], b"x")


async def test_send_all_takes_one_part_or_many_and_reports(connect: Connect, noise: IO[bytes]) -> None:
    many: list[Part | Iterable[Part]] = [
        b"abcd",
        [b"ab", b"cd"],
        (part for part in (memoryview(b"abc"), b"d")),
        FileSpan(noise, 0, 4),
    ]
    for parts in many:
        near, far = connect()
        steps: list[int] = []
        await send_all(near, parts, progress=steps.append)
        assert sum(steps) == len(far.recv(9)) == 4


async def test_send_all_is_told_of_a_close(pair: Pair) -> None:
    near, _ = pair
    fill(near)

    async def send() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await send_all(near, b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.notify_closing(near)
        near.close()


async def test_a_count_beyond_2_gib(sparse: IO[bytes], monkeypatch: pytest.MonkeyPatch, tcp: Pair) -> None:
    """sendfile(2) moves 0x7ffff000 bytes in a call at most; a span knows no such bound. (`test_five_gib` does send.)"""
    count = 2**31 + 12_345
    sparse.truncate(count)
    sent = 0

    def sendfile(out: int, file: int, offset: int, most: int) -> int:
        nonlocal sent
        assert offset == sent
        sent += most
        return most

    monkeypatch.setattr(os, "sendfile", sendfile)
    await send_all(tcp[0], FileSpan(sparse, 0, count))
    assert sent == count


async def test_one_call_is_asked_for_no_more_than_the_kernel_moves(
    sparse: IO[bytes], monkeypatch: pytest.MonkeyPatch, pair: Pair
) -> None:
    sparse.truncate(2**33)
    asked: list[int] = []

    def sendfile(out: int, file: int, offset: int, count: int) -> int:
        asked.append(count)
        return count

    monkeypatch.setattr(os, "sendfile", sendfile)
    assert send_some_nowait(pair[0], FileSpan(sparse, 0, 2**33), 2**33) == 0x7FFFF000
    assert send_some_nowait(pair[0], FileSpan(sparse, 0, 2**33)) == STEP
    assert asked == [0x7FFFF000, STEP]
