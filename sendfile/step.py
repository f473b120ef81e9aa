"""One step: a system call that moves bytes of parts to a non-blocking stream socket.

Laws:

* What a step reports as accepted is what the kernel said it took, and that alone is how far a part advances: nothing is
  repeated after a full buffer, nothing is skipped.
* Where the kernel cannot send a file itself, its bytes are copied through a buffer of 64 KiB, and nobody else
  notices. ``kernel=False`` asks for that.
* The socket is never closed, shut down or switched between blocking and non-blocking here.
* A TLS socket is refused (`check_socket`), for by its descriptor bytes leave as they are. Steps do not look: they are
  for callers who know their socket and count the 0.2 µs.

SIGPIPE is expected to be ignored, as Python does at start, so that a peer that has gone is an exception.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Sequence

import trio

from sendfile.parts import Parts, consume, head, size
from sendfile.span import FileSpan, HasFileno

STEP = 1 << 20
"""Most bytes in one step. One call without a limit was 1.7 times slower when measured, and holds the loop."""

CLOSED = "the socket was closed on this side"
"""What a ClosedResourceError says of it."""

_LARGEST_CALL = 0x7FFFF000  # sendfile(2), NOTES: what Linux moves in one call at most
_COPY_STEP = 1 << 16  # bytes of a file that are copied at once
_BUFFERS = 64  # of IOV_MAX, which is 1024 on Linux and at least 16 (POSIX, limits.h)
_MSG_MORE: int = getattr(socket, "MSG_MORE", 0)
_KERNEL_CANNOT = frozenset(
    {errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOTSOCK, errno.EOVERFLOW}
)


class FileTooShort(Exception):
    """A file ended before its span did, because it was cut after the span had been measured.

    The promised length cannot be kept any more; the only honest thing left is to close the connection.

    Attributes:
        span: what was still to be sent when the file was found to have ended.
        missing: how many promised bytes will not come.
    """

    def __init__(self, span: FileSpan) -> None:
        super().__init__(f"the file ended {span.count} bytes early, at byte {span.offset}: {span.file!r}")
        self.span = span
        self.missing: int = span.count

    def __copy__(self) -> FileTooShort:
        return type(self)(self.span)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.span.to_tell(),)  # as no open file can be pickled


def check_socket(sock: HasFileno, *, tls: bool = False) -> None:
    """Refuse what cannot be sent on; costs no system call.

    Raises:
        ValueError: it would block the event loop, or is a TLS socket whose ``TlsSender`` was forgotten: by its
            descriptor, bytes would leave as they are, not encrypted.
    """
    if isinstance(sock, socket.socket) and sock.gettimeout() != 0:
        raise ValueError(f"the socket must be non-blocking, call setblocking(False): {sock!r}")
    if isinstance(sock, ssl.SSLSocket) is not tls:
        raise ValueError(f"a TLS socket needs a TlsSender and Pump.deliver, a plain one has none: {sock!r}")


def send_step(sock: HasFileno, parts: Parts, limit: int = STEP, *, kernel: bool = True, cork: bool = True) -> int:
    """One step on the head of ``parts``, which is consumed in place: up to 64 bytes parts, or a piece of a
    span.

    Bytes that something follows go out with MSG_MORE (send(2)), so that the head and the body of a small file
    share packets. If what follows never comes, the kernel sends them after 200 ms, or at close. ``cork=False``
    sends them at once.

    Returns and raises as ``send_some_nowait``; when it raises, the queue is as before.
    """
    first = head(parts)
    if first is None:
        return 0
    if isinstance(first, FileSpan):
        sent = _send_span(sock, first, limit, kernel)
    else:
        buffers, more = _gather(parts, limit)
        sent = send_buffers(sock, buffers, _MSG_MORE if more and cork else 0)
    consume(parts, sent)
    return sent


def _gather(parts: Parts, limit: int) -> tuple[list[bytes | bytearray | memoryview], bool]:
    """The bytes at the head of the queue as buffers for one call, and whether anything comes after them."""
    buffers: list[bytes | bytearray | memoryview] = []
    for part in parts:
        length = size(part)
        if not length:
            continue  # the head of an empty file must not wait for it
        if isinstance(part, FileSpan) or not limit or len(buffers) == _BUFFERS:
            return buffers, True
        if length > limit:
            buffers.append(memoryview(part).cast("B")[:limit])
            return buffers, True
        buffers.append(part)
        limit -= length
    return buffers, False


def _send_span(sock: HasFileno, span: FileSpan, limit: int, kernel: bool) -> int:
    count = min(span.count, limit, _LARGEST_CALL)
    if kernel and hasattr(os, "sendfile"):
        try:
            sent = os.sendfile(_descriptor(sock), span.file.fileno(), span.offset, count)
        except BlockingIOError:
            raise trio.WouldBlock from None
        except OSError as error:
            if error.errno not in _KERNEL_CANNOT:
                raise
        else:
            if not sent:
                raise FileTooShort(span)
            return sent
    data = read_at(span.file.fileno(), min(count, _COPY_STEP), span.offset)
    if not data:
        raise FileTooShort(span)
    return send_buffers(sock, [data], 0)


def read_at(fd: int, count: int, offset: int) -> bytes:
    """At most ``count`` bytes of a file, wherever its position is."""
    if hasattr(os, "pread"):
        return os.pread(fd, count, offset)
    # Windows: safe between two checkpoints, as nobody else moves the position.
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, count)


def send_buffers(sock: HasFileno, buffers: Sequence[bytes | bytearray | memoryview], flags: int) -> int:
    """sendmsg(2) on any socket, also one (Trio's) whose own methods are asynchronous."""
    fd = _descriptor(sock)
    if isinstance(sock, socket.socket):
        return _sendmsg(sock, buffers, flags)
    # Family and kind are given only to save the system calls that would look them up: without an address they
    # play no part in sendmsg.
    borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
    try:
        if borrowed.gettimeout() is not None:  # somebody called socket.setdefaulttimeout()
            borrowed.setblocking(False)
        return _sendmsg(borrowed, buffers, flags)
    finally:
        borrowed.detach()


def _sendmsg(sock: socket.socket, buffers: Sequence[bytes | bytearray | memoryview], flags: int) -> int:
    try:
        if len(buffers) == 1 or not hasattr(sock, "sendmsg"):  # Windows has no sendmsg
            return sock.send(buffers[0], flags)
        return sock.sendmsg(buffers, (), flags)
    except BlockingIOError:
        raise trio.WouldBlock from None


def _descriptor(sock: HasFileno) -> int:
    fd = sock.fileno()
    if fd < 0:
        raise trio.ClosedResourceError(CLOSED)
    return fd
