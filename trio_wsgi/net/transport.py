"""A connected socket as verbs that never wait, and the few waits apart from them.

Laws:

* `*_nowait` may be called in whichever thread owns the wire at the moment; everything `async` runs on the event loop.
* The peer's leaving is `ClientGone`, whatever errno it came as.
* `close` is called once, by the connection's task, on every path.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections import deque
from collections.abc import Callable

import trio

from sendfile import FileTooShort, Part, Pump, Stalled, send_nowait
from trio_wsgi.errors import ClientGone, ClientStalled

__all__ = ["FileTooShort", "PlainTransport"]


class PlainTransport:
    """TCP or a unix socket, without TLS.

    Args:
        sock: connected and non-blocking; the transport owns it.
        pump: moves what the kernel does not take at once.
        kernel: whether files may leave by `os.sendfile`.
    """

    def __init__(self, sock: socket.socket, pump: Pump, kernel: bool = True) -> None:
        self.sock = sock
        self._pump = pump
        self._kernel = kernel

    def receive_nowait(self, size: int) -> bytes:
        """At most `size` bytes, b"" when the peer has closed its side.

        Raises:
            trio.WouldBlock: nothing is there yet.
            ClientGone: the connection was reset.
        """
        try:
            return self.sock.recv(size)
        except BlockingIOError:
            raise trio.WouldBlock from None
        except OSError as exc:
            raise ClientGone(exc.errno, f"while receiving: {exc.strerror}") from exc

    def send_nowait(self, parts: deque[Part]) -> int:
        """Send what the kernel takes now; `parts` keeps the rest.

        Returns:
            The bytes taken.

        Raises:
            ClientGone: the peer has closed or reset the connection.
        """
        try:
            return send_nowait(self.sock, parts, kernel=self._kernel)
        except OSError as exc:
            raise ClientGone(exc.errno, f"while sending: {exc.strerror}") from exc

    def writable_nowait(self) -> bool:
        """Whether the kernel would take bytes now."""
        poll = select.poll()
        poll.register(self.sock, select.POLLOUT)
        return bool(poll.poll(0))

    async def wait_readable(self) -> None:
        """Until bytes, the end or an error can be received."""
        await trio.lowlevel.wait_readable(self.sock)

    async def wait_writable(self) -> None:
        """Until the kernel takes bytes, or the peer has gone."""
        await trio.lowlevel.wait_writable(self.sock)

    async def deliver(
        self, parts: deque[Part], idle_timeout: float, progress: Callable[[int], None] | None = None
    ) -> None:
        """Send all of `parts`, emptying it on the way.

        Args:
            idle_timeout: seconds without a byte taken by the peer before it counts as stalled.
            progress: is told every number of bytes that the kernel took.

        Raises:
            ClientGone: the peer has left, or stalled (`ClientStalled`); what it did not take is still in `parts`.
            FileTooShort: a file ended before its span did.
        """
        try:
            await self._pump.deliver(
                self.sock, parts, idle_timeout=idle_timeout, kernel=self._kernel, progress=progress
            )
        except Stalled:
            raise ClientStalled("write_timeout", idle_timeout) from None
        except OSError as exc:
            raise ClientGone(exc.errno, f"while sending: {exc.strerror}") from exc

    def end_sending(self) -> None:
        """Tell the peer that nothing more comes, and go on receiving."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Close with a reset, so that a peer who reads up to the end knows that this was not the end."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close the socket; whoever waits on it is told. May be called again."""
        if self.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()
