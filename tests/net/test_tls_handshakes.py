"""TLS handshakes on a bad day: that stall, that are none, that are broken off, that a drain meets."""

from __future__ import annotations

import itertools
import logging

import pytest
import trio
import trio.testing
from asking import KEPT, greet
from authority import ByHand, complaints, connect_tls
from downloads import Client
from faults import reset_on_close
from serving import receive_to_end, serving
from tlsapps import TLS
from waiting import until

from trio_wsgi import Config, Server

CLIENT_HELLO_BEGINS = b"\x16\x03\x01\x02\x00\x01"  # RFC 8446 §5.1: a handshake record, of which this is all


@pytest.mark.parametrize("sent", [b"", CLIENT_HELLO_BEGINS], ids=["nothing", "half"])
async def test_a_handshake_has_a_deadline(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trio_wsgi.error")
    async with serving(greet, **TLS, handshake_timeout=0.3) as served:
        async with await served.connect() as stream:
            if sent:
                await stream.send_all(sent)
            with trio.fail_after(10):
                assert await stream.receive_some() == b""
        await served.wait_connections(0)
        assert served.records == []
        assert [line for line in caplog.messages if "handshake_timeout" in line] == complaints(caplog, logging.DEBUG)
        assert complaints(caplog) == []


async def test_the_deadline_is_for_the_whole_handshake() -> None:
    """A byte now and then does not move it."""
    async with serving(greet, **TLS, handshake_timeout=0.5) as served:
        with trio.fail_after(10):
            async with await served.connect() as stream:
                with pytest.raises(trio.BrokenResourceError):
                    for byte in itertools.chain(CLIENT_HELLO_BEGINS, itertools.repeat(0)):
                        await stream.send_all(bytes([byte]))
                        await trio.sleep(0.05)


@pytest.mark.parametrize("garbage", [b"\0" * 1000, b"\x16\x03\x01\x00\x05hello", b"SSH-2.0-x\r\n", b"\x80" * 20])
async def test_garbage_costs_one_line_and_nothing_else(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trio_wsgi.error")
    async with serving(greet, **TLS) as served:
        async with await served.connect() as stream:
            await stream.send_all(garbage)
            with trio.fail_after(10):
                await receive_to_end(stream)
        await served.wait_connections(0)
        assert len(complaints(caplog, logging.DEBUG)) == 1
        assert complaints(caplog) == []


@pytest.mark.parametrize("reset", [True, False])
async def test_a_client_that_leaves_in_the_handshake(reset: bool, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(greet, **TLS) as served:
        for sent in (b"", CLIENT_HELLO_BEGINS):
            stream = await served.connect()
            await stream.send_all(sent)
            if reset:
                reset_on_close(stream)
            await stream.aclose()
        await served.wait_connections(0)
        assert complaints(caplog) == []


async def test_others_are_served_while_handshakes_stall() -> None:
    async with serving(greet, **TLS) as served:
        stalled = [await served.connect() for _ in range(20)]
        for stream in stalled[::2]:
            await stream.send_all(CLIENT_HELLO_BEGINS)
        stream = await connect_tls(served.port)
        reply = await Client(stream).ask()  # type: ignore[arg-type]
        assert (reply.status, reply.body) == (200, b"hello ")
        assert sorted(str(each) for each in served.server.statistics().by_state) == ["State.HANDSHAKE", "State.IDLE"]
        for each in (stream, *stalled):
            await trio.aclose_forcefully(each)


async def test_a_handshake_that_a_drain_meets_is_finished_and_answered() -> None:
    """The client was accepted, and could not have asked before: to close on it would lose its request."""
    server = Server(greet, Config(bind=("127.0.0.1:0",), **TLS))
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(server.serve)
        client = ByHand()
        begun = client.begin()
        stream = await trio.open_tcp_stream("127.0.0.1", address.port)
        await stream.send_all(begun[:50])
        await until(lambda: server.statistics().connections)
        server.drain()
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(begun[50:])
        with trio.fail_after(10):
            await client.shake_hands(stream)
            await trio.sleep(0.05)
            await stream.send_all(client.encrypt(KEPT))
            received = b""
            while b"hello" not in received:
                received += await client.receive(stream)
        assert b"Connection: close" in received
        await stream.aclose()
