"""A drain that knows downloads: who moves may finish, who has stopped reading holds nobody, what is cut can be resumed.

Waiting is measured with generous bounds; the looks of the drain are closer together than in production.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from answers import read_answer
from asking import PLAIN, Environ, StartResponse, error_lines, hello, request
from authority import shared_authority
from serving import Served, command, receive_all, serving
from waiting import until

import trio_wsgi.net.drain
from trio_wsgi import Outcome

SIZE = 12_000_000  # more than the kernel takes for a client that does not read
PIECE = 100_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio_wsgi.net.drain, "LOOK", 0.05)
    monkeypatch.setattr(trio_wsgi.net.drain, "WINDOW", 0.3)


def content(path: Path) -> bytes:
    return path.read_bytes()


class Files:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.stopped = threading.Event()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        where = environ["PATH_INFO"]
        start_response("200 OK", PLAIN)
        if where == "/file":
            return environ["wsgi.file_wrapper"](self.path.open("rb"))
        if where == "/blocks":
            return self.blocks()
        if where == "/computing":
            try:
                trio.from_thread.run(trio.sleep_forever)
            finally:
                self.stopped.set()
        return [b"hello"]

    def blocks(self) -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 100_000
        finally:
            self.stopped.set()


async def ask(served: Served, path: str) -> trio.SocketStream:
    stream = await served.connect(receive_buffer=65536)
    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
    return stream


async def read_steadily(stream: trio.SocketStream, pause: float = 0.01) -> bytes:
    """At PIECE / pause bytes per second at most."""
    received = bytearray()
    while piece := await stream.receive_some(PIECE):
        received += piece
        while len(received) % PIECE and (piece := await stream.receive_some(PIECE - len(received) % PIECE)):
            received += piece
        await trio.sleep(pause)
    return bytes(received)


async def test_one_that_moves_one_that_stalls_and_one_that_idles(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """PAINS 38-40: the idle one ends at once, the stalled one with graceful_timeout, the other one when it is done."""
    ended: dict[str, float] = {}
    with trio.fail_after(20):
        async with serving(Files(path), graceful_timeout=0.4, write_timeout=60) as served:
            idle, moving, stalled = [await ask(served, path) for path in ("/", "/file", "/file")]
            async with idle, moving, stalled:
                assert (await idle.receive_some()).endswith(b"hello")
                await stalled.receive_some(1000)

                async def follow(name: str, stream: trio.SocketStream) -> bytes:
                    received = await (read_steadily if name == "moving" else receive_all)(stream)
                    ended[name] = trio.current_time() - drained
                    return received

                drained = trio.current_time()
                served.server.drain()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(follow, "idle", idle)
                    got = await follow("moving", moving)
            served.server.drain()  # again, and when all is over: it changes nothing
    assert ended["idle"] < 0.4
    assert ended["moving"] > 0.6
    assert read_answer(got).body == content(path)
    outcomes = {record.outcome: record for record in served.records if record.target == "/file"}
    assert set(outcomes) == {Outcome.FINISHED, Outcome.SHUTDOWN}
    cut = outcomes[Outcome.SHUTDOWN]
    assert 0.4 <= cut.duration < 2
    assert cut.reason == f"cut by the shutdown at byte {cut.body_sent} of {SIZE}"
    assert any(cut.reason in line for line in error_lines(caplog))


@pytest.mark.parametrize("start", [0, 1_000_001])
async def test_what_was_cut_can_be_resumed_where_the_log_says(
    path: Path, start: int, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 9110 §14: the bytes up to there have arrived, and a range from there gives the others."""
    with trio.fail_after(20):
        async with (
            serving(Files(path), graceful_timeout=0.1) as served,
            await served.connect(receive_buffer=4096) as stream,
        ):
            ranged = f"Range: bytes={start}-" if start else "X-None: 0"
            await stream.send_all(request("GET", "/file", ranged))
            got = await stream.receive_some(1000)
            served.server.drain()
            await served.record()
            got += await receive_all(stream)
        body = got.partition(b"\r\n\r\n")[2]
        (line,) = [line for line in error_lines(caplog) if "cut by the shutdown" in line]
        resume = int(re.findall(rf"at byte (\d+) of {SIZE}$", line)[0])
        assert start < resume < SIZE
        assert len(body) == resume - start

        async with serving(Files(path)) as served:
            rest = read_answer(await served.exchange(request("GET", "/file", f"Range: bytes={resume}-")))
    assert rest.status == 206
    assert hashlib.sha256(body + rest.body).digest() == hashlib.sha256(content(path)[start:]).digest()


@pytest.mark.parametrize(("drain_max", "outcome"), [(0.5, Outcome.SHUTDOWN), (0, Outcome.FINISHED)])
async def test_drain_max_ends_even_who_moves_and_0_is_no_limit(path: Path, drain_max: float, outcome: Outcome) -> None:
    with trio.fail_after(20):
        async with (
            serving(Files(path), graceful_timeout=0.1, drain_max=drain_max) as served,
            await ask(served, "/file") as stream,
        ):
            drained = trio.current_time()
            served.server.drain()
            await read_steadily(stream)
            assert (await served.record()).outcome is outcome
            took = trio.current_time() - drained
            assert took > 0.9 if drain_max == 0 else 0.5 <= served.records[0].duration < 2


