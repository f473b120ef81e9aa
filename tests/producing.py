"""Applications that make a body block by block, and clients that are slow to take it.

Clients are raw sockets with small receive buffers, so that the kernel is full soon.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import h11
import trio
from asking import CLOSE
from serving import Served, receive_to_end

TINY, SMALL = 4096, 16 * 1024  # bytes of a client's receive buffer
REQUESTS = {  # name → request, and whether the app says its length
    "chunked": (CLOSE, False),
    "content-length": (CLOSE, True),
    "http/1.0": (b"GET / HTTP/1.0\r\n\r\n", False),
    "http/1.0 with content-length": (b"GET / HTTP/1.0\r\n\r\n", True),
}
Write = Callable[[bytes], object]


def cut_up(data: bytes, seed: int, largest: int = 200_000) -> Iterator[bytes]:
    """`data` in blocks of all magnitudes, empty ones among them."""
    dice = random.Random(seed)
    offset = 0
    while offset < len(data):
        size = dice.choice([0, 1, dice.randrange(100), dice.randrange(5000), dice.randrange(largest)])
        yield data[offset : offset + size]
        offset += size


def write_all(environ: dict[str, Any], write: Write, blocks: Iterable[bytes]) -> int:
    """Write each block as an app of any policy may: try again when it is refused. Returns the refusals."""
    refused = 0
    for block in blocks:
        while True:
            try:
                write(block)
            except BlockingIOError as refusal:
                refused += 1
                assert refusal.characters_written == 0
                assert environ["trio_wsgi.wait_writable"](20)
            else:
                break
    return refused


def app_of(
    data: bytes, seed: int = 1, length: bool = False, returns: Callable[[dict[str, Any]], Any] = lambda environ: []
) -> Callable[..., Any]:
    """An app that writes `data` in odd blocks and then returns something."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        headers = [("Content-Length", str(len(data)))] if length else []
        write = start_response("200 OK", [("Content-Type", "application/octet-stream"), *headers])
        write_all(environ, write, cut_up(data, seed))
        return returns(environ)

    return app


async def ask_to_end(served: Served, request: bytes, receive_buffer: int | None = SMALL) -> tuple[bytes, str]:
    """What a slow client gets, and how that ended: "closed" or "cut"."""
    with trio.fail_after(20):
        async with await served.connect(receive_buffer) as stream:
            await stream.send_all(request)
            return await receive_to_end(stream)


async def ask(served: Served, request: bytes, receive_buffer: int | None = SMALL) -> bytes:
    """What a slow client gets, however that ended."""
    received, _ = await ask_to_end(served, request, receive_buffer)
    return received


def cut_body(raw: bytes) -> Iterator[bytes]:
    """The body of a response that must not be whole."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "t")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    assert isinstance(client.next_event(), h11.Response)
    while isinstance(event := client.next_event(), h11.Data):
        yield bytes(event.data)
    assert event is h11.NEED_DATA
