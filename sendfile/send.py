"""Sending parts on one socket: as much as the kernel takes now, or all of it, waiting for room.

Laws:

* A queue of parts (`Parts`: a deque, or a short list) is consumed in place, so whoever holds it sees after
  an error or a cancellation exactly what has not been sent.
* One sender at a time uses a socket: two would interleave their bytes.
* Nothing here looks whether a file is in memory; the pump does.

A socket is anything with ``fileno()`` that is non-blocking: a ``socket.socket`` with timeout 0, or a Trio
socket. What it may be, and what a step of it is: ``step``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import trio

from sendfile.parts import Part, Parts, check_parts, consume
from sendfile.span import FileSpan, HasFileno
from sendfile.step import STEP, check_socket, send_buffers, send_step

_SMALL = 16 << 10  # bytes that cost less to join than to gather


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
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    return send_step(sock, [part], limit, kernel=kernel, cork=False)


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
    return sum(_send_steps(sock, parts, 2**63 if limit is None else limit, kernel=kernel))


def _send_steps(sock: HasFileno, parts: Parts, limit: int, *, kernel: bool = True) -> Iterator[int]:
    """Steps until ``parts`` is empty, the kernel is full or ``limit`` bytes are out; yields their bytes."""
    while parts and limit > 0:
        try:
            sent = send_step(sock, parts, min(limit, STEP), kernel=kernel)
        except trio.WouldBlock:
            return
        if sent:
            limit -= sent
            yield sent


def _join_small(parts: Parts) -> bytes:
    """All of ``parts`` where that is a few bytes; else nothing."""
    total = 0
    for part in parts:
        if type(part) is not bytes:
            return b""
        total += len(part)
    return b"".join(parts) if total <= _SMALL else b""  # type: ignore[arg-type]


def _send_small(sock: HasFileno, data: bytes, parts: Parts) -> int:
    try:
        sent = send_buffers(sock, [data], 0)
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
        sent = send_some_nowait(sock, part, limit, kernel=kernel)
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
            return send_some_nowait(sock, part, limit, kernel=kernel)
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
    while True:
        await trio.lowlevel.checkpoint_if_cancelled()
        moved = False
        for sent in _send_steps(sock, queue, STEP, kernel=kernel):
            moved = True
            if progress is not None:
                progress(sent)
        if not queue:
            await trio.lowlevel.cancel_shielded_checkpoint()
            if not queue:  # nor has anybody appended anything meanwhile
                return
        elif moved:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_writable(sock)
