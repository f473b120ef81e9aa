"""TLS on a bad day: handshakes that stall, cuts, clients that stop reading, applications that write and read at once
(issue 5). What holds on plain connections holds here."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from asking import PLAIN, Environ, StartResponse
from authority import connect_tls, read_to_end, shared_authority
from downloads import Client
from serving import Served, serving

import trio_wsgi.net.drain
from trio_wsgi import Config, Outcome, Server
from trio_wsgi.net.tls import TlsTransport

MIB = 1 << 20
LARGE = os.urandom(MIB) * 8  # twice what the kernel keeps for a connection of a small receiver (tcp(7), tcp_wmem)
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
CLOSE = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
POST = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n"
TLS = {"certfile": (shared_authority()[1],), "threads": 2}
CLIENT_HELLO_BEGINS = b"\x16\x03\x01\x02\x00\x01"  # RFC 8446 §5.1: a handshake record, of which this is all


def hello(environ: Environ, start_response: StartResponse) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", PLAIN)
    return [b"hello ", body]


def large(environ: Environ, start_response: StartResponse) -> Any:
    match environ["PATH_INFO"]:
        case "/blocks":
            start_response("200 OK", [("Content-Length", str(len(LARGE)))])
            return (LARGE[at : at + 65536] for at in range(0, len(LARGE), 65536))
        case "/write":
            write = start_response("200 OK", [("Content-Length", str(len(LARGE)))])
            for at in range(0, len(LARGE), MIB):
                write(LARGE[at : at + MIB])
            return []
        case "/hello":
            start_response("200 OK", PLAIN)
            return [b"hello"]
    start_response("200 OK", [("Content-Length", str(len(LARGE)))])
    return [LARGE]


class LargeFile:
    """An app that answers with a file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "large"
        self._path.write_bytes(LARGE)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](self._path.open("rb"))


async def wait_no_connections(served: Served) -> None:
    with trio.fail_after(15):
        while served.server.statistics().connections:  # noqa: ASYNC110
            await trio.sleep(0.01)


