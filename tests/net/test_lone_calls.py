"""Rules of a call that stands alone: its thread sends the answer, and its caller goes on when the client does."""

from __future__ import annotations

import io
import math
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
from serving import serving

from trio_wsgi import Outcome
from trio_wsgi.net import connection, slot
from trio_wsgi.net.apps import Abandoned, AppThreads, open_threads
from trio_wsgi.net.slot import Call


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, client = socket.socketpair()
    with ours, client:
        ours.setblocking(False)
        yield ours, client


@pytest.fixture
def long_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for the end of the quiet waits in vain."""
    monkeypatch.setattr(slot, "QUIET", 60.0)


@asynccontextmanager
async def open_warm(threads: int, queue_size: int) -> AsyncIterator[AppThreads]:
    """A pool that has a thread already: the first call waits for it, and does not stand alone."""
    async with open_threads(threads, queue_size) as pool:
        await pool.run(int)
        yield pool


def call_on(sock: socket.socket, fn: Callable[[Call], Any]) -> Call:
    """A call that is told which one it is."""
    calls: list[Call] = []
    calls.append(Call(lambda: fn(calls[0]), sock=sock))
    return calls[0]


def leave(call: Call) -> str:
    call.left = call.stands_alone
    return "left" if call.left else "to be sent"


async def start(nursery: trio.Nursery, pool: AppThreads, call: Call) -> list[Any]:
    """Run it in a task of its own; what it returns is put into the list."""
    results: list[Any] = []

    async def run() -> None:
        try:
            results.append(await pool.run(call))
        except Abandoned as exc:
            results.append(exc)

    nursery.start_soon(run)
    return results


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - it happens in threads
            await trio.sleep(0.001)


@pytest.mark.usefixtures("long_quiet")
async def test_an_answer_that_has_left_wakes_nobody_before_the_client_stirs(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, client = ends
    async with open_warm(2, 0) as pool, trio.open_nursery() as nursery:
        call = call_on(ours, leave)
        results = await start(nursery, pool, call)
        await until(lambda: call.left and call.slot is None)  # its report has been read
        await trio.sleep(0.02)
        assert not results
        client.send(b"next")
        await until(lambda: results)
        assert (results, call.heard) == (["left"], True)


async def test_a_silent_client_keeps_nobody_waiting(ends: tuple[socket.socket, socket.socket]) -> None:
    """What is told of a request (its record, its log line) does not wait for the next one."""
    async with open_warm(1, 1) as pool:
        call = call_on(ends[0], leave)
        with trio.fail_after(10):
            assert await pool.run(call) == "left"
        assert not call.heard


@pytest.mark.usefixtures("long_quiet")
async def test_what_has_not_left_is_told_at_once(ends: tuple[socket.socket, socket.socket]) -> None:
    async with open_warm(1, 1) as pool:
        with trio.fail_after(10):
            assert await pool.run(call_on(ends[0], lambda call: call.stands_alone)) is True
            with pytest.raises(ZeroDivisionError):
                await pool.run(call_on(ends[0], lambda call: 1 // 0))


@pytest.mark.usefixtures("long_quiet")
async def test_a_client_that_stirs_early_changes_nothing_but_who_wakes_whom(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """It may pipeline, or end its sending side, while the application runs."""
    ours, client = ends
    go_on = threading.Event()

    def late(call: Call) -> str:
        assert go_on.wait(10)
        return leave(call)

    async with open_warm(1, 1) as pool, trio.open_nursery() as nursery:
        call = call_on(ours, late)
        results = await start(nursery, pool, call)
        client.send(b"early")
        await until(lambda: call.heard)
        go_on.set()
        await until(lambda: results)
        assert results == ["to be sent"]  # it does not stand alone when nobody listens


@pytest.mark.usefixtures("long_quiet")
async def test_a_call_behind_it_that_lasts_keeps_no_one_waiting(ends: tuple[socket.socket, socket.socket]) -> None:
    """One thread; the caller of the first call listens to a client that says nothing."""
    go_on = threading.Event()
    async with open_warm(1, 10) as pool, trio.open_nursery() as nursery:
        call = call_on(ends[0], leave)
        first = await start(nursery, pool, call)
        await until(lambda: call.left and call.slot is None)
        assert not first
        second = await start(nursery, pool, Call(partial(go_on.wait, 10)))
        await until(lambda: first)
        assert (first, second) == (["left"], [])
        go_on.set()


async def test_several_at_once_do_not_stand_alone(ends: tuple[socket.socket, socket.socket]) -> None:
    """Their answers leave together: the loop is woken once for all, and threads do not fight over the interpreter."""
    told: list[bool] = []
    async with open_warm(1, 10) as pool:
        for _ in range(2):  # one crowd is a surprise
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(pool.run, call_on(ends[0], lambda call: told.append(call.stands_alone)))
    assert not any(told[-5:])


async def test_abandoned_while_it_listens(ends: tuple[socket.socket, socket.socket]) -> None:
    async with open_warm(1, 1) as pool, trio.open_nursery() as nursery:
        call = call_on(ends[0], lambda call: trio.from_thread.run(trio.sleep_forever))
        results = await start(nursery, pool, call)
        await until(lambda: call.thread)
        pool.abandon(call)
        await until(lambda: results)
        assert isinstance(results[0], Abandoned)


async def test_cancelled_while_it_listens(ends: tuple[socket.socket, socket.socket]) -> None:
    """The app sees it at once, and its thread is waited for."""
    seen: list[BaseException] = []

    def sleep(call: Call) -> None:
        try:
            trio.from_thread.run(trio.sleep_forever)
        except BaseException as exc:
            seen.append(exc)
            raise

    async with open_warm(1, 1) as pool:
        call = call_on(ends[0], sleep)
        async with trio.open_nursery() as nursery:
            await start(nursery, pool, call)
            await until(lambda: call.thread)
            nursery.cancel_scope.cancel()
        assert [type(exc) for exc in seen] == [trio.Cancelled]
        assert await pool.run(lambda: "the next thread") == "the next thread"


# -- with a server --------------------------------------------------------------------------------------------------


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every client is one that asks without a rest, from its first request on."""
    monkeypatch.setattr(connection, "_BRISK", math.inf)


