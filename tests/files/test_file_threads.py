"""A download holds no thread and delays nobody (issue: section 5; PAINS 1, 2 of the peers, 23, 26, 28)."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from asking import request
from downloads import MIB, Client, Closes, blocking_client, file_app, make_sparse
from serving import Command, command, serving

from sendfile import senders
from trio_wsgi import Config, Server

each_way = pytest.mark.usefixtures("each_way")

GIB = 1 << 30
APP = """\
def app(environ, start_response):
    start_response('200 OK', [])
    if environ['PATH_INFO'] == '/hello':
        return [b'hello']
    return environ['wsgi.file_wrapper'](open('big.bin', 'rb'))
"""


@pytest.fixture
def gib(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return make_sparse(tmp_path / "big.bin", GIB, {0: b"first"})


@each_way
async def test_the_only_thread_is_free_while_a_client_stalls(gib: Path, sendfile: bool) -> None:
    """threads=1, a stalled 1 GiB download: hello is answered, by the very thread that has opened the file.

    It sends the first bytes itself, so who asks at that moment may find it on its way back, and waits for that.
    """
    seen: set[int] = set()
    closes = Closes()
    inner = file_app(lambda _: closes.watch(gib.open("rb")))

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        seen.add(threading.get_ident())
        return inner(environ, start_response)

    async with serving(app, threads=1, queue_size=1, sendfile=sendfile) as served:
        async with await served.connect(4096) as stalled, await served.connect() as other:
            await Client(stalled).send("/big")
            await stalled.receive_some(1000)
            hello = Client(other)
            for _ in range(20):
                assert (await hello.ask("/hello", seconds=2)).body == b"hello"
        await closes.wait()
    assert len(seen) == 1
    assert set(closes.threads) == seen


@each_way
async def test_many_stalled_downloads_and_one_thread(gib: Path) -> None:
    """Fifty clients that never read on (mod_wsgi#51): the others do not notice."""
    async with serving(file_app(lambda _: gib.open("rb")), threads=1) as served, contextlib.AsyncExitStack() as stack:
        for _ in range(50):
            stream = await stack.enter_async_context(await served.connect(4096))
            await Client(stream).send("/big")
            await stream.receive_some(1000)
        hello = Client(await stack.enter_async_context(await served.connect()))
        for _ in range(20):
            assert (await hello.ask("/hello", seconds=2)).body == b"hello"


@each_way
async def test_a_fast_download_does_not_hog_the_loop(gib: Path) -> None:
    """One client that reads as fast as it can: others are answered between its steps."""
    async with serving(file_app(lambda _: gib.open("rb")), threads=1) as served, trio.open_nursery() as nursery:
        count = 0

        async def read_fast() -> None:
            nonlocal count
            async with await served.connect() as stream:
                await Client(stream).send("/big")
                while count < 300 * MIB:
                    count += len(await stream.receive_some(MIB))

        nursery.start_soon(read_fast)
        async with await served.connect() as stream:
            hello = Client(stream)
            answered = 0
            with trio.fail_after(30):
                while count < 100 * MIB:
                    assert (await hello.ask("/hello")).body == b"hello"
                    answered += 1
        assert answered >= 5
        nursery.cancel_scope.cancel()


@contextlib.contextmanager
def slow_readers(port: int, count: int, rate: int) -> Iterator[subprocess.Popen[str]]:
    """Readers in a process of their own, all of them in the middle of their download."""
    script = Path(__file__).parent.parent / "slow_readers.py"
    command_line = [sys.executable, str(script), str(port), str(count), "/big", str(rate)]
    readers = subprocess.Popen(command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert readers.stdin is not None
    assert readers.stdout is not None
    with readers:
        try:
            assert readers.stdout.readline() == "ready\n"
            yield readers
        finally:
            readers.kill()


def latencies(running: Command, count: int, pause: float) -> list[float]:
    """Seconds that `count` hellos took, sorted."""
    found = []
    with blocking_client(running.port) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            started = time.perf_counter()
            sock.sendall(b"GET /hello HTTP/1.1\r\nHost: t\r\n\r\n")
            received = b""
            while not received.endswith(b"\r\n\r\nhello"):
                piece = sock.recv(4096)
                assert piece
                received += piece
            found.append(time.perf_counter() - started)
            time.sleep(pause)
    return sorted(found)


@pytest.mark.slow
def test_a_thousand_slow_readers_do_not_delay_hello(gib: Path, record_property: Any) -> None:
    """One thread, 1,000 clients at 16 KB/s: hello is answered at once, and none of them is lost (PAINS 23, 26)."""
    with command("app:app", "-b", "127.0.0.1:0", "--threads", "1", cwd=gib.parent) as running:
        alone = latencies(running, 200, 0.002)
        before = running.resident
        with slow_readers(running.port, 1000, 16_000) as readers:
            beside = latencies(running, 500, 0.01)
            grown = running.resident - before
            assert readers.stdin is not None
            assert readers.stdout is not None
            readers.stdin.write("\n")
            readers.stdin.flush()
            left, total = map(int, readers.stdout.readline().split())
    figures = {
        "p50 alone": alone[100],
        "p99 alone": alone[198],
        "p50 beside": beside[250],
        "p99 beside": beside[495],
        "bytes per download": grown / 1000,
    }
    print({name: round(value, 5) for name, value in figures.items()})
    assert left == 1000
    assert total > 1000 * 16_000
    assert figures["p50 beside"] < 0.1
    assert figures["p99 beside"] < 0.5
    assert figures["bytes per download"] < 64 * 1024


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_fast_reader_has_a_thread_where_a_processor_is_left(
    gib: Path, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers on two processors have none left: each sends by itself."""
    turns: list[object] = []
    turn = senders._send_turn

    def send_turn(*args: Any) -> int:
        turns.append(args)
        return turn(*args)

    monkeypatch.setattr(senders, "_send_turn", send_turn)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    server = Server(file_app(lambda _: gib.open("rb")), Config(bind=("127.0.0.1:0",)), processes=processes)
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(server.serve)
        async with await trio.open_tcp_stream(address.host, address.port) as stream:
            await stream.send_all(request(target="/big"))
            received = 0
            while received < GIB // 4:
                received += len(await stream.receive_some(MIB))
        nursery.cancel_scope.cancel()
    assert bool(turns) is (processes == 1)