def complaints(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [line.getMessage() for line in caplog.records if line.levelno >= level and "kernel TLS" not in line.msg]


# -- the handshake -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", CLIENT_HELLO_BEGINS], ids=["nothing", "half"])
async def test_a_handshake_has_a_deadline(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trio_wsgi.error")
    async with serving(hello, **TLS, handshake_timeout=0.3) as served:
        async with await served.connect() as stream:
            if sent:
                await stream.send_all(sent)
            with trio.fail_after(10):
                assert await stream.receive_some() == b""
        await wait_no_connections(served)
        assert served.records == []
        assert [line for line in caplog.messages if "handshake_timeout" in line] == complaints(caplog, logging.DEBUG)
        assert complaints(caplog) == []


async def test_the_deadline_is_for_the_whole_handshake() -> None:
    """A byte now and then does not move it."""
    async with serving(hello, **TLS, handshake_timeout=0.5) as served:
        with trio.fail_after(10):
            async with await served.connect() as stream:
                with pytest.raises(trio.BrokenResourceError):
                    for byte in itertools.chain(CLIENT_HELLO_BEGINS, itertools.repeat(0)):
                        await stream.send_all(bytes([byte]))
                        await trio.sleep(0.05)


@pytest.mark.parametrize("garbage", [b"\0" * 1000, b"\x16\x03\x01\x00\x05hello", b"SSH-2.0-x\r\n", b"\x80" * 20])
async def test_garbage_costs_one_line_and_nothing_else(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trio_wsgi.error")
    async with serving(hello, **TLS) as served:
        async with await served.connect() as stream:
            await stream.send_all(garbage)
            with trio.fail_after(10):
                await read_to_end(stream)
        await wait_no_connections(served)
        assert len(complaints(caplog, logging.DEBUG)) == 1
        assert complaints(caplog) == []


@pytest.mark.parametrize("reset", [True, False])
async def test_a_client_that_leaves_in_the_handshake(reset: bool, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(hello, **TLS) as served:
        for sent in (b"", CLIENT_HELLO_BEGINS):
            stream = await served.connect()
            await stream.send_all(sent)
            if reset:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await stream.aclose()
        await wait_no_connections(served)
        assert complaints(caplog) == []


async def test_others_are_served_while_handshakes_stall() -> None:
    async with serving(hello, **TLS) as served:
        stalled = [await served.connect() for _ in range(20)]
        for stream in stalled[::2]:
            await stream.send_all(CLIENT_HELLO_BEGINS)
        stream = await connect_tls(served.port)
        reply = await Client(stream).ask()  # type: ignore[arg-type]
        assert (reply.status, reply.body) == (200, b"hello ")
        assert sorted(str(each) for each in served.server.statistics().by_state) == ["State.HANDSHAKE", "State.IDLE"]
        for each in (stream, *stalled):
            await trio.aclose_forcefully(each)


async def test_a_handshake_that_a_drain_meets_is_finished_and_answered() -> None:
    """The client was accepted, and could not have asked before: to close on it would lose its request."""
    app_config = Config(bind=("127.0.0.1:0",), **TLS)
    server = Server(hello, app_config)
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(server.serve)
        context = shared_authority()[0].client_context()
        arriving, leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(arriving, leaving, server_hostname="localhost")
        stream = await trio.open_tcp_stream("127.0.0.1", address.port)
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        begun = leaving.read()
        await stream.send_all(begun[:50])
        while not server.statistics().connections:  # noqa: ASYNC110
            await trio.sleep(0.005)
        server.drain()
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(begun[50:])
        with trio.fail_after(10):
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    arriving.write(await stream.receive_some())
            await stream.send_all(leaving.read())
            await trio.sleep(0.05)
            client.write(GET)
            await stream.send_all(leaving.read())
            received = b""
            while b"hello" not in received:
                arriving.write(await stream.receive_some())
                try:
                    received += client.read(65536)
                except ssl.SSLWantReadError:
                    continue
        assert b"Connection: close" in received
        await stream.aclose()


# -- cuts --------------------------------------------------------------------------------------------------------------


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
    async with serving(hello, **TLS) as served:
        for ends in (trio.aclose_forcefully, trio.SSLStream.aclose):
            stream = await connect_tls(served.port)
            await Client(stream).ask()  # type: ignore[arg-type]
            await ends(stream)
        await wait_no_connections(served)
        assert complaints(caplog, logging.DEBUG) == []


@pytest.mark.parametrize(
    ("sent", "settings"),
    [(CLOSE, {}), (GET, {"keep_alive": 0.2}), (b"GET / HTTP/1.0\r\n\r\n", {}), (b"nonsense\r\n\r\n", {})],
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
            received, how = await read_to_end(stream)
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
            assert (await read_to_end(stream))[1] == "cut"
        await trio.aclose_forcefully(stream)


async def test_half_a_record_of_a_head_waits_for_header_timeout() -> None:
    async with serving(hello, **TLS, header_timeout=0.3) as served:
        context = shared_authority()[0].client_context()
        leaving, arriving = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(arriving, leaving, server_hostname="localhost")
        async with await served.connect() as stream:
            with trio.fail_after(10):
                while True:
                    try:
                        client.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        await stream.send_all(leaving.read())
                        arriving.write(await stream.receive_some())
                client.write(GET)
                await stream.send_all(leaving.read()[:-5])
                await read_to_end(stream)
        await wait_no_connections(served)
        assert served.records == []


# -- slow clients ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["list", "blocks", "write", "file"])
def large_app(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Callable[..., Any], str]:
    return (LargeFile(tmp_path), "/") if request.param == "file" else (large, f"/{request.param}")


async def test_a_large_answer_arrives_whole(large_app: tuple[Callable[..., Any], str]) -> None:
    app, path = large_app
    async with serving(app, **TLS) as served:
        stream = await connect_tls(served.port, receive_buffer=16384)
        for _ in range(2):
            reply = await Client(stream).ask(path, seconds=30)  # type: ignore[arg-type]
            assert reply.whole
            assert reply.body == LARGE
        await trio.aclose_forcefully(stream)


async def test_downloads_that_share_a_buffer_do_not_mix(tmp_path: Path) -> None:
    """It is nobody's for longer than a step."""
    for number in range(4):
        (tmp_path / str(number)).write_bytes(bytes([number]) * 2 * MIB)

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"]((tmp_path / environ["PATH_INFO"][1:]).open("rb"))

    async with serving(app, **TLS) as served:

        async def download(number: int) -> None:
            stream = await connect_tls(served.port, receive_buffer=16384)
            reply = await Client(stream).ask(f"/{number}", seconds=30)  # type: ignore[arg-type]
            assert reply.body == bytes([number]) * 2 * MIB
            await trio.aclose_forcefully(stream)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(download, number)


async def test_a_client_that_stops_reading_is_cut(large_app: tuple[Callable[..., Any], str]) -> None:
    app, path = large_app
    async with serving(app, **TLS, write_timeout=0.4) as served:
        stream = await connect_tls(served.port, receive_buffer=16384)
        await stream.send_all(GET.replace(b" / ", f" {path} ".encode()))
        record = await served.record()
        await trio.aclose_forcefully(stream)
    assert record.outcome is Outcome.WRITE_TIMEOUT
    assert 0 < record.body_sent < len(LARGE)


@pytest.mark.slow
async def test_a_slow_but_steady_reader_is_never_cut(tmp_path: Path) -> None:
    """cheroot#20: cut after 10 s of `curl --limit-rate 2k` over HTTPS.

    Its buffer is small: of what it reads, its system tells us a sixteenth of the buffer at a time, which may be 0.4 MB.
    """
    async with serving(LargeFile(tmp_path), **TLS, write_timeout=0.8) as served:
        stream = await connect_tls(served.port, receive_buffer=65536)
        await stream.send_all(CLOSE)
        received = bytearray()
        with trio.fail_after(60):
            patience = trio.current_time() + 3.2
            while trio.current_time() < patience:
                received += await stream.receive_some(20_000)
                await trio.sleep(0.05)
            received += (await read_to_end(stream))[0]
        assert received.endswith(LARGE)
        await trio.aclose_forcefully(stream)
        assert (await served.record()).outcome is Outcome.FINISHED


async def test_rates_hold(tmp_path: Path) -> None:
    async with serving(LargeFile(tmp_path), **TLS, limit_rate=1 << 20) as served:
        stream = await connect_tls(served.port)
        began = time.monotonic()
        reply = await Client(stream).ask(headers=[("Range", "bytes=0-999999")])  # type: ignore[arg-type]
        assert reply.body == LARGE[:1_000_000]
        assert time.monotonic() - began > 0.6
        await trio.aclose_forcefully(stream)


async def test_many_slow_downloads_hold_no_thread_and_little_memory(tmp_path: Path) -> None:
    """A stalled one costs its connection and OpenSSL's record, not what is left to be sent."""
    async with serving(LargeFile(tmp_path), **(TLS | {"threads": 1})) as served:
        streams = []
        for _ in range(30):
            stream = await connect_tls(served.port, receive_buffer=16384)
            await stream.send_all(GET)
            await stream.receive_some(1)
            streams.append(stream)
        with trio.fail_after(10):
            while served.server.statistics().threads.busy:  # noqa: ASYNC110
                await trio.sleep(0.01)
            assert len(served.server.statistics().transfers) == 30
            assert not [
                item for item in gc.get_objects() if type(item) is bytes and len(item) > 60_000 and item != LARGE
            ]
            other = await connect_tls(served.port)
            reply = await Client(other).ask(headers=[("Range", "bytes=5-9")])  # type: ignore[arg-type]
            assert reply.body == LARGE[5:10]
        for stream in (other, *streams):
            await trio.aclose_forcefully(stream)


async def test_a_drain_lets_those_finish_who_take_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few, and though OpenSSL counts a record as sent only with its last byte."""
    monkeypatch.setattr(trio_wsgi.net.drain, "LOOK", 0.05)
    monkeypatch.setattr(trio_wsgi.net.drain, "WINDOW", 1.0)
    settings = {"graceful_timeout": 1.0, "drain_min_rate": 20_000, "write_timeout": 60}
    async with serving(LargeFile(tmp_path), **TLS, **settings) as served:
        moving, stalled = [await connect_tls(served.port, receive_buffer=65536) for _ in range(2)]
        for stream in (moving, stalled):
            await stream.send_all(CLOSE)
            await stream.receive_some(1000)
        served.server.drain()
        received = bytearray()
        with trio.fail_after(60):
            slow = 150  # reads more, once the other one was cut: 1.5 s at 2 MB/s, or less on a busy machine
            while slow > 0:
                received += await moving.receive_some(20_000)
                await trio.sleep(0.01)
                slow -= len(served.records)
            received += (await read_to_end(moving))[0]
        assert received.endswith(LARGE[-MIB:])
        await served.record(2)
        assert [record.outcome for record in served.records] == [Outcome.SHUTDOWN, Outcome.FINISHED]
        for stream in (moving, stalled):
            await trio.aclose_forcefully(stream)


# -- applications that write, read and wait ----------------------------------------------------------------------------


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
                received, how = await read_to_end(stream)
        assert how == "closed"
        assert received.partition(b"\r\n\r\n")[2] == body
        await trio.aclose_forcefully(stream)
        assert (await served.record()).outcome is Outcome.FINISHED


async def test_a_client_that_goes_cancels_its_request() -> None:
    raised: list[str] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            while True:
                time.sleep(0.02)
                trio.from_thread.check_cancelled()
        except BaseException as exc:
            raised.append(type(exc).__name__)
            raise

    async with serving(app, **TLS) as served:
        stream = await connect_tls(served.port)
        await stream.send_all(GET)
        await trio.sleep(0.2)
        await trio.aclose_forcefully(stream)
        assert (await served.record()).outcome is Outcome.CLIENT_GONE
        assert raised == ["Cancelled"]


async def test_requests_that_are_pipelined_and_split(tmp_path: Path) -> None:
    async with serving(large, **TLS) as served:
        stream = await connect_tls(served.port)
        one = GET.replace(b" / ", b" /hello ")
        with trio.fail_after(20):
            for byte in one:
                await stream.send_all(bytes([byte]))
            assert (await stream.receive_some()).endswith(b"hello")
            await stream.send_all(one * 20 + CLOSE.replace(b" / ", b" /hello "))
            received, how = await read_to_end(stream)
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
        received, _ = await read_to_end(stream)
        assert received.startswith(b"HTTP/1.1 103 ")
        assert received.endswith(b"hello")
        await trio.aclose_forcefully(stream)


@pytest.fixture
async def proxied() -> AsyncIterator[Served]:
    async with serving(hello, **TLS, proxy_protocol=True) as served:
        yield served


async def test_a_proxy_names_its_client_before_the_handshake(proxied: Served) -> None:
    sock = trio.socket.socket()
    await sock.connect(("127.0.0.1", proxied.port))
    plain = trio.SocketStream(sock)
    await plain.send_all(b"PROXY TCP4 203.0.113.7 203.0.113.1 4711 443\r\n")
    stream = trio.SSLStream(plain, shared_authority()[0].client_context(), server_hostname="localhost")
    reply = await Client(stream).ask()  # type: ignore[arg-type]
    assert reply.body == b"hello "
    record = await proxied.record()
    assert (record.peer, record.environ["SSL_PROTOCOL"]) == ("203.0.113.7", "TLSv1.3")
    await trio.aclose_forcefully(stream)