async def test_a_client_below_drain_min_rate_is_cut(path: Path) -> None:
    with trio.fail_after(20):
        async with (
            serving(Files(path), graceful_timeout=0.2, drain_min_rate=10_000_000) as served,
            await ask(served, "/file") as stream,
        ):
            served.server.drain()
            await read_steadily(stream)
            assert (await served.record()).outcome is Outcome.SHUTDOWN


@pytest.mark.parametrize("where", ["/blocks", "/computing"])
async def test_an_application_that_waits_for_a_stalled_client_or_computes_is_cancelled(path: Path, where: str) -> None:
    """A client that has stopped reading never holds the shutdown, whoever sends to it."""
    app = Files(path)
    with trio.fail_after(20):
        async with serving(app, graceful_timeout=0.2, write_timeout=60) as served, await ask(served, where) as stream:
            if where == "/blocks":
                await stream.receive_some(1000)
            await trio.sleep(0.05)
            drained = trio.current_time()
            served.server.drain()
            assert (await served.record()).outcome is Outcome.SHUTDOWN
            assert 0.2 <= trio.current_time() - drained < 2
            assert app.stopped.is_set()


async def test_answers_of_a_drain_announce_the_close(path: Path) -> None:
    """RFC 9112 §9.6."""
    gate = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        assert gate.wait(5)
        start_response("200 OK", PLAIN)
        return [b"hello"]

    with trio.fail_after(10):
        async with serving(app) as served, await ask(served, "/") as stream:
            await trio.sleep(0.05)
            served.server.drain()
            assert served.server.statistics().draining
            gate.set()
            assert read_answer(await receive_all(stream)).closes


APP = """
import time

def app(environ, start_response):
    start_response("200 OK", [])
    return environ["wsgi.file_wrapper"](open("large", "rb")) if environ["PATH_INFO"] == "/file" else [b"hello"]
"""


@pytest.mark.slow
def test_term_with_one_that_moves_one_that_stalls_and_one_that_idles(path: Path) -> None:
    """The same of the real command, with the drain's own looks."""
    (path.parent / "files.py").write_text(APP)
    with command("files:app", "-b", "127.0.0.1:0", "--graceful-timeout", "1", cwd=path.parent) as running:
        clients = {}
        for name in ("idle", "stalled", "moving"):
            client = clients[name] = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.settimeout(10)
            client.connect(("127.0.0.1", running.port))
            where = "/" if name == "idle" else "/file"
            client.sendall(f"GET {where} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
            client.recv(1000)
        started = time.monotonic()
        running.send_signal(signal.SIGTERM)
        assert clients["idle"].recv(1) == b""
        idle_took = time.monotonic() - started
        count = 0
        while piece := clients["moving"].recv(100_000):
            count += len(piece)
            time.sleep(len(piece) / (SIZE / 2.5))
        assert running.wait() == 0
        took = time.monotonic() - started
        for client in clients.values():
            client.close()
        assert idle_took < 1
        assert count >= SIZE - 1000
        assert 2 < took < 5
        (line,) = [line for line in running.log.splitlines() if "cut by the shutdown" in line]
        assert re.search(rf"at byte \d+ of {SIZE}$", line)


async def test_one_that_had_only_just_come_is_still_answered() -> None:
    """Accepted, and its request on the way, when the drain began: a POST that is lost here nobody may repeat."""
    async with serving(hello, graceful_timeout=10) as served, await served.connect() as stream:
        await served.wait_connections(1)
        with trio.fail_after(10):
            served.server.drain()
            await trio.sleep(0.1)
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = await receive_all(stream)
    assert answer.endswith(b"hello") and b"Connection: close" in answer


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_one_that_never_asks_does_not_hold_the_drain(scheme: str) -> None:
    """Nor one that connects to a port for HTTPS and says nothing, as scanners do and load balancers ahead of need."""
    tls = {"certfile": (shared_authority()[1],), "handshake_timeout": 60} if scheme == "https" else {}
    async with serving(hello, graceful_timeout=60, **tls) as served, await served.connect() as stream:
        await served.wait_connections(1)
        with trio.fail_after(10):
            served.server.drain()
            assert await receive_all(stream) == b""


async def test_one_whose_last_answer_was_not_acknowledged_yet_does_not_hold_the_drain() -> None:
    """It keeps its connection open; what it has not acknowledged a moment ago, it has soon after."""
    async with serving(hello, graceful_timeout=60, linger_timeout=60) as served, await served.connect() as stream:
        with trio.fail_after(10):
            for _ in range(50):  # by then its system delays acknowledgements, in the hope of more to say
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await stream.receive_some()
            served.server.drain()
            assert await receive_all(stream) == b""
            with pytest.raises(RuntimeError, match="does not run"):  # any more
                await until(lambda: not served.server.statistics())
