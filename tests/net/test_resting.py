"""Connections that wait for long hold little: what they gave up meanwhile is there again when it is needed.

Nothing but memory may tell who has rested. Without observers, as most servers run, a slow download keeps fewer facts of
its request; `serving` of the other tests has one.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from answers import read_answers
from asking import KEPT, PLAIN, Environ, StartResponse, error_lines, request
from downloads import MIB, Client, file_app, make_file
from serving import DEFAULTS, Served, receive_all, serving
from waiting import until

import trio_wsgi.net.connection
from trio_wsgi import Config, Server

pytestmark = pytest.mark.usefixtures("each_engine")

SIZE = 8 * MIB  # more than the kernel takes for a client that does not read
SMALL_BUFFER = 16 * 1024


def echo(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", PLAIN)
    return [environ["REQUEST_METHOD"].encode(), environ["wsgi.input"].read()]


async def wait_resting(served: Served) -> None:
    """Until the only connection rests."""
    (connection,) = served.server._connections
    await until(lambda: "at rest" in repr(connection._wire))


NEXT = [
    (request(), 200, b"GET"),
    (request("POST", body=b"some body"), 200, b"POSTsome body"),
    (request("POST", body=b"some body in chunks", chunked=True), 200, b"POSTsome body in chunks"),
    (request("BREW"), 200, b"BREW"),  # which httptools does not know
    (b"GET / HTTP/1.0\r\n\r\n", 200, b"GET"),
    (b"GET /\x00 HTTP/1.1\r\n\r\n", 400, None),
    (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, None),
]


@pytest.mark.parametrize(("sent", "status", "body"), NEXT)
async def test_a_connection_that_has_rested_takes_any_request(
    sent: bytes, status: int, body: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trio_wsgi.net.connection, "_RESTS_AFTER", 0.02)
    async with serving(echo) as served, await served.connect() as stream:
        await stream.send_all(KEPT)
        first = await stream.receive_some(65536)
        await wait_resting(served)
        await stream.send_all(sent)
        with trio.fail_after(5):
            raw = bytes(first) + await receive_all(stream)
        answers = read_answers(raw, ["GET", sent.split()[0].decode()])
        assert [answer.status for answer in answers] == [200, status]
        assert body is None or answers[1].body == body


async def test_rest_does_not_prolong_keep_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio_wsgi.net.connection, "_RESTS_AFTER", 0.02)
    async with serving(echo, keep_alive=0.3) as served, await served.connect() as stream:
        await stream.send_all(KEPT)
        await stream.receive_some(65536)
        began = trio.current_time()
        with trio.fail_after(5):
            assert await receive_all(stream) == b""
        assert 0.25 < trio.current_time() - began < 2


async def test_a_drain_ends_a_connection_that_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio_wsgi.net.connection, "_RESTS_AFTER", 0.02)
    async with serving(echo) as served, await served.connect() as stream:
        await stream.send_all(KEPT)
        await stream.receive_some(65536)
        await wait_resting(served)
        served.server.drain()
        with trio.fail_after(0.9):
            assert await receive_all(stream) == b""


async def test_after_a_slow_download_the_connection_goes_on(tmp_path: Path) -> None:
    content = make_file(tmp_path / "file", SIZE)
    app = file_app(lambda _: (tmp_path / "file").open("rb"))
    async with serving(app) as served, await served.connect(SMALL_BUFFER) as stream:
        client = Client(stream)
        for _ in range(2):
            await client.send()
            head = await client.read_head()
            await wait_resting(served)
            reply = await client.read(head)
            assert reply.whole
            assert reply.body == content
            assert (await client.ask("/hello")).body == b"hello"
        await served.record(4)  # it follows the answer
        records = served.records
        assert [record.body_sent for record in records] == [SIZE, 5] * 2
        assert all(dict(record.request_headers)[b"host"] == b"t" for record in records)
        assert all(b"content-type" in dict(record.response_headers) for record in records)


async def test_a_slow_download_may_be_the_last_answer(tmp_path: Path) -> None:
    content = make_file(tmp_path / "file", SIZE)
    app = file_app(lambda _: (tmp_path / "file").open("rb"))
    for sent in (request(), b"GET / HTTP/1.0\r\n\r\n"):
        async with serving(app) as served, await served.connect(SMALL_BUFFER) as stream:
            await stream.send_all(sent + KEPT)
            begun = bytes(await stream.receive_some(1))
            await wait_resting(served)
            with trio.fail_after(10):
                (answer,) = read_answers(begun + await receive_all(stream), ["GET"])
            assert answer.body == content


@asynccontextmanager
async def unobserved(app: Any, **settings: Any) -> AsyncIterator[Served]:
    """`serving`, without an observer of requests."""
    server = Server(app, Config(bind=("127.0.0.1:0",), **(DEFAULTS | settings)))
    async with trio.open_nursery() as nursery:
        (address, *_) = await nursery.start(server.serve)
        yield Served(server, address.host, address.port)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("level", [logging.WARNING, logging.INFO], ids=["no access log", "access log"])
async def test_where_to_resume_is_said_of_a_slow_range(
    level: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level, "trio_wsgi.access")
    make_file(tmp_path / "file", SIZE)
    app = file_app(lambda _: (tmp_path / "file").open("rb"))
    async with unobserved(app) as served, await served.connect(SMALL_BUFFER) as stream:
        await stream.send_all(request("GET", "/", "Range: bytes=1000-"))
        await stream.receive_some(1)
        await wait_resting(served)
        (status,) = served.server.statistics().connections
        assert status.transfer is not None
        sent = status.transfer.done
        served.server.drain(0, 0)
        with trio.fail_after(5):
            await served.server.connections_ended.wait()
    (line,) = error_lines(caplog)
    assert f"GET '/': cut by the shutdown at byte {1000 + sent} of {SIZE}" in line


async def test_the_access_log_has_what_its_format_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_wsgi.access")
    make_file(tmp_path / "file", SIZE)
    app = file_app(lambda _: (tmp_path / "file").open("rb"), headers=[("X-Kind", "slow")])
    formats = {
        "%(s)s %(B)s %({x-kind}o)s %({wsgi.url_scheme}e)s %({host}i)s": f"200 {SIZE} slow http test",
        "%(s)s %({x-kind}o)s": "200 slow",
        "%(s)s %({REQUEST_METHOD}e)s": "200 GET",
        "%(s)s %({host}i)s": "200 test",
    }
    for form, line in formats.items():
        caplog.clear()
        async with unobserved(app, access_logformat=form) as served, await served.connect(SMALL_BUFFER) as stream:
            await stream.send_all(request())
            await stream.receive_some(1)
            await wait_resting(served)
            with trio.fail_after(10):
                await receive_all(stream)
        assert [entry.getMessage() for entry in caplog.records if entry.name == "trio_wsgi.access"] == [line]
