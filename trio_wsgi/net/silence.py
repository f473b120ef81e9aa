"""Whether the client's system still answers ours: one that has vanished without a word (no power, no way) does not.

Laws:

* A client that answers is there, however long it takes nothing: whether that is too long is `Taken`'s to say.
* The kernel asks, and counts what it asks in vain; here that is read. TCP_USER_TIMEOUT is not used: it ends
  connections whose clients read slowly, for its clock runs on where their windows open in small steps.
* Where the system does not tell, and on unix sockets, everybody is there.
"""

from __future__ import annotations

import math
import socket
import struct
import sys
from contextlib import suppress

_ASKED_FROM = 1 / 2  # of the patience: silent for so long, it is asked for the first time
_ASKED_EVERY = 1 / 8  # of the patience, from then on
_IN_VAIN = 2  # of what went out: one may be lost; and of zero-window probes, kernels answer two a second at most
_MOST = 32767  # seconds (tcp(7), TCP_KEEPIDLE and TCP_KEEPINTVL)
# linux/tcp.h, struct tcp_info: how often was sent again, and asked, in vain; milliseconds since the last data and ACK
_INFO = struct.Struct("=2xBB48xII")
_TELLS = sys.platform == "linux"


def begin_asking(sock: socket.socket, patience: float) -> None:
    """Have the kernel ask the client's whether it is there, when it has been silent (SO_KEEPALIVE).

    Args:
        sock: connected.
        patience: seconds of silence to be borne; more than 0, infinity for any.
    """
    if not _TELLS or sock.family not in {socket.AF_INET, socket.AF_INET6} or patience == math.inf:
        return
    with suppress(OSError):  # already reset
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _whole_seconds(patience * _ASKED_FROM))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _whole_seconds(patience * _ASKED_EVERY))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _whole_seconds(seconds: float) -> int:
    return max(1, min(int(seconds), _MOST))


def silent_for(sock: socket.socket) -> float:
    """Seconds since anything came from the client's system, where it leaves unanswered what ours has asked; else 0."""
    if not _TELLS or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return 0.0
    try:
        sent_again, asked, since_data, since_ack = _INFO.unpack(
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
        )
    except OSError:  # closed
        return 0.0
    return min(since_data, since_ack) / 1000 if sent_again + asked >= _IN_VAIN else 0.0
