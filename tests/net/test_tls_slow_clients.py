"""Clients of TLS that read slowly, or no more: what holds on plain connections holds here (issue 5)."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from asking import CLOSE, KEPT, Environ, StartResponse
from authority import connect_tls
from downloads import MIB, Client
from serving import receive_to_end, serving
from tlsapps import LARGE, TLS, LargeFile, large
from waiting import until

import trio_wsgi.net.drain
from trio_wsgi import Outcome


@pytest.fixture(params=["list", "blocks", "write", "file"])
def large_app(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Callable[..., Any], str]:
    return (LargeFile(tmp_path), "/") if request.param == "file" else (large, f"/{request.param}")


async def test_a_large_answer_arrives_whole(large_app: tuple[Callable[..., Any], str]) -> None:
    app, path = large_app
    async with serving(app, **TLS) as served:
        stream = await connect_tls(served.port, receive_buffer=16384)
        for _ in range(2):
            reply = await Client(stream).ask(path, seconds=30)  # type: ignore[arg-type]
            assert reply.whole
            assert reply.body == LARGE
        await trio.aclose_forcefully(stream)


async def test_downloads_that_share_a_buffer_do_not_mix(tmp_path: Path) -> None:
    """It is nobody's for longer than a step."""
    for number in range(4):
        (tmp_path / str(number)).write_bytes(bytes([number]) * 2 * MIB)

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"]((tmp_path / environ["PATH_INFO"][1:]).open("rb"))

    async with serving(app, **TLS) as served:

        async def download(number: int) -> None:
            stream = await connect_tls(served.port, receive_buffer=16384)
            reply = await Client(stream).ask(f"/{number}", seconds=30)  # type: ignore[arg-type]
            assert reply.body == bytes([number]) * 2 * MIB
            await trio.aclose_forcefully(stream)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(download, number)


async def test_a_client_that_stops_reading_is_cut(large_app: tuple[Callable[..., Any], str]) -> None:
    app, path = large_app
    async with serving(app, **TLS, write_timeout=0.4) as served:
        stream = await connect_tls(served.port, receive_buffer=16384)
        await stream.send_all(KEPT.replace(b" / ", f" {path} ".encode()))
        record = await served.record()
        await trio.aclose_forcefully(stream)
    assert record.outcome is Outcome.WRITE_TIMEOUT
    assert 0 < record.body_sent < len(LARGE)


@pytest.mark.slow
async def test_a_slow_but_steady_reader_is_never_cut(tmp_path: Path) -> None:
    """cheroot#20: cut after 10 s of `curl --limit-rate 2k` over HTTPS.

    Its buffer is small: of what it reads, its system tells us a sixteenth of the buffer at a time, which may be 0.4 MB.
    """
    async with serving(LargeFile(tmp_path), **TLS, write_timeout=0.8) as served:
        stream = await connect_tls(served.port, receive_buffer=65536)
        await stream.send_all(CLOSE)
        received = bytearray()
        with trio.fail_after(60):
            patience = trio.current_time() + 3.2
            while trio.current_time() < patience:
                received += await stream.receive_some(20_000)
                await trio.sleep(0.05)
            received += (await receive_to_end(stream))[0]
        assert received.endswith(LARGE)
        await trio.aclose_forcefully(stream)
        assert (await served.record()).outcome is Outcome.FINISHED


async def test_rates_hold(tmp_path: Path) -> None:
    async with serving(LargeFile(tmp_path), **TLS, limit_rate=1 << 20) as served:
        stream = await connect_tls(served.port)
        began = time.monotonic()
        reply = await Client(stream).ask(headers=[("Range", "bytes=0-999999")])  # type: ignore[arg-type]
        assert reply.body == LARGE[:1_000_000]
        assert time.monotonic() - began > 0.6
        await trio.aclose_forcefully(stream)


def find_large() -> dict[int, bytes]:
    """Large bytes objects by their identity: those that something holds of which the collector knows."""
    referents = (item for holder in gc.get_objects() for item in gc.get_referents(holder) if type(item) is bytes)
    return {id(item): item for item in referents if len(item) > 60_000}


async def test_many_slow_downloads_hold_no_thread_and_little_memory(tmp_path: Path) -> None:
    """A stalled one costs its connection and OpenSSL's record, not what is left to be sent."""
    before = find_large()  # of other tests
    async with serving(LargeFile(tmp_path), **(TLS | {"threads": 1})) as served:
        streams = []
        for _ in range(30):
            stream = await connect_tls(served.port, receive_buffer=16384)
            await stream.send_all(KEPT)
            await stream.receive_some(1)
            streams.append(stream)
        await until(lambda: not served.server.statistics().threads.busy)
        with trio.fail_after(10):
            assert len(served.server.statistics().transfers) == 30
            assert not find_large().keys() - before.keys()
            other = await connect_tls(served.port)
            reply = await Client(other).ask(headers=[("Range", "bytes=5-9")])  # type: ignore[arg-type]
            assert reply.body == LARGE[5:10]
        for stream in (other, *streams):
            await trio.aclose_forcefully(stream)


async def test_a_drain_lets_those_finish_who_take_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few, and though OpenSSL counts a record as sent only with its last byte."""
    monkeypatch.setattr(trio_wsgi.net.drain, "LOOK", 0.05)
    monkeypatch.setattr(trio_wsgi.net.drain, "WINDOW", 1.0)
    settings = {"graceful_timeout": 1.0, "drain_min_rate": 20_000, "write_timeout": 60}
    async with serving(LargeFile(tmp_path), **TLS, **settings) as served:
        moving, stalled = [await connect_tls(served.port, receive_buffer=65536) for _ in range(2)]
        for stream in (moving, stalled):
            await stream.send_all(CLOSE)
            await stream.receive_some(1000)
        served.server.drain()
        received = bytearray()
        with trio.fail_after(60):
            slow = 150  # reads more, once the other one was cut: 1.5 s at 2 MB/s, or less on a busy machine
            while slow > 0:
                received += await moving.receive_some(20_000)
                await trio.sleep(0.01)
                slow -= len(served.records)
            received += (await receive_to_end(moving))[0]
        assert received.endswith(LARGE[-MIB:])
        await served.record(2)
        assert [record.outcome for record in served.records] == [Outcome.SHUTDOWN, Outcome.FINISHED]
        for stream in (moving, stalled):
            await trio.aclose_forcefully(stream)
