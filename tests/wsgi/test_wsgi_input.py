"""`wsgi.input`: every way to read it, never past the body, never waiting for more than is there (PEP 3333, "Input and
Error Streams"; PAINS, "readline() without the newline, readlines(hint) and read(-1) that hang").
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Sequence
from typing import IO, Any

import pytest
import trio
from asking import PLAIN, Environ, StartResponse, ask, error_lines, exchange_open, request
from hypothesis import given
from hypothesis import strategies as st
from serving import receive_all, serving
from waiting import until

from trio_wsgi import Outcome
from trio_wsgi.errors import ClientError, ClientGone
from trio_wsgi.wsgi.input import open_input

Operation = tuple[str, int | None]

OPERATIONS: dict[str, Callable[[IO[bytes], int | None], Any]] = {
    "read": lambda body, size: body.read() if size is None else body.read(size),
    "readline": lambda body, size: body.readline() if size is None else body.readline(size),
    "readlines": lambda body, hint: body.readlines() if hint is None else body.readlines(hint),
    "next": lambda body, _: next(iter(body), b""),
}

operations = st.lists(
    st.tuples(st.sampled_from(sorted(OPERATIONS)), st.sampled_from([None, -1, 0, 1, 2, 7, 100, 70_000])), max_size=8
)
bodies = st.lists(st.sampled_from([b"\n", b"a", b"bc\n", b"\r\n", b"x" * 40, b"y" * 66_000]), max_size=12).map(b"".join)


class Pieces:
    """A body that arrives in pieces, and what comes instead of the rest of it (`wsgi.ports.Inlet`)."""

    loop_thread = 0

    def __init__(self, pieces: Sequence[bytes], instead: Exception | None = None) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.instead = instead
        self.ended = False

    def receive_into(self, buffer: memoryview) -> int:
        assert buffer
        if self.pieces:
            piece = self.pieces.pop(0)
            count = min(len(buffer), len(piece))
            buffer[:count] = piece[:count]
            if count < len(piece):
                self.pieces.insert(0, piece[count:])
            return count
        if self.instead is not None:
            raise self.instead
        assert not self.ended, "asked for more after the end"
        self.ended = True
        return 0


def cut(body: bytes, sizes: Sequence[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(body[:size])
        body = body[size:]
    return [*pieces, body]


@given(body=bodies, sizes=st.lists(st.integers(1, 70_000), max_size=5), steps=operations)
def test_a_streamed_body_reads_like_a_file_however_it_arrives(
    body: bytes, sizes: list[int], steps: list[Operation]
) -> None:
    streamed, file = open_input(Pieces(cut(body, sizes))), io.BytesIO(body)
    for name, size in [*steps, ("read", None), ("read", 1), ("readline", None), ("readlines", None), ("next", None)]:
        check_got(OPERATIONS[name](streamed, size), file, name, size)


@given(body=bodies, sizes=st.lists(st.integers(1, 70_000), max_size=5), steps=operations)
def test_a_body_that_did_not_arrive_whole_never_looks_complete(
    body: bytes, sizes: list[int], steps: list[Operation]
) -> None:
    streamed = open_input(Pieces(cut(body, sizes), ClientGone(0, "gone")))
    failed = False
    got = 0
    for name, size in [*steps, ("read", None), ("read", 1), ("readline", None), ("readlines", None), ("next", None)]:
        try:
            data = OPERATIONS[name](streamed, size)
        except ClientGone:
            failed = True
            continue
        assert data or size == 0, f"{name}({size}) looks like the end"
        assert not failed or size == 0, "a read that failed fails again"
        got += len(b"".join(data) if isinstance(data, list) else data)
    assert failed
    assert got <= len(body)


def check_got(got: Any, file: io.BytesIO, name: str, size: int | None) -> None:
    """What an operation gave is what it gives on `file`."""
    if name == "readlines" and size is not None and size > 0:  # where it stops is a hint: whole lines, and enough
        assert got == [file.readline() for _ in got]
        assert len(b"".join(got)) >= size or file.tell() == len(file.getbuffer())
    else:
        assert got == OPERATIONS[name](file, size), (name, size)


class NothingMoreComes(Exception):
    """Waiting now would be waiting for ever."""


@pytest.mark.parametrize(
    ("arrived", "name", "size", "expected"),
    [
        pytest.param([b"abc"], "read", 3, b"abc", id="read(n) of what is there"),
        pytest.param([b"ab", b"cd"], "read", 3, b"abc", id="read(n) over two pieces"),
        pytest.param([b"abc"], "read", 0, b"", id="read(0)"),
        pytest.param([b"one\ntwo"], "readline", None, b"one\n", id="a line"),
        pytest.param([b"one"], "readline", 2, b"on", id="readline(n), no newline"),
        pytest.param([b"a\nbc\nd"], "readlines", 3, [b"a\n", b"bc\n"], id="readlines(hint)"),
        pytest.param([b"one\n"], "next", None, b"one\n", id="iteration"),
        pytest.param([b"x" * 100_000], "read", 100_000, b"x" * 100_000, id="more than is held ahead"),
    ],
)
def test_a_read_that_can_be_answered_waits_for_nothing(
    arrived: list[bytes], name: str, size: int | None, expected: object
) -> None:
    streamed = open_input(Pieces(arrived, NothingMoreComes()))
    assert OPERATIONS[name](streamed, size) == expected


def test_a_broken_body_raises_what_is_wrong_with_it_again_and_again() -> None:
    streamed = open_input(Pieces([b"ab"], ClientError(400, "bad chunk")))
    assert streamed.read(1) == b"a"
    for _ in range(2):
        with pytest.raises(ClientError):
            streamed.read()


# -- over the wire ---------------------------------------------------------------------------------------------------

BODY = b"first line\nsecond\n\nwithout a newline" + b"." * 200
ONE_BY_ONE = {
    "read()": [("read", None)],
    "read(-1)": [("read", -1)],
    "read(n)": [("read", 5), ("read", 5), ("read", 100_000), ("read", 5)],
    "readline()": [("readline", None)] * 6,
    "readline(n)": [("readline", 4)] * 4 + [("readline", 1000)] * 5,
    "readlines()": [("readlines", None), ("readlines", None)],
    "readlines(hint)": [("readlines", 3), ("readlines", 12), ("readlines", 1000), ("readlines", 1)],
    "iteration": [("next", None)] * 6,
    "a mixture": [("read", 3), ("readline", None), ("next", None), ("readlines", 1), ("read", None), ("read", None)],
}
MODES = [
    pytest.param({}, id="in memory"),
    pytest.param({"body_buffer_size": 16}, id="in a file"),
    pytest.param({"request_buffering": False}, id="streamed"),
]


@pytest.mark.parametrize("settings", MODES)
@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
@pytest.mark.parametrize("steps", ONE_BY_ONE.values(), ids=ONE_BY_ONE)
async def test_every_way_to_read_over_the_wire(steps: list[Operation], chunked: bool, settings: dict[str, Any]) -> None:
    """The client keeps its side open and sends a next request: what reads past the body would hang, or eat it."""
    seen = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append([OPERATIONS[name](environ["wsgi.input"], size) for name, size in steps])
        start_response("200 OK", PLAIN)
        return [b"done"]

    post = request("POST", "/", body=BODY, chunked=chunked).replace(b"Connection: close\r\n", b"")
    async with serving(app, **settings) as served:
        raw = await exchange_open(served, post + request())
    assert raw.count(b"HTTP/1.1 200") == 2
    file = io.BytesIO(BODY)
    for got, (name, size) in zip(seen[0], steps, strict=True):
        check_got(got, file, name, size)
    assert not any(map(len, seen[1])), "the second request has no body"


CUT_SHORT = [
    pytest.param(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nonly this\n", id="Content-Length"),
    pytest.param(
        b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\na\r\nonly this\n\r\n", id="chunked"
    ),
    pytest.param(
        b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nonly this\n", id="in a chunk"
    ),
]


@pytest.mark.parametrize("sent", CUT_SHORT)
async def test_a_streamed_body_cut_short_raises_in_the_app(sent: bytes) -> None:
    """PAINS: "a body that did not arrive whole must raise in the app"."""
    seen: list[object] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        body = environ["wsgi.input"]
        seen.append(body.readline())
        for _ in range(2):
            try:
                seen.append(body.read())
            except OSError as exc:
                seen.append(exc)
        start_response("400 Bad Request", PLAIN)
        return [b"half a body"]

    async with serving(app, request_buffering=False) as served:
        with trio.fail_after(5):
            async with await served.connect() as stream:
                await stream.send_all(sent)
                await stream.send_eof()
                raw = await receive_all(stream)
    assert seen[0] == b"only this\n"
    assert [type(exc) for exc in seen[1:]] == [ClientGone, ClientGone]
    # an app that has an answer all the same may give it, on a connection that ends
    assert raw.startswith(b"HTTP/1.1 400") and raw.endswith(b"half a body")
    assert b"Connection: close" in raw


@pytest.mark.parametrize(("buffered", "kept"), [(False, 10), (True, None)], ids=["streamed", "buffered"])
async def test_an_upload_that_breaks_off_can_be_resumed_only_where_it_is_streamed(
    buffered: bool, kept: int | None
) -> None:
    """docs/migrating.md: `read1` gives all that came, up to the last byte; gathered first, nobody is told of any."""
    offsets: list[int] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        offsets.append(0)
        while block := environ["wsgi.input"].read1(65536):
            offsets.append(offsets[-1] + len(block))
        return []

    async with serving(app, request_buffering=buffered) as served:
        async with await served.connect() as stream:
            await stream.send_all(CUT_SHORT[0].values[0])  # type: ignore[arg-type]
        assert (await served.record()).outcome is Outcome.CLIENT_GONE
    assert offsets[-1:] == ([] if kept is None else [kept])


@pytest.mark.parametrize("sent", CUT_SHORT)
@pytest.mark.parametrize("wrapped", [False, True], ids=["as it is", "wrapped"])
@pytest.mark.parametrize("buffered", [False, True], ids=["streamed", "buffered"])
async def test_a_body_cut_short_is_no_error_of_the_app(
    sent: bytes, buffered: bool, wrapped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the app, or its framework, makes of the OSError."""
    complete = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            complete.append(environ["wsgi.input"].read())
        except OSError as exc:
            raise (ValueError("cannot parse the form") if wrapped else exc) from None
        start_response("200 OK", PLAIN)
        return [b"never"]

    async with serving(app, request_buffering=buffered) as served:
        async with await served.connect() as stream:
            await stream.send_all(sent)
            await stream.send_eof()
            with trio.fail_after(5):
                assert await receive_all(stream) == b""
        record = await served.record()
    assert record.outcome is Outcome.CLIENT_GONE
    assert complete == []
    assert error_lines(caplog) == []


