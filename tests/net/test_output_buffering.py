"""--output-buffering: an iterating app runs so far ahead of its client and no further, and then holds no thread."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.lowlevel
from answers import read_answer, read_answers
from asking import CLOSE, KEPT
from downloads import known_bytes
from faults import StopsReading, Vanishes
from hypothesis import given, settings
from hypothesis import strategies as st
from producing import REQUESTS, SMALL, TINY, ask, ask_to_end, cut_body, cut_up
from serving import receive_all, serving
from waiting import until

from sendfile import Part
from trio_wsgi import Outcome
from trio_wsgi.net.backlog import Backlog


def yielding(blocks: Callable[[], Iterator[bytes]], length: int | None = None) -> Callable[..., Any]:
    """An app that answers /hello, and everything else with a generator."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        headers = [] if length is None else [("Content-Length", str(length))]
        if environ["PATH_INFO"] == "/hello":
            start_response("200 OK", [])
            return [b"hello"]
        start_response("200 OK", headers)
        return blocks()

    return app


# -- the wire ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", REQUESTS)
@pytest.mark.parametrize("ahead", [1, 5000, 300_000, 50_000_000])
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_same_bytes_arrive(framing: str, ahead: int, seed: int) -> None:
    data = known_bytes(1_500_000, seed)
    request, length = REQUESTS[framing]
    app = yielding(lambda: cut_up(data, seed), len(data) if length else None)
    async with serving(app, output_buffering=ahead) as served:
        body = read_answer(await ask(served, request, TINY)).body
        assert hashlib.sha256(body).digest() == hashlib.sha256(data).digest()
        record = await served.record()
    assert (record.outcome, record.body_sent) == (Outcome.FINISHED, len(data))


async def test_small_blocks_in_their_thousands() -> None:
    """The thread and the loop pass the baton all the time: no block falls between two deliveries."""
    data = known_bytes(600_000)
    app = yielding(lambda: (data[at : at + 37] for at in range(0, len(data), 37)), len(data))
    async with serving(app, output_buffering=2000) as served:
        async with await served.connect(SMALL) as stream:
            await stream.send_all(CLOSE)
            received = bytearray()
            with trio.fail_after(20):
                while chunk := await stream.receive_some(30_000):
                    received += chunk
                    await trio.lowlevel.checkpoint()
        assert read_answer(bytes(received)).body == data


async def test_write_and_iterate_and_keep_alive() -> None:
    """What is lent leaves before the next block, the next write(), and the next response (RFC 9112 §9.3.2)."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", [])

        def blocks() -> Iterator[bytes]:
            for number in range(20):
                yield b"y%05d" % number * 10_000
                write(b"w%05d" % number * 10_000)

        return blocks()

    expected = b"".join(b"y%05d" % n * 10_000 + b"w%05d" % n * 10_000 for n in range(20))
    async with serving(app, output_buffering=100_000) as served, await served.connect(SMALL) as stream:
        await stream.send_all(KEPT + CLOSE)
        with trio.fail_after(20):
            answers = read_answers(await receive_all(stream), ["GET", "GET"])
    assert [answer.body == expected for answer in answers] == [True, True]


# -- how far -----------------------------------------------------------------------------------------------------


async def test_it_runs_ahead_so_far_and_no_further() -> None:
    """A client that reads nothing: the app gets the kernel's buffers plus output_buffering ahead, and one block."""

    async def produced(ahead: int) -> int:
        count = 0

        def blocks() -> Iterator[bytes]:
            nonlocal count
            while True:
                yield bytes(50_000)
                count += 50_000

        app = yielding(blocks)
        async with serving(app, output_buffering=ahead) as served, await served.connect(SMALL) as stream:
            await stream.send_all(CLOSE)
            await trio.sleep(0.1)
            with trio.fail_after(10):
                while True:
                    before = count
                    await trio.sleep(0.15)
                    if count == before:
                        return count

    kernel = await produced(0)
    for ahead in (1_000_000, 4_000_000):
        assert abs(await produced(ahead) - kernel - ahead) <= 500_000


async def test_it_leaves_while_the_app_sleeps() -> None:
    """The blocks that ran ahead reach the client without the app's help."""
    data = known_bytes(6_000_000)
    asleep, arrived = threading.Event(), threading.Event()
    in_time: list[bool] = []

    def blocks() -> Iterator[bytes]:
        for at in range(0, len(data), 50_000):
            yield data[at : at + 50_000]
        asleep.set()
        in_time.append(arrived.wait(10))
        yield b"!"

    async with serving(yielding(blocks, len(data) + 1), output_buffering=10_000_000) as served:
        async with await served.connect(SMALL) as stream:
            await stream.send_all(CLOSE)
            with trio.fail_after(20):
                await until(asleep.is_set)
                received = bytearray()
                while not received.endswith(data[-100:]):
                    received += await stream.receive_some(65536)
                arrived.set()
                received += await receive_all(stream)
        assert read_answer(bytes(received)).body == data + b"!"
    assert in_time == [True]


