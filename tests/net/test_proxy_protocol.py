"""Connections that begin with a PROXY header (issue 5; HAProxy's proxy-protocol.txt): who is whom."""

from __future__ import annotations

import json
import logging
import socket
import struct
from pathlib import Path

import pytest
import trio
import trio.testing
from answers import read_answer, read_answers
from asking import error_lines, request, tell
from authority import shared_authority
from serving import Served, receive_to_end, serving

from trio_wsgi import RequestRecord

V1 = b"PROXY TCP4 203.0.113.9 198.51.100.1 50123 443\r\n"
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + struct.pack("!H", 12 + 6)
V2 += bytes([203, 0, 113, 9, 198, 51, 100, 1]) + struct.pack("!HH", 50123, 443) + b"\x04\x00\x03abc"
V2_UNIX = b"\r\n\r\n\x00\r\nQUIT\n\x21\x31" + struct.pack("!H", 216) + b"/run/x".ljust(108, b"\0") * 2
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"


async def talk(served: Served, *pieces: bytes) -> tuple[bytes, str]:
    """Send pieces, each once the one before was received, and read to the end."""
    with trio.fail_after(20):
        async with await served.connect() as stream:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                await stream.send_all(piece)
                if len(pieces) > 1:
                    await trio.testing.wait_all_tasks_blocked()  # the server, in this loop, has taken it
            return await receive_to_end(stream)


async def environ_of(served: Served, *pieces: bytes) -> dict[str, str]:
    raw, _ = await talk(served, *pieces)
    told: dict[str, str] = json.loads(read_answer(raw).body)
    return told


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2 with an extension"])
async def test_the_client_is_the_one_that_the_header_names(header: bytes) -> None:
    async with serving(tell, proxy_protocol=True) as served:
        told = await environ_of(served, header + request())
        record = await served.record()
    assert (told["REMOTE_ADDR"], told["REMOTE_PORT"]) == ("203.0.113.9", "50123")
    assert (told["PROXY_PROTOCOL"], told["PROXY_ADDR"], told["PROXY_PORT"]) == ("TCP4", "198.51.100.1", "443")
    assert told["SERVER_PORT"] == str(served.port)  # ours, as in gunicorn and nginx
    assert told["trio_wsgi.peer"].startswith("127.0.0.1:")
    assert (record.peer, record.peer_port) == ("203.0.113.9", 50123)


@pytest.mark.parametrize("header", [V1, V2, LOCAL], ids=["v1", "v2", "local"])
async def test_byte_by_byte(header: bytes) -> None:
    """However it arrives, not a byte beyond it is taken: the request is whole."""
    async with serving(tell, proxy_protocol=True) as served:
        told = await environ_of(served, *(bytes([byte]) for byte in header + request()))
    assert told["REMOTE_ADDR"] == ("127.0.0.1" if header is LOCAL else "203.0.113.9")


