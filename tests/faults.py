"""Troubles: clients that each take a connected stream and do one bad thing; a system that has run out of something."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import trio


def reset_on_close(sock: socket.socket | trio.SocketStream) -> None:
    """Have its close be a reset, as that of a peer that was killed (socket(7), SO_LINGER)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def reset(stream: trio.SocketStream) -> None:
    """Leave by a reset."""
    reset_on_close(stream)
    await stream.aclose()


def vanish(sock: socket.socket | trio.SocketStream) -> None:
    """Answer nothing any more, as a machine without power or a way to us: its kernel drops whatever comes for it
    (socket(7), SO_ATTACH_FILTER; Linux). Sending would betray it."""
    so_attach_filter = 26  # asm-generic/socket.h
    drop_all = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0))  # linux/bpf_common.h: BPF_RET | BPF_K, 0
    program = struct.pack("@HP", 1, ctypes.addressof(drop_all))
    sock.setsockopt(socket.SOL_SOCKET, so_attach_filter, program)


class StopsReading:
    """Reads some bytes and never again, but stays connected.

    Args:
        stream: connected; the request was sent.
        after: bytes it reads first.
    """

    def __init__(self, stream: trio.SocketStream, after: int = 0) -> None:
        self.stream = stream
        self._after = after

    async def run(self) -> bytes:
        """What it read."""
        received = bytearray()
        while len(received) < self._after:
            chunk = await self.stream.receive_some(self._after - len(received))
            if not chunk:
                break
            received += chunk
        return bytes(received)


class OneByteAtATime:
    """Reads `count` single bytes, one system call each, and then like everybody else."""

    def __init__(self, stream: trio.SocketStream, count: int = 1000) -> None:
        self.stream = stream
        self._count = count

    async def run(self) -> bytes:
        """All it got until the server closed or reset the connection."""
        received = bytearray()
        with suppress(trio.BrokenResourceError):
            while chunk := await self.stream.receive_some(1 if len(received) < self._count else 65536):
                received += chunk
        return bytes(received)


class Vanishes:
    """Reads `after` bytes and is gone: with an orderly close, or with a reset."""

    def __init__(self, stream: trio.SocketStream, after: int = 0, reset: bool = False) -> None:
        self.stream = stream
        self._after = after
        self._reset = reset

    async def run(self) -> bytes:
        """What it read."""
        received = await StopsReading(self.stream, self._after).run()
        if self._reset:
            reset_on_close(self.stream)
        self.stream.socket.close()
        return received


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Every open(2) and dup(2) of this process fails with EMFILE (getrlimit(2), RLIMIT_NOFILE)."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
