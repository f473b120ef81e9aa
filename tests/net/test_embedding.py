"""Rules of the library: a server inside somebody's Trio program starts, ends and fails as its nursery says."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from serving import Served, receive_all, serving

import trio_wsgi
import trio_wsgi.net.fastcodec
from trio_wsgi import Config, ConfigError, Outcome, RequestRecord, Server

SIZE = 20_000_000
REQUEST = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"


class Site:
    """An application with a state for every moment at which it may be cancelled."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "large"
        with self.path.open("wb") as file:
            file.truncate(SIZE)
        self.opened: list[Any] = []
        self.closed = 0
        self.entered = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.entered.set()
        path = environ["PATH_INFO"]
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        if path == "/file":
            file = self.path.open("rb")
            self.opened.append(file)
            return environ["wsgi.file_wrapper"](file)
        if path == "/own-file":
            return environ["wsgi.file_wrapper"](_OwnFile(self))
        if path == "/write":
            write(b"x" * SIZE)
        if path == "/wait":
            trio.from_thread.run(trio.sleep_forever)
        if path == "/sleep":
            time.sleep(0.3)
        if path == "/read":
            environ["wsgi.input"].read()
        return [b"hello"]


class _OwnFile:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.file = site.path.open("rb")
        site.opened.append(self.file)
        self.read, self.fileno = self.file.read, self.file.fileno

    def close(self) -> None:
        self.site.closed += 1
        self.file.close()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@contextlib.asynccontextmanager