KEPT = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
SIZE = 100_000


class Noted(io.BufferedReader):
    """A file whose close is the application's own code."""

    closed_in: ClassVar[list[str]] = []

    def close(self) -> None:
        if not self.closed:
            self.closed_in.append(threading.current_thread().name)
        super().close()


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    path = tmp_path / "payload"
    path.write_bytes(bytes(SIZE))
    Noted.closed_in.clear()
    return path


async def receive(stream: trio.SocketStream, size: int) -> bytes:
    """A head, and a body of so many bytes."""
    received = b""
    with trio.fail_after(10):
        while not (head := received.partition(b"\r\n\r\n"))[1] or len(head[2]) < size:
            received += await stream.receive_some()
    return received


@pytest.mark.usefixtures("brisk")
async def test_a_record_follows_its_answer_though_the_client_says_nothing_more() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        return say(start_response, b"hello")

    async with serving(app) as served, await served.connect() as client:
        for count in range(1, 4):
            await client.send_all(KEPT)
            assert (await receive(client, 5)).endswith(b"hello")
            record = await served.record(count)
            assert (record.outcome, record.body_sent) == (Outcome.FINISHED, 5)


@pytest.mark.usefixtures("brisk")
async def test_a_file_that_leaves_whole_is_closed_where_its_closing_may_block(payload: Path) -> None:
    """Once for each, in the application's thread, with no thread asked for it."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", str(SIZE))])
        return environ["wsgi.file_wrapper"](Noted(io.FileIO(payload)))

    async with serving(app, threads=1) as served, await served.connect() as client:
        for count in range(1, 6):
            await client.send_all(KEPT)
            await receive(client, SIZE)
            await served.record(count)
        assert Noted.closed_in == ["trio-wsgi app"] * 5


@pytest.mark.usefixtures("brisk")
async def test_who_asks_ahead_is_answered_in_order() -> None:
    """RFC 9112 §9.3.2: while the application works on one request, the next ones arrive."""
    inside, go_on = threading.Event(), threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        inside.set()
        assert go_on.wait(10)
        return say(start_response, environ["PATH_INFO"].encode())

    async with serving(app) as served, await served.connect() as client:
        await client.send_all(KEPT.replace(b"/ ", b"/1 "))
        assert await trio.to_thread.run_sync(inside.wait, 10)
        await client.send_all(KEPT.replace(b"/ ", b"/2 ") + KEPT.replace(b"/ ", b"/3 "))
        go_on.set()
        received = b""
        with trio.fail_after(10):
            while not received.endswith(b"/3"):
                received += await client.receive_some()
        assert [line[-2:] for line in received.split(b"HTTP/1.1")[1:]] == [b"/1", b"/2", b"/3"]


@pytest.mark.usefixtures("brisk")
async def test_a_head_that_cannot_leave_is_an_error_of_the_application() -> None:
    """Nothing was sent, so it is a 500, in whichever thread that was found out."""

    def app(environ: Any, start_response: Any) -> Any:
        environ["trio_wsgi.limit_rate"] = "fast"
        return say(start_response, b"hello")

    async with serving(app) as served, await served.connect() as client:
        await client.send_all(KEPT)
        assert (await receive(client, 0)).startswith(b"HTTP/1.1 500 ")
        assert (await served.record()).outcome is Outcome.APP_ERROR


def say(start_response: Any, body: bytes) -> list[bytes]:
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
