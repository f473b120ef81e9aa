"""Clients that ride in the lane: from their first request on, or because they are brisk."""

from __future__ import annotations

import pytest
import trio
from serving import Served

from trio_wsgi import Server
from trio_wsgi.net.connection import Connection
from trio_wsgi.net.lane import Lane

KEPT = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


def ride_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every connection ride as long as it may, though nobody knows yet whether its client is brisk."""

    def may_ride(connection: Connection) -> bool:
        return connection._transport.bare and not connection._draining and not connection._wire.has_input

    monkeypatch.setattr(Connection, "_may_ride", may_ride)


def lane_of(served: Served) -> Lane | None:
    """The present one."""
    assert served.server._service is not None
    lanes = served.server._service.lanes
    assert lanes is not None
    return lanes._lane


def has_lane(server: Server) -> bool:
    """Whether there is one."""
    return server._service is not None and server._service.lanes is not None and server._service.lanes._lane is not None


async def receive(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """A head, and a body of so many bytes."""
    received = b""
    with trio.fail_after(10):
        while not (head := received.partition(b"\r\n\r\n"))[1] or len(head[2]) < size:
            more = await stream.receive_some()
            assert more, f"ended after {received!r}"
            received += more
    return received


async def board(served: Served, size: int) -> trio.SocketStream:
    """A client that asks briskly, each time for a body of so many bytes, until it rides; all its requests are told."""
    client = await served.connect()
    port = client.socket.getsockname()[1]
    for count in range(1, 100):
        await client.send_all(KEPT)
        await receive(client, size)
        lane = lane_of(served)
        if lane is not None and any(ride.rider._peer.address[1] == port for ride in lane.rides):  # type: ignore[attr-defined]
            with trio.fail_after(10):
                while [record.peer_port for record in served.records].count(port) < count:  # noqa: ASYNC110
                    await trio.sleep(0.001)
            return client
    raise AssertionError("it never came to ride")
