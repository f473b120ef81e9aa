"""One Trio program: a TCP service, a background task that both share, and a WSGI page to look after it.

    python examples/embedded.py            then   nc 127.0.0.1 7777   and   http://127.0.0.1:8000/

The TCP service sends every line back to whoever sent it. The page is ordinary synchronous WSGI; it runs in a thread and
asks the Trio side through `trio.from_thread`: it shows what the web server and the service are doing, and POST / says
something to all TCP clients that keep up. Ctrl-C drains the web server, then ends the rest.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import trio

import trio_wsgi

WAITING = 16  # pieces for a client that is slow to take them


class Echo:
    """The TCP service, and what is known of it."""

    def __init__(self) -> None:
        self.clients: set[trio.MemorySendChannel[bytes]] = set()
        self.lines = 0
        self.lines_per_second = 0.0

    async def serve_client(self, stream: trio.SocketStream) -> None:
        """Whatever a client is to get goes through its channel, for only one task may send on a stream."""
        client, pieces = trio.open_memory_channel[bytes](WAITING)
        self.clients.add(client)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, stream, pieces)
                with client:  # closed, it lets the sender end when all has been sent
                    async for data in stream:
                        self.lines += data.count(b"\n")
                        await client.send(data)
        except* trio.BrokenResourceError:
            pass  # it left without a farewell
        finally:
            self.clients.discard(client)

    async def _send(self, stream: trio.SocketStream, pieces: trio.MemoryReceiveChannel[bytes]) -> None:
        async for data in pieces:
            await stream.send_all(data)

    def say(self, text: bytes) -> int:
        """Send `text` to every client; to how many. One that is too slow misses it, and holds nobody up."""
        told, piece = 0, text + b"\n"
        for client in self.clients:
            with suppress(trio.WouldBlock, trio.ClosedResourceError):
                client.send_nowait(piece)
                told += 1
        return told

    async def measure(self, every: float = 1.0) -> None:
        """The background task."""
        while True:
            before = self.lines
            await trio.sleep(every)
            self.lines_per_second = (self.lines - before) / every


class AdminPage:
    """The WSGI application. `server` is the one that serves it."""

    server: trio_wsgi.Server

    def __init__(self, echo: Echo) -> None:
        self._echo = echo

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            told = trio.from_thread.run_sync(self._echo.say, environ["wsgi.input"].read())
            text = f"said to {told} clients\n"
        else:
            text = trio.from_thread.run_sync(self._describe)
        start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
        return [text.encode()]

    def _describe(self) -> str:
        """On the loop, where nothing changes meanwhile."""
        echo = self._echo
        return (
            f"echo: {len(echo.clients)} clients, {echo.lines} lines, {echo.lines_per_second:g} per second\n"
            f"{self.server.statistics()}\n"
        )


async def main(http_port: int = 8000, tcp_port: int = 7777) -> None:
    echo = Echo()
    page = AdminPage(echo)
    page.server = server = trio_wsgi.Server(page, trio_wsgi.Config(bind=(f"127.0.0.1:{http_port}",)))
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as services:
            services.start_soon(echo.measure)
            serve_tcp = partial(trio.serve_tcp, host="127.0.0.1")
            (listener,) = await services.start(serve_tcp, echo.serve_client, tcp_port)
            async with trio.open_nursery() as web:
                (address,) = await web.start(server.serve)
                print(f"page at {address.url('http')}/, echo at port {listener.socket.getsockname()[1]}", flush=True)
                await anext(signals)
                server.drain()  # leaving the block waits for the requests under way
            services.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(partial(main, *map(int, sys.argv[1:])))
