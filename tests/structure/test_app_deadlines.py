"""Deadlines that say what they mean: the application's own time, the time in the queue, and a thread that ignores both.

Where the time that passes is the client's or the queue's, it is none of the application's.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from answers import read_answer
from asking import KEPT, PLAIN, Asked, Environ, StartResponse, ask, error_lines, request
from riding import lane_of, receive
from serving import Served, receive_all, serving
from waiting import until, wait_until

import trio_wsgi.net.pool
from trio_wsgi import Outcome, ThreadCounts

pytestmark = pytest.mark.usefixtures("each_way")

LARGE = 3_000_000


def sleeps(seconds: float) -> Callable[[Environ, StartResponse], list[bytes]]:
    """An application that hears of its cancellation."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        trio.from_thread.run(trio.sleep, seconds)
        start_response("200 OK", PLAIN)
        return [b"in time"]

    return app


# -- app_timeout -------------------------------------------------------------------------------------------------------


async def test_before_anything_was_sent_it_is_a_504(caplog: pytest.LogCaptureFixture) -> None:
    """PAINS 37 (uwsgi#2324)."""
    asked = await ask(sleeps(60), app_timeout=0.1)
    assert asked.answer.status == 504
    assert asked.answer.closes
    assert asked.record.outcome is Outcome.APP_TIMEOUT
    assert 0.1 <= asked.record.duration < 5
    assert "no answer after 0.1 s of work (app_timeout)" in error_lines(caplog, logging.ERROR)[0]


@pytest.mark.parametrize("reads", [-1, 5, 0], ids=["read", "read in part", "unread"])
@pytest.mark.parametrize("buffering", [True, False], ids=["buffered", "streamed"])
async def test_a_body_makes_it_no_other_answer(buffering: bool, reads: int) -> None:
    """PAINS 37 (uwsgi#1567, #2324, #2580): a 5xx before the request is ended, whatever became of its body."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.input"].read(reads)
        trio.from_thread.run(trio.sleep, 60)
        raise AssertionError

    sent = request("POST", body=b"x" * 300_000)
    asked = await ask(app, sent, app_timeout=0.1, request_buffering=buffering, body_buffer_size=1000)
    assert (asked.answer.status, asked.answer.closes) == (504, True)
    assert asked.record.outcome is Outcome.APP_TIMEOUT


async def in_a_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(in_another)


async def in_another() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)


def wraps_whatever_comes() -> None:
    try:
        trio.from_thread.run(in_a_nursery)
    except BaseException as exc:
        raise RuntimeError("the query failed") from exc


@pytest.mark.parametrize(
    "view", [lambda: trio.from_thread.run(in_a_nursery), wraps_whatever_comes], ids=["group", "cause"]
)
async def test_a_cancellation_may_come_in_a_group_or_be_the_cause(view: Callable[[], None]) -> None:
    """Trio's nurseries raise it in a group of its own kind; libraries wrap what they do not know."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        view()
        raise AssertionError

    asked = await ask(app, app_timeout=0.1)
    assert (asked.answer.status, asked.record.outcome) == (504, Outcome.APP_TIMEOUT)


async def test_what_fails_while_it_is_cancelled_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A clean-up that goes wrong is an error of the application's, whenever it does."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            trio.from_thread.run(in_a_nursery)
        finally:
            raise ValueError("the clean-up failed")

    asked = await ask(app, app_timeout=0.1)
    assert asked.record.outcome is Outcome.APP_ERROR
    assert "the clean-up failed" in "".join(error_lines(caplog))


async def test_after_something_was_sent_the_connection_is_cut() -> None:
    """PAINS 37: there is no answer to take its place."""
    closed: list[bool] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "10")])
        try:
            yield b"begin"
            trio.from_thread.run(trio.sleep, 60)
            yield b"never"
        finally:
            closed.append(True)

    asked = await ask(app, app_timeout=0.1)
    assert asked.raw.endswith(b"\r\n\r\nbegin") or asked.raw == b""  # a cut is a reset, which may take all with it
    assert (asked.record.outcome, asked.record.body_sent) == (Outcome.APP_TIMEOUT, 5)
    assert closed == [True]


