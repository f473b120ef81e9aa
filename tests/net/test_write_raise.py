"""The write callable that raises: it never waits, tells what was taken, and can be waited for."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import trio
from answers import read_answer, read_answers
from asking import CLOSE
from downloads import known_bytes
from faults import Vanishes
from producing import SMALL, Write, ask, cut_body, write_all
from serving import receive_all, serving
from waiting import until

from trio_wsgi import Outcome
from trio_wsgi.errors import ClientGone


def fill(write: Write, block: bytes) -> int:
    """Write until it is refused; the number of blocks taken."""
    for count in itertools.count():
        try:
            write(block)
        except BlockingIOError:
            return count
    raise AssertionError


@pytest.mark.parametrize("size", [100, 70_000, 8_000_000])
async def test_raise_refuses_at_once(size: int) -> None:
    """It never waits: neither for the kernel nor for an earlier block that is still being sent."""
    waited, refusals = list[float](), list[BlockingIOError]()
    enough = threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", [])
        while len(waited) < 20:
            began = time.monotonic()
            try:
                write(bytes(size))
            except BlockingIOError as refusal:
                waited.append(time.monotonic() - began)
                refusals.append(refusal)
        enough.set()
        raise ConnectionAbortedError("enough")

    async with serving(app, write_policy="raise") as served:
        async with await served.connect(SMALL) as stream:
            await stream.send_all(CLOSE)
            await trio.to_thread.run_sync(enough.wait, 10)
        await served.record()
    assert sorted(waited)[10] < 0.05
    for refusal in refusals:
        assert "nothing of it was written" in str(refusal)
        assert refusal.characters_written == 0
        assert refusal.errno is not None


async def test_raise_keeps_sending_what_it_accepted() -> None:
    """An accepted block leaves whole while the app does not come near the server."""
    block = known_bytes(8_000_000)
    computing, received_all = threading.Event(), threading.Event()
    arrived_meanwhile: list[bool] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", [("Content-Length", str(len(block) + 1))])
        write(block)
        computing.set()
        arrived_meanwhile.append(received_all.wait(10))
        write_all(environ, write, [b"!"])
        return []

    async with serving(app, write_policy="raise") as served:
        with trio.fail_after(20):
            async with await served.connect(SMALL) as stream:
                await stream.send_all(CLOSE)
                received = bytearray()
                while not received.endswith(block[-100:]):
                    received += await stream.receive_some(65536)
                assert computing.is_set()
                received_all.set()
                received += await receive_all(stream)
        assert read_answer(bytes(received)).body == block + b"!"
    assert arrived_meanwhile == [True]


async def test_wait_writable_tells_whether_a_write_will_be_taken() -> None:
    """False when its time passes first, at once for 0; True as soon as there is room, and then the write is taken."""
    seen: dict[str, Any] = {}
    full = threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        wait_writable = environ["trio_wsgi.wait_writable"]
        seen["before the head"] = wait_writable(0)
        write = start_response("200 OK", [])
        seen["fresh"] = wait_writable(0), wait_writable(None), wait_writable(-1)
        while wait_writable(0.1):
            fill(write, bytes(50_000))
        began = time.monotonic()
        seen["full, 0"] = wait_writable(0), wait_writable(-5)
        seen["at once"] = time.monotonic() - began
        began = time.monotonic()
        seen["full"] = wait_writable(0.2)
        seen["waited"] = time.monotonic() - began
        full.set()
        seen["reads again"] = wait_writable(None)
        write(b"taken")
        return []

    async with serving(app, write_policy="raise") as served:
        with trio.fail_after(20):
            async with await served.connect(SMALL) as stream:
                await stream.send_all(CLOSE)
                await until(full.is_set)
                assert read_answer(await receive_all(stream)).body.endswith(b"taken")
    assert seen["before the head"] is True
    assert seen["fresh"] == (True, True, True)
    assert seen["full, 0"] == (False, False)
    assert seen["at once"] < 0.15
    assert seen["full"] is False
    assert 0.19 < seen["waited"] < 2
    assert seen["reads again"] is True


RETRIES: dict[str, Callable[[Any], object]] = {
    "wait_writable(None)": lambda wait_writable: wait_writable(None),
    "wait_writable in small steps": lambda wait_writable: wait_writable(0.03),
    "sleep": lambda wait_writable: time.sleep(0.03),
}


@pytest.mark.parametrize("retry", RETRIES)
@pytest.mark.parametrize("size", [500, 9_000_000], ids=["nothing lent", "a block lent"])
async def test_raise_tells_of_a_stalled_client(retry: str, size: int) -> None:
    """However an app tries again, write_timeout ends it."""
    seen: list[OSError] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", [])
        try:
            while True:
                fill(write, bytes(size))
                RETRIES[retry](environ["trio_wsgi.wait_writable"])
        except OSError as error:
            seen.append(error)
            raise

    async with serving(app, write_policy="raise", write_timeout=0.3) as served:
        async with await served.connect(SMALL) as stream:
            await stream.send_all(CLOSE)
            with trio.fail_after(5):
                record = await served.record()
        assert record.outcome is Outcome.WRITE_TIMEOUT
        assert record.duration < 3
    assert "write_timeout" in str(seen[0])


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
async def test_wait_writable_raises_when_the_client_goes(reset: bool) -> None:
    full = threading.Event()
    seen: list[BaseException] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", [])
        try:
            while True:
                fill(write, bytes(60_000))
                full.set()
                environ["trio_wsgi.wait_writable"](None)
        except BaseException as error:
            seen.append(error)
            raise

    async with serving(app, write_policy="raise") as served:
        stream = await served.connect(SMALL)
        await stream.send_all(CLOSE)
        await until(full.is_set)
        await Vanishes(stream, 100, reset).run()
        assert (await served.record()).outcome is Outcome.CLIENT_GONE
    assert isinstance(seen[0], ClientGone | trio.Cancelled)


async def test_a_refusal_let_out_is_an_app_error() -> None:
    """500 if nothing was sent; else what was accepted, and a cut."""
    refused = threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["PATH_INFO"] == "/early":
            raise BlockingIOError("as if the first block had been refused")
        write = start_response("200 OK", [])
        try:
            for number in itertools.count():
                write(b"%09d\n" % number * 100)
        finally:
            refused.set()
        return []

    async with serving(app, write_policy="raise") as served:
        assert read_answer(await ask(served, CLOSE.replace(b"/ ", b"/early "))).status == 500
        async with await served.connect(SMALL) as stream:
            await stream.send_all(CLOSE)
            with trio.fail_after(10):
                await trio.to_thread.run_sync(refused.wait, 10)
                body = b"".join(cut_body(await receive_all(stream)))
        record = await served.record(2)
    assert record.outcome is Outcome.APP_ERROR
    assert "BlockingIOError" in record.reason
    assert len(body) == record.body_sent
    assert body == b"".join(b"%09d\n" % number * 100 for number in range(len(body) // 1000))


async def test_a_first_block_that_is_refused_leaves_the_head_unsent() -> None:
    """On a connection that is full of an earlier response, the refused response may still become a 500."""
    phase = threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["PATH_INFO"] == "/full":
            start_response("200 OK", [])
            return [bytes(int(environ["QUERY_STRING"]))]
        write = start_response("200 OK", [])
        try:
            write(b"never")
        except BlockingIOError:
            phase.set()
            raise
        return []

    async with serving(app, write_policy="raise") as served:
        # How much the kernel holds is its own business: some size will end with its buffer full.
        for size in range(2_000_000, 9_000_000, 400_000):
            request = b"GET /full?%d HTTP/1.1\r\nHost: t\r\n\r\n" % size
            async with await served.connect(SMALL) as stream:
                await stream.send_all(request + CLOSE)
                with trio.move_on_after(0.1):
                    await until(phase.is_set)
                with trio.fail_after(10):
                    first, second = read_answers(await receive_all(stream), ["GET", "GET"])
            assert (first.status, len(first.body)) == (200, size)
            if second.status == 500:
                break
    assert phase.is_set()
    assert second.status == 500
