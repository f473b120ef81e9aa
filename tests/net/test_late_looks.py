"""Who has sent in time is not cut because we look late: the process may have been stopped, its interpreter have been
held by an extension, or the whole machine have stood still."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing
from asking import greet
from authority import ByHand, shared_authority
from serving import serving

PATIENCE = 5.0  # seconds of each timeout; the clock jumps


class StandsStill:
    """Once begun, lets no task run from the moment in which the client sends up to long after all that is set.

    Args:
        sock: of the client.
        rest: what it sends, of what the server waits for.
    """

    def __init__(self, sock: trio.socket.SocketType, rest: bytes, clock: trio.testing.MockClock) -> None:
        self._fd = sock.fileno()
        self._rest = rest
        self._clock = clock

    def after_io_wait(self, timeout: float) -> None:
        if self._rest:
            os.write(self._fd, self._rest)
            self._rest = b""
            self._clock.jump(10 * PATIENCE)


HEAD = b"PUT / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize("buffering", [True, False], ids=["buffered", "streamed"])
@pytest.mark.parametrize("begun", [b"PUT / HT", HEAD, HEAD + b"hel"], ids=["head", "body", "rest of a body"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_what_came_while_we_stood_still_is_read(
    tls: bool, begun: bytes, buffering: bool, mock_clock: trio.testing.MockClock
) -> None:
    """header_timeout and body_timeout have passed when we look, and what they are for is there."""
    settings = {"certfile": (shared_authority()[1],)} if tls else {}
    timeouts = {"header_timeout": PATIENCE, "body_timeout": PATIENCE}
    async with (
        serving(greet, request_buffering=buffering, **timeouts, **settings) as served,
        await served.connect() as stream,
    ):
        client = ByHand()
        if tls:
            await stream.send_all(client.begin())
            await client.shake_hands(stream)
        encrypt = client.encrypt if tls else bytes
        await stream.send_all(encrypt(begun))
        await trio.testing.wait_all_tasks_blocked(0.05)
        trio.lowlevel.add_instrument(StandsStill(stream.socket, encrypt((HEAD + b"hello")[len(begun) :]), mock_clock))
        await trio.lowlevel.checkpoint()
        answer = b""
        while not answer:
            answer += await (client.receive(stream) if tls else stream.receive_some())
    assert answer.startswith(b"HTTP/1.1 200 ")