async def test_what_is_produced_holds_no_thread() -> None:
    """With one thread: the generator is exhausted, its client slow, and another request is answered."""
    data = known_bytes(6_000_000)
    closed = threading.Event()

    def blocks() -> Iterator[bytes]:
        try:
            yield from (data[at : at + 50_000] for at in range(0, len(data), 50_000))
        finally:
            closed.set()

    app = yielding(blocks)
    async with (
        serving(app, output_buffering=10_000_000, threads=1) as served,
        await served.connect(SMALL) as slow,
    ):
        await slow.send_all(CLOSE)
        with trio.fail_after(5):
            assert read_answer(await ask(served, CLOSE.replace(b"/ ", b"/hello "))).body == b"hello"
        assert closed.is_set()
        assert len(served.records) == 1
        with trio.fail_after(20):
            assert read_answer(await receive_all(slow)).body == data


# -- how it ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stops reading", "close", "reset"])
async def test_a_client_that_is_lost_ends_the_app(how: str) -> None:
    """The iterable is closed once, the thread is free, the outcome says what it was."""
    closed: list[str] = []

    def blocks() -> Iterator[bytes]:
        try:
            yield from itertools.repeat(bytes(50_000))
        finally:
            closed.append("once")

    app = yielding(blocks)
    async with serving(app, output_buffering=500_000, write_timeout=0.3, threads=1) as served:
        stream = await served.connect(SMALL)
        await stream.send_all(CLOSE)
        if how == "stops reading":
            await StopsReading(stream, 1000).run()
        else:
            await Vanishes(stream, 1000, how == "reset").run()
        record = await served.record()
        assert record.outcome is (Outcome.WRITE_TIMEOUT if how == "stops reading" else Outcome.CLIENT_GONE)
        assert closed == ["once"]
        assert read_answer(await ask(served, CLOSE.replace(b"/ ", b"/hello "))).body == b"hello"
        await stream.aclose()


async def test_a_client_that_goes_while_the_app_computes() -> None:
    """What the loop found out while it had the baton is told at the next block."""
    lent, gone = threading.Event(), threading.Event()
    after: list[int] = []

    def blocks() -> Iterator[bytes]:
        yield bytes(8_000_000)
        lent.set()
        gone.wait(10)
        for number in range(100):
            after.append(number)
            yield b"nobody is there"

    async with serving(yielding(blocks), output_buffering=10_000_000) as served:
        stream = await served.connect(SMALL)
        await stream.send_all(CLOSE)
        await until(lent.is_set)
        await Vanishes(stream, 1000, reset=True).run()
        await trio.sleep(0.1)
        gone.set()
        assert (await served.record()).outcome is Outcome.CLIENT_GONE
    assert len(after) <= 1


@pytest.mark.parametrize("framing", REQUESTS)
async def test_an_error_after_blocks_that_ran_ahead(framing: str) -> None:
    """They arrive; then the response is cut, and no client takes it for whole (granian ends it as if it were)."""
    data = known_bytes(4_000_000)
    request, length = REQUESTS[framing]

    def blocks() -> Iterator[bytes]:
        yield data
        raise ValueError("half-way")

    app = yielding(blocks, 2 * len(data) if length else None)
    async with serving(app, output_buffering=10_000_000) as served:
        raw, end = await ask_to_end(served, request)
        record = await served.record()
    assert record.outcome is Outcome.APP_ERROR
    assert record.body_sent == len(data)
    if framing == "http/1.0":
        assert end == "cut"
    elif length:
        assert raw.endswith(data)
    else:
        assert raw.endswith(data[-1000:] + b"\r\n")


# -- the server's own end ----------------------------------------------------------------------------------------


PATTERN = bytes(range(256))  # a gap in its repetition shows
ENDLESS: dict[str, Callable[[dict[str, Any], Callable[[bytes], object]], Iterator[bytes]]] = {}


def endless(fn: Callable[[dict[str, Any], Callable[[bytes], object]], Iterator[bytes]]) -> Callable[..., Any]:
    ENDLESS[fn.__name__] = fn
    return fn


@endless
def yields_slowly(environ: dict[str, Any], write: Callable[[bytes], object]) -> Iterator[bytes]:
    while True:
        time.sleep(0.01)
        yield PATTERN


@endless
def yields_much(environ: dict[str, Any], write: Callable[[bytes], object]) -> Iterator[bytes]:
    yield from itertools.repeat(PATTERN * 400)


@endless
def writes(environ: dict[str, Any], write: Callable[[bytes], object]) -> Iterator[bytes]:
    while True:
        time.sleep(0.001)
        write(PATTERN)
    yield b""


@endless
def tries_again(environ: dict[str, Any], write: Callable[[bytes], object]) -> Iterator[bytes]:
    environ["trio_wsgi.write_policy"] = "raise"
    while True:
        try:
            write(PATTERN * 12_000)
        except BlockingIOError:
            time.sleep(0.01)
    yield b""


