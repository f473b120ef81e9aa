"""Connections as such: how many, clients that come and go, descriptors that run out (PAINS 31, 35, 47)."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
from answers import read_answer
from asking import CLOSE, KEPT, hello
from faults import reset
from serving import Command, command, read_all, receive_all, serving
from waiting import wait_until

from trio_wsgi.net.descriptors import Reserve

# -- connection_limit ------------------------------------------------------------------------------------------------


async def test_at_the_limit_the_kernel_queues_and_nobody_is_reset() -> None:
    async with serving(hello, connection_limit=3, keep_alive=5) as served:
        with trio.fail_after(10):
            held = [await served.connect() for _ in range(3)]
            for stream in held:
                await stream.send_all(KEPT)
                assert b"hello" in await stream.receive_some()
            waiting = [await served.connect() for _ in range(4)]  # the kernel completes the handshake
            for stream in waiting:
                await stream.send_all(CLOSE)
            with trio.move_on_after(0.2) as silence:
                await waiting[0].receive_some()
            assert silence.cancelled_caught
            assert "3 connections" in repr(served.server)
            await held[0].aclose()  # one place: those who wait have it one after the other
            for stream in waiting:
                assert read_answer(await receive_all(stream)).body == b"hello"
            for stream in held[1:] + waiting:
                await stream.aclose()


async def test_a_limit_of_one_serves_everybody_in_turn() -> None:
    async with serving(hello, connection_limit=1) as served, trio.open_nursery() as nursery:

        async def ask() -> None:
            assert read_answer(await served.exchange(CLOSE)).body == b"hello"

        for _ in range(20):
            nursery.start_soon(ask)


# -- clients that come and go ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [trio.SocketStream.aclose, reset], ids=["close", "reset"])
@pytest.mark.parametrize("sent", [b"", b"G", KEPT, KEPT * 50, b"nonsense\r\n\r\n"])
async def test_a_crowd_that_connects_and_leaves(
    sent: bytes, leave: Callable[[trio.SocketStream], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """PAINS 35 (hypercorn#225): one bad client ended the whole server."""
    async with serving(hello, backlog=512) as served:
        with trio.fail_after(10):
            for _ in range(60):
                stream = await served.connect()
                await stream.send_all(sent)
                await leave(stream)
            assert read_answer(await served.exchange(CLOSE)).body == b"hello"
            await served.wait_connections(0)
    assert not [line for line in caplog.records if line.exc_info]


async def test_a_client_that_resets_while_it_is_still_in_the_queue() -> None:
    # accept(2) gives a dead socket, or ECONNABORTED; SO_LINGER 0 on one that was never accepted
    async with serving(hello, connection_limit=1) as served:
        with trio.fail_after(10):
            first = await served.connect()
            await first.send_all(KEPT)
            await first.receive_some()
            for _ in range(5):
                await reset(await served.connect())
            await first.aclose()
            assert read_answer(await served.exchange(CLOSE)).body == b"hello"


# -- the process -----------------------------------------------------------------------------------------------------

APP = """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/file":
        start_response("200 OK", [("X-Accel-Redirect", "/files/served")])
        return []
    start_response("200 OK", [])
    return [b"hello"]
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Command]:
    (tmp_path / "hello_app.py").write_text(APP)
    (tmp_path / "served").write_bytes(b"the file")
    with command("hello_app:app", "-b", "127.0.0.1:0", "--accel", f"/files/={tmp_path}", cwd=tmp_path) as process:
        yield process


def _ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(CLOSE)
        return read_all(sock)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads CPU time from /proc")
def test_half_open_connections_cost_no_cpu(running: Command) -> None:
    """PAINS 47 (waitress#418, GHSA-3f84-rpwh-47g6): select() on a socket whose peer has closed its side spun."""
    with contextlib.ExitStack() as stack:
        for number in range(40):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=5))
            sock.sendall(
                (b"", b"GET / HT", KEPT, b"PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\n")[number % 4]
            )
            if number % 8 < 4:
                sock.shutdown(socket.SHUT_WR)
        assert b"hello" in _ask(running.port)
        time.sleep(0.2)
        before = _cpu_seconds(running.process.pid)
        time.sleep(0.5)
        assert _cpu_seconds(running.process.pid) - before < 0.2
        assert b"hello" in _ask(running.port)


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    (tmp_path / "hello_app.py").write_text(APP)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        with command("hello_app:app", "-b", "127.0.0.1:0", cwd=tmp_path) as running:
            given = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert given == (hard, hard)


