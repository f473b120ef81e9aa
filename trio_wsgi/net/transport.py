"""A connected socket as verbs that never wait, and the few waits apart from them.

Laws:

* `*_nowait` may be called in whichever thread owns the wire at the moment; everything `async` runs on the event loop.
* The peer's leaving is `ClientGone`, whatever errno it came as; a file that cannot be read is the disk's doing; one
  that is not open, or not for reading, is the app's.
* A peer that takes bytes is not stalled, however few they are and whether or not the kernel asks us for more.
* Nor is one whose bytes have come when we look, however late that is: the pause may have been ours (`readable_nowait`).
* `close` is called by the connection's task, on every path.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from sendfile import DiskStalled, FileSpan, MinRate, Parts, Pump, Rate, Stalled, TlsSender, TooSlow
from sendfile.held import held_by_kernel
from sendfile.pump import DIRECT_BYTES
from sendfile.send import send_unchecked
from trio_wsgi.errors import AppError, ClientGone, ClientStalled, ClientTooSlow, DiskFailed, find_lack

# send(2), sendfile(2), tcp(7): what is wrong with the connection; else it is a file, or what the system lacks
_GONE = {
    errno.EPIPE, errno.ESHUTDOWN, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED,
    errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH,
}  # fmt: skip
A = TypeVar("A")
T = TypeVar("T")
_AT_ONCE = (2 << 20) + (8 << 10)  # bytes, a head among them, that the kernel is given for who reads fast: it takes more
LOOKS = 4  # per idle_timeout, at what the peer has taken


class Transport:
    """A connection's socket, TCP or unix; one with TLS is a `net.tls.TlsTransport`.

    Args:
        sock: connected and non-blocking; the transport owns it.
        pump: moves what the kernel does not take at once.
        kernel: whether files may leave by `os.sendfile`.
    """

    duplex = True  # one thread may receive while another one sends
    bare = True  # what the peer sends is what the socket receives
    takes_blocks = True  # `send_block_nowait` is there

    __slots__ = ("_kernel", "_pump", "_sender", "fast", "loop_thread", "sock", "token")

    def __init__(self, sock: socket.socket, pump: Pump, kernel: bool = True) -> None:
        self.sock = sock
        self.token = trio.lowlevel.current_trio_token()  # of the loop that it belongs to,
        self.loop_thread = threading.get_ident()  # and its thread
        self._pump = pump
        self._kernel = kernel
        self._sender: TlsSender | None = None
        self.fast = False  # its peer was seen to read fast: megabytes that the kernel holds for it soon leave

    def receive_nowait(self, size: int) -> bytes:
        """At most `size` bytes, b"" when the peer has closed its side.

        Raises:
            trio.WouldBlock: nothing is there yet.
            ClientGone: the connection was reset.
        """
        return self._receive(self.sock.recv, size)

    def receive_into_nowait(self, buffer: memoryview) -> int:
        """As `receive_nowait`, into a buffer that is not empty; returns the bytes received, 0 for b""."""
        return self._receive(self.sock.recv_into, buffer)

    def _receive(self, receive: Callable[[A], T], what: A) -> T:
        try:
            return receive(what)
        except BlockingIOError:
            raise trio.WouldBlock from None
        except OSError as exc:
            raise ClientGone(exc.errno, f"while receiving: {exc.strerror}") from exc

    def send_nowait(self, parts: Parts, limit: int | None = None) -> int:
        """Send what the kernel takes now; `parts` keeps the rest.

        Args:
            limit: bytes, more or less, for who may not go on for as long as the peer keeps up; None for no limit.

        Returns:
            The bytes taken.

        Raises:
            ClientGone: the peer has closed or reset the connection.
        """
        try:
            return send_unchecked(self.sock, parts, limit, kernel=self._kernel)
        except OSError as exc:
            raise ClientGone(exc.errno, f"while sending: {exc.strerror}") from exc

    def send_block_nowait(self, block: bytes) -> int:
        """Send what the kernel takes now of a block; returns its bytes. Raises as `send_nowait`."""
        try:
            return self.sock.send(block)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise ClientGone(exc.errno, f"while sending: {exc.strerror}") from exc

    def push_nowait(self, parts: Parts) -> int:
        """Send what of bytes and files is in memory and the kernel takes now; `parts` keeps the rest.

        Returns:
            The bytes sent: `DIRECT_BYTES` at most, or more to who is `fast`.

        Raises:
            ClientGone, FileTooShort, DiskFailed, AppError: as `deliver`.
        """
        try:
            limit = _AT_ONCE if self.fast else DIRECT_BYTES
            return self._pump.push_unchecked(self.sock, parts, limit, kernel=self._kernel)
        except (OSError, ValueError) as exc:
            raise _whose(exc, parts) from exc

    def writable_nowait(self) -> bool:
        """Whether the kernel would take bytes now."""
        return self._polls(select.POLLOUT)

    def readable_nowait(self) -> bool:
        """Whether there is something to receive now: to be asked before a peer is told that nothing came in time."""
        return self._polls(select.POLLIN)

    def _polls(self, event: int) -> bool:
        poll = select.poll()
        poll.register(self.sock, event)
        return bool(poll.poll(0))

    def wait_readable(self) -> Awaitable[None]:
        """Until bytes, the end or an error can be received."""
        # No coroutine of our own around it: thousands wait here.
        return trio.lowlevel.wait_readable(self.sock)  # noqa: ASYNC105 - whoever calls it awaits

    async def wait_writable(self) -> None:
        """Until the kernel takes bytes, or the peer has gone."""
        await trio.lowlevel.wait_writable(self.sock)

    async def deliver(
        self,
        parts: Parts,
        idle_timeout: float,
        progress: Callable[[int], None] | None = None,
        rate: Rate | None = None,
        min_rate: MinRate | None = None,
    ) -> None:
        """Send all of `parts`, emptying it on the way.

        Args:
            idle_timeout: seconds without a byte taken by the peer before it counts as stalled.
            progress: is told every number of bytes that the kernel took.
            rate: the most it is sent.
            min_rate: the least it has to take.

        Raises:
            ClientGone: the peer has left, stalled (`ClientStalled`) or is too slow (`ClientTooSlow`); what it did not
                take is still in `parts`.
            FileTooShort: a file ended before its span did.
            DiskFailed: a file cannot be read, or the system lacks what it takes to send it.
            AppError: it is not open for reading.
        """
        taken = Taken(self.sock, idle_timeout, progress)
        while True:
            try:
                await self._pump.deliver(
                    self.sock,
                    parts,
                    idle_timeout=idle_timeout / LOOKS,
                    kernel=self._kernel,
                    progress=taken.note,
                    rate=rate,
                    min_rate=min_rate,
                    sender=self._sender,
                )
            except TooSlow as exc:
                raise ClientTooSlow(f"{exc} (min_send_rate)") from None
            except Stalled:
                if taken.stalled():
                    raise ClientStalled("write_timeout", idle_timeout) from None
            except (OSError, ValueError) as exc:
                raise _whose(exc, parts) from exc
            else:
                return

    def held(self) -> int:
        """Bytes that the kernel has taken and the peer has not (tcp(7), SIOCOUTQ); 0 where it does not tell."""
        return held_by_kernel(self.sock)

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


def _whose(exc: OSError | ValueError, parts: Parts) -> ClientGone | DiskFailed | AppError:
    """Whose fault it is that parts could not be sent; ValueError and EBADF are those of a file which is not open."""
    if isinstance(exc, ValueError) or exc.errno == errno.EBADF:
        return AppError(f"the file could not be read on: {exc}")
    if exc.errno in _GONE:
        return ClientGone(exc.errno, f"while sending: {exc.strerror}")
    files = (part.file for part in parts if isinstance(part, FileSpan))
    name = getattr(next(files, None), "name", "a file")
    if (lack := find_lack(exc)) is not None:  # nobody says whether for the file or for the socket
        return DiskFailed(f"{name} could not be sent on for what the system lacks: {lack}")
    why = f"its disk gave nothing for {exc.seconds:g} s" if isinstance(exc, DiskStalled) else exc.strerror
    return DiskFailed(f"{name} could not be read on: {why}")


class Taken:
    """When the peer last took a byte: from us, or from what the kernel holds for it.

    The kernel calls a socket writable again when a third of its buffer is free, and that buffer may be megabytes: a
    reader of some kilobytes a second takes bytes all the time and yet is not heard of for minutes. The kernel is asked
    only when nothing is heard: a stall is noticed up to a look later.

    Args:
        idle_timeout: seconds without a byte taken that make a stall.
        progress: is told of the bytes that the kernel took.
    """

    __slots__ = ("_held", "_idle_timeout", "_moved_at", "_progress", "_sock")

    def __init__(self, sock: socket.socket, idle_timeout: float, progress: Callable[[int], None] | None) -> None:
        self._sock = sock
        self._idle_timeout = idle_timeout
        self._progress = progress
        self._held: int | None = None  # at the last look; None since the kernel has taken more from us
        self._moved_at = trio.current_time()

    def note(self, sent: int) -> None:
        """The kernel has taken bytes from us."""
        self._held = None
        self._moved_at = trio.current_time()
        if self._progress is not None:
            self._progress(sent)

    def stalled(self) -> bool:
        """Whether the peer has taken nothing for the whole time."""
        held, now = held_by_kernel(self._sock), trio.current_time()
        if self._held is None or held < self._held:  # what it took before the first look is not known: say just now
            self._held, self._moved_at = held, now
        return now - self._moved_at >= self._idle_timeout
