"""Servers of one program on event loops of several threads: none meets what belongs to another's loop."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from asking import CLOSE, Environ, StartResponse
from authority import connect_tls, shared_authority
from serving import receive_to_end

from trio_wsgi import Config, Server, open_tls


@asynccontextmanager
async def served_elsewhere(server: Server) -> AsyncIterator[int]:
    """Serve on an event loop of another thread until the block ends; gives the port."""
    ports: queue.SimpleQueue[int] = queue.SimpleQueue()

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(server.serve)
            ports.put(address.port)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, trio.run, serve)
        try:
            yield await trio.to_thread.run_sync(partial(ports.get, timeout=10))
        finally:
            server.drain(0, 0)


def answer_with(path: Path) -> Callable[..., Any]:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [("Content-Length", str(path.stat().st_size))])
        return environ["wsgi.file_wrapper"](path.open("rb"))

    return app


async def test_statistics_are_for_the_loop_that_serves() -> None:
    """Times of another loop's clock would be nonsense, and what is looked at changes meanwhile."""
    server = Server(answer_with(Path(__file__)), Config(bind=("127.0.0.1:0",)))
    with trio.fail_after(10):
        async with served_elsewhere(server):
            with pytest.raises(RuntimeError, match="the server runs on the event loop of another thread"):
                server.statistics()


async def test_what_open_tls_gave_may_be_shared_by_servers_of_several_loops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each client gets its own server's file, though the other's was read before a byte of this one was encrypted."""
    both_have_read = threading.Barrier(2)
    preadv = os.preadv

    def read_and_await_the_other(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        count = preadv(fd, buffers, offset, flags)
        if not flags:  # else it only asks whether the file is in memory
            with suppress(threading.BrokenBarrierError):
                both_have_read.wait(5)
        return count

    config = Config(bind=("127.0.0.1:0",), certfile=(shared_authority()[1],))
    tls = open_tls(config)
    received: dict[str, bytes] = {}

    async def fetch(letter: str, port: int) -> None:
        stream = await connect_tls(port)
        await stream.send_all(CLOSE)
        received[letter] = (await receive_to_end(stream))[0].partition(b"\r\n\r\n")[2]
        await trio.aclose_forcefully(stream)

    servers = []
    for letter in "ab":
        path = tmp_path / letter
        path.write_text(letter * 50_000)
        servers.append(Server(answer_with(path), config, tls=tls))
    with trio.fail_after(30):
        async with served_elsewhere(servers[0]) as first, served_elsewhere(servers[1]) as second:
            monkeypatch.setattr(os, "preadv", read_and_await_the_other)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fetch, "a", first)
                nursery.start_soon(fetch, "b", second)
    assert not both_have_read.broken
    assert received == {letter: letter.encode() * 50_000 for letter in "ab"}