def _leave_descriptors(running: Command, count: int) -> None:
    """Have the process get no more than so many."""
    pid = running.process.pid
    limit = len(list(Path(f"/proc/{pid}/fd").iterdir())) + count
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))


def _await_complaint(running: Command) -> None:
    wait_until(lambda: "cannot accept for now: Too many open files" in running.log)


def test_running_out_of_descriptors_is_survived(running: Command) -> None:
    # said once, nobody reset; those who wait are served when descriptors are given back
    began = time.monotonic()
    _leave_descriptors(running, 24)  # some ten for connections
    socks = [socket.create_connection(("127.0.0.1", running.port), timeout=10) for _ in range(30)]
    try:
        for sock in socks:
            sock.sendall(CLOSE)
        # The first ones are answered and give their descriptors back: all of them are.
        answers = [read_all(sock) for sock in socks]
        assert all(answer.endswith(b"hello") for answer in answers)
    finally:
        for sock in socks:
            sock.close()

    held = [socket.create_connection(("127.0.0.1", running.port), timeout=10) for _ in range(30)]
    try:
        for sock in held:
            sock.sendall(KEPT)
        _await_complaint(running)
        before = _cpu_seconds(running.process.pid)
        time.sleep(0.5)
        assert _cpu_seconds(running.process.pid) - before < 0.2  # no busy loop on a listener that stays readable
        assert held[0].recv(65536).endswith(b"hello")  # who is in is served all the while
        for sock in held[:20]:
            sock.close()
        for sock in held[20:]:
            assert sock.recv(65536).endswith(b"hello")
    finally:
        for sock in held:
            sock.close()
    assert b"hello" in _ask(running.port)
    assert "Traceback" not in running.log
    assert running.log.count("cannot accept for now") <= 1 + (time.monotonic() - began) / 10


def test_without_any_descriptor_the_kernel_queues(running: Command) -> None:
    # EMFILE (accept(2)): said, nobody reset; who waits is served when there are some
    _leave_descriptors(running, 0)
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as sock:
        sock.sendall(CLOSE)
        _await_complaint(running)
        _leave_descriptors(running, 30)
        assert read_all(sock).endswith(b"hello")


def test_who_is_served_finds_descriptors_however_many_are_silent(running: Command) -> None:
    """Silent connections do not get the last descriptors: a file is opened for one who was in before, or came since."""
    _leave_descriptors(running, 40)
    first = socket.create_connection(("127.0.0.1", running.port), timeout=10)
    silent = [socket.create_connection(("127.0.0.1", running.port), timeout=10) for _ in range(60)]
    try:
        _await_complaint(running)
        for sock in (first, silent[0]):
            sock.sendall(b"GET /file HTTP/1.1\r\nHost: test\r\n\r\n")
            assert sock.recv(65536).endswith(b"the file")
    finally:
        for sock in [first, *silent]:
            sock.close()
    assert b"hello" in _ask(running.port)


def test_the_reserve_is_a_share_of_the_limit_as_it_is_now() -> None:
    """And where it is touched, the limit may have been raised meanwhile; all but a quarter is for connections."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    a, b = socket.socketpair()
    try:
        lowest = min(a.fileno(), b.fileno())
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))  # a quarter or less: both are in it
        reserve = Reserve()
        for see in (reserve.note, reserve.look):
            see(a)
            assert reserve.touched
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for see in (reserve.note, reserve.look):
            see(a)
            assert not reserve.touched
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        a.close()
        b.close()
