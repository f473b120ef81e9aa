"""The end of a connection whose client may still be sending: lingering close (RFC 9112 §9.6).

Law: a client that has sent, or may still send, bytes that nobody reads is given time to read our answer before the
socket is closed, or the kernel would reset the connection and destroy that answer.
"""

from __future__ import annotations

import math

import trio

from trio_wsgi.errors import ClientGone
from trio_wsgi.net.transport import Transport
from trio_wsgi.net.wire import RECEIVE_SIZE

_ACK_LATE = 0.05  # seconds: the system of a client acknowledges a short answer some 40 ms late (RFC 9293 §3.8.6.3)


async def linger(transport: Transport, timeout: float, until_taken: bool = False) -> None:
    """Tell the client that nothing more comes, and read on until it has seen it; the caller closes the transport.

    Args:
        timeout: seconds at most.
        until_taken: no longer than until it has taken our answer: it has not begun to send anything.
    """
    transport.end_sending()
    with trio.move_on_after(timeout):
        while not until_taken or transport.held():
            with trio.move_on_after(_ACK_LATE if until_taken else math.inf):
                await transport.wait_readable()
            try:
                if not transport.receive_nowait(RECEIVE_SIZE):
                    return
            except trio.WouldBlock:
                continue
            except ClientGone:
                return


def has_unread(transport: Transport) -> bool:
    """Whether bytes have come that nobody reads; one of them is lost."""
    try:
        return bool(transport.receive_nowait(1))
    except (trio.WouldBlock, ClientGone):
        return False