async def test_a_client_that_stops_sending_ends_by_the_body_deadline_as_an_oserror_in_the_app() -> None:
    caught: list[OSError] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as exc:
            caught.append(exc)
            raise
        raise AssertionError("read() returned")

    asked = await ask(app, CUT_SHORT[0].values[0], request_buffering=False, body_timeout=0.1)  # type: ignore[arg-type]
    assert isinstance(caught[0], TimeoutError) and "body_timeout" in str(caught[0])
    assert asked.record.outcome is Outcome.BODY_TIMEOUT
    assert asked.answer.status == 408


async def test_broken_chunk_syntax_raises_in_the_app_and_is_answered_with_400() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.input"].read()
        raise AssertionError("read() returned")

    sent = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"
    asked = await ask(app, sent, request_buffering=False)
    assert (asked.answer.status, asked.record.outcome) == (400, Outcome.REFUSED)


async def test_an_app_that_closes_its_input_harms_nobody() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.input"].close()
        start_response("200 OK", PLAIN)
        return [b"closed"]

    one = request("POST", body=b"x" * 30).replace(b"Connection: close\r\n", b"")
    for settings in ({}, {"body_buffer_size": 1}, {"request_buffering": False}):
        async with serving(app, **settings) as served:
            assert (await served.exchange(one + request())).count(b"closed") == 2