@endless
def waits(environ: dict[str, Any], write: Callable[[bytes], object]) -> Iterator[bytes]:
    environ["trio_wsgi.write_policy"] = "raise"
    while True:
        try:
            write(PATTERN * 400)
        except BlockingIOError:
            environ["trio_wsgi.wait_writable"](None)
    yield b""


@endless
def swallows(environ: dict[str, Any], write: Callable[[bytes], object]) -> Iterator[bytes]:
    errors = 0
    while errors < 3:
        try:
            write(PATTERN * 400)
        except BaseException:
            errors += 1
    yield PATTERN


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize(
    ("ahead", "reads", "end"),
    [(0, True, "cancelled"), (1_000_000, False, "cancelled"), (0, False, "drained"), (1_000_000, True, "drained")],
)
async def test_an_endless_app_ends_with_the_server(name: str, ahead: int, reads: bool, end: str) -> None:
    """Whether it yields, writes, waits, tries again or catches everything: no thread outlives the server, and what
    the client got is a beginning of what the app produced, without a gap."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        return ENDLESS[name](environ, start_response("200 OK", [("Content-Type", "text/plain")]))

    received = bytearray()

    async def read(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async for chunk in stream:
                received.extend(chunk)

    config: dict[str, Any] = {"output_buffering": ahead, "graceful_timeout": 0.1, "drain_max": 0.2}
    with trio.fail_after(10):
        async with trio.open_nursery() as clients, serving(app, **config) as served:
            stream = await served.connect(SMALL)
            await stream.send_all(CLOSE)
            await trio.sleep(0.1)
            if reads:
                clients.start_soon(read, stream)
                await trio.sleep(0.1)
            if end == "drained":
                served.server.drain()
                await served.record()
        if not reads:
            await read(stream)
        await stream.aclose()
    assert served.records[0].outcome is Outcome.SHUTDOWN
    body = b"".join(cut_body(bytes(received)))
    assert len(body) > 256 or name == "swallows"
    assert body == (PATTERN * (len(body) // 256 + 1))[: len(body)]


# -- the backlog by itself ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.lists(st.binary(max_size=40), max_size=4), max_size=12),
    limit=st.integers(0, 100),
    steps=st.lists(st.integers(1, 30), min_size=1, max_size=5),
)
def test_backlog_sends_all_in_order(batches: list[list[bytes]], limit: int, steps: list[int]) -> None:
    """Whatever is lent when: between two steps, or after a delivery has ended and before its task runs again."""

    async def main() -> None:
        out = bytearray()
        sizes = itertools.cycle(steps)

        async def deliver(parts: deque[Part], note: Callable[[int], None]) -> None:
            while parts:
                part = bytes(parts[0])  # type: ignore[arg-type]
                size = min(next(sizes), len(part))
                out.extend(part[:size])
                if size == len(part):
                    parts.popleft()
                else:
                    parts[0] = memoryview(part)[size:]
                note(size)
                await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()  # as the pump: all is sent, and this task not yet back

        async with trio.open_nursery() as nursery:
            backlog = Backlog(nursery, deliver)
            for batch in batches:
                parts: deque[Part] = deque(batch)
                if not await backlog.extend(parts, limit):
                    out.extend(b"".join(batch[:1]))  # the thread sends, and lends what is left
                    backlog.lend(deque(batch[1:]))
                for _ in range(next(sizes) % 4):
                    await trio.lowlevel.checkpoint()
            await backlog.wait_drained()
            assert backlog.take_back()
        assert out == b"".join(map(b"".join, batches))

    trio.run(main)


async def test_backlog_keeps_small_blocks_together() -> None:
    """Ten thousand waiting blocks of ten bytes take the memory of a hundred thousand bytes, not of 10,000 objects."""

    async def never(parts: deque[Part], note: Callable[[int], None]) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        backlog = Backlog(nursery, never)
        for _ in range(10_000):
            backlog.lend(deque([b"1", b"2345678", b"\r\n"]))
        assert len(backlog.parts) <= 10
        assert b"".join(backlog.parts) == b"12345678\r\n" * 10_000  # type: ignore[arg-type]
        nursery.cancel_scope.cancel()


async def test_backlog_tells_everybody_why_it_stopped() -> None:
    """An error, and also its own cancellation: what is left was not sent, and nobody may think so."""

    async def fail(parts: deque[Part], note: Callable[[int], None]) -> None:
        await trio.lowlevel.checkpoint()
        raise ConnectionResetError("gone")

    async def never(parts: deque[Part], note: Callable[[int], None]) -> None:
        await trio.sleep_forever()

    for deliver, expected in ((fail, "gone"), (never, "ended by the server")):
        async with trio.open_nursery() as nursery:
            backlog = Backlog(nursery, deliver)
            backlog.lend(deque([b"data"]))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        for _ in range(2):
            with pytest.raises(OSError, match=expected):
                backlog.take_back()
            with pytest.raises(OSError, match=expected):
                await backlog.wait_drained()
            with pytest.raises(OSError, match=expected):
                await backlog.extend(deque([b"more"]), 10)
