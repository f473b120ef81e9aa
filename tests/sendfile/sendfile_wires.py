"""Real sockets and peers with faults, for the tests of `sendfile`.

No `__init__.py` beside this file: the folder would then hide the package of the same name.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO

import trio
from faults import reset_on_close

from sendfile import FileSpan, Part

TINY = 4099  # a prime, so that no boundary of the data falls on one of the buffer
PLENTY = bytes(16 << 20)  # more than the buffers of a connection hold (tcp_wmem and tcp_rmem: 4 and 6 MiB)
Pair = tuple[socket.socket, socket.socket]
Connect = Callable[[], Pair]


def unix_pair() -> Pair:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


def tcp_pair() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


CONNECTIONS: dict[str, Connect] = {"unix": unix_pair, "tcp": tcp_pair}


@contextlib.contextmanager
def unix_pairs(count: int) -> Iterator[list[Pair]]:
    """So many connections, closed afterwards."""
    with contextlib.ExitStack() as opened:
        yield [tuple(map(opened.enter_context, unix_pair())) for _ in range(count)]  # type: ignore[misc]


def tighten(near: socket.socket) -> None:
    """A tiny send buffer. (A tiny receive buffer would test delayed acknowledgements, 40 ms each.)"""
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, TINY)


def fill(sock: socket.socket) -> int:
    """Send until the kernel takes no more, not a single byte; returns the bytes.

    Over TCP that is so only when the peer's buffer has stopped growing, a moment after the first EAGAIN; and poll
    does not tell, since it reports a socket writable only from a third of its buffer on.
    """
    total = 0
    quiet = 0
    while quiet < (6 if sock.family == socket.AF_INET else 1):
        quiet += 1
        with contextlib.suppress(BlockingIOError):
            while True:
                total += sock.send(b"\0" * 65536)
                quiet = 0
        select.select([], [], [], 0.01 if sock.family == socket.AF_INET else 0)
    return total


def drain(sock: socket.socket) -> int:
    """Receive all that is there now; returns the bytes."""
    total = 0
    try:
        while data := sock.recv(1 << 20):
            total += len(data)
    except BlockingIOError:
        pass
    return total


def reset(sock: socket.socket) -> None:
    """Close with RST, where it is TCP."""
    reset_on_close(sock)
    sock.close()


async def receive(sock: socket.socket, count: int, chunk: int = 70001) -> bytes:
    """The next ``count`` bytes, or fewer at the end of the stream, asked for ``chunk`` at a time."""
    data = bytearray()
    while len(data) < count:
        try:
            piece = sock.recv(min(chunk, count - len(data)))
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)
            continue
        if not piece:
            break
        data += piece
    return bytes(data)


def content(part: Part) -> bytes:
    """What a part is, read the plain way."""
    if not isinstance(part, FileSpan):
        return bytes(part)
    with open(part.file.fileno(), "rb", closefd=False) as file:
        file.seek(part.offset)
        return file.read(part.count)


def whole(file: IO[bytes]) -> FileSpan:
    return FileSpan(file, 0, file.seek(0, 2))


def queue(*parts: Part) -> deque[Part]:
    return deque(parts)
