"""Servers as parts of a program: several of them, a TCP proxy and a background job, in one nursery or task group."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.abc
import pytest
import trio
import trio.testing
from asking import PLAIN, App, Environ, StartResponse, error_lines, request
from opened import count_descriptors
from serving import receive_all
from waiting import until

from trio_wsgi import Config, Server


def named(name: str, counted: list[str]) -> App:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        counted.append(name)
        start_response("200 OK", PLAIN)
        if environ["PATH_INFO"] == "/wait":
            trio.from_thread.run(trio.sleep_forever)
        return [name.encode()]

    return app


async def proxy(host: str, port: int, client: trio.SocketStream) -> None:
    """A TCP proxy: every byte, both ways, until either side ends."""

    async def copy(source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
        async for data in source:
            await sink.send_all(data)
        scope.cancel()

    async with await trio.open_tcp_stream(host, port) as server, trio.open_nursery() as nursery:
        nursery.start_soon(copy, client, server, nursery.cancel_scope)
        nursery.start_soon(copy, server, client, nursery.cancel_scope)


async def get(port: int, path: str = "/") -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request("GET", path))
        return await receive_all(stream)


def left() -> tuple[int, int, list[threading.Thread]]:
    threads = [thread for thread in threading.enumerate() if thread.name == "trio-wsgi app"]
    return trio.lowlevel.current_statistics().tasks_living, count_descriptors(), threads


class JobFailed(Exception):
    pass


@pytest.mark.parametrize("end", ["cancel", "a failure of the job"])
async def test_two_servers_a_proxy_and_a_job_end_together(end: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever ends the nursery ends all of it, with requests under way, and leaves nothing."""
    counted: list[str] = []
    failing = trio.Event()

    async def job(servers: list[Server]) -> None:
        while not failing.is_set():
            assert all(server.statistics().threads.lost == 0 for server in servers)
            with trio.move_on_after(0.01):
                await failing.wait()
        raise JobFailed

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            with socket.create_server(("127.0.0.1", 0)) as listener:  # handed in, and ours to close
                servers = [Server(named("one", counted)), Server(named("two", counted), Config(bind=("127.0.0.1:0",)))]
                (first,) = await nursery.start(servers[0].serve, [listener])
                (second,) = await nursery.start(servers[1].serve)
                serve_tcp = partial(trio.serve_tcp, host="127.0.0.1")
                (proxied,) = await nursery.start(serve_tcp, partial(proxy, first.host, first.port), 0)
                nursery.start_soon(job, servers)
                assert (await get(first.port)).endswith(b"one")
                assert (await get(second.port)).endswith(b"two")
                assert (await get(proxied.socket.getsockname()[1])).endswith(b"one")
                nursery.start_soon(get, second.port, "/wait")
                await until(lambda: counted[-1] == "two" and len(counted) >= 4)
                if end == "cancel":
                    nursery.cancel_scope.cancel()
                else:
                    failing.set()
                    await trio.sleep_forever()

    before = left()
    with trio.fail_after(10):
        if end == "cancel":
            await program()
        else:
            with pytest.raises(ExceptionGroup) as caught:
                await program()
            assert [type(error) for error in caught.value.exceptions] == [JobFailed]
        await trio.testing.wait_all_tasks_blocked()
    assert left() == before
    assert not [line for line in error_lines(caplog) if "report" in line]


def test_servers_start_and_drain_in_an_anyio_task_group() -> None:
    """`TaskGroup.start`, on the Trio backend; the other server goes on."""
    counted: list[str] = []

    async def main() -> None:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                servers = [Server(named(name, counted), Config(bind=("127.0.0.1:0",))) for name in ("one", "two")]
                ports = [(await group.start(server.serve))[0].port for server in servers]
                for port, name in zip(ports, (b"one", b"two"), strict=True):
                    assert (await get(port)).endswith(name)
                servers[0].drain()
                while running(servers[0]):  # noqa: ASYNC110
                    await anyio.sleep(0.001)
                assert (await get(ports[1])).endswith(b"two")
                group.cancel_scope.cancel()

    run: Callable[..., Any] = anyio.run
    run(main, backend="trio")
    assert counted == ["one", "two", "two"]


def running(server: Server) -> bool:
    try:
        server.statistics()
    except RuntimeError:
        return False
    return True