@pytest.mark.parametrize("ahead", [0, 100_000])
@pytest.mark.parametrize("writes", [False, True], ids=["yields", "writes"])
async def test_an_app_that_sends_without_ever_waiting_hears_of_it(writes: bool, ahead: int) -> None:
    """The kernel takes every block, so that nothing is ever asked of the event loop."""
    raised: list[BaseException] = []
    given = [0]

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        write = start_response("200 OK", PLAIN)
        try:
            while True:
                given[0] += 1
                if writes:
                    write(b"block")
                else:
                    yield b"block"
        except BaseException as exc:
            raised.append(exc)
            raise

    asked = await ask(app, app_timeout=0.2, output_buffering=ahead)
    assert [type(exc) for exc in raised] == [trio.Cancelled if writes else GeneratorExit]
    assert asked.record.outcome is Outcome.APP_TIMEOUT
    assert given[0] > 100


async def read_late(served: Served, after: float) -> bytes:
    """What a client gets that does not read for that long."""
    async with await served.connect(receive_buffer=4096) as stream:
        await stream.send_all(request())
        await trio.sleep(after)
        return await receive_all(stream)


@pytest.mark.parametrize("ahead", [0, 100_000])
@pytest.mark.parametrize("kind", ["generator", "write", "list"])
async def test_a_client_that_takes_its_time_takes_none_of_the_applications(kind: str, ahead: int) -> None:
    """PAINS 27, 28 (gunicorn#3259, #1186, #1440): WORKER TIMEOUT inside of sendall."""

    def app(environ: Environ, start_response: StartResponse) -> Any:
        write = start_response("200 OK", [("Content-Length", str(3 * LARGE))])
        blocks = [b"x" * LARGE] * 3
        if kind == "write":
            for block in blocks:
                write(block)
            return []
        return blocks if kind == "list" else iter(blocks)

    with trio.fail_after(15):
        async with serving(app, app_timeout=0.3, output_buffering=ahead) as served:
            assert len(read_answer(await read_late(served, 0.8)).body) == 3 * LARGE
            assert (await served.record()).outcome is Outcome.FINISHED


async def test_an_upload_that_arrives_slowly_takes_none_of_the_applications_time() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        body = environ["wsgi.input"].read()
        start_response("200 OK", PLAIN)
        return [body]

    for expects in ([], ["Expect: 100-continue"]):
        async with (
            serving(app, app_timeout=0.3, request_buffering=False) as served,
            await served.connect() as stream,
        ):
            await stream.send_all(request("POST", "/", "Content-Length: 5", *expects))
            for byte in b"tardy":
                await trio.sleep(0.1)
                await stream.send_all(bytes([byte]))
            assert (await receive_all(stream)).endswith(b"tardy")


async def test_the_time_in_the_queue_is_none_of_the_applications() -> None:
    app = sleeps(0.2)
    async with serving(app, app_timeout=0.35, threads=1) as served, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(served.exchange, request())
    assert [record.status for record in served.records] == [200, 200, 200]


@pytest.mark.parametrize(("allowed", "status"), [(0.05, 504), (10, 200), (math.inf, 200)])
async def test_an_application_may_set_its_own(allowed: float, status: int) -> None:
    """`environ["trio_wsgi.set_app_timeout"](seconds)`: so many from now on, more or less than the setting."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["trio_wsgi.set_app_timeout"](allowed)
        return sleeps(0.4)(environ, start_response)

    assert (await ask(app, app_timeout=0.2)).answer.status == status


@pytest.mark.parametrize("allowed", [-1, math.nan, "3", None])
async def test_what_is_no_time_is_refused_where_it_is_set(allowed: Any) -> None:
    """And the deadline stays as it was."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        with pytest.raises(ValueError, match="no time to work for"):
            environ["trio_wsgi.set_app_timeout"](allowed)
        return sleeps(60)(environ, start_response)

    asked = await ask(app, app_timeout=0.2)
    assert asked.answer.status == 504
    assert asked.record.reason == "no answer after 0.2 s of work (app_timeout)"


@pytest.mark.parametrize(
    ("setting", "value", "status"),
    [
        ("X-Budget", "0.05", 504),
        ("X-Budget", "30", 504),  # never more than the setting
        ("X-Budget", "-1", 200),  # no number of seconds: as if it were not there
        ("X-Budget", "1e-9", 200),
        ("X-Budget", "", 200),
        ("", "0.05", 200),  # nobody trusts it
    ],
)
async def test_a_trusted_header_shortens_it(setting: str, value: str, status: int) -> None:
    seconds = 0.3 if value != "30" else 60
    app_timeout = 5.0 if value != "30" else 0.1
    sent = request("GET", "/", f"x-budget: {value}")
    asked = await ask(sleeps(seconds), sent, app_timeout=app_timeout, app_timeout_header=setting)
    assert asked.answer.status == status


