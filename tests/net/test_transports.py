"""One suite for both transports: what the verbs of a plain socket promise, TLS keeps (issue 5)."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio
import trio.testing
from authority import shared_authority
from faults import reset_on_close

from sendfile import FileSpan, FileTooShort, MinRate, Part, Pump, Rate
from sendfile.held import held_by_kernel
from sendfile.tls import PIECE
from trio_wsgi import Config
from trio_wsgi.errors import AppError, ClientGone, ClientStalled, ClientTooSlow, DiskFailed
from trio_wsgi.net.certificates import open_tls
from trio_wsgi.net.tls import TlsTransport
from trio_wsgi.net.transport import Transport

LARGE = os.urandom(3_000_017)  # more than the buffers of these connections


class Ends:
    """A transport, and its peer as a blocking socket with a timeout."""

    def __init__(self, transport: Transport, peer: socket.socket) -> None:
        self.transport = transport
        self.peer = peer

    async def receive(self, size: int = 65536) -> bytes:
        """As the connection's task does it: try, wait, try again."""
        with trio.fail_after(10):
            while True:
                try:
                    return self.transport.receive_nowait(size)
                except trio.WouldBlock:
                    await self.transport.wait_readable()

    def read(self, count: int) -> bytes:
        """What the peer receives, up to `count` bytes or the end."""
        data = bytearray()
        while len(data) < count and (piece := self.peer.recv(min(65536, count - len(data)))):
            data += piece
        return bytes(data)

    def read_all(self) -> tuple[bytes, str]:
        """What the peer receives up to the end, and how that came."""
        data = bytearray()
        try:
            while piece := self.peer.recv(65536):
                data += piece
        except (ConnectionError, ssl.SSLError) as exc:
            return bytes(data), "cut" if isinstance(exc, ssl.SSLError) else "reset"
        return bytes(data), "closed"

    def leave(self) -> None:
        """Orderly."""
        if isinstance(self.peer, ssl.SSLSocket):
            self.peer.settimeout(0)
            with contextlib.suppress(ssl.SSLError):  # it does not wait for ours
                self.peer.unwrap()
        self.peer.close()

    def reset(self) -> None:
        reset_on_close(self.peer)
        self.peer.close()


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        peer.settimeout(10)
        peer.connect(listener.getsockname())
        near, _ = listener.accept()
    near.setblocking(False)
    return near, peer


async def connected_tls(pump: Pump) -> tuple[TlsTransport, ssl.SSLSocket]:
    authority, certfile = shared_authority()
    tls = open_tls(Config(certfile=(certfile,)))
    assert tls is not None
    near, peer = connected()
    context = authority.client_context()
    transport = TlsTransport(near, tls.context, bytearray(PIECE), pump)
    secured: list[ssl.SSLSocket] = []

    def shake() -> None:
        secured.append(context.wrap_socket(peer, server_hostname="localhost", suppress_ragged_eofs=False))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, shake)
        await transport.shake_hands(10)
    return transport, secured[0]


@pytest.fixture(params=["plain", "tls"])
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[Ends]:
    pump = Pump()
    async with trio.open_nursery() as nursery:
        await nursery.start(pump.run)
        if request.param == "tls":
            made = Ends(*await connected_tls(pump))
        else:
            near, peer = connected()
            made = Ends(Transport(near, pump), peer)
        yield made
        made.transport.close()
        made.peer.close()
        nursery.cancel_scope.cancel()


# -- receiving ---------------------------------------------------------------------------------------------------------


async def test_nothing_has_arrived(ends: Ends) -> None:
    with pytest.raises(trio.WouldBlock):
        ends.transport.receive_nowait(100)


async def test_bytes_arrive(ends: Ends) -> None:
    ends.peer.sendall(b"hello")
    assert await ends.receive() == b"hello"
    with pytest.raises(trio.WouldBlock):
        ends.transport.receive_nowait(100)


async def test_what_is_left_of_what_arrived_is_waited_for_at_once(ends: Ends) -> None:
    """The kernel has no more of a record that was read in part (SSL_pending(3)): no poll would tell of the rest."""
    ends.peer.sendall(b"hello")
    assert await ends.receive(2) == b"he"
    with trio.fail_after(5):
        await ends.transport.wait_readable()
    assert ends.transport.receive_nowait(100) == b"llo"


