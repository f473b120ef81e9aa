"""The end of a server inside somebody's Trio program: clean in every state that its connections are in."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from embedded import REQUEST, Site, nothing_left
from faults import reset_on_close
from serving import Served, receive_all, serving

from trio_wsgi import Config, Outcome, RequestRecord, Server


async def idle(served: Served, site: Site) -> trio.SocketStream:
    client = await served.connect()
    await client.send_all(REQUEST % b"/")
    await client.receive_some()
    return client


async def reading_head(served: Served, site: Site) -> trio.SocketStream:
    client = await served.connect()
    await client.send_all(b"GET / HT")
    return client


async def gathering_body(served: Served, site: Site) -> trio.SocketStream:
    client = await served.connect()
    await client.send_all(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
    return client


def asking(path: bytes) -> Callable[[Served, Site], Awaitable[trio.SocketStream]]:
    async def ask(served: Served, site: Site) -> trio.SocketStream:
        client = await served.connect(receive_buffer=4096)
        await client.send_all(REQUEST % path)
        with trio.fail_after(5):
            await trio.to_thread.run_sync(site.entered.wait, 5)
        return client

    return ask


async def lingering(served: Served, site: Site) -> trio.SocketStream:
    client = await served.connect()
    await client.send_all(b"NONSENSE\r\n\r\n" + b"x" * 1000)
    await client.receive_some()
    return client


STATES: dict[str, tuple[Any, list[Outcome]]] = {
    "idle": (idle, [Outcome.FINISHED]),
    "reading the head": (reading_head, []),
    "gathering a body": (gathering_body, [Outcome.SHUTDOWN]),
    "in the app": (asking(b"/wait"), [Outcome.SHUTDOWN]),
    "in an app that cannot hear": (asking(b"/sleep"), [Outcome.FINISHED]),  # its small answer still leaves
    "in a blocked write": (asking(b"/write"), [Outcome.SHUTDOWN]),
    "sending a file": (asking(b"/file"), [Outcome.SHUTDOWN]),
    "sending a file of the app's own": (asking(b"/own-file"), [Outcome.SHUTDOWN]),
    "lingering": (lingering, [Outcome.REFUSED]),
}


@pytest.mark.parametrize("end", ["cancel", "drain"])
@pytest.mark.parametrize("state", STATES)
async def test_the_end_is_clean_in_every_state(
    state: str, end: str, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Files closed, one record for each request, no task, thread or descriptor left."""
    enter, outcomes = STATES[state]
    with trio.fail_after(10):
        async with nothing_left(caplog):
            async with serving(site, graceful_timeout=0.05, linger_timeout=1) as served:
                client = await enter(served, site)
                await trio.testing.wait_all_tasks_blocked(0.01)
                if end == "drain":
                    served.server.drain()
                    await trio.sleep(0.1)
            await receive_all(client)
            await client.aclose()
        assert all(file.closed for file in site.opened)
        assert site.closed == (1 if "own" in state else 0)
        told = [record.outcome for record in served.records]
        if state == "reading the head" and told:
            assert told[0] in {Outcome.SHUTDOWN, Outcome.CLIENT_GONE}
        else:
            assert told == outcomes


async def test_a_drain_serves_who_had_connected_and_asked(site: Site) -> None:
    """PAINS 38: connections in the listening socket's queue are not reset by its close."""
    async with serving(site) as served:
        await trio.testing.wait_all_tasks_blocked()
        clients = []
        for _ in range(5):  # the loop has no turn in between
            client = socket.create_connection((served.host, served.port))
            client.sendall(REQUEST % b"/")
            clients.append(client)
        served.server.drain()
        for client in clients:
            client.setblocking(False)
            async with trio.SocketStream(trio.socket.from_stdlib_socket(client)) as stream:
                with trio.fail_after(5):
                    received = await receive_all(stream)
            assert received.endswith(b"hello")
            assert b"connection: close\r\n" in received.lower()


async def test_a_drain_answers_a_request_that_an_idle_connection_had_sent(site: Site) -> None:
    """It was sent before the server announced anything."""
    async with serving(site) as served:
        client = await idle(served, site)
        await client.send_all(REQUEST % b"/")
        served.server.drain()
        with trio.fail_after(5):
            assert (await receive_all(client)).endswith(b"hello")
        await client.aclose()


@pytest.mark.slow
async def test_three_hundred_clients_that_leave_at_random_leave_nothing(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Reset, close or half-close at a random moment of a random request; each request is told once."""
    rng = random.Random(20)
    paths = [b"/", b"/file", b"/own-file", b"/write", b"/sleep", b"/read"]
    records: list[RequestRecord] = []

    async def churn(served: Served, number: int) -> None:
        await trio.sleep(rng.random())
        client = await served.connect(receive_buffer=rng.choice([None, 4096]))
        path = paths[number % len(paths)]
        request = REQUEST % path
        if path == b"/read":
            request = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
        sent = request[: rng.choice([len(request), rng.randrange(len(request) + 1)])]
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if sent:
                await client.send_all(sent)
            with trio.move_on_after(rng.choice([0, 0.01, 0.1])):
                while rng.random() < 0.9:
                    await client.receive_some(rng.choice([10, 10_000]))
            match rng.randrange(3):
                case 0:
                    reset_on_close(client)
                case 1:
                    await client.send_eof()
                    with trio.move_on_after(0.05):
                        await client.receive_some()
        await client.aclose()

    with trio.fail_after(30):
        async with nothing_left(caplog):
            async with serving(site, threads=4, linger_timeout=0.2, header_timeout=1, write_timeout=1) as served:
                async with trio.open_nursery() as nursery:
                    for number in range(300):
                        nursery.start_soon(churn, served, number)
                assert b"hello" in await served.exchange(REQUEST % b"/")
                await served.wait_connections(0, timeout=30)
            records = served.records
        assert all(file.closed for file in site.opened)
        assert len({(record.peer_port, record.started) for record in records}) == len(records)
        assert len(records) > 150


async def test_a_drain_may_be_asked_for_in_an_applications_thread() -> None:
    """A page that shuts the server down: it is answered, and the server has ended then."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            def shut_down(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
                server.drain()
                start_response("200 OK", [("Content-Length", "4")])
                return [b"done"]

            server = Server(shut_down, Config(bind=("127.0.0.1:0",)))
            (address,) = await nursery.start(server.serve)
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                received = await receive_all(stream)
    assert received.endswith(b"done")
    server.drain()  # once more, when all is over
    assert "ended" in repr(server)
