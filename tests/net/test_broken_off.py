"""What could not be handed over to the event loop is a hole: nothing is sent past it, and the client sees a cut."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
from asking import Environ, StartResponse, error_lines, request
from producing import SMALL, cut_body
from serving import Served, receive_to_end, serving

from sendfile.send import send_unchecked
from trio_wsgi import Outcome, RequestRecord

pytestmark = pytest.mark.usefixtures("each_way")

SIZE = 8_000_000  # bytes of a block, more than the kernel takes
BLOCKS = [bytes([letter]) * SIZE for letter in b"ABC"]
LENGTH = [("Content-Length", str(SIZE * len(BLOCKS)))]


class Hop:
    """The way from threads to the event loop, which can be barred."""

    def __init__(self) -> None:
        self.barred = False

    def guard(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **options: Any) -> Any:
            if self.barred:
                raise RuntimeError("no way to the loop")
            return ask(*args, **options)

        return guarded


@pytest.fixture
def hop(monkeypatch: pytest.MonkeyPatch) -> Hop:
    hop = Hop()
    for name in ("run", "run_sync"):
        monkeypatch.setattr(trio.from_thread, name, hop.guard(getattr(trio.from_thread, name)))
    return hop


async def ask_late(served: Served, sent: bytes = request()) -> tuple[bytes, str, RequestRecord]:
    """What a client gets that reads once the application has done its worst, and how that ended."""
    with trio.fail_after(20):
        async with await served.connect(SMALL) as stream:
            await stream.send_all(sent)
            await trio.sleep(0.3)
            received, end = await receive_to_end(stream)
            return received, end, await served.record()


@pytest.mark.parametrize("headers", [LENGTH, []], ids=["length", "chunked"])
@pytest.mark.parametrize("policy", ["block", "raise"])
async def test_no_block_follows_one_that_was_not_handed_over(
    policy: str, headers: list[tuple[str, str]], hop: Hop, caplog: pytest.LogCaptureFixture
) -> None:
    """The application catches the error, and writes the next block: that fails, too; the log says where it was cut."""
    failures: list[BaseException] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", headers)
        for block in BLOCKS:
            hop.barred = not failures
            try:
                write(block)
            except RuntimeError as exc:
                failures.append(exc)
        hop.barred = False
        return [b"the last one"]

    async with serving(app, write_policy=policy) as served:
        received, _, record = await ask_late(served)
    body = b"".join(cut_body(received))
    assert [str(failure) for failure in failures] == ["no way to the loop"] * len(BLOCKS)
    assert body == b"A" * len(body)
    assert record.outcome is Outcome.SERVER_ERROR
    (line,) = error_lines(caplog, logging.INFO)
    if headers:
        assert record.body_sent == len(body)
        assert f", at byte {len(body)} of {SIZE * len(BLOCKS)}" in line


@pytest.mark.parametrize("before", [0, 1], ids=["first", "while another leaves"])
async def test_a_block_of_an_iterable_that_was_not_handed_over(
    before: int, hop: Hop, caplog: pytest.LogCaptureFixture
) -> None:
    """Under output_buffering: what was handed over before it leaves, and the record counts what has left."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", LENGTH)
        for count, block in enumerate(BLOCKS):
            hop.barred = count == before
            yield block

    async with serving(app, output_buffering=100_000_000) as served:
        received, _, record = await ask_late(served)
    body = b"".join(cut_body(received))
    assert len(body) == SIZE if before else 0 < len(body) < SIZE
    assert body == b"".join(BLOCKS)[: len(body)]
    assert record.body_sent == len(body)
    assert len(error_lines(caplog, logging.INFO)) == 1


async def test_no_response_follows_half_of_early_hints(hop: Hop, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the application's nor one to its failure."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        hop.barred = True
        with pytest.raises(RuntimeError, match="no way"):
            environ["wsgi.early_hints"]([("Link", "x" * SIZE)])
        hop.barred = False
        start_response("200 OK", [])
        return [b"page"]

    async with serving(app) as served:
        received, _, record = await ask_late(served)
    assert received.startswith(b"HTTP/1.1 103 ")
    assert received.endswith(b"x")
    assert record.outcome is Outcome.SERVER_ERROR
    assert len(error_lines(caplog, logging.INFO)) == 1


async def test_a_read_that_could_not_wait_fails_again(hop: Hop) -> None:
    """Whoever buffers has lost what it had of the body: to read on would leave that out."""
    failures: list[str] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        for barred in (True, False):
            hop.barred = barred
            try:
                environ["wsgi.input"].read()
            except RuntimeError as exc:
                failures.append(str(exc))
        start_response("200 OK", [])
        return [b"page"]

    async with serving(app, request_buffering=False) as served, await served.connect() as stream:
        with trio.fail_after(10):
            await stream.send_all(request("POST", "/", "Content-Length: 10") + b"12345")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK")
    assert failures == ["no way to the loop"] * 2


async def test_no_response_follows_half_of_100_continue(hop: Hop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel is so full that it takes only a part of that."""

    def send_half(sock: socket.socket, parts: Any, *args: Any, **options: Any) -> int:
        whole = b"".join(parts)
        if not whole.startswith(b"HTTP/1.1 100"):
            return send_unchecked(sock, parts, *args, **options)
        parts[:] = [whole[10:]]
        return sock.send(whole[:10])

    monkeypatch.setattr("trio_wsgi.net.transport.send_unchecked", send_half)

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        hop.barred = True
        with pytest.raises(RuntimeError, match="no way"):
            environ["wsgi.input"].read()
        hop.barred = False
        start_response("200 OK", [])
        return [b"page"]

    async with serving(app) as served:
        sent = request("POST", "/", "Expect: 100-continue", "Content-Length: 5")
        received, _, record = await ask_late(served, sent)
    assert received == b"HTTP/1.1 1"
    assert record.outcome is not Outcome.FINISHED