async def test_much_arrives_in_order(ends: Ends) -> None:
    arrived = bytearray()
    with ThreadPoolExecutor(1) as other:
        other.submit(ends.peer.sendall, LARGE)
        while len(arrived) < len(LARGE):
            arrived += await ends.receive()
    assert arrived == LARGE


async def test_the_peer_ends_in_order(ends: Ends) -> None:
    ends.peer.sendall(b"last")
    ends.leave()
    assert await ends.receive() == b"last"
    assert await ends.receive() == b""


async def test_the_peer_resets(ends: Ends) -> None:
    ends.reset()
    with pytest.raises(ClientGone, match="while receiving"):
        await ends.receive()


# -- sending -----------------------------------------------------------------------------------------------------------


async def test_small_bytes_are_sent_at_once(ends: Ends) -> None:
    parts: deque[Part] = deque([b"he", b"", memoryview(b"ll"), bytearray(b"o")])
    assert ends.transport.send_nowait(parts) == 5
    assert not parts
    assert ends.read(5) == b"hello"


async def test_nothing_to_send(ends: Ends) -> None:
    assert ends.transport.send_nowait(deque()) == 0
    await ends.transport.deliver(deque(), 10)


async def test_the_kernel_takes_a_part_and_the_rest_can_follow(ends: Ends) -> None:
    parts: deque[Part] = deque([LARGE])
    sent = ends.transport.send_nowait(parts)
    assert 0 <= sent < len(LARGE)
    assert sum(map(len, parts)) == len(LARGE) - sent
    with ThreadPoolExecutor(1) as other:
        arrived = other.submit(ends.read, len(LARGE))
        with trio.fail_after(20):
            while parts:
                await ends.transport.wait_writable()
                ends.transport.send_nowait(parts)
        assert arrived.result() == LARGE


async def test_writable_tells_whether_the_kernel_takes_more(ends: Ends) -> None:
    assert ends.transport.writable_nowait()
    parts: deque[Part] = deque([LARGE])
    with trio.fail_after(10):
        while ends.transport.writable_nowait():  # the peer's buffer grows for a moment
            ends.transport.send_nowait(parts)
            await trio.sleep(0.05)
    assert parts
    assert held_by_kernel(ends.transport.sock) > 0


async def test_sending_to_a_peer_that_has_gone(ends: Ends) -> None:
    ends.reset()
    with pytest.raises(ClientGone, match="while sending"):
        for _ in range(3):
            ends.transport.send_nowait(deque([LARGE]))
    with pytest.raises(ClientGone):
        await ends.transport.deliver(deque([LARGE]), 10)


# -- delivering --------------------------------------------------------------------------------------------------------


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    return path


async def test_bytes_and_files_are_delivered(ends: Ends, large_file: Path) -> None:
    steps: list[int] = []
    with large_file.open("rb") as file, ThreadPoolExecutor(1) as other:
        parts: deque[Part] = deque([b"head", FileSpan(file, 3, len(LARGE) - 3), b"tail"])
        arrived = other.submit(ends.read, len(LARGE) + 5)
        with trio.fail_after(20):
            await ends.transport.deliver(parts, 10, steps.append)
        assert arrived.result() == b"head" + LARGE[3:] + b"tail"
    assert not parts
    assert sum(steps) == len(LARGE) + 5


async def test_a_peer_that_does_not_read_has_stalled(ends: Ends, large_file: Path) -> None:
    with large_file.open("rb") as file:
        parts: deque[Part] = deque([FileSpan(file, 0, len(LARGE))])
        with trio.fail_after(10), pytest.raises(ClientStalled, match="write_timeout"):
            await ends.transport.deliver(parts, 0.3)
        assert parts


async def test_a_peer_that_reads_too_slowly(ends: Ends, large_file: Path) -> None:
    with large_file.open("rb") as file, trio.fail_after(10), pytest.raises(ClientTooSlow, match="min_send_rate"):
        await ends.transport.deliver(deque([FileSpan(file, 0, len(LARGE))]), 10, min_rate=MinRate(10**9, 0.3))


async def test_a_rate_holds(ends: Ends) -> None:
    began = trio.current_time()
    await ends.transport.deliver(deque([LARGE[:4000]]), 10, rate=Rate(8000))
    assert trio.current_time() - began > 0.15
    assert ends.read(4000) == LARGE[:4000]


