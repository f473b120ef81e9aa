"""`sendfile` without a web server: three readers download one file, one of them slowly, one only its end.

Run it with `python examples/sendfile_download.py`; it needs this package and Trio.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import deque
from typing import IO

import trio

from sendfile import FileSpan, Part, Pump, Stalled

SIZE = 20_000_000


async def answer(pump: Pump, stream: trio.SocketStream, file: IO[bytes]) -> None:
    """A request is a line with the first byte wanted; the answer is a line with the length, then bytes."""
    offset = int(await stream.receive_some(100))
    span = FileSpan(file, offset, SIZE - offset)
    parts: deque[Part] = deque([b"%d\n" % len(span), span])
    try:
        await pump.deliver(stream.socket, parts, idle_timeout=30)
    except (Stalled, ConnectionError) as error:
        print(f"ended with {sum(map(len, parts))} bytes to go: {error}")


async def download(port: int, name: str, offset: int, pause: float) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(b"%d\n" % offset)
        data = bytearray()
        async for chunk in stream:
            data += chunk
            await trio.sleep(pause)
    head, _, body = bytes(data).partition(b"\n")
    assert int(head) == len(body)
    print(f"{name}: {len(body)} bytes, sha256 {hashlib.sha256(body).hexdigest()[:16]}")


async def main() -> None:
    with tempfile.TemporaryFile() as file:
        for n in range(SIZE // 50_000):
            file.write(bytes([n % 251]) * 50_000)
        file.flush()
        async with trio.open_nursery() as serving:
            pump = Pump()
            await serving.start(pump.run)
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listener.socket.getsockname()[1]
            serving.start_soon(trio.serve_listeners, lambda stream: answer(pump, stream, file), [listener])
            async with trio.open_nursery() as readers:
                readers.start_soon(download, port, "whole", 0, 0)
                readers.start_soon(download, port, "slowly", 0, 0.005)
                readers.start_soon(download, port, "the end", SIZE - 1_000_000, 0)
                await trio.sleep(0.5)
                print(f"after half a second {len(pump.jobs())} of 3 are still under way")
            serving.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