@pytest.mark.parametrize("swallows", [False, True])
async def test_an_app_that_waits_for_its_body_ends_with_the_server(
    swallows: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Cancellation reaches a blocked read, and an app that swallows it cannot hold the server up."""
    seen = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except BaseException as exc:
            seen.append(type(exc).__name__)
            if not swallows:
                raise
        start_response("200 OK", PLAIN)
        return [b"as if nothing had happened"]

    with trio.fail_after(5):
        async with serving(app, request_buffering=False) as served:
            stream = await served.connect()
            await stream.send_all(request("POST", "/", "Content-Length: 100") + b"some")
            await until(lambda: served.server.statistics().threads.busy)
    await stream.aclose()
    assert seen == ["Cancelled"]
    assert served.records[0].outcome in ({Outcome.SHUTDOWN, Outcome.FINISHED} if swallows else {Outcome.SHUTDOWN})
    assert error_lines(caplog, logging.ERROR) == []


async def test_a_body_is_read_while_the_answer_is_under_way() -> None:
    """Both directions stream: each line is answered before the next is sent."""

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", PLAIN)
        for line in environ["wsgi.input"]:
            yield b"got " + line

    async with serving(app, request_buffering=False) as served, await served.connect() as stream:
        await stream.send_all(request("POST", "/", "Transfer-Encoding: chunked"))
        received = b""
        with trio.fail_after(5):
            for line in (b"one\n", b"two\n", b"three\n"):
                await stream.send_all(b"%x\r\n%b\r\n" % (len(line), line))
                while b"got " + line not in received:
                    received += await stream.receive_some()
            await stream.send_all(b"0\r\n\r\n")
            received += await receive_all(stream)
    assert received.endswith(b"0\r\n\r\n")


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_body_that_is_there_can_be_read_for_as_long_as_anybody_wants_to_know(method: str) -> None:
    """Be it empty: an application that only reads notices that its request was cancelled."""
    seen = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            while True:
                environ["wsgi.input"].read()
                time.sleep(0.001)
        except BaseException as exc:
            seen.append(type(exc))
            raise

    with trio.fail_after(5):
        asked = await ask(app, request(method, body=b"some" if method == "POST" else b""), app_timeout=0.2)
    assert asked.answer.status == 504
    assert seen == [trio.Cancelled]
