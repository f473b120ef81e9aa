"""What the kernel holds of a connection: bytes that it has taken and the peer has not.

Laws:

* How much that may be is a question of who reads. To one who reads fast, a full buffer of megabytes is what keeps the
  line busy while we do something else; for one who reads slowly it is memory and nothing else, and memory of which the
  kernel has a bounded amount for all (tcp(7), tcp_mem). When that is used up, everybody waits: with 5,000 readers at
  16 KB/s, 2.2 GiB were, the kernel took small pieces only, and our CPU and the p99 of others doubled.
* What it holds for one who reads fast leaves in packets as large as can be: the odd end of a step, or of a record of
  TLS, waits for the next one, 200 ms at most (tcp(7), TCP_CORK). To one who reads slowly it may be all that there is to
  come for a while.
"""

from __future__ import annotations

import contextlib
import socket
import sys

import trio

from sendfile.span import HasFileno

try:
    from fcntl import ioctl
    from termios import TIOCOUTQ
except ImportError:  # Windows
    ioctl = None  # type: ignore[assignment]

UNSENT = 128 << 10
"""Bytes that a bounded socket takes ahead of what is on its way; it has room again at half of them. 10,000 readers then
pin 1.3 GiB. 256 KiB took a third less CPU and twice the memory."""

_CORK: int | None = getattr(socket, "TCP_CORK", None)  # Linux
_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # Linux, macOS


def held_by_kernel(sock: HasFileno) -> int:
    """Bytes that the kernel has taken and the peer has not (tcp(7), SIOCOUTQ); 0 where it does not tell, and of a
    socket that was closed on this side."""
    if ioctl is None:
        return 0
    answer = bytearray(4)
    try:
        ioctl(sock, TIOCOUTQ, answer)
    except (OSError, ValueError):  # ValueError: fcntl's, for the -1 of a closed socket
        return 0
    return int.from_bytes(answer, sys.byteorder)


def bound_unsent(sock: HasFileno) -> int:
    """Have the kernel take `UNSENT` bytes ahead at most; nothing where that cannot be said, or less is set already.

    Returns:
        what was set, for `unbound_unsent`; 0: as many as it likes.

    Spec: Linux, Documentation/networking/ip-sysctl.rst, tcp_notsent_lowat.
    """
    before = 0
    if _NOTSENT_LOWAT is not None and isinstance(sock, socket.socket | trio.socket.SocketType):
        with contextlib.suppress(OSError):  # a unix socket; closed
            before = sock.getsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT)
            if not 0 < before < UNSENT:
                sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT)
    return before


def unbound_unsent(sock: HasFileno, before: int) -> None:
    """Have the kernel take as many bytes ahead as ``before`` `bound_unsent`."""
    if _NOTSENT_LOWAT is not None and isinstance(sock, socket.socket | trio.socket.SocketType):
        with contextlib.suppress(OSError):  # as above
            sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, before)


def cork(sock: HasFileno) -> bool:
    """Have small packets wait for more bytes; nothing where that cannot be said, or is so already.

    Returns:
        whether `uncork` is to follow.
    """
    if _CORK is not None and isinstance(sock, socket.socket | trio.socket.SocketType):
        with contextlib.suppress(OSError):  # a unix socket; closed
            if not sock.getsockopt(socket.IPPROTO_TCP, _CORK):
                sock.setsockopt(socket.IPPROTO_TCP, _CORK, 1)
                return True
    return False


def uncork(sock: HasFileno) -> None:
    """Send what waits; after `cork`."""
    assert _CORK is not None and isinstance(sock, socket.socket | trio.socket.SocketType)
    with contextlib.suppress(OSError):  # closed
        sock.setsockopt(socket.IPPROTO_TCP, _CORK, 0)
