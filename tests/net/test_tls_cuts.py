"""The end of a TLS connection: what is cut never looks whole, to neither side, and who merely leaves is no trouble."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from asking import CLOSE, KEPT, PLAIN, Environ, StartResponse, greet
from authority import ByHand, complaints, connect_tls
from downloads import Client
from serving import receive_to_end, serving
from tlsapps import TLS

from trio_wsgi import Outcome

POST = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n"


@pytest.mark.parametrize("buffering", [True, False], ids=["buffered", "streamed"])
@pytest.mark.parametrize("end", ["cut", "close_notify"])
async def test_a_body_that_is_cut_never_looks_complete(end: str, buffering: bool) -> None:
    """A close_notify in the middle is as bad as none (RFC 9112 §9.8)."""
    seen: list[object] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            seen.append(environ["wsgi.input"].read())
        except BaseException as exc:
            seen.append(type(exc).__name__)
            raise
        start_response("200 OK", PLAIN)
        return []

    async with serving(app, **TLS, request_buffering=buffering) as served:
        for body in (
            POST + b"12345",
            POST.replace(b"Content-Length: 10", b"Transfer-Encoding: chunked") + b"5\r\n12345",
        ):
            stream = await connect_tls(served.port)
            await stream.send_all(body)
            await trio.sleep(0.05)
            if end == "close_notify":
                with trio.move_on_after(0.2):
                    await stream.aclose()
            await trio.aclose_forcefully(stream)
        await served.record(2)
        assert {record.outcome for record in served.records} == {Outcome.CLIENT_GONE}
        assert seen == [] if buffering else set(seen) <= {"ClientGone", "Cancelled"}


async def test_idle_clients_leave_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """Most do without close_notify: between two requests nothing is lost by it."""
    caplog.set_level(logging.DEBUG, "trio_wsgi.error")
    async with serving(greet, **TLS) as served:
        for ends in (trio.aclose_forcefully, trio.SSLStream.aclose):
            stream = await connect_tls(served.port)
            await Client(stream).ask()  # type: ignore[arg-type]
            await ends(stream)
        await served.wait_connections(0)
        assert complaints(caplog, logging.DEBUG) == []


@pytest.mark.parametrize(
    ("sent", "settings"),
    [(CLOSE, {}), (KEPT, {"keep_alive": 0.2}), (b"GET / HTTP/1.0\r\n\r\n", {}), (b"nonsense\r\n\r\n", {})],
    ids=["close", "idle", "HTTP/1.0", "refused"],
)
async def test_our_end_is_told_by_close_notify(sent: bytes, settings: Any) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", PLAIN)
        return iter([b"of unknown", b" length"])

    async with serving(app, **TLS, **settings) as served:
        stream = await connect_tls(served.port)
        await stream.send_all(sent)
        with trio.fail_after(10):
            received, how = await receive_to_end(stream)
        assert how == "closed"
        assert received.startswith(b"HTTP/1.1 ")
        await trio.aclose_forcefully(stream)


async def test_an_answer_that_is_cut_has_no_close_notify() -> None:
    """Where only the end of the connection ends the body, it must not look like an end."""

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", PLAIN)
        yield b"half"
        raise ValueError("half-way")

    async with serving(app, **TLS) as served:
        stream = await connect_tls(served.port)
        await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
        with trio.fail_after(10):
            assert (await receive_to_end(stream))[1] == "cut"
        await trio.aclose_forcefully(stream)


async def test_half_a_record_of_a_head_waits_for_header_timeout() -> None:
    async with serving(greet, **TLS, header_timeout=0.3) as served:
        client = ByHand()
        async with await served.connect() as stream:
            with trio.fail_after(10):
                await client.shake_hands(stream)
                await stream.send_all(client.encrypt(KEPT)[:-5])
                await receive_to_end(stream)
        await served.wait_connections(0)
        assert served.records == []
