"""Applications behind TLS that write, read and wait, several at once: what holds on plain connections holds here."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from asking import CLOSE, KEPT, PLAIN, Environ, StartResponse
from authority import connect_tls
from downloads import MIB
from serving import receive_to_end, serving
from tlsapps import LARGE, TLS, large
from waiting import until

from trio_wsgi import Outcome
from trio_wsgi.net.tls import TlsTransport


def echo(environ: Environ, start_response: StartResponse) -> Any:
    """Writes what it reads, as it arrives; what the client does not take now, the loop sends meanwhile."""
    write = start_response("200 OK", [("Content-Length", environ["CONTENT_LENGTH"])])
    while block := environ["wsgi.input"].read(100_000):
        while True:
            try:
                write(block)
                break
            except BlockingIOError:
                environ["trio_wsgi.wait_writable"](10)
    return []


def echo_blocks(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [("Content-Length", environ["CONTENT_LENGTH"])])
    return iter(lambda: environ["wsgi.input"].read(100_000), b"")


@pytest.mark.parametrize(
    ("app", "settings"),
    [
        (echo, {"write_policy": "block"}),
        (echo, {"write_policy": "raise"}),
        (echo, {"write_policy": "buffer"}),
        (echo_blocks, {}),
        (echo_blocks, {"output_buffering": MIB}),
    ],
    ids=["block", "raise", "buffer", "iterate", "ahead"],
)
@pytest.mark.parametrize("expects", [False, True], ids=["", "100-continue"])
async def test_an_app_that_reads_while_the_loop_sends_for_it(
    app: Any, settings: Any, expects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL's connections bear no two threads at a time (cpython#151508: a crash); here they never meet."""
    receive = TlsTransport._receive

    def receive_on_the_loop(self: TlsTransport, how: Any, what: Any) -> Any:
        trio.lowlevel.current_trio_token()  # fails in any other thread; a crash would be too rare to wait for
        return receive(self, how, what)

    monkeypatch.setattr(TlsTransport, "_receive", receive_on_the_loop)
    async with serving(app, **TLS, **settings, request_buffering=False, half_close="abort") as served:
        stream = await connect_tls(served.port, receive_buffer=16384)
        body = LARGE[: 3 * MIB]
        expect = b"Expect: 100-continue\r\n" if expects else b""
        await stream.send_all(
            b"POST / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n%bContent-Length: %d\r\n\r\n" % (expect, len(body))
        )
        with trio.fail_after(60):
            if expects:
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, body)
                received, how = await receive_to_end(stream)
        assert how == "closed"
        assert received.partition(b"\r\n\r\n")[2] == body
        await trio.aclose_forcefully(stream)
        assert (await served.record()).outcome is Outcome.FINISHED


async def test_a_client_that_goes_cancels_its_request() -> None:
    raised: list[str] = []
    entered = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        entered.set()
        try:
            while True:
                time.sleep(0.02)
                trio.from_thread.check_cancelled()
        except BaseException as exc:
            raised.append(type(exc).__name__)
            raise

    async with serving(app, **TLS) as served:
        stream = await connect_tls(served.port)
        await stream.send_all(KEPT)
        await until(entered.is_set)
        await trio.aclose_forcefully(stream)
        assert (await served.record()).outcome is Outcome.CLIENT_GONE
        assert raised == ["Cancelled"]


async def test_requests_that_are_pipelined_and_split(tmp_path: Path) -> None:
    async with serving(large, **TLS) as served:
        stream = await connect_tls(served.port)
        one = KEPT.replace(b" / ", b" /hello ")
        with trio.fail_after(20):
            for byte in one:
                await stream.send_all(bytes([byte]))
            assert (await stream.receive_some()).endswith(b"hello")
            await stream.send_all(one * 20 + CLOSE.replace(b" / ", b" /hello "))
            received, how = await receive_to_end(stream)
        assert (received.count(b"\r\n\r\nhello"), how) == (21, "closed")
        await trio.aclose_forcefully(stream)


async def test_hints_come_before_the_answer() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.early_hints"]([("Link", "</style.css>")])
        start_response("200 OK", PLAIN)
        return [b"hello"]

    async with serving(app, **TLS) as served:
        stream = await connect_tls(served.port)
        await stream.send_all(CLOSE)
        received, _ = await receive_to_end(stream)
        assert received.startswith(b"HTTP/1.1 103 ")
        assert received.endswith(b"hello")
        await trio.aclose_forcefully(stream)