async def test_an_answer_in_time_counts_however_late_the_loop_hears_of_it(mock_clock: trio.testing.MockClock) -> None:
    """Who else runs on the loop may keep it for longer than the application may work; that has done its part."""
    mock_clock.rate = 1
    working, go_on = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["trio_wsgi.set_app_timeout"](10)
        working.set()
        assert go_on.wait(10)
        start_response("200 OK", [*PLAIN, ("Content-Length", "7")])
        return [b"in time"]

    async with serving(app) as served, await served.connect() as stream:
        for _ in range(10):  # the clock rings before or after the answer is looked at
            await stream.send_all(KEPT)
            await until(working.is_set)
            working.clear()
            go_on.set()
            wait_until(partial(has_report, served))  # the loop stands still meanwhile
            mock_clock.jump(20)
            go_on.clear()
            assert (await receive(stream, 7)).startswith(b"HTTP/1.1 200 ")


def has_report(served: Served) -> bool:
    """Whether a thread has told the loop of an answer, and it has not heard of it."""
    service, lane = served.server._service, lane_of(served)
    assert service is not None
    return not service.threads._handover.done.empty() or (lane is not None and not lane._done.empty())


async def test_work_after_the_answer_was_handed_over_has_no_such_deadline(tmp_path: Path) -> None:
    """The thread is free, the client reads on: app_timeout counts until the body is handed over, and no longer."""
    (tmp_path / "file").write_bytes(b"x" * 3 * LARGE)

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", PLAIN)
        return environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb"))

    async with serving(app, app_timeout=0.2) as served:
        assert len(read_answer(await read_late(served, 0.5)).body) == 3 * LARGE


# -- the queue ---------------------------------------------------------------------------------------------------------


async def test_beyond_the_queue_is_503_at_once_and_the_connection_stays_usable() -> None:
    gate = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        if environ["PATH_INFO"] == "/wait":
            assert gate.wait(10)
        start_response("200 OK", PLAIN)
        return [b"hello"]

    async with serving(app, threads=1, queue_size=1) as served, AsyncExitStack() as stack:
        for _ in range(2):  # one runs, one waits
            busy = await stack.enter_async_context(await served.connect())
            await busy.send_all(request("GET", "/wait"))
        # Who waits may, for a moment, be the lane for its thread: then a third one would ride there.
        full = ThreadCounts(busy=1, idle=0, lost=0, queued=1)
        await until(lambda: served.server.statistics().threads == full)
        client = await stack.enter_async_context(await served.connect())
        for _ in range(3):
            await client.send_all(KEPT)
            refused = (await client.receive_some()).lower()
            assert refused.startswith(b"http/1.1 503 service unavailable\r\n")
            assert b"\r\nretry-after: 1\r\n" in refused
            assert b"connection: close" not in refused
        gate.set()
        await served.record(5)
        await client.send_all(KEPT)
        assert b"200 OK" in await client.receive_some()
    assert [record.outcome for record in served.records].count(Outcome.REFUSED) == 3


async def test_queue_timeout_fires_while_the_request_waits() -> None:
    """503 and Retry-After (RFC 9110 §10.2.3) at that moment, not when a thread comes free; the connection is kept."""
    gate, asked = threading.Event(), list[str]()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        asked.append(environ["PATH_INFO"])
        assert gate.wait(10)
        start_response("200 OK", PLAIN)
        return [b"hello"]

    async with serving(app, threads=1, queue_timeout=0.1) as served, await served.connect() as first:
        await first.send_all(request("GET", "/first"))
        await until(lambda: asked == ["/first"])
        async with await served.connect() as second:
            await second.send_all(b"GET /second HTTP/1.1\r\nHost: t\r\n\r\n")
            with trio.fail_after(2):
                refused = await second.receive_some()
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nretry-after: 1\r\n" in refused.lower()
            assert served.records[0].reason == "no thread came free within 0.1 s (queue_timeout)"
            gate.set()
            assert (await receive_all(first)).endswith(b"hello")
            await second.send_all(request("GET", "/third"))
            assert (await receive_all(second)).endswith(b"hello")
    assert asked == ["/first", "/third"]


async def test_a_request_that_got_its_thread_in_time_is_not_bound_by_queue_timeout() -> None:
    assert (await ask(sleeps(0.3), queue_timeout=0.1)).answer.status == 200


# -- lost threads ------------------------------------------------------------------------------------------------------