async def nothing_left(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """No task, descriptor or busy thread is left by what runs inside, and nothing asks to be reported."""
    await trio.to_thread.run_sync(lambda: None)  # Trio's own first thread
    tasks, before = trio.lowlevel.current_statistics().tasks_living, descriptors()
    yield
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert descriptors() == before
    assert not [thread.name for thread in threading.enumerate() if thread.name == "trio-wsgi app"]
    assert "please report" not in caplog.text
    gc.collect()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


# -- the start ---------------------------------------------------------------------------------------------------------


async def test_start_hands_back_the_addresses_and_cancelling_stops(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(10):
        async with nothing_left(caplog):
            async with trio.open_nursery() as nursery:
                config = Config(bind=("127.0.0.1:0", "127.0.0.1:0"))
                addresses = await nursery.start(trio_wsgi.serve, site, config)
                assert len({address.port for address in addresses}) == 2
                for address in addresses:
                    async with await trio.open_tcp_stream(address.host, address.port) as client:
                        await client.send_all(REQUEST % b"/")
                        assert (await client.receive_some()).startswith(b"HTTP/1.1 200 OK\r\n")
                nursery.cancel_scope.cancel()
            with pytest.raises(OSError):
                await trio.open_tcp_stream(addresses[0].host, addresses[0].port)


async def test_several_servers_live_in_one_nursery(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def other(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"other"]

    async with nothing_left(caplog), serving(site) as one, serving(other) as two:
        assert (await one.exchange(REQUEST % b"/")).endswith(b"hello")
        assert (await two.exchange(REQUEST % b"/")).endswith(b"other")
        assert len(one.records) == len(two.records) == 1


async def test_a_server_serves_once_and_only_what_can_be_called(site: Site) -> None:
    with pytest.raises(TypeError, match="5 is a int, and cannot be called"):
        Server(5)  # type: ignore[arg-type]
    server = Server(site, Config(bind=("127.0.0.1:0",)))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        with pytest.raises(RuntimeError, match="make another"):
            await server.serve()
        nursery.cancel_scope.cancel()


async def test_drain_before_serve_ends_at_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    async with nothing_left(caplog):
        server = Server(site, Config(bind=("127.0.0.1:0",)))
        server.drain()
        with trio.fail_after(5):
            await server.serve()


async def test_cancelled_while_it_starts_it_ends(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """At every step of the start, as when a sibling fails at once."""
    for patience in range(12):
        async with nothing_left(caplog):
            with trio.fail_after(5), trio.CancelScope() as scope, socket.create_server(("127.0.0.1", 0)) as listener:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(Server(site).serve, [listener])
                    for _ in range(patience):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()


@pytest.mark.parametrize("way", ["await", "start", "start_soon"])
async def test_an_address_in_use_is_a_config_error(site: Site, way: str, caplog: pytest.LogCaptureFixture) -> None:
    """Awaited it comes as it is, out of a nursery in one group."""
    async with nothing_left(caplog):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            config = Config(bind=(f"127.0.0.1:{taken.getsockname()[1]}",))
            if way == "await":
                with pytest.raises(ConfigError, match="Address already in use"):
                    await trio_wsgi.serve(site, config)
                return
            with pytest.raises(ExceptionGroup) as caught:
                async with trio.open_nursery() as nursery:
                    if way == "start":
                        await nursery.start(trio_wsgi.serve, site, config)
                    else:
                        nursery.start_soon(trio_wsgi.serve, site, config)
            (error,) = caught.value.exceptions
            assert isinstance(error, ConfigError)


# -- listeners ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["socket", "trio"])
async def test_a_listener_that_is_handed_in_stays_its_owners(
    site: Site, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It can be handed to the next server, and is closed by whoever made it."""
    async with nothing_left(caplog):
        listener: Any
        if kind == "socket":
            listener = socket.create_server(("127.0.0.1", 0))
            host, port = listener.getsockname()
        else:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            host, port = listener.socket.getsockname()
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                serve = Server(site).serve
                (address,) = await nursery.start(serve, [listener])
                assert (address.host, address.port) == (host, port)
                async with await trio.open_tcp_stream(host, port) as client:
                    await client.send_all(REQUEST % b"/")
                    assert b"hello" in await client.receive_some()
                nursery.cancel_scope.cancel()
        waiting = await trio.open_tcp_stream(host, port)  # nobody serves, and nobody is refused
        await waiting.aclose()
        if kind == "socket":
            listener.close()
        else:
            await listener.aclose()


async def test_one_connection_of_the_limit_and_two_addresses(site: Site) -> None:
    """A listener that waits holds no place; the one that has somebody gets it."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            config = Config(bind=("127.0.0.1:0", "127.0.0.1:0"), connection_limit=1)
            addresses = await nursery.start(trio_wsgi.serve, site, config)
            for address in [*addresses, *addresses]:
                async with await trio.open_tcp_stream(address.host, address.port) as client:
                    await client.send_all(REQUEST % b"/")
                    assert b"hello" in await client.receive_some()
            nursery.cancel_scope.cancel()


# -- the end in every state --------------------------------------------------------------------------------------------


async def idle(served: Served, site: Site) -> trio.SocketStream:
    client = await served.connect()
    await client.send_all(REQUEST % b"/")
    await client.receive_some()
    return client


async def reading_head(served: Served, site: Site) -> trio.SocketStream:
    client = await served.connect()
    await client.send_all(b"GET / HT")
    return client


async def gathering_body(served: Served, site: Site) -> trio.SocketStream:
    client = await served.connect()
    await client.send_all(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
    return client


def asking(path: bytes) -> Callable[[Served, Site], Awaitable[trio.SocketStream]]:
    async def ask(served: Served, site: Site) -> trio.SocketStream:
        client = await served.connect(receive_buffer=4096)
        await client.send_all(REQUEST % path)
        with trio.fail_after(5):
            await trio.to_thread.run_sync(site.entered.wait, 5)
        return client

    return ask


async def lingering(served: Served, site: Site) -> trio.SocketStream:
    client = await served.connect()
    await client.send_all(b"NONSENSE\r\n\r\n" + b"x" * 1000)
    await client.receive_some()
    return client


STATES: dict[str, tuple[Any, list[Outcome]]] = {
    "idle": (idle, [Outcome.FINISHED]),
    "reading the head": (reading_head, []),
    "gathering a body": (gathering_body, [Outcome.SHUTDOWN]),
    "in the app": (asking(b"/wait"), [Outcome.SHUTDOWN]),
    "in an app that cannot hear": (asking(b"/sleep"), [Outcome.FINISHED]),  # its small answer still leaves
    "in a blocked write": (asking(b"/write"), [Outcome.SHUTDOWN]),
    "sending a file": (asking(b"/file"), [Outcome.SHUTDOWN]),
    "sending a file of the app's own": (asking(b"/own-file"), [Outcome.SHUTDOWN]),
    "lingering": (lingering, [Outcome.REFUSED]),
}


@pytest.mark.parametrize("end", ["cancel", "drain"])
@pytest.mark.parametrize("state", STATES)
async def test_the_end_is_clean_in_every_state(
    state: str, end: str, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Files closed, one record for each request, no task, thread or descriptor left."""
    enter, outcomes = STATES[state]
    with trio.fail_after(10):
        async with nothing_left(caplog):
            async with serving(site, graceful_timeout=0.05, linger_timeout=1) as served:
                client = await enter(served, site)
                await trio.testing.wait_all_tasks_blocked(0.01)
                if end == "drain":
                    served.server.drain()
                    await trio.sleep(0.1)
            await receive_all(client)
            await client.aclose()
        assert all(file.closed for file in site.opened)
        assert site.closed == (1 if "own" in state else 0)
        told = [record.outcome for record in served.records]
        if state == "reading the head" and told:
            assert told[0] in {Outcome.SHUTDOWN, Outcome.CLIENT_GONE}
        else:
            assert told == outcomes


async def test_a_drain_serves_who_had_connected_and_asked(site: Site) -> None:
    """PAINS 38: connections in the listening socket's queue are not reset by its close."""
    async with serving(site) as served:
        await trio.testing.wait_all_tasks_blocked()
        clients = []
        for _ in range(5):  # the loop has no turn in between
            client = socket.create_connection((served.host, served.port))
            client.sendall(REQUEST % b"/")
            clients.append(client)
        served.server.drain()
        for client in clients:
            client.setblocking(False)
            async with trio.SocketStream(trio.socket.from_stdlib_socket(client)) as stream:
                with trio.fail_after(5):
                    received = await receive_all(stream)
            assert received.endswith(b"hello")
            assert b"connection: close\r\n" in received.lower()


async def test_a_drain_answers_a_request_that_an_idle_connection_had_sent(site: Site) -> None:
    """It was sent before the server announced anything."""
    async with serving(site) as served:
        client = await idle(served, site)
        await client.send_all(REQUEST % b"/")
        served.server.drain()
        with trio.fail_after(5):
            assert (await receive_all(client)).endswith(b"hello")
        await client.aclose()


# -- hosts -------------------------------------------------------------------------------------------------------------


def test_it_lives_in_an_anyio_task_group_on_trio(site: Site) -> None:
    async def main() -> bytes:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                config = Config(bind=("127.0.0.1:0",))
                (address,) = await group.start(trio_wsgi.serve, site, config)
                async with await anyio.connect_tcp(address.host, address.port) as client:
                    await client.send(REQUEST % b"/")
                    received = await client.receive()
                group.cancel_scope.cancel()
        return received

    assert b"hello" in anyio.run(main, backend="trio")


SCRIPT = """
import trio_wsgi

def app(environ, start_response):
    start_response("200 OK", [])
    return [b"hello from a script"]

print("exit code", trio_wsgi.run(app, bind=["127.0.0.1:0"], threads=2, middleware=["loud:shout"]), flush=True)
"""
LOUD = """
def shout(app):
    return lambda environ, start_response: [block.upper() for block in app(environ, start_response)]
"""


def test_run_serves_from_a_script_until_a_signal(tmp_path: Path) -> None:
    """It returns, and the script goes on: `sys.exit(trio_wsgi.run(app))`."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "loud.py").write_text(LOUD)
    process = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(trio_wsgi.__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        port = int(line.partition("listening at http://127.0.0.1:")[2].split()[0])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(5)
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.recv(9999).endswith(b"HELLO FROM A SCRIPT")
        process.terminate()
        out, _ = process.communicate(timeout=10)
        assert (process.returncode, out) == (0, "exit code 0\n")
    finally:
        process.kill()
        process.communicate()


def test_run_refuses_settings_that_cannot_be(site: Site) -> None:
    with pytest.raises(ConfigError, match=r"thread: there is no such setting .*threads"):
        trio_wsgi.run(site, thread=3)
    with pytest.raises(ConfigError, match="bind: 'a:b:c' has more than one colon"):
        trio_wsgi.run(site, bind=["a:b:c"])
    for settings in ({"workers": 3}, {"chdir": "/"}, {"env": ["A=b"]}, {"pythonpath": "/"}, {"script_reloading": True},
                     {"reload": True}, {"max_requests": 5}):  # fmt: skip
        with pytest.raises(ConfigError, match=rf"^{next(iter(settings))}: .*(use the command|in your program)"):
            trio_wsgi.run(site, **settings)


# -- 503 ---------------------------------------------------------------------------------------------------------------


async def test_beyond_the_queue_is_503_with_retry_after_and_the_connection_stays_usable() -> None:
    gate = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/wait":
            assert gate.wait(10)
        start_response("200 OK", [])
        return [b"hello"]

    async with serving(app, threads=1, queue_size=1) as served, contextlib.AsyncExitStack() as stack:
        for _ in range(2):  # one runs, one waits
            busy = await stack.enter_async_context(await served.connect())
            await busy.send_all(REQUEST % b"/wait")
        await trio.testing.wait_all_tasks_blocked(0.02)
        client = await stack.enter_async_context(await served.connect())
        for _ in range(3):
            await client.send_all(REQUEST % b"/")
            refused = (await client.receive_some()).lower()
            assert refused.startswith(b"http/1.1 503 service unavailable\r\n")
            assert b"\r\nretry-after: 1\r\n" in refused
            assert b"connection: close" not in refused
        gate.set()
        await served.record(5)
        await client.send_all(REQUEST % b"/")
        assert b"200 OK" in await client.receive_some()
    assert [record.outcome for record in served.records].count(Outcome.REFUSED) == 3


# -- churn -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_three_hundred_clients_that_leave_at_random_leave_nothing(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Reset, close or half-close at a random moment of a random request; each request is told once."""
    rng = random.Random(20)
    paths = [b"/", b"/file", b"/own-file", b"/write", b"/sleep", b"/read"]
    records: list[RequestRecord] = []

    async def churn(served: Served, number: int) -> None:
        await trio.sleep(rng.random())
        client = await served.connect(receive_buffer=rng.choice([None, 4096]))
        path = paths[number % len(paths)]
        request = REQUEST % path
        if path == b"/read":
            request = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
        sent = request[: rng.choice([len(request), rng.randrange(len(request) + 1)])]
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if sent:
                await client.send_all(sent)
            with trio.move_on_after(rng.choice([0, 0.01, 0.1])):
                while rng.random() < 0.9:
                    await client.receive_some(rng.choice([10, 10_000]))
            match rng.randrange(3):
                case 0:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                case 1:
                    await client.send_eof()
                    with trio.move_on_after(0.05):
                        await client.receive_some()
        await client.aclose()

    with trio.fail_after(30):
        async with nothing_left(caplog):
            async with serving(site, threads=4, linger_timeout=0.2, header_timeout=1, write_timeout=1) as served:
                async with trio.open_nursery() as nursery:
                    for number in range(300):
                        nursery.start_soon(churn, served, number)
                assert b"hello" in await served.exchange(REQUEST % b"/")
                while "0 connections" not in repr(served.server):  # noqa: ASYNC110
                    await trio.sleep(0.02)
            records = served.records
        assert all(file.closed for file in site.opened)
        assert len({(record.peer_port, record.started) for record in records}) == len(records)
        assert len(records) > 150


async def test_a_parser_that_is_not_installed_is_an_error_of_its_own(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Server.serve` raises ConfigError, and no group of groups with one in it."""
    monkeypatch.setattr(trio_wsgi.net.fastcodec, "httptools", None)
    with pytest.raises(ConfigError, match="http: httptools is not installed"):
        await Server(site, Config(bind=("127.0.0.1:0",), http="httptools")).serve()
