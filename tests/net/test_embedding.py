"""Rules of the library: a server inside somebody's Trio program starts, lives and fails as its nursery says."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from authority import shared_authority
from embedded import REQUEST, Site, nothing_left
from serving import serving
from waiting import until

import trio_wsgi
import trio_wsgi.net.fastcodec
from trio_wsgi import Config, ConfigError, Server

# -- the start ---------------------------------------------------------------------------------------------------------


async def test_start_hands_back_the_addresses_and_cancelling_stops(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """PAINS 7 of the peers: a WSGI application within Trio, which nobody served (hypercorn: ClosedResourceError)."""
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


@pytest.mark.parametrize("kind", ["unix", "fd"])
async def test_who_serves_again_is_refused_before_it_touches_an_address(
    site: Site, kind: str, short_path: Path
) -> None:
    """Whether it comes later or at the same time: else it would end by closing what the first one serves."""
    refused: list[str] = []

    async def serve() -> None:
        try:
            await server.serve()
        except RuntimeError as exc:
            refused.append(str(exc))

    with socket.create_server(("127.0.0.1", 0)) as parent:
        bind = f"unix:{short_path}" if kind == "unix" else f"fd://{os.dup(parent.fileno())}"
        server = Server(site, Config(bind=(bind,)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            nursery.start_soon(serve)
            await until(lambda: refused and server._service is not None)
            await serve()
            if kind == "unix":
                client = await trio.open_unix_socket(str(short_path))
            else:
                client = await trio.open_tcp_stream(*parent.getsockname())
            async with client:
                await client.send_all(REQUEST % b"/")
                with trio.fail_after(5):
                    assert b"hello" in await client.receive_some()
            nursery.cancel_scope.cancel()
    assert [text.partition(" beside ")[0] for text in refused] == ["a server serves once: make another"] * 2


async def test_a_start_of_which_nothing_came_may_be_tried_again(site: Site) -> None:
    """By the same server, at a descriptor that is still there; in the meantime nobody else got its number."""
    with socket.create_server(("127.0.0.1", 0)) as parent, socket.create_server(("127.0.0.1", 0)) as other:
        bind = (f"fd://{os.dup(parent.fileno())}", f"127.0.0.1:{other.getsockname()[1]}")
        server = Server(site, Config(bind=bind))
        with pytest.raises(ConfigError, match="Address already in use"):
            await server.serve()
        other.close()
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(server.serve)
            for address in addresses:
                async with await trio.open_tcp_stream(address.host, address.port) as client:
                    await client.send_all(REQUEST % b"/")
                    assert b"hello" in await client.receive_some()
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


async def test_it_starts_and_reloads_while_all_threads_of_the_program_are_busy(site: Site) -> None:
    """Those of `trio.to_thread` are for the program's own; a server that waited for them would start when they end."""
    go_on = threading.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(int(trio.to_thread.current_default_thread_limiter().total_tokens)):
            nursery.start_soon(trio.to_thread.run_sync, go_on.wait, 10)
        try:
            with trio.fail_after(5):
                server = Server(
                    site, Config(bind=("127.0.0.1:0",), certfile=(shared_authority()[1],), static=("/s=.",))
                )
                await nursery.start(server.serve)
                await server.reload_certificates()
                server.drain()
        finally:
            go_on.set()


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


async def test_a_parser_that_is_not_installed_is_an_error_of_its_own(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Server.serve` raises ConfigError, and no group of groups with one in it."""
    monkeypatch.setattr(trio_wsgi.net.fastcodec, "httptools", None)
    with pytest.raises(ConfigError, match="http: httptools is not installed"):
        await Server(site, Config(bind=("127.0.0.1:0",), http="httptools")).serve()


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