async def test_it_holds_for_all_requests_of_the_connection() -> None:
    async with serving(tell, proxy_protocol=True) as served:
        raw, _ = await talk(served, V2 + b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n" + request("GET", "/2"))
    answers = read_answers(raw, ["GET", "GET"])
    assert [json.loads(answer.body)["REMOTE_ADDR"] for answer in answers] == ["203.0.113.9"] * 2


NOBODY = {
    "LOCAL": (LOCAL, "127.0.0.1"),
    "UNKNOWN": (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    "UNKNOWN with junk": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "127.0.0.1"),
    "a unix socket": (V2_UNIX, ""),
}


@pytest.mark.parametrize(("header", "address"), NOBODY.values(), ids=NOBODY)
async def test_a_header_that_names_nobody(header: bytes, address: str) -> None:
    """2.2: the connection's own addresses count. Forwarding headers might be an unknown client's: they do not."""
    async with serving(tell, proxy_protocol=True) as served:
        told = await environ_of(served, header + request("GET", "/", "X-Forwarded-For: 203.0.113.1"))
    assert told["REMOTE_ADDR"] == address
    assert "HTTP_X_FORWARDED_FOR" not in told


WRONG = {
    "no header": (request(), "does not begin with"),
    "TLS": (b"\x16\x03\x01\x02\x00", "does not begin with"),
    "half a header": (b"PROXY TCP4 203.0.113.9", "ends after 22 bytes"),
    "half a header, v2": (V2[:20], "ends after 20 bytes"),
    "malformed": (b"PROXY TCP4 203.0.113.9 x 1 2\r\n" + request(), "malformed"),
    "too long": (b"PROXY UNKNOWN " + b"x" * 200, "no line end"),
    "far too long": (V2[:14] + b"\xff\xff", "bytes long"),
}


@pytest.mark.parametrize(("sent", "reason"), WRONG.values(), ids=WRONG)
async def test_anything_else_is_closed_with_one_line(
    sent: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No answer, no record, no guess."""
    caplog.set_level(logging.INFO)
    async with serving(tell, proxy_protocol=True) as served:
        raw = await served.exchange(sent)
        await served.wait_connections(0)
        assert raw == b""
        assert served.records == []
    (line,) = error_lines(caplog, logging.INFO)
    assert reason in line
    assert line.startswith("127.0.0.1:")


async def test_a_look_whether_we_listen_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """A load balancer's check by connecting alone."""
    caplog.set_level(logging.INFO)
    async with serving(tell, proxy_protocol=True) as served:
        assert await served.exchange(b"") == b""
        await served.wait_connections(0)
    assert error_lines(caplog, logging.INFO) == []


async def test_from_others_it_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(tell, proxy_protocol=True, proxy_allow_from=("10.0.0.0/8",)) as served:
        raw, _ = await talk(served, V1 + request())
        await served.wait_connections(0)
    assert raw == b""
    (line,) = error_lines(caplog, logging.INFO)
    assert "proxy_allow_from" in line


@pytest.mark.parametrize("sent", [b"", V2[:13]], ids=["nothing", "a part"])
async def test_it_has_to_arrive_in_time(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(tell, proxy_protocol=True, handshake_timeout=0.05) as served:
        raw, how = await talk(served, sent)
    assert (raw, how) == (b"", "closed")
    (line,) = error_lines(caplog, logging.INFO)
    assert "handshake_timeout" in line


async def test_a_drain_does_not_wait_for_a_header() -> None:
    async with serving(tell, proxy_protocol=True, graceful_timeout=60) as served, await served.connect() as stream:
        with trio.fail_after(10):
            await served.wait_connections(1)
            served.server.drain()
            assert await receive_to_end(stream) == (b"", "closed")


async def test_a_client_on_its_way_when_the_drain_begins_is_served() -> None:
    async with serving(tell, proxy_protocol=True) as served, await served.connect() as stream:
        with trio.fail_after(10):
            await stream.send_all(V2[:20])
            await served.wait_connections(1)
            served.server.drain()
            await stream.send_all(V2[20:] + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            raw, _ = await receive_to_end(stream)
    answer = read_answer(raw)
    assert (answer.status, answer.closes) == (200, True)


async def test_without_the_setting_it_is_no_request() -> None:
    async with serving(tell) as served:
        raw, _ = await talk(served, V1 + request())
    assert read_answer(raw).status == 400


# -- together with X-Forwarded-* ---------------------------------------------------------------------------------


async def test_a_client_is_not_believed_because_its_proxy_is() -> None:
    """A proxy in TCP mode passes on what its clients write: trust goes by the client's own address."""
    lines = ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: https", "Forwarded: for=127.0.0.1"]
    async with serving(tell, proxy_protocol=True) as served:
        told = await environ_of(served, V1 + request("GET", "/", *lines))
    assert told["REMOTE_ADDR"] == "203.0.113.9"
    assert told["wsgi.url_scheme"] == "http"
    assert not {"HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_FORWARDED"} & told.keys()


async def test_a_proxy_behind_the_proxy_is_believed() -> None:
    """An HTTP proxy of ours whose connections come through a proxy in TCP mode."""
    async with serving(tell, proxy_protocol=True, forwarded_allow_ips=("203.0.113.0/24",)) as served:
        told = await environ_of(served, V1 + request("GET", "/", "X-Forwarded-For: 192.0.2.5"))
        record: RequestRecord = await served.record()
    assert told["REMOTE_ADDR"] == record.peer == "192.0.2.5"


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(tell, proxy_protocol=True, proxy_allow_from=("",), bind=(f"unix:{path}",)) as served:
        with trio.fail_after(10):
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(V2 + request())
                raw, _ = await receive_to_end(stream)
        record = await served.record()
    told = json.loads(read_answer(raw).body)
    assert (told["REMOTE_ADDR"], told["trio_wsgi.peer"]) == ("203.0.113.9", "unix")
    assert record.peer == "203.0.113.9"


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
async def test_before_tls(header: bytes) -> None:
    """A proxy in TCP mode passes on TLS: its header comes first, in the clear, and TLS loses no byte to it."""
    authority, certfile = shared_authority()
    async with serving(tell, proxy_protocol=True, certfile=(certfile,)) as served:
        with trio.fail_after(20):
            async with await served.connect() as plain:
                await plain.send_all(header)
                stream = trio.SSLStream(plain, authority.client_context(), server_hostname="127.0.0.1")
                await stream.send_all(request())
                raw, how = await receive_to_end(stream)
        record = await served.record()
    assert how == "closed"
    assert record.peer == "203.0.113.9"
    told = json.loads(read_answer(raw).body)
    assert (told["REMOTE_ADDR"], told["wsgi.url_scheme"]) == ("203.0.113.9", "https")
    assert told["PROXY_PROTOCOL"] == "TCP4"
    assert told["SSL_PROTOCOL"].startswith("TLS")
