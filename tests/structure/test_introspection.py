"""What the server is doing, as an immutable snapshot and as a dump to the error log (SIGPWR, as Puma names it)."""

from __future__ import annotations

import dataclasses
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from asking import PLAIN, Environ, StartResponse
from serving import command, serving
from waiting import wait_until

from trio_wsgi import Config, Server
from trio_wsgi.net.status import State, Statistics

SIZE = 20_000_000


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n".encode()


class Busy:
    """One thread: a file leaves it free, somebody stands in it, somebody waits for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gate = threading.Event()
        self.entered = threading.Event()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", PLAIN)
        if environ["PATH_INFO"] == "/file":
            return environ["wsgi.file_wrapper"](self.path.open("rb"))
        if environ["PATH_INFO"] == "/blocks":
            return iter([b"x" * SIZE] * 2)
        if environ["PATH_INFO"] == "/wait":
            self.wait_in_the_app()
        return [b"hello"]

    def wait_in_the_app(self) -> None:
        self.entered.set()
        assert self.gate.wait(10)


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Busy]:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(SIZE)
    app = Busy(tmp_path / "large")
    yield app
    app.gate.set()


async def test_a_snapshot_while_things_happen(busy: Busy) -> None:
    with trio.fail_after(10):
        async with serving(busy, threads=1, header_timeout=30) as served, AsyncExitStack() as clients:

            async def connect(sent: bytes) -> trio.SocketStream:
                stream = await clients.enter_async_context(await served.connect(receive_buffer=4096))
                await stream.send_all(sent)
                return stream

            idle = await connect(get("/"))
            await idle.receive_some()
            await connect(b"GET / HT")
            await connect(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nabc")
            sending = await connect(get("/file"))
            await sending.receive_some(1000)
            await connect(get("/wait"))
            await trio.to_thread.run_sync(busy.entered.wait, 5)
            await connect(get("/queued"))
            await trio.sleep(0.2)
            now = served.server.statistics()

            assert now.by_state == {
                State.IDLE: 1,
                State.READING_HEAD: 1,
                State.READING_BODY: 1,
                State.SENDING: 1,
                State.RUNNING: 1,
                State.QUEUED: 1,
            }
            assert dataclasses.astuple(now.threads) == (1, 0, 0, 1)  # busy, idle, lost, queued
            assert not now.draining
            (transfer,) = now.transfers
            assert transfer.total == SIZE
            assert 0 < transfer.done < SIZE
            assert transfer.stalled_for > 0.1
            (running,) = [one for one in now.connections if one.state is State.RUNNING]
            assert running.request == "GET /wait"
            assert 0.1 < running.seconds < 9
            assert running.stack.splitlines()[-1].strip() == "gotit = waiter.acquire(True, timeout)"
            assert "in wait_in_the_app" in running.stack
            assert running.thread in {thread.native_id for thread in threading.enumerate()}
            with pytest.raises(dataclasses.FrozenInstanceError):
                now.draining = True  # type: ignore[misc]
            with pytest.raises(dataclasses.FrozenInstanceError):
                transfer.done = 0  # type: ignore[misc]
            text = str(now)

            busy.gate.set()
            await served.record(3)
            served.server.drain()
            await trio.testing.wait_all_tasks_blocked(0.02)
            later = served.server.statistics()
            assert later.draining
            assert State.IDLE not in later.by_state
            assert str(now) == text, "a snapshot does not change"


async def test_the_rate_of_a_transfer_and_the_wait_of_an_application_for_its_client(busy: Busy) -> None:
    with trio.fail_after(10):
        async with serving(busy) as served:
            for path in ("/file", "/blocks"):
                async with await served.connect(receive_buffer=65536) as stream:
                    await stream.send_all(get(path))
                    for _ in range(40):
                        await stream.receive_some(100_000)
                        await trio.sleep(0.01)
                    (connection,) = served.server.statistics().connections
                    assert connection.transfer is not None
                    assert connection.transfer.rate > 10_000
                    assert connection.transfer.stalled_for < 1
                    assert connection.state is (State.SENDING if path == "/file" else State.RUNNING)
                await served.wait_connections(0)


async def test_there_is_no_snapshot_of_a_server_that_does_not_run(busy: Busy) -> None:
    server = Server(busy, Config(bind=("127.0.0.1:0",)))
    with pytest.raises(RuntimeError, match="does not run"):
        server.statistics()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        assert isinstance(server.statistics(), Statistics)
        nursery.cancel_scope.cancel()
    with pytest.raises(RuntimeError, match="does not run"):
        server.statistics()


APP = """
import time

def wait_in_the_app():
    time.sleep(30)

def app(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/file":
        return environ["wsgi.file_wrapper"](open("large", "rb"))
    if environ["PATH_INFO"] == "/wait":
        wait_in_the_app()
    return [b"hello"]
"""


@contextmanager
def asking(port: int, sent: bytes) -> Iterator[socket.socket]:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(5)
        client.connect(("127.0.0.1", port))
        client.sendall(sent)
        yield client


@pytest.mark.skipif(not hasattr(signal, "SIGPWR"), reason="this system has no SIGPWR; there it is SIGINFO")
def test_sigpwr_dumps_the_tree_of_connections_to_the_error_log(busy: Busy) -> None:
    """Each with its state: how far a download is, where an application's thread stands; and it goes on serving."""
    folder = busy.path.parent
    (folder / "site_app.py").write_text(APP)
    with (
        command("site_app:app", "-b", "127.0.0.1:0", "--threads", "1", cwd=folder) as running,
        ExitStack() as clients,
    ):
        for sent in (get("/"), b"GET / HT", get("/file"), get("/wait"), get("/queued")):
            client = clients.enter_context(asking(running.port, sent))
            if sent in (get("/"), get("/file")):
                client.recv(100)
            time.sleep(0.1)
        time.sleep(1.1)
        running.send_signal(signal.SIGPWR)
        wait_until(lambda: "queued for a thread:" in running.log)
        dump = running.log.partition("SIGPWR: ")[2]
        for line in (
            r"server serving; 5 connections: .*1 app running.*$",
            r"threads: 1 busy, 0 idle, 0 lost; 1 requests queued$",
            r"- 127.+:\d+ idle$",
            r"- 127.+:\d+ reading head$",
            r"- 127.+:\d+ sending: \d+% of 20000000 bytes at [\d.e-]+ MB/s, stalled for \d+ s: GET /file, [\d.]+ s$",
            r"- 127.+:\d+ app running in thread \d+: GET /wait, [\d.]+ s$",
            r"    +File .*site_app.py\", line 5, in wait_in_the_app$",
            r"    +time.sleep\(30\)$",
            r"- 127.+:\d+ queued for a thread: GET /queued, [\d.]+ s$",
        ):
            assert re.search(line, dump, re.MULTILINE), (line, dump)
        with asking(running.port, b"GET / HT"):  # it lives
            running.send_signal(signal.SIGPWR)
            wait_until(lambda: running.log.count("SIGPWR: ") == 2)