class Deaf:
    """An application that ignores its cancellation until it is let go."""

    def __init__(self, path: Path) -> None:
        self.gate = threading.Event()
        self.path = path
        self.inside = self.most = 0
        self.files: list[Any] = []  # opened by one thread or several,
        self.unclosed: list[Any] = []  # and closed by others, perhaps at the same time

    @property
    def closed(self) -> int:
        return len(self.files) - len(self.unclosed)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", PLAIN)
        if environ["PATH_INFO"] == "/":
            return self.stand_still_ignoring_everything(environ)
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.05)
        self.inside -= 1
        return [b"hello"]

    def stand_still_ignoring_everything(self, environ: Environ) -> Any:
        assert self.gate.wait(10)
        file = self.path.open("rb")
        self.unclosed.append(file)
        self.files.append(file)
        return environ["wsgi.file_wrapper"](self)

    def read(self, size: int) -> bytes:
        return self.files[0].read(size)  # type: ignore[no-any-return]

    def close(self) -> None:
        self.unclosed.pop().close()


@pytest.fixture
def deaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deaf]:
    monkeypatch.setattr(trio_wsgi.net.pool, "LOST_AFTER", 0.2)
    (tmp_path / "file").write_bytes(b"late")
    app = Deaf(tmp_path / "file")
    yield app
    app.gate.set()


async def test_a_thread_that_ignores_its_cancellation_is_lost_and_the_pool_is_right_when_it_comes_back(
    deaf: Deaf, caplog: pytest.LogCaptureFixture
) -> None:
    """Reported with its stack, its connection ended, another thread in its place; later its answer is disposed of."""
    with trio.fail_after(10):
        async with serving(deaf, threads=1, app_timeout=0.1) as served:
            assert read_answer(await served.exchange(request())).status == 504
            (report,) = [line for line in error_lines(caplog) if "ignores its cancellation" in line]
            assert "stand_still_ignoring_everything" in report
            assert "self.gate.wait(10)" in report
            statistics = served.server.statistics()
            assert (statistics.threads.lost, statistics.threads.busy) == (1, 0)
            assert "stand_still_ignoring_everything" in str(statistics)  # where they are can be asked for later, too
            assert statistics.connections == ()
            assert (await served.exchange(request("GET", "/other"))).endswith(b"hello")
            assert (deaf.closed, served.server.statistics().threads.lost) == (0, 1)

            deaf.gate.set()
            await until(lambda: len(deaf.files) == deaf.closed == 1 and served.server.statistics().threads.lost == 0)
            assert deaf.files[0].closed
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(served.exchange, request("GET", "/other"))
            assert deaf.most == 1, "there is one thread, as before"
            threads = served.server.statistics().threads
            assert (threads.busy, threads.idle, threads.lost, threads.queued) == (0, 1, 0, 0)
    assert [record.outcome for record in served.records].count(Outcome.APP_TIMEOUT) == 1
    assert deaf.closed == 1


async def test_the_threads_of_a_pool_can_all_be_lost_and_others_take_their_place(deaf: Deaf) -> None:
    with trio.fail_after(10):
        async with serving(deaf, threads=2, app_timeout=0.1) as served:
            answers = list[Asked]()

            async def one() -> None:
                answers.append(read_answer(await served.exchange(request())))  # type: ignore[arg-type]

            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(one)
            assert served.server.statistics().threads.lost == 2
            assert (await served.exchange(request("GET", "/other"))).endswith(b"hello")
            deaf.gate.set()
            await until(lambda: len(deaf.files) == deaf.closed == 2 and served.server.statistics().threads.lost == 0)


async def test_what_a_lost_thread_still_tries_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is somebody else's business now: every verb raises Cancelled, however late."""
    monkeypatch.setattr(trio_wsgi.net.pool, "LOST_AFTER", 0.1)
    gate = threading.Event()
    raised: list[type[BaseException]] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", PLAIN)
        assert gate.wait(10)
        for verb in (
            lambda: write(b"x"),
            lambda: environ["wsgi.input"].read(),
            lambda: environ["trio_wsgi.wait_writable"](1),
        ):
            try:
                verb()
            except BaseException as exc:
                raised.append(type(exc))
        try:
            environ["trio_wsgi.nursery"].start_soon(trio.sleep, 1)
        except RuntimeError as exc:
            raised.append(type(exc))
        return [b"too late"]

    with trio.fail_after(10):
        async with serving(app, app_timeout=0.05, request_buffering=False) as served:
            assert read_answer(await served.exchange(request("POST", body=b"abc"))).status == 504
            gate.set()
            await until(lambda: served.server.statistics().threads.lost == 0)
    assert raised == [trio.Cancelled] * 3 + [RuntimeError]
