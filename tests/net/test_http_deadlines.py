"""Deadlines: each its own setting and its own word; none of them cuts what makes progress (PAINS 2, 27 to 30, 41)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from answers import read_answer, read_answers
from asking import CLOSE, KEPT, Environ, greet
from faults import reset_on_close
from serving import Served, receive_all, serving

MIB = 1024 * 1024
PUT = b"PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n"
LARGE = 16 * MIB  # more than the kernel keeps for a connection


async def _answer_to(served: Served, *pieces: bytes, every: float = 0.0) -> tuple[bytes, float]:
    """Send pieces, then wait for the server to end the connection; the seconds that this took."""
    with trio.fail_after(10):
        async with await served.connect() as stream:
            for piece in pieces:
                await stream.send_all(piece)
                await trio.sleep(every)
            waited = trio.current_time()
            return await receive_all(stream), trio.current_time() - waited


# -- header_timeout --------------------------------------------------------------------------------------------------


async def test_header_timeout_of_a_head_that_does_not_end() -> None:
    async with serving(greet, header_timeout=0.2) as served:
        raw, waited = await _answer_to(served, KEPT[:-2])
        record = await served.record()
    answer = read_answer(raw)
    assert (answer.status, answer.closes) == (408, True)
    assert record.outcome.value == "header-timeout"
    assert "header_timeout" in record.reason
    assert 0.1 < waited < 3


async def test_header_timeout_is_for_the_whole_head() -> None:
    # A byte now and then does not move it: slowloris
    async with serving(greet, header_timeout=0.3, linger_timeout=0.1) as served:
        with trio.fail_after(5):
            async with await served.connect() as stream:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.send_all(KEPT[:-2])
                    while True:
                        await stream.send_all(b"X: y\r\n")
                        await trio.sleep(0.05)
        assert (await served.record()).outcome.value == "header-timeout"


async def test_header_timeout_begins_with_the_first_byte_of_each_request() -> None:
    async with serving(greet, header_timeout=0.3) as served:
        raw, _ = await _answer_to(served, *[KEPT] * 4, KEPT[:-2], every=0.15)
    answers = read_answers(raw, ["GET"] * 5)
    assert [answer.status for answer in answers] == [200] * 4 + [408]


async def test_a_connection_that_never_asks_is_closed_without_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    """PAINS 31 (pypi/warehouse PR#20110): a browser's spare connection asks nothing, and nothing is recorded of it."""
    with caplog.at_level(logging.DEBUG, "trio_wsgi.error"):
        async with serving(greet, header_timeout=0.2) as served:
            raw, waited = await _answer_to(served)
            assert (raw, served.records) == (b"", [])
    assert 0.1 < waited < 3
    assert "header_timeout" in caplog.text


# -- keep_alive ------------------------------------------------------------------------------------------------------


async def test_keep_alive_idle_close(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "trio_wsgi.error"):
        async with serving(greet, keep_alive=0.2, header_timeout=5) as served:
            raw, waited = await _answer_to(served, KEPT)
    assert not read_answer(raw).closes
    assert 0.1 < waited < 3
    assert "(keep_alive)" in caplog.text
    assert [record.outcome.value for record in served.records] == ["finished"]


async def test_keep_alive_is_not_the_first_requests_deadline() -> None:
    async with serving(greet, keep_alive=0.1, header_timeout=5) as served:
        with trio.fail_after(5):
            async with await served.connect() as stream:
                await trio.sleep(0.3)
                await stream.send_all(KEPT)
                assert read_answer(await receive_all(stream)).status == 200


class SendsAtTheLastMoment(trio.abc.Instrument):
    """Sends a request when a connection is about to be closed: its time is up, and its task goes on."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.sent = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name == "trio_wsgi connection" and not self.sent:
            self.sent = os.write(self._stream.socket.fileno(), KEPT)


async def test_what_has_come_when_the_time_is_up_is_answered() -> None:
    """PAINS 41: a connection with an unread request on it is never closed; behind a load balancer that is a 502."""
    async with serving(greet, keep_alive=0.1) as served, await served.connect() as stream:
        for _ in range(3):
            await stream.send_all(KEPT)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
            await trio.testing.wait_all_tasks_blocked()
            trio.lowlevel.add_instrument(late := SendsAtTheLastMoment(stream))
            with trio.fail_after(5):
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
            trio.lowlevel.remove_instrument(late)


async def test_the_default_outlives_a_load_balancer() -> None:
    """PAINS 41 (gunicorn#1698, #2288): behind ALB and Heroku (60 to 90 s) a shorter one gives 502s."""
    async with serving(greet) as served:
        assert served.server.config.keep_alive >= 75


# -- body_timeout ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffering", [True, False], ids=["buffered", "streamed"])
async def test_body_timeout(buffering: bool) -> None:
    async with serving(greet, body_timeout=0.2, request_buffering=buffering) as served:
        raw, waited = await _answer_to(served, PUT, b"hel")
        record = await served.record()
    answer = read_answer(raw, "PUT")
    assert (answer.status, answer.closes) == (408, True)
    assert record.outcome.value == "body-timeout"
    assert "body_timeout" in record.reason
    assert 0.1 < waited < 3


@pytest.mark.parametrize("buffering", [True, False], ids=["buffered", "streamed"])
async def test_a_slow_upload_that_makes_progress_is_never_cut(buffering: bool) -> None:
    settings = {"request_buffering": buffering, "half_close": "serve"}  # the end of the body comes with a FIN
    async with serving(greet, body_timeout=0.7, header_timeout=0.7, **settings) as served:
        with trio.fail_after(10):
            async with await served.connect() as stream:
                await stream.send_all(PUT)
                for byte in b"hello":
                    await trio.sleep(0.2)
                    await stream.send_all(bytes([byte]))
                await stream.send_eof()
                assert read_answer(await receive_all(stream)).body == b"hello hello"


async def test_a_client_that_does_not_send_its_body_after_100() -> None:
    head = PUT.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    async with serving(greet, body_timeout=0.2) as served:
        raw, _ = await _answer_to(served, head)
        record = await served.record()
    answer = read_answer(raw, "PUT")
    assert (answer.status, answer.interim, record.outcome.value) == (408, [100], "body-timeout")


# -- write_timeout ---------------------------------------------------------------------------------------------------


def _as_list(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"x" * LARGE]


def _as_blocks(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", str(LARGE))])
    return (b"x" * 65536 for _ in range(LARGE // 65536))


def _by_write(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    write = start_response("200 OK", [("Content-Length", str(LARGE))])
    for _ in range(LARGE // MIB):
        write(b"x" * MIB)
    return []


class _File:
    """A file of `LARGE` bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path / "large"
        with self.path.open("wb") as file:
            for _ in range(LARGE // MIB):
                file.write(b"x" * MIB)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](self.path.open("rb"))  # type: ignore[no-any-return]


@pytest.fixture(params=["list", "blocks", "write", "file"])
def large_app(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    apps: dict[str, Callable[..., Any]] = {"list": _as_list, "blocks": _as_blocks, "write": _by_write}
    return apps.get(request.param) or _File(tmp_path)


async def test_write_timeout_of_a_client_that_stops_reading(large_app: Callable[..., Any]) -> None:
    async with serving(large_app, write_timeout=0.3) as served:
        with trio.fail_after(10):
            async with await served.connect() as stream:
                await stream.send_all(KEPT)
                record = await served.record()
                raw = await receive_all(stream)
    assert record.outcome.value == "write-timeout"
    assert "write_timeout" in record.reason
    assert record.status == 200
    assert record.body_promised == LARGE
    assert 0 < record.body_sent < LARGE
    assert len(raw) < LARGE
    assert record.duration < 5


@pytest.mark.slow
async def test_a_slow_but_steady_reader_is_never_cut(large_app: Callable[..., Any]) -> None:
    """PAINS 2 of the peers (gunicorn's sync worker cut one after 31 s at 3 MB/s), 28.

    It reads some 400 kB/s: with large kernel buffers the socket is writable only every few seconds, far more
    seldom than write_timeout; but the peer's kernel takes bytes all the time, and that is progress.
    """
    async with serving(large_app, write_timeout=0.8) as served:
        with trio.fail_after(25):
            async with await served.connect() as stream:
                await stream.send_all(CLOSE)
                received = bytearray()
                patience = trio.current_time() + 2.0
                while trio.current_time() < patience:
                    received += await stream.receive_some(20_000)
                    await trio.sleep(0.05)
                received += await receive_all(stream)
                record = await served.record()
    assert record.outcome.value == "finished", record.reason
    assert len(read_answer(bytes(received)).body) == LARGE
    assert record.duration > 1.9


@pytest.mark.slow
async def test_a_client_below_min_send_rate_is_cut_though_it_reads(large_app: Callable[..., Any]) -> None:
    """PAINS 26 (mod_wsgi#51, #181): where the operator says so, progress alone is not enough."""
    settings = {"min_send_rate": 10 * MIB, "min_send_grace": 1, "write_timeout": 60}
    async with serving(large_app, **settings) as served, await served.connect(receive_buffer=65536) as stream:
        await stream.send_all(KEPT)
        with trio.fail_after(30):
            while not served.records:
                await stream.receive_some(20_000)
                await trio.sleep(0.05)
    (record,) = served.records
    assert record.outcome.value == "too-slow"
    assert "min_send_rate" in record.reason
    assert 0 < record.body_sent < LARGE


# -- linger_timeout --------------------------------------------------------------------------------------------------


async def test_linger_ends_when_the_client_closes_and_not_before_its_time() -> None:
    async with serving(greet, linger_timeout=5) as served:
        with trio.fail_after(3):
            async with await served.connect() as stream:
                await stream.send_all(b"nonsense\r\n\r\n")
                assert read_answer(await receive_all(stream)).status == 400
                for _ in range(5):
                    await stream.send_all(b"x" * 65536)  # still taken: no reset
                    await trio.sleep(0.02)
            await served.wait_connections(0)


async def test_linger_timeout_bounds_it() -> None:
    async with serving(greet, linger_timeout=0.2) as served:
        with trio.fail_after(5):
            async with await served.connect() as stream:
                await stream.send_all(b"nonsense\r\n\r\n")
                with pytest.raises(trio.BrokenResourceError):
                    while True:
                        await stream.send_all(b"x" * 65536)
                        await trio.sleep(0.02)


async def test_deadlines_of_one_connection_are_not_those_of_another() -> None:
    """PAINS 31 (gunicorn#3240, pypi/warehouse PR#20110): idle clients, slow heads and slow bodies hold no thread, so
    that everybody else is served; those of gthread, cheroot and uWSGI wait for more than 5 s."""
    async with serving(greet, threads=1, header_timeout=5, body_timeout=5, request_buffering=True) as served:
        idle = [await served.connect() for _ in range(20)]
        for number, stream in enumerate(idle):
            await stream.send_all((b"", KEPT[:5], PUT, PUT + b"h")[number % 4])
        with trio.fail_after(2):
            async with await served.connect() as stream:
                await stream.send_all(KEPT)
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        for stream in idle:
            await stream.aclose()


@pytest.mark.parametrize("end", ["eof", "reset"])
@pytest.mark.parametrize("sent", [b"", b"\r\n", KEPT[:-2], PUT, PUT + b"h", KEPT, KEPT + KEPT[:9]])
async def test_a_client_that_leaves_is_noticed_at_once(sent: bytes, end: str, caplog: pytest.LogCaptureFixture) -> None:
    # Whatever it left half-done, no deadline has to pass, nobody spins, and nothing is logged as our failure.
    async with serving(greet) as served:
        stream = await served.connect()
        if sent:
            await stream.send_all(sent)
            await trio.sleep(0.02)
        if end == "reset":
            reset_on_close(stream)
        await stream.aclose()
        await served.wait_connections(0, timeout=2)
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]
