"""What the kernel holds of a connection: bytes that it has taken and the peer has not."""

from __future__ import annotations

import sys

from sendfile.span import HasFileno

try:
    from fcntl import ioctl
    from termios import TIOCOUTQ
except ImportError:  # Windows
    ioctl = None  # type: ignore[assignment]

__all__ = ["held_by_kernel"]


def held_by_kernel(sock: HasFileno) -> int:
    """Bytes that the kernel has taken and the peer has not (tcp(7), SIOCOUTQ); 0 where it does not tell."""
    if ioctl is None:
        return 0
    answer = bytearray(4)
    try:
        ioctl(sock, TIOCOUTQ, answer)
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder)
