"""Applications that use their request in threads of their own, and what threads see of each other.

asgiref runs async views (Flask, Django) in a loop of its own, and boto3 reads an upload in a pool: they use wsgi.input,
and may call write(), in threads that we have never seen.
"""

from __future__ import annotations

import contextvars
import io
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from answers import read_answer
from asking import PLAIN, Environ, StartResponse, ask, error_lines, exchange_open, request
from producing import SMALL
from producing import ask as ask_slowly
from serving import receive_all, serving
from waiting import until

from trio_wsgi import Outcome, ThreadCounts

pytestmark = pytest.mark.usefixtures("each_way")

Started = contextvars.ContextVar[str]("Started")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.mark.parametrize("headers", [(), ("Expect: 100-continue",)], ids=["streamed", "expecting"])
async def test_a_body_is_read_in_a_thread_of_the_applications(pool: ThreadPoolExecutor, headers: tuple[str]) -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        body = pool.submit(environ["wsgi.input"].read).result()
        start_response("200 OK", PLAIN)
        return [b"%d" % len(body)]

    sent = request("POST", "/", *headers, body=bytes(300_000))
    async with serving(app, request_buffering=False) as served, await served.connect() as stream:
        with trio.fail_after(10):
            await stream.send_all(sent[:-5])
            await trio.sleep(0.05)  # for a thread that waits on the loop
            await stream.send_all(sent[-5:])
            assert (await receive_all(stream)).endswith(b"300000")


async def test_write_is_called_in_a_thread_of_the_applications(pool: ThreadPoolExecutor) -> None:
    """By a client that does not take it all at once."""
    size, count = 100_000, 60

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", [("Content-Length", str(size * count))])
        pool.submit(lambda: [write(bytes(size)) for _ in range(count)]).result()
        return []

    async with serving(app) as served:
        received = await ask_slowly(served, request(), SMALL)
    assert len(read_answer(received).body) == size * count


async def test_an_application_with_a_loop_of_its_own_reaches_ours_from_that_ones_threads() -> None:
    """`trio.run` in a view: what the environ offers is of the server's loop, and waits for that."""
    done = trio.Event()
    loops: list[trio.lowlevel.TrioToken] = []

    async def work() -> None:
        loops.append(trio.lowlevel.current_trio_token())
        done.set()

    async def view(environ: Environ, write: Any) -> None:
        await trio.to_thread.run_sync(environ["trio_wsgi.server_nursery"].start_soon, work)
        for _ in range(60):
            await trio.to_thread.run_sync(write, bytes(100_000))

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", PLAIN)
        trio.run(view, environ, write)
        return []

    async with serving(app) as served:
        received = await ask_slowly(served, request(), SMALL)
        with trio.fail_after(5):
            await done.wait()
    assert len(read_answer(received).body) == 6_000_000
    assert loops == [trio.lowlevel.current_trio_token()]


async def test_a_thread_that_has_served_us_is_free_for_other_loops() -> None:
    """Trio keeps the thread of a cancelled request for a while, and gives it to whoever asks next."""
    served_us, loops = set[int](), list[trio.lowlevel.TrioToken]()
    done = trio.Event()

    async def work() -> None:
        loops.append(trio.lowlevel.current_trio_token())
        done.set()

    def in_thread(environ: Environ, write: Any) -> bool:
        environ["trio_wsgi.server_nursery"].start_soon(work)
        for _ in range(60):
            write(bytes(100_000))
        return threading.get_ident() in served_us

    async def view(environ: Environ, write: Any) -> None:
        assert await trio.to_thread.run_sync(in_thread, environ, write), "this shows nothing: it is another thread"

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        if environ["PATH_INFO"] == "/cancelled":
            served_us.add(threading.get_ident())
            trio.from_thread.run(trio.sleep_forever)
        trio.run(view, environ, start_response("200 OK", PLAIN))
        return []

    async with serving(app, threads=3, half_close="abort") as served:
        streams = [await served.connect() for _ in range(3)]
        for stream in streams:
            await stream.send_all(request("GET", "/cancelled"))
        await until(lambda: len(served_us) == 3)
        for stream in streams:
            await stream.aclose()
        await until(lambda: served.server.statistics().threads == ThreadCounts(busy=0, idle=0, lost=0, queued=0))
        received = await ask_slowly(served, request(), SMALL)
        with trio.fail_after(5):
            await done.wait()
    assert len(read_answer(received).body) == 6_000_000
    assert loops == [trio.lowlevel.current_trio_token()]


async def test_work_is_started_in_a_thread_of_the_applications(pool: ThreadPoolExecutor) -> None:
    done = trio.Event()

    async def work() -> None:
        done.set()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        pool.submit(environ["trio_wsgi.nursery"].start_soon, work).result()
        trio.from_thread.run(done.wait)
        start_response("200 OK", PLAIN)
        return [b"done"]

    assert (await ask(app)).answer.body == b"done"


async def test_another_requests_cancellation_is_an_error_of_the_application(caplog: pytest.LogCaptureFixture) -> None:
    """Out of a future that one request computes for all: its client left, and nobody else's did."""
    flight: Future[bytes] = Future()
    entered = trio.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        if environ["PATH_INFO"] == "/computes":
            trio.from_thread.run_sync(entered.set)
            try:
                trio.from_thread.run(trio.sleep_forever)
            except BaseException as exc:
                flight.set_exception(exc)
                raise
        start_response("200 OK", PLAIN)
        return [flight.result(10)]

    async with serving(app, threads=2, half_close="abort") as served:
        stream = await served.connect()
        await stream.send_all(request("GET", "/computes"))
        with trio.fail_after(10):
            await entered.wait()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exchange_open, served, request("GET", "/waits"))
                await trio.sleep(0.05)
                await stream.aclose()
        outcomes = {record.target: record.outcome for record in [await served.record(1), await served.record(2)]}
        outcomes |= {record.target: record.outcome for record in served.records}
    assert outcomes == {"/computes": Outcome.CLIENT_GONE, "/waits": Outcome.APP_ERROR}
    assert not any("report" in line for line in error_lines(caplog, logging.INFO))


@pytest.mark.parametrize("large", [False, True])
async def test_close_of_a_file_runs_in_the_requests_context(large: bool, caplog: pytest.LogCaptureFixture) -> None:
    """In whichever thread: what the application has set is there, and can be taken back."""

    def app(environ: Environ, start_response: StartResponse) -> Any:
        token = Started.set("by the application")

        class Resetting(io.BytesIO):
            def close(self) -> None:
                if not self.closed:
                    Started.reset(token)
                super().close()

        start_response("200 OK", PLAIN)
        return environ["wsgi.file_wrapper"](Resetting(bytes(8_000_000 if large else 10)))

    async with serving(app) as served:
        for count in range(1, 4):
            await ask_slowly(served, request(), SMALL)
            await served.record(count)
    assert error_lines(caplog) == []


def test_async_libraries_may_be_started_inside_of_an_anyio_program() -> None:
    """anyio.run tells all contexts which loop runs (sniffio); none does in an application's thread."""
    found: list[Any] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        found.append(anyio.run(_sleep))
        start_response("200 OK", PLAIN)
        return [b"slept"]

    async def main() -> None:
        assert (await ask(app)).answer.body == b"slept"

    anyio.run(main, backend="trio")
    assert found == ["slept"]


async def _sleep() -> str:
    await anyio.lowlevel.checkpoint()
    return "slept"
