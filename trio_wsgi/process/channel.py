"""The line between a supervisor and one worker: a pair of sockets.

Laws:

* Each process holds its own end and nobody else's, so that the end of a process is the end of its line.
* Lines are whole and stay in their order. Nobody but who sends an order waits to be heard: what the other side does not
  take is kept, and goes out before the next line, at the latest with the next sign of life.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable

import trio

from trio_wsgi.process.messages import SIGN_OF_LIFE, Message, format_message

_CHUNK = 65536  # bytes


class Channel:
    """One end of the line.

    Args:
        sock: ours; becomes non-blocking.
        received: bytes that were read from it already, and belong to no whole line yet.
    """

    def __init__(self, sock: socket.socket, received: bytes = b"") -> None:
        sock.setblocking(False)
        sock.set_inheritable(False)
        self._sock = sock
        self._unsent = b""
        self.received = received

    def fileno(self) -> int:
        """The descriptor's number; -1 when closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Let the other side see the end. May be called again."""
        self._sock.close()

    def hang_up(self) -> None:
        """Let the other side see the end, and go on listening to it. May be called again."""
        with contextlib.suppress(OSError):  # it has ended
            self._sock.shutdown(socket.SHUT_WR)

    def detach(self) -> int:
        """Let go of the descriptor, which stays open; its number."""
        return self._sock.detach()

    def tell(self, message: Message) -> None:
        """Say it, if the other side still listens."""
        self._unsent += format_message(message)
        with contextlib.suppress(OSError):
            self._send_nowait()

    def beat(self) -> None:
        """Give a sign of life, and say what was not taken before."""
        self._unsent = self._unsent or SIGN_OF_LIFE  # one is enough for all that was not taken
        with contextlib.suppress(OSError):
            self._send_nowait()

    def _send_nowait(self) -> None:
        while self._unsent:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]

    async def send_all(self, line: bytes) -> None:
        """Say it in whole; waits for the other side to take it. One at a time.

        Raises:
            OSError: the other side has ended.

        Cancellation: it is said all the same, before the next line.
        """
        self._unsent += line
        while self._unsent:
            try:
                self._send_nowait()
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._sock)

    async def receive(self) -> list[bytes]:
        """The next lines, without their ends; none at all when the other side has ended."""
        while True:
            try:
                lines = self.receive_nowait()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
            else:
                if lines is None or lines:
                    return lines or []

    def receive_nowait(self) -> list[bytes] | None:
        """The lines that are there, maybe none; None when the other side has ended.

        Raises:
            BlockingIOError: nothing has come.
        """
        try:
            data = self._sock.recv(_CHUNK)
        except BlockingIOError:
            raise
        except OSError:
            data = b""
        if not data:
            rest, self.received = self.received, b""
            return [rest] if rest else None
        *lines, self.received = (self.received + data).split(b"\n")
        return lines


def open_pair() -> tuple[Channel, socket.socket]:
    """Both ends of a new line: ours, and the one for a worker, which the caller closes once it has been started."""
    ours, theirs = socket.socketpair()
    return Channel(ours), theirs


def send_blocking(sock: socket.socket, messages: Iterable[Message]) -> None:
    """Say them in whole, where there is no event loop, if the other side is still there; blocks."""
    with contextlib.suppress(OSError):
        sock.setblocking(True)
        for message in messages:
            sock.sendall(format_message(message))


def receive_first_line(sock: socket.socket) -> bytes:
    """The line that stands at the beginning; blocks.

    Raises:
        EOFError: the other side ended before it had said it.
    """
    sock.setblocking(True)
    line = bytearray()
    while not line.endswith(b"\n"):
        data = os.read(sock.fileno(), 1)  # what follows it is left where it is
        if not data:
            raise EOFError
        line += data
    return bytes(line)
