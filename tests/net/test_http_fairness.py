"""One client that sends faster than we read, in the smallest pieces, does not keep the event loop from the others."""

from __future__ import annotations

import math
import os
import select
import time
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
from answers import read_answers
from asking import PLAIN, Environ, StartResponse
from authority import shared_authority
from serving import Served, receive_all, serving
from waiting import until

pytestmark = pytest.mark.usefixtures("each_engine")

CHUNKED = b"%b / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
TINY_CHUNKS = b"1\r\na\r\n" * 30_000 + b"0\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n"


def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
    size = len(environ["wsgi.input"].read())
    start_response("200 OK", PLAIN)
    return [b"%d" % size]


def send_all(fd: int, data: bytes) -> None:
    """In a thread: the kernel has more whenever it has room, whatever the loop does."""
    while data:
        select.select([], [fd], [])
        with suppress(BlockingIOError):
            data = data[os.write(fd, data) :]


async def send_at_once(served: Served, sent: bytes) -> tuple[bytes, int]:
    """What is answered to bytes that the server has all in its kernel, and the turns that others had meanwhile."""
    turns = 0

    async def ask_for_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with await served.connect() as stream, trio.open_nursery() as nursery:
        with trio.fail_after(30):
            nursery.start_soon(ask_for_turns)
            nursery.start_soon(partial(trio.to_thread.run_sync, send_all, stream.socket.fileno(), sent))
            received = await receive_all(stream)
        nursery.cancel_scope.cancel()
    return received, turns


async def test_a_body_in_tiny_chunks() -> None:
    """Its bytes are all there, so that nothing has to be waited for: 30,000 chunks take some 0.3 s, a turn 1 ms."""
    async with serving(app) as served:
        received, turns = await send_at_once(served, CHUNKED % b"POST" + TINY_CHUNKS)
    assert received.endswith(b"30000")
    assert turns > 20


async def test_a_body_in_tiny_chunks_that_nobody_reads() -> None:
    """It is read on only for the sake of the connection, which is given up where its pieces are too many."""

    def ignores(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", PLAIN)
        return [b"done"]

    sent = (CHUNKED % b"POST").replace(b"Connection: close\r\n", b"") + TINY_CHUNKS + HEALTH
    async with serving(ignores, request_buffering=False, keep_alive=0.2) as served:
        received, turns = await send_at_once(served, sent)
    assert b"\r\n\r\ndone" in received
    given_up = received.count(b"HTTP/1.1 200 OK") == 1
    assert given_up or turns > 20


@pytest.mark.parametrize("queue_full", [False, True], ids=["health", "503"])
async def test_requests_that_are_answered_without_a_wait(queue_full: bool) -> None:
    """Whoever asks ahead gives way before each of its requests."""
    count = 300
    asked = HEALTH if not queue_full else HEALTH.replace(b"/health", b"/")
    sent = asked * (count - 1) + asked.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    gate = trio.Event()

    def stands_still(environ: Environ, start_response: StartResponse) -> list[bytes]:
        trio.from_thread.run(gate.wait)
        return app(environ, start_response)

    settings: dict[str, Any] = {"health_path": "/health", "threads": 1, "queue_size": 0}
    async with serving(stands_still, **settings) as served, await served.connect() as busy:
        await busy.send_all(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        await until(lambda: served.server.statistics().threads.busy)
        received, turns = await send_at_once(served, sent)
        gate.set()
        await receive_all(busy)
    answers = read_answers(received, ["GET"] * count)
    assert [answer.status for answer in answers] == [503 if queue_full else 200] * count
    assert turns >= count


class LongestTurn(trio.abc.Instrument):
    """Seconds of a processor that one turn of a task took at most: what nobody else on the loop could be served in."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = math.inf  # it is made in a turn

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.seconds = max(self.seconds, time.thread_time() - self._began)


BLOCKS = {"many small": (400_000, 20), "one large": (1, 400_000_000)}  # some 0.3 s each, where a turn had no end


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("blocks", BLOCKS)
async def test_an_answer_that_the_client_takes_as_fast_as_it_is_sent(blocks: str, scheme: str) -> None:
    """It is not framed, nor sent, in one turn of the loop, however many blocks there are and however large."""
    count, size = BLOCKS[blocks]
    answer = [bytes(size)] * count

    def large(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [*PLAIN, ("Content-Length", str(count * size))])
        return answer

    tls = {"certfile": (shared_authority()[1],)} if scheme == "https" else {}
    longest = LongestTurn()
    async with serving(large, **tls) as served:
        trio.lowlevel.add_instrument(longest)
        command = ["curl", "-sko", "/dev/null", "-w", "%{size_download}", f"{scheme}://127.0.0.1:{served.port}/"]
        with trio.fail_after(30):
            done = await trio.run_process(command, capture_stdout=True)
        trio.lowlevel.remove_instrument(longest)
    assert done.stdout == b"%d" % (count * size)
    assert longest.seconds < 0.1
