"""A client of TLS 1.3 that asks for new keys of ours (RFC 8446 §4.6.3) while the kernel takes nothing more for it."""

from __future__ import annotations

import ctypes
import ctypes.util
import select
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
import trio
from asking import KEPT, PLAIN, Environ, StartResponse, error_lines
from authority import shared_authority
from tools import require_tool

from trio_wsgi import Config, Server

T = TypeVar("T")
REQUESTED = 1  # SSL_key_update(3): SSL_KEY_UPDATE_REQUESTED
MANY = 3000  # each costs us 27 bytes, and the kernel takes some dozens for a buffer as small as ours here
PATIENCE = struct.pack("ll", 20, 0)


def hello(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [*PLAIN, ("Content-Length", "5")])
    return [b"hello"]


def load_openssl() -> Any:
    """Its own functions, as `ssl` has none that asks for new keys."""
    require_tool("openssl")  # which comes with its library
    name = ctypes.util.find_library("ssl")
    assert name is not None
    library: Any = ctypes.CDLL(name)
    for function in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
        getattr(library, function).restype = ctypes.c_void_p
    return library


class Client:
    """A connection that asks for new keys, and reads when it is told to."""

    def __init__(self, library: Any, port: int) -> None:
        self._library = library
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, PATIENCE)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, PATIENCE)
        self._sock.connect(("127.0.0.1", port))
        self._context = ctypes.c_void_p(library.SSL_CTX_new(ctypes.c_void_p(library.TLS_client_method())))
        self._tls = ctypes.c_void_p(library.SSL_new(self._context))
        assert library.SSL_set_fd(self._tls, self._sock.fileno()) == 1
        assert library.SSL_connect(self._tls) == 1

    def ask_for_keys(self, times: int) -> None:
        for _ in range(times):
            assert self._library.SSL_key_update(self._tls, REQUESTED) == 1
            assert self._library.SSL_do_handshake(self._tls) == 1

    def send(self, data: bytes) -> None:
        assert self._library.SSL_write(self._tls, data, len(data)) == len(data)

    def receive(self) -> bytes:
        buffer = ctypes.create_string_buffer(65536)
        count = self._library.SSL_read(self._tls, buffer, len(buffer))
        return buffer.raw[: max(count, 0)]

    def unread(self) -> int:
        """Bytes that the kernel has for us."""
        return len(self._sock.recv(1 << 20, socket.MSG_PEEK)) if select.select([self._sock], [], [], 0)[0] else 0

    def close(self) -> None:
        self._library.SSL_free(self._tls)
        self._library.SSL_CTX_free(self._context)
        self._sock.close()


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[Client]:
    client = await do(Client, load_openssl(), port)
    try:
        yield client
    finally:
        client.close()


async def do(function: Callable[..., T], *args: Any) -> T:
    """In a thread: the client waits."""
    return await trio.to_thread.run_sync(function, *args)


class Steps(trio.abc.Instrument):
    """How often any task has gone on."""

    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Its connections have the smallest buffers."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock


async def test_who_asks_for_more_new_keys_than_the_kernel_takes_is_served_when_it_reads(
    listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody has gone, and nobody spins: the server waits until the kernel takes its answer, and reads on."""
    server = Server(hello, Config(certfile=(shared_authority()[1],)))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [listener])
        async with connect(listener.getsockname()[1]) as client:
            await do(client.send, KEPT)
            assert (await do(client.receive)).endswith(b"hello")
            await do(client.ask_for_keys, MANY)
            await do(client.send, KEPT)
            await _wait_still(client)
            trio.lowlevel.add_instrument(steps := Steps())
            await trio.sleep(0.2)  # for nothing to happen in
            trio.lowlevel.remove_instrument(steps)
            assert steps.count < 20
            assert [each.state.name for each in server.statistics().connections] == ["IDLE"]
            assert (await do(client.receive)).endswith(b"hello")
            await do(client.send, KEPT)
            assert (await do(client.receive)).endswith(b"hello")
        nursery.cancel_scope.cancel()
    assert error_lines(caplog) == []


async def _wait_still(client: Client) -> None:
    """Until nothing has come for a while: the kernel takes no more of the server's."""
    unread = -1
    with trio.fail_after(10):
        while unread != (unread := client.unread()) or not unread:  # noqa: ASYNC110
            await trio.sleep(0.1)
