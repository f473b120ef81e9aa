"""A connection that idles is closed in the very step in which it was seen that nothing has come (PAINS 41): a request
that comes between the two is lost, and behind a load balancer that is a 502."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from asking import greet
from authority import connect_tls, shared_authority
from serving import Served, serving

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


class SeesTheEnd(trio.abc.Instrument):
    """Whether the client has been told of the end by the second step of the connection's task from now on.

    Args:
        sock: of the client.
    """

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._told = select.poll()
        self._told.register(sock.fileno(), select.POLLIN)
        self._steps = 0
        self.seen: bool | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name == "trio_wsgi connection":
            self._steps += 1
            if self._steps == 2:
                self.seen = bool(self._told.poll(0))


def let_time_pass(served: Served, clock: trio.testing.MockClock) -> None:
    clock.jump(served.server.config.keep_alive + 1)


def drain(served: Served, clock: trio.testing.MockClock) -> None:
    served.server.drain()


@pytest.mark.parametrize("end", [let_time_pass, drain])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_nothing_lies_between_the_last_look_and_the_close(
    tls: bool, end: Callable[[Served, Any], None], mock_clock: trio.testing.MockClock
) -> None:
    """Whether keep_alive has passed or the server drains."""
    settings = {"certfile": (shared_authority()[1],)} if tls else {}
    async with serving(greet, **settings) as served:
        stream = await (connect_tls(served.port) if tls else served.connect())
        await stream.send_all(GET)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        await trio.testing.wait_all_tasks_blocked(0.1)  # the kernel of the client has acknowledged all
        sock = stream.transport_stream.socket if isinstance(stream, trio.SSLStream) else stream.socket
        trio.lowlevel.add_instrument(watching := SeesTheEnd(sock))
        end(served, mock_clock)
        await trio.lowlevel.wait_readable(sock)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(watching)
        await trio.aclose_forcefully(stream)
        assert watching.seen
