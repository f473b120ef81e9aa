"""What tests of downloads share: known bytes, a client that knows whether it got everything, watched closes."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import h11
import trio
from serving import Served
from waiting import until

MIB = 1 << 20

Headers = Sequence[tuple[str, str]]
Opener = Callable[[dict[str, Any]], BinaryIO]


def known_bytes(count: int, seed: int = 7) -> bytes:
    """Bytes in which no part looks like another, so that a wrong offset shows."""
    return random.Random(seed).randbytes(count)


def make_file(path: Path, count: int, seed: int = 7) -> bytes:
    """Write `count` known bytes to `path` and return them."""
    data = known_bytes(count, seed)
    path.write_bytes(data)
    return data


def make_sparse(path: Path, size: int, marks: dict[int, bytes] | None = None) -> Path:
    """A file of `size` bytes, zeros but for `marks` (offset: bytes)."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset, mark in (marks or {}).items():
            file.seek(offset)
            file.write(mark)
    return path


def file_app(
    open_file: Opener, headers: Headers = (), status: str = "200 OK", before: bytes = b""
) -> Callable[..., Any]:
    """An app that answers `/hello` with a list and everything else with `wsgi.file_wrapper` over a fresh file.

    Args:
        open_file: given the environ, returns the file-like object.
        before: written through the write callable first.
    """

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["PATH_INFO"] == "/hello":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"hello"]
        file = open_file(environ)
        write = start_response(status, [("Content-Type", "application/octet-stream"), *headers])
        if before:
            write(before)
        return environ["wsgi.file_wrapper"](file, 16384)

    return app


@dataclass
class Closes:
    """Who closed a file, and when: one entry per call."""

    threads: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.threads)

    def watch(self, file: Any) -> Any:
        """`file`, whose own `close` is noted from now on; it still closes."""
        close = file.close

        def noting() -> None:
            self.threads.append(threading.get_ident())
            self.times.append(time.monotonic())
            close()

        file.close = noting
        return file

    async def wait(self, count: int = 1, seconds: float = 5.0) -> None:
        """Until there were `count` of them."""
        with trio.fail_after(seconds):
            await until(lambda: len(self) >= count)


@dataclass
class Reply:
    """A response as a strict client sees it."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    whole: bool  # False when it ended before its framing said so


class Client:
    """One connection that speaks strict HTTP/1.1 by h11: it notices a body that is cut or that runs over."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._h11 = h11.Connection(h11.CLIENT)

    async def ask(self, target: str = "/", method: str = "GET", headers: Headers = (), seconds: float = 10.0) -> Reply:
        """Send a request and read its response to the end."""
        with trio.fail_after(seconds):
            await self.send(target, method, headers)
            return await self.read()

    async def send(self, target: str = "/", method: str = "GET", headers: Headers = ()) -> None:
        """Send a request."""
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
        request = h11.Request(method=method, target=target, headers=[("Host", "t"), *headers])
        await self.stream.send_all(self._h11.send(request) + self._h11.send(h11.EndOfMessage()))

    async def read_head(self) -> h11.Response:
        """The head of the response; the body may be read by `read_some` and `read`."""
        event = await self._next_event()
        assert isinstance(event, h11.Response), event
        return event

    async def read(self, head: h11.Response | None = None) -> Reply:
        """The rest of the response."""
        head = head or await self.read_head()
        body = bytearray()
        whole = False
        with contextlib.suppress(h11.RemoteProtocolError, trio.BrokenResourceError):
            while isinstance(event := await self._next_event(), h11.Data):
                body += event.data
            whole = isinstance(event, h11.EndOfMessage)
        return Reply(head.status_code, dict(head.headers), bytes(body), whole)

    async def read_some(self) -> bytes:
        """A piece of the body."""
        event = await self._next_event()
        assert isinstance(event, h11.Data), event
        return bytes(event.data)

    async def _next_event(self) -> Any:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            self._h11.receive_data(await self.stream.receive_some(65536))
        return event


@contextlib.asynccontextmanager
async def connected(served: Served, receive_buffer: int | None = None) -> AsyncIterator[Client]:
    """A client with a connection of its own; for the buffer see `Served.connect`."""
    async with await served.connect(receive_buffer) as stream:
        yield Client(stream)


@contextlib.contextmanager
def blocking_client(port: int, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    """A plain connected socket with a timeout, for tests that have no loop of their own."""
    with socket.socket() as sock:
        sock.settimeout(20)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(("127.0.0.1", port))
        yield sock