async def test_a_file_that_is_too_short_or_cannot_be_read(ends: Ends, large_file: Path) -> None:
    with large_file.open("rb") as file:
        with pytest.raises(FileTooShort):
            await ends.transport.deliver(deque([FileSpan(file, len(LARGE) - 2, 5)]), 10)
        assert ends.read(2) == LARGE[-2:]
        span = FileSpan(file, 0, 5)
    with pytest.raises(AppError, match="could not be read"):
        await ends.transport.deliver(deque([span]), 10)
    with large_file.with_suffix(".w").open("wb") as unreadable, pytest.raises(AppError):
        await ends.transport.deliver(deque([FileSpan(unreadable, 0, 5)]), 10)


@pytest.mark.parametrize("ends", ["plain"], indirect=True)
@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC])
async def test_a_lack_of_the_systems_is_not_said_to_be_the_disks(
    error: int, ends: Ends, large_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sendfile(2) fails where the network's buffers are used up, and epoll_ctl(2) where the user's watches are."""

    def fail(*_: int) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "sendfile", fail)
    with (
        large_file.open("rb") as file,
        pytest.raises(DiskFailed, match="could not be sent on for what the system lacks"),
    ):
        await ends.transport.deliver(deque([FileSpan(file, 0, len(LARGE))]), 10)


async def test_a_delivery_that_is_cancelled_leaves_what_was_not_sent(ends: Ends) -> None:
    parts: deque[Part] = deque([LARGE])
    with trio.move_on_after(0.1):
        await ends.transport.deliver(parts, 10)
    left = sum(map(len, parts))
    assert 0 < left <= len(LARGE)
    ends.transport.close()
    arrived, _ = ends.read_all()
    assert arrived == LARGE[: len(arrived)]
    assert len(arrived) <= len(LARGE) - left + PIECE  # within TLS records that the kernel took the first of


async def test_what_the_peer_has_taken_can_be_told(ends: Ends) -> None:
    """A drain asks it: whoever takes bytes is not cut, however few they are and whatever the kernel holds for him."""
    sent = 0

    def note(count: int) -> None:
        nonlocal sent
        sent += count

    def taken() -> int:
        return sent - ends.transport.held()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.transport.deliver, deque([LARGE]), 10, note)
        with trio.fail_after(10):
            before = -1
            while taken() > before:  # up to what the buffers take
                before = taken()
                await trio.sleep(0.1)
        read, last = 0, before
        for _ in range(40):
            read += len(await trio.to_thread.run_sync(ends.read, 10_000))
            now = taken()
            assert now > last - 4096  # what makes records of bytes is held, too
            assert abs(now - before - read) < 100_000  # a peer of small buffers acknowledges late, and in steps
            last = now
        nursery.cancel_scope.cancel()


# -- ending ------------------------------------------------------------------------------------------------------------


async def test_the_end_of_sending_is_seen_and_receiving_goes_on(ends: Ends) -> None:
    ends.transport.send_nowait(deque([b"last"]))
    ends.transport.end_sending()
    ends.transport.end_sending()
    assert ends.read_all() == (b"last", "closed")
    if isinstance(ends.peer, ssl.SSLSocket):
        raw = socket.socket(fileno=os.dup(ends.peer.fileno()))  # it is only to be seen that bytes come, and the end
        with raw:
            raw.sendall(b"more")
            assert await ends.receive()
            raw.shutdown(socket.SHUT_WR)
            assert await ends.receive() == b""
    else:
        ends.peer.sendall(b"more")
        assert await ends.receive() == b"more"
        ends.peer.close()
        assert await ends.receive() == b""


async def test_a_close_is_orderly(ends: Ends) -> None:
    ends.transport.send_nowait(deque([b"last"]))
    ends.transport.close()
    ends.transport.close()
    assert ends.read_all() == (b"last", "closed")


async def test_an_abort_is_seen_as_one(ends: Ends) -> None:
    ends.transport.send_nowait(deque([b"part"]))
    assert ends.read(4) == b"part"
    ends.transport.abort()
    arrived, how = ends.read_all()
    assert (arrived, how != "closed") == (b"", True)


async def test_a_close_wakes_whoever_waits(ends: Ends) -> None:
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await ends.transport.wait_readable()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        ends.transport.close()
