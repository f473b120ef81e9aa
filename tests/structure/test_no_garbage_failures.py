"""Nor does a request that fails, or never becomes one, leave anything for the garbage collector: whoever floods us with
such would have everybody wait for it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from asking import PLAIN, Environ, StartResponse
from authority import connect_tls, shared_authority
from collecting import collected
from serving import Served, receive_all, serving

PUT = b"PUT / HTTP/1.1\r\nHost: a\r\n"
REFUSED = {
    "no HTTP": b"\x16\x03\x01 garbage\r\n\r\n",
    "a space in a name": b"GET / HTTP/1.1\r\nHost: a\r\nA b: c\r\n\r\n",
    "too large": PUT + b"Content-Length: 99999999999\r\n\r\n",
    "no chunk": PUT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "no such file": b"GET /static/none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "half a head, too late": b"GET / HTTP",
    "half a second head, too late": b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP",
    "half a body, too late": PUT + b"Content-Length: 10\r\n\r\nabc",
}
BROKEN_OFF = {
    "half a head": b"GET / HTTP",
    "half a body": PUT + b"Content-Length: 10\r\n\r\nabc",
    "half a chunk": PUT + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
}


def read_all(environ: Environ, start_response: StartResponse) -> list[bytes]:
    blocks = list(iter(partial(environ["wsgi.input"].read, 1000), b""))
    start_response("200 OK", PLAIN)
    return blocks


async def connect(served: Served) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    """With TLS, where the server has it."""
    return await (connect_tls(served.port) if served.server.config.certfile else served.connect())


async def be_refused(served: Served, sent: bytes) -> None:
    """Send what the server does not take, or waits in vain for more of, and see the connection end."""
    for _ in range(3):
        with trio.fail_after(10):
            async with await connect(served) as stream:
                await stream.send_all(sent)
                await receive_all(stream)


async def break_off(served: Served, sent: bytes) -> None:
    """Leave in the middle of a request that the server has begun to read."""
    for _ in range(3):
        async with await connect(served) as stream:
            await stream.send_all(sent)
            await served.wait_connections(1)
            await trio.testing.wait_all_tasks_blocked()
        await served.wait_connections(0)


async def send_in_pieces(served: Served) -> None:
    """A body of which each piece is waited for."""
    async with await connect(served) as stream:
        await stream.send_all(PUT + b"Content-Length: 20\r\nConnection: close\r\n\r\n")
        for _ in range(20):
            await trio.testing.wait_all_tasks_blocked()
            await stream.send_all(b"x")
        assert (await receive_all(stream)).endswith(b"x" * 20)


CASES = {
    **{name: (be_refused, sent) for name, sent in REFUSED.items()},
    **{f"{name}, broken off": (break_off, sent) for name, sent in BROKEN_OFF.items()},
}

WAYS: dict[str, dict[str, Any]] = {
    "buffered": {"request_buffering": True},
    "streamed": {"request_buffering": False},
    "streamed, TLS": {"request_buffering": False, "tls": True},
}


def settings_of(way: str) -> dict[str, Any]:
    """Those of Config."""
    settings = dict(WAYS[way])
    return settings | {"certfile": (shared_authority()[1],)} if settings.pop("tls", False) else settings


@pytest.mark.usefixtures("each_engine", "each_way")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES)
async def test_what_fails_leaves_nothing_for_the_collector(name: str, way: str, tmp_path: Path) -> None:
    """Refused, too late, or broken off: errors let go of the frames that they have come through."""
    go_through, sent = CASES[name]
    limits = {"header_timeout": 0.1, "body_timeout": 0.1, "limit_request_body": 1000}
    async with serving(
        read_all, half_close="abort", static=(f"/static={tmp_path}",), **limits, **settings_of(way)
    ) as served:
        await go_through(served, sent)
        with collected() as found:
            await go_through(served, sent)
            await served.wait_connections(0)
            await trio.testing.wait_all_tasks_blocked()
            served.records.clear()  # they hold environs
    assert not found


@pytest.mark.usefixtures("each_engine", "each_way")
@pytest.mark.parametrize("way", WAYS)
async def test_waits_for_a_body_leave_nothing_for_the_collector(way: str) -> None:
    """However many its pieces are."""
    async with serving(read_all, **settings_of(way)) as served:
        await send_in_pieces(served)
        with collected() as found:
            await send_in_pieces(served)
            await served.wait_connections(0)
            await trio.testing.wait_all_tasks_blocked()
            served.records.clear()
    assert not found
