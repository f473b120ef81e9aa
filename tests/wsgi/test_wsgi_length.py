"""How long a body is, and when its blocks leave (PEP 3333, "Handling the Content-Length Header", "Buffering and
Streaming").
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import h11
import pytest
import trio
from answers import read_answers
from asking import PLAIN, App, Environ, StartResponse, ask, error_lines, request
from serving import Served, serving

from trio_wsgi import Outcome


class OneBlock:
    """An iterable that knows that it has one block; not a list."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"block"])


class Streaming(list[bytes]):
    """A list by type only: its iteration is its own."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"str"
        yield b"eamed"


def returning(result: Any, *headers: tuple[str, str]) -> App:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [*PLAIN, *headers])
        return result() if callable(result) else result

    return app


@pytest.mark.parametrize(
    ("result", "length"),
    [
        pytest.param([b"one"], "3", id="one block"),
        pytest.param([b"one", b"", b"two"], "6", id="a list"),
        pytest.param((b"one", b"two"), "6", id="a tuple"),
        pytest.param([], "0", id="an empty list"),
        pytest.param([b""], "0", id="an empty block"),
        pytest.param(lambda: iter([]), "0", id="an iterator that had nothing"),
        pytest.param(OneBlock(), "5", id="an iterable of length 1"),
        pytest.param(lambda: iter([b"one"]), None, id="an iterator: nobody knows"),
        pytest.param(Streaming(), None, id="a list that streams"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_length_is_computed_where_it_is_known(result: Any, length: str | None, method: str) -> None:
    answer = (await ask(returning(result), request(method))).answer
    if method == "HEAD" and length == "0":  # an app may leave out the body of HEAD: that is no length (RFC 9110 §8.6)
        length = None
    assert answer.values("content-length") == ([] if length is None else [length])
    if method == "GET":
        assert answer.body == b"".join(result() if callable(result) else result)


def written(*blocks: bytes, rest: Any = ()) -> App:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        write = start_response("200 OK", [*PLAIN, ("Content-Length", "5")])
        for block in blocks:
            write(block)
        return rest

    return app


FIVE = ("Content-Length", "5")
OVERRUNS = [
    pytest.param(returning([b"fivex"[:5] + b" and more"], FIVE), id="a list"),
    pytest.param(returning([b"fivex", b"more", b"and more"], FIVE), id="a list, more blocks"),
    pytest.param(returning(lambda: iter([b"five", b"x and", b"more"]), FIVE), id="an iterator, within a block"),
    pytest.param(returning(lambda: iter([b"fivex", b"more", b"more"]), FIVE), id="an iterator, after a block"),
    pytest.param(written(b"fivex more"), id="write()"),
    pytest.param(written(b"five", b"x", b"more", b"more"), id="write() again and again"),
    pytest.param(written(b"fivex", rest=[b"more"]), id="write(), then a list"),
]


@pytest.mark.parametrize("app", OVERRUNS)
@pytest.mark.parametrize("policy", ["block", "raise", "buffer"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "closed"])
async def test_a_body_beyond_its_content_length_is_cut_and_logged_once(
    app: App, policy: str, kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """PAINS 6: the excess bleeds into the next keep-alive response."""
    first = request().replace(b"Connection: close\r\n", b"") if kept else b""
    async with serving(app, write_policy=policy) as served:
        raw = await served.exchange(first + request())
    answers = read_answers(raw, ["GET", "GET"] if kept else ["GET"])
    assert [answer.body for answer in answers] == [b"fivex"] * (2 if kept else 1)
    lines = error_lines(caplog)
    assert len(lines) == len(answers)
    assert all("longer than its Content-Length of 5 bytes" in line for line in lines)


async def test_an_endless_body_is_asked_for_no_more_than_its_content_length() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"abc"

    assert (await ask(returning(endless, FIVE))).answer.body == b"abcab"


SHORT = [
    pytest.param(returning([b"abc"], FIVE), id="a list"),
    pytest.param(returning([], FIVE), id="nothing"),
    pytest.param(returning(lambda: iter([b"a", b"b"]), FIVE), id="an iterator"),
    pytest.param(written(b"abc"), id="write()"),
]


@pytest.mark.parametrize("app", SHORT)
@pytest.mark.parametrize("policy", ["block", "raise", "buffer"])
async def test_a_body_short_of_its_content_length_ends_the_connection(
    app: App, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(app, write_policy=policy) as served:
        raw = await served.exchange(request().replace(b"Connection: close\r\n", b"") + request())
        record = await served.record()
    with pytest.raises(h11.RemoteProtocolError):
        read_answers(raw, ["GET"])
    assert raw.count(b"HTTP/1.1") == 1, "the next request is not answered into the gap"
    assert (record.outcome, record.body_promised) == (Outcome.APP_ERROR, 5)
    (line,) = error_lines(caplog)
    assert "before its Content-Length" in line


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_statuses_without_a_body_send_none(status: str) -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response(status, [])
        return [b"should not be here"]

    raw = await ask(app)
    assert raw.raw.endswith(b"\r\n\r\n")
    assert raw.answer.values("content-length") == raw.answer.values("transfer-encoding") == []


# -- each block is transmitted before the next is asked for ----------------------------------------------------------


class Steps:
    """Lets an app go on only when the client has seen what it sent."""

    def __init__(self) -> None:
        self.seen = threading.Semaphore(0)

    def wait(self) -> None:
        assert self.seen.acquire(timeout=5), "the client has not seen the block"


async def read_in_lockstep(served: Served, steps: Steps, expected: list[bytes]) -> None:
    with trio.fail_after(5):
        async with await served.connect() as stream:
            await stream.send_all(request())
            received = b""
            for block in expected:
                while block not in received:
                    received += await stream.receive_some(4096)
                steps.seen.release()


@pytest.mark.parametrize("settings", [{}, {"output_buffering": 100_000}, {"write_policy": "raise"}], ids=str)
async def test_a_block_is_seen_before_the_next_is_asked_for(settings: dict[str, Any]) -> None:
    """PAINS 25 (gevent#717): PEP 3333 says so, and a client may wait for just this block."""
    steps = Steps()
    blocks = [b"block-%d." % number for number in range(5)]

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        for block in blocks:
            yield b""  # carries nothing, and delays nothing
            yield block
            steps.wait()

    async with serving(app, **settings) as served:
        await read_in_lockstep(served, steps, blocks)
        assert (await served.record()).outcome is Outcome.FINISHED


@pytest.mark.parametrize("policy", ["block", "raise"])
async def test_a_written_block_is_seen_before_write_is_called_again(policy: str) -> None:
    steps = Steps()
    blocks = [b"block-%d." % number for number in range(5)]

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", PLAIN)
        for block in blocks:
            write(block)
            steps.wait()
        return [b"the end"]

    async with serving(app, write_policy=policy) as served:
        await read_in_lockstep(served, steps, blocks)
        assert (await served.record()).outcome is Outcome.FINISHED


async def test_no_block_waits_until_the_last_was_acknowledged() -> None:
    """PAINS 25 (gevent#518): Nagle's algorithm would have small blocks wait for the client's system (TCP_NODELAY)."""
    async with serving(returning([b"block"])) as served, await served.connect():
        await served.wait_connections(1)
        (connection,) = served.server._connections
        assert connection._transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_what_is_written_goes_before_what_is_returned() -> None:
    """PEP 3333, "The write() Callable"; PAINS: write() followed by a file breaks the framing of waitress."""

    def app(environ: Environ, start_response: StartResponse) -> Any:
        write = start_response("200 OK", PLAIN)
        write(b"written, ")
        if environ["PATH_INFO"] == "/file":
            from pathlib import Path

            return environ["wsgi.file_wrapper"](Path(__file__).open("rb"))
        return iter([b"then ", b"iterated"])

    for policy in ("block", "raise", "buffer"):
        assert (await ask(app, write_policy=policy)).answer.body == b"written, then iterated"
        body = (await ask(app, request("GET", "/file"), write_policy=policy)).answer.body
        assert body.startswith(b'written, """How long') and body.endswith(b"# the end\n")


# the end
