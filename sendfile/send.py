"""Sending parts (bytes, spans of files) on a non-blocking stream socket.

Laws:

* One step is one system call that moves data. What it reports as accepted is what the kernel said it took,
  and that alone is how far a part advances: nothing is repeated after a full buffer, nothing is skipped.
* A queue of parts (`Parts`: a deque, or a short list) is consumed in place, so whoever holds it sees after
  an error or a cancellation exactly what has not been sent.
* Where the kernel cannot send a file itself, its bytes are copied through a buffer of 64 KiB, and nobody else
  notices. ``kernel=False`` asks for that.
* The socket is never closed, shut down or switched between blocking and non-blocking here, and one sender at
  a time uses it: two would interleave their bytes.
* A TLS socket is refused (`check_socket`), for by its descriptor bytes leave as they are. ``send_step``, ``send_steps``
  and ``send_unchecked`` are for callers who know their socket and count the 0.2 µs.

A socket is anything with ``fileno()`` that is non-blocking: a ``socket.socket`` with timeout 0, or a Trio
socket. SIGPIPE is expected to be ignored, as Python does at start, so that a peer that has gone is an
exception.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import trio

from sendfile.span import FileSpan, HasFileno, Part, Parts, after, check_parts, size

__all__ = [
    "STEP",
    "FileTooShort",
    "check_socket",
    "consume",
    "read_at",
    "send_all",
    "send_nowait",
    "send_some",
    "send_some_nowait",
    "send_step",
    "send_steps",
    "send_unchecked",
]

STEP = 1 << 20
"""Most bytes in one step. One call without a limit was 1.7 times slower when measured, and holds the loop."""

_LARGEST_CALL = 0x7FFFF000  # sendfile(2), NOTES: what Linux moves in one call at most
_COPY_STEP = 1 << 16
_BUFFERS = 64  # of IOV_MAX, which is 1024 on Linux and at least 16 (POSIX, limits.h)
_SMALL = 16 * 1024  # bytes
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
        self.missing = span.count


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


def _descriptor(sock: HasFileno) -> int:
    fd = sock.fileno()
    if fd < 0:
        raise trio.ClosedResourceError("the socket was closed on this side")
    return fd


def _send_buffers(sock: HasFileno, buffers: Sequence[bytes | bytearray | memoryview], flags: int) -> int:
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
    return _send_buffers(sock, [data], 0)


def read_at(fd: int, count: int, offset: int) -> bytes:
    """At most ``count`` bytes of a file, wherever its position is."""
    if hasattr(os, "pread"):
        return os.pread(fd, count, offset)
    # Windows: safe between two checkpoints, as nobody else moves the position.
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, count)


def send_some_nowait(sock: HasFileno, part: Part, limit: int = STEP, *, kernel: bool = True) -> int:
    """Send a first piece of ``part`` without waiting: one step.

    Args:
        sock: a non-blocking stream socket (see the module's docstring).
        part: what to send; it stays as it is, the caller goes on ``n`` bytes later.
        limit: most bytes to send, at least 1. The copy path takes 64 KiB of a file at a time whatever the
            limit.
        kernel: False copies a file's bytes through Python instead of using sendfile(2).

    Returns:
        How many bytes the kernel has taken; at least 1 unless ``part`` is empty.

    Raises:
        trio.WouldBlock: the socket's buffer is full; wait until it is writable.
        FileTooShort: the file ended first; the peer cannot get what it was promised.
        ConnectionError: the peer has gone. Any other OSError comes from the network or from reading the file.
        trio.ClosedResourceError: the socket was closed on this side.
        ValueError: the socket would block, or is a TLS socket; or ``limit`` is less than 1.

    Spec: sendfile(2), send(2), pread(2).
    """
    check_socket(sock)
    return _send_piece(sock, part, limit, kernel)


def _send_piece(sock: HasFileno, part: Part, limit: int, kernel: bool) -> int:
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    if not size(part):
        return 0
    if isinstance(part, FileSpan):
        return _send_span(sock, part, limit, kernel)
    view = memoryview(part)
    return _send_buffers(sock, [view if view.nbytes <= limit else view.cast("B")[:limit]], 0)


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


def consume(parts: Parts, n: int) -> None:
    """Take the first ``n`` bytes off the queue."""
    while parts and n >= (length := size(parts[0])):
        del parts[0]
        n -= length
    if n:
        parts[0] = after(parts[0], n)


def send_step(sock: HasFileno, parts: Parts, limit: int = STEP, *, kernel: bool = True, cork: bool = True) -> int:
    """One step on the head of ``parts``, which is consumed in place: up to 64 bytes parts, or a piece of a
    span.

    Bytes that something follows go out with MSG_MORE (send(2)), so that the head and the body of a small file
    share packets. If what follows never comes, the kernel sends them after 200 ms, or at close. ``cork=False``
    sends them at once.

    Returns and raises as ``send_some_nowait``; when it raises, the queue is as before.
    """
    while parts and not size(parts[0]):
        del parts[0]
    if not parts:
        return 0
    first = parts[0]
    if isinstance(first, FileSpan):
        sent = _send_span(sock, first, limit, kernel)
    else:
        buffers, more = _gather(parts, limit)
        sent = _send_buffers(sock, buffers, _MSG_MORE if more and cork else 0)
    consume(parts, sent)
    return sent


def send_steps(sock: HasFileno, parts: Parts, limit: int, *, kernel: bool = True) -> Iterator[int]:
    """Steps until ``parts`` is empty, the kernel is full or ``limit`` bytes are out; yields their bytes."""
    while parts and limit > 0:
        try:
            sent = send_step(sock, parts, min(limit, STEP), kernel=kernel)
        except trio.WouldBlock:
            return
        if sent:
            limit -= sent
            yield sent


def send_nowait(sock: HasFileno, parts: Parts, limit: int | None = None, *, kernel: bool = True) -> int:
    """Send as much of ``parts`` as the kernel takes now, consuming them in place.

    Args:
        sock: a non-blocking stream socket.
        parts: what to send, first to last. What is left in it afterwards has not been sent.
        limit: most bytes to send; None for no bound. Without one, a peer on the same machine that reads as
            fast as we send keeps the loop for the whole of ``parts``.
        kernel: False copies files through Python.

    Returns:
        How many bytes the kernel has taken, possibly 0. It never raises WouldBlock: parts that are left
        say it.

    Raises:
        As ``send_some_nowait``, except WouldBlock. What went out before the error is no more in ``parts``.
        TypeError: ``parts`` cannot be consumed in place.
    """
    check_socket(sock)
    check_parts(parts)
    return send_unchecked(sock, parts, limit, kernel=kernel)


def send_unchecked(sock: HasFileno, parts: Parts, limit: int | None = None, *, kernel: bool = True) -> int:
    """``send_nowait`` on a socket that is known to be non-blocking and without TLS."""
    if limit is None and (small := _join_small(parts)):
        return _send_small(sock, small, parts)
    return sum(send_steps(sock, parts, 2**63 if limit is None else limit, kernel=kernel))


def _join_small(parts: Parts) -> bytes:
    """All of ``parts`` where that is a few bytes, which cost less to copy than to gather; else nothing."""
    total = 0
    for part in parts:
        if type(part) is not bytes:
            return b""
        total += len(part)
    return b"".join(parts) if total <= _SMALL else b""  # type: ignore[arg-type]


def _send_small(sock: HasFileno, data: bytes, parts: Parts) -> int:
    try:
        sent = _send_buffers(sock, [data], 0)
    except trio.WouldBlock:
        return 0
    if sent == len(data):
        parts.clear()
    else:
        consume(parts, sent)
    return sent


async def send_some(sock: HasFileno, part: Part, limit: int = STEP, *, kernel: bool = True) -> int:
    """Send a first piece of ``part``, waiting until the kernel takes some.

    Args, Returns and Raises are those of ``send_some_nowait``, except that it waits where that raises
    WouldBlock. Also raises trio.BusyResourceError if another task waits to send on this socket, and
    trio.ClosedResourceError if it is closed during the wait (a Trio socket's ``close()`` says so by itself;
    before closing a ``socket.socket`` call ``trio.lowlevel.notify_closing``).

    Cancellation: a call that is cancelled has sent nothing.
    """
    check_socket(sock)
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        sent = _send_piece(sock, part, limit, kernel)
    except trio.WouldBlock:
        pass
    else:
        # Not cancellable here, or bytes would be out that nobody counts. Both halves make one whole
        # checkpoint.
        await trio.lowlevel.cancel_shielded_checkpoint()
        return sent
    while True:
        await trio.lowlevel.wait_writable(sock)
        try:
            return _send_piece(sock, part, limit, kernel)
        except trio.WouldBlock:
            continue


async def send_all(
    sock: HasFileno,
    parts: Part | Iterable[Part],
    *,
    kernel: bool = True,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Send one part or many, whole, a step of at most 1 MiB at a time with a checkpoint after each.

    Args:
        sock: a non-blocking stream socket.
        parts: a part, or an iterable of parts. A deque, or a short list, is consumed in place, and parts appended
            to it meanwhile go out too.
        kernel: False copies files through Python.
        progress: called with the number of bytes after each step.

    Raises:
        As ``send_some``.

    Cancellation: may happen between two steps. Then part of it has been sent: a deque or list holds what is left,
    the sum of ``progress`` is what went out. Without either the only thing to do with the connection is to close
    it.
    """
    check_socket(sock)
    if isinstance(parts, (FileSpan, bytes, bytearray, memoryview)):
        parts = (parts,)
    queue = parts if isinstance(parts, (deque, list)) else deque(parts)
    await trio.lowlevel.checkpoint_if_cancelled()
    while True:
        moved = False
        for sent in send_steps(sock, queue, STEP, kernel=kernel):
            moved = True
            if progress is not None:
                progress(sent)
        if not queue:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        if moved:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_writable(sock)
