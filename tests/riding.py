"""Clients that ride in the lane, from their first request on or because they are brisk; what they ask."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from asking import KEPT, PLAIN, Environ, StartResponse
from serving import Served
from waiting import until

from trio_wsgi import Server
from trio_wsgi.net.connection import Connection
from trio_wsgi.net.lane import Lane

TRIES = 20  # where a processor that somebody else has taken for 5 ms makes a request one that lasts


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
    received, wanted = bytearray(), 0  # unknown before the head is there
    with trio.fail_after(10):
        while not wanted or len(received) < wanted:
            more = await stream.receive_some()
            assert more, f"ended after {bytes(received[:1000])!r}, {len(received)} bytes"
            received += more
            if not wanted and (end := received.find(b"\r\n\r\n")) >= 0:
                wanted = end + 4 + size
    return bytes(received)


async def board(served: Served, size: int) -> trio.SocketStream:
    """A client that asks briskly, each time for a body of so many bytes, until it rides; all its requests are told."""
    client = await served.connect()
    port = client.socket.getsockname()[1]

    def rides() -> bool:
        lane = lane_of(served)
        return lane is not None and any(ride.rider._peer.address[1] == port for ride in lane.rides)  # type: ignore[attr-defined]

    asked, patience = 0, time.monotonic() + 20  # after a hiccup of the machine there is no lane for a second or two
    while not rides():
        assert time.monotonic() < patience, "it never came to ride"
        await client.send_all(KEPT)
        await receive(client, size)
        asked += 1
    await until(lambda: [record.peer_port for record in served.records].count(port) >= asked)
    return client


def ask_for(path: str) -> bytes:
    return KEPT.replace(b" / ", f" {path} ".encode())


def say(start_response: StartResponse, body: bytes) -> list[bytes]:
    start_response("200 OK", [*PLAIN, ("Content-Length", str(len(body)))])
    return [body]


class Steps(trio.abc.Instrument):
    """Counts the steps of some tasks."""

    def __init__(self, name: str) -> None:
        self.name = name  # its end
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name.endswith(self.name)


@asynccontextmanager
async def counting_steps(name: str = "trio_wsgi connection") -> AsyncIterator[Steps]:
    """Count the steps of the tasks that serve connections, or of those with another name."""
    steps = Steps(name)
    trio.lowlevel.add_instrument(steps)
    yield steps
    trio.lowlevel.remove_instrument(steps)


class App:
    """Answers "hello", or does what is to be done for a path; notes which threads it ran in."""

    def __init__(self, **views: Callable[[Environ], bytes]) -> None:
        self.views = views
        self.threads: list[int] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        self.threads.append(threading.get_ident())
        view = self.views.get(environ["PATH_INFO"][1:])
        return say(start_response, b"hello" if view is None else view(environ))
