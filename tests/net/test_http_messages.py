"""HTTP/1.1 and 1.0 over real sockets: framing, persistence, order (issue: "HTTP/1.1 and 1.0, by h11")."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from answers import read_answer, read_answers
from asking import Environ
from serving import receive_all, serving

from trio_wsgi.net.codec import PARSED_MAX

pytestmark = pytest.mark.usefixtures("each_engine")


def echo(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answers with what it was asked."""
    body = environ["wsgi.input"].read()
    said = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']} ".encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [said + body]


def chunks(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """A body whose length nobody knows ahead."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (block for block in (b"one ", b"", b"two ", b"three"))


GET = b"GET /a?b=c HTTP/1.1\r\nHost: test\r\n\r\n"

# what is sent, the method, what `echo` says, whether the answer announces the end
EXCHANGES = [
    pytest.param(GET, "GET", b"GET /a?b=c ", False, id="plain 1.1, kept (RFC 9112 §9.3)"),
    pytest.param(
        b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", "GET", b"GET /? ", True, id="close (§9.6)"
    ),
    pytest.param(
        b"GET / HTTP/1.1\r\nHost: test\r\nConnection: x, CLOSE\r\n\r\n", "GET", b"GET /? ", True, id="close in a list"
    ),
    pytest.param(
        b"POST /p HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello", "POST", b"POST /p? hello", False, id="CL"
    ),
    pytest.param(
        b"POST /p HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        "POST",
        b"POST /p? hello world",
        False,
        id="chunked (RFC 9112 §7.1)",
    ),
    pytest.param(
        b"POST /p HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n",
        "POST",
        b"POST /p? ab",
        False,
        id="chunked with trailer (§7.1.2)",
    ),
    pytest.param(b"\r\n" + GET, "GET", b"GET /a?b=c ", False, id="empty line before (RFC 9112 §2.2)"),
    pytest.param(
        b"GET http://test:80/a?b HTTP/1.1\r\nHost: test:80\r\n\r\n", "GET", b"GET /a?b ", False, id="absolute-form"
    ),
    pytest.param(b"GET http://test HTTP/1.1\r\nHost: test\r\n\r\n", "GET", b"GET /? ", False, id="absolute, no path"),
    pytest.param(b"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n", "OPTIONS", b"OPTIONS ? ", False, id="OPTIONS * (§3.2.4)"),
    pytest.param(b"GET / HTTP/1.2\r\nHost: test\r\n\r\n", "GET", b"GET /? ", False, id="1.2 as 1.1 (RFC 9110 §2.5)"),
    pytest.param(b"GET / HTTP/1.0\r\n\r\n", "GET", b"GET /? ", True, id="1.0 without Host (RFC 9112 §9.3)"),
    pytest.param(b"GET / HTTP/1.0\r\nHost:\r\n\r\n", "GET", b"GET /? ", True, id="1.0, empty Host"),
    pytest.param(b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi", "POST", b"POST /? hi", True, id="1.0 with a body"),
]


@pytest.mark.parametrize("step", [0, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(("request_bytes", "method", "said", "closes"), EXCHANGES)
async def test_an_exchange_is_the_same_in_one_piece_and_in_many(
    request_bytes: bytes, method: str, said: bytes, closes: bool, step: int
) -> None:
    async with serving(echo) as served:
        with trio.fail_after(10):
            async with await served.connect() as stream:
                for start in range(0, len(request_bytes), step or len(request_bytes)):
                    await stream.send_all(request_bytes[start : start + (step or len(request_bytes))])
                await stream.send_eof()
                answer = read_answer(await receive_all(stream), method)
    assert (answer.status, answer.body, answer.closes) == (200, said, closes)
    assert answer.value("content-length") == str(len(said))
    assert [record.outcome.value for record in served.records] == ["finished"]


async def test_leading_empty_line_in_a_packet_of_its_own() -> None:
    """PAINS (h11): it refuses what RFC 9112 §2.2 asks to ignore; and it may arrive long before the request."""
    async with serving(echo) as served:
        with trio.fail_after(10):
            async with await served.connect() as stream:
                for piece in (b"\r\n", b"\r", b"\n", GET):
                    await stream.send_all(piece)
                    await trio.sleep(0.02)
                await stream.send_eof()
                assert read_answer(await receive_all(stream)).body == b"GET /a?b=c "


async def test_many_requests_on_one_connection() -> None:
    async with serving(echo) as served, httpx.AsyncClient(base_url=served.url) as client:
        for number in range(5):
            answer = await client.post(f"/{number}", content=b"x" * number)
            assert answer.content == f"POST /{number}? ".encode() + b"x" * number
        assert len({record.peer_port for record in served.records}) == 1


@pytest.mark.parametrize("step", [0, 1], ids=["whole", "byte by byte"])
async def test_pipelined_requests_are_answered_in_order(step: int) -> None:
    requests = [raw.values[0] for raw in EXCHANGES if not raw.values[3]] + [EXCHANGES[1].values[0]]
    said = [raw.values[2] for raw in EXCHANGES if not raw.values[3]] + [EXCHANGES[1].values[2]]
    methods = [raw.values[1] for raw in EXCHANGES if not raw.values[3]] + ["GET"]
    raw = b"".join(requests)
    async with serving(echo) as served:
        with trio.fail_after(10):
            async with await served.connect() as stream:
                for start in range(0, len(raw), step or len(raw)):
                    await stream.send_all(raw[start : start + (step or len(raw))])
                answers = read_answers(await receive_all(stream), methods)
    assert [answer.body for answer in answers] == said
    assert [answer.closes for answer in answers] == [False] * (len(said) - 1) + [True]


@pytest.mark.parametrize("buffering", [True, False])
async def test_a_request_never_starts_before_the_body_of_the_last_is_consumed(buffering: bool) -> None:
    """PAINS 46 (waitress GHSA-9298-4cf8-g4wj): what looks like a request inside of a body is the body."""
    seen: list[str] = []
    running = threading.Semaphore(0)
    go_on = threading.Event()

    def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.append(environ["PATH_INFO"])
        running.release()
        if environ["PATH_INFO"] == "/first":
            go_on.wait(5)
        start_response("200 OK", [])
        return [environ["PATH_INFO"].encode()]

    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"
    first = b"POST /first HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % len(smuggled)
    async with serving(app, request_buffering=buffering) as served:
        with trio.fail_after(10):
            async with await served.connect() as stream:
                await stream.send_all(first + smuggled + GET)
                await trio.to_thread.run_sync(running.acquire)
                await trio.sleep(0.05)
                assert seen == ["/first"]  # the second is here, and waits
                go_on.set()
                await stream.send_eof()
                answers = read_answers(await receive_all(stream), ["POST", "GET"])
    assert [answer.body for answer in answers] == [b"/first", b"/a"]
    assert seen == ["/first", "/a"]


async def test_a_body_of_unknown_length_is_chunked() -> None:
    # RFC 9112 §6.3: in 1.1 the end is told without closing; an empty block is no last chunk (PEP 3333).
    async with serving(chunks) as served:
        raw = await served.exchange(GET + GET)
    answers = read_answers(raw, ["GET", "GET"])
    assert [answer.body for answer in answers] == [b"one two three"] * 2
    assert answers[0].value("transfer-encoding") == "chunked"
    assert answers[0].values("content-length") == []
    assert not answers[0].closes


async def test_http10_body_of_unknown_length_ends_by_closing() -> None:
    # RFC 9112 §6.1: no transfer coding to a 1.0 client, keep-alive or not.
    async with serving(chunks) as served:
        raw = await served.exchange(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + GET)
    answer = read_answer(raw)
    assert answer.body == b"one two three"
    assert answer.closes
    assert answer.values("transfer-encoding") == answer.values("content-length") == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_http10_keep_alive_with_a_known_length(method: str) -> None:
    # RFC 9112 §9.3: kept when the client asks for it, and told so; else a 1.0 client would wait for the end.
    body = b"hi" if method == "POST" else b""
    request = b"%b / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n%b"
    request %= (method.encode(), len(body), body)
    async with serving(echo) as served:
        raw = await served.exchange(request + request + b"GET / HTTP/1.0\r\n\r\n" + GET)
    answers = read_answers(raw, [method, method, "GET"])
    said = b"" if method == "HEAD" else f"{method} /? ".encode() + body
    assert [answer.body for answer in answers] == [said, said, b"GET /? "]
    assert [answer.values("connection") for answer in answers] == [["keep-alive"]] * 2 + [["close"]]


@pytest.mark.parametrize("reads", [True, False], ids=["all", "nothing"])
@pytest.mark.parametrize("length", [5, PARSED_MAX + 5], ids=["parsed", "not parsed"])
async def test_http10_keep_alive_of_a_body_that_the_app_reads_itself(length: int, reads: bool) -> None:
    """Kept where all of the body was read, by an app that asks for just so many bytes as there are; else told."""

    def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        got = environ["wsgi.input"].read(length) if reads else b""
        start_response("200 OK", [])
        return [b"%d" % len(got)]

    request = b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n" % length + bytes(length)
    async with serving(app, request_buffering=False) as served:
        answers = read_answers(await served.exchange(request * 2), ["POST", "POST"])
    said = [["keep-alive"]] * 2 if reads else [["close"]]
    assert [answer.values("connection") for answer in answers] == said


async def test_http10_keep_alive_after_204() -> None:
    def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("204 No Content", [])
        return []

    request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    async with serving(app) as served:
        answers = read_answers(await served.exchange(request * 2), ["GET", "GET"])
    assert [(answer.status, answer.values("connection")) for answer in answers] == [(204, ["keep-alive"])] * 2


async def test_keep_alive_of_zero_switches_it_off() -> None:
    async with serving(echo, keep_alive=0) as served:
        answer = read_answer(await served.exchange(GET + GET))
    assert answer.closes


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("path", ["/", "/files/a.txt", "/well"])
async def test_https_over_plain_http_is_misdirected(path: str, tmp_path: Path) -> None:
    """RFC 9110 §7.4, §15.5.20, whoever would answer: the app, a mount, the server itself. It costs nobody the
    connection."""
    (tmp_path / "a.txt").write_bytes(b"a")
    asked = f"GET https://test{path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
    settings: dict[str, Any] = {"static": (f"/files={tmp_path}",), "health_path": "/well"}
    async with serving(echo, forwarded_allow_ips=("",), **settings) as served:
        plain = asked.replace(b"https:", b"http:")
        answers = read_answers(await served.exchange(asked + asked + plain + GET), ["GET"] * 4)
    assert [answer.status for answer in answers] == [421, 421, 200, 200]


async def test_absolute_form_wins_over_host() -> None:
    """PAINS (h11): it hands them on as they are. RFC 9112 §3.2.2: the target's authority counts, whatever Host says."""

    def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [f"{environ['HTTP_HOST']} {environ['wsgi.url_scheme']} {environ['RAW_URI']}".encode()]

    async with serving(app) as served:
        raw = await served.exchange(b"GET https://real:81/x HTTP/1.1\r\nHost: other\r\n\r\n")
    assert read_answer(raw).body == b"real:81 http https://real:81/x"


async def test_a_large_body_both_ways_keeps_the_connection() -> None:
    body = bytes(range(256)) * 8192  # 2 MiB
    async with serving(echo) as served, httpx.AsyncClient(base_url=served.url) as client:
        for content in (body, (body[start : start + 99_999] for start in range(0, len(body), 99_999))):

            async def stream(content: Any = content) -> Any:
                for block in [content] if isinstance(content, bytes) else content:
                    yield block

            answer = await client.post("/", content=stream())  # chunked
            assert answer.content == b"POST /? " + body
        assert len({record.peer_port for record in served.records}) == 1


# -- the end of a connection -----------------------------------------------------------------------------------------


async def test_what_follows_a_request_that_closes_is_not_looked_at() -> None:
    """PAINS (h11): alone it makes a 400 of the valid request; RFC 9112 §9.6: MUST NOT process more."""
    close = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    async with serving(echo) as served:
        for more in (GET, b"\x00garbage", b"x" * 1_000_000):
            answer = read_answer(await served.exchange(close + more))
            assert (answer.status, answer.body) == (200, b"GET /? ")
        assert len(served.records) == 3


@pytest.mark.parametrize("why", ["keep_alive=0", "drain while serving", "drain while idle"])
async def test_a_request_sent_into_our_close_does_not_destroy_the_answer(why: str) -> None:
    # RFC 9112 §9.6: a server that ends the connection while the client may send on must not let the kernel reset it,
    # for that throws away what of the answer is still to be sent.
    size = 3_000_000
    working = trio.Event()
    token = trio.lowlevel.current_trio_token()
    drained = threading.Event()

    def large(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if why == "drain while serving":
            token.run_sync_soon(working.set)
            drained.wait(5)
        start_response("200 OK", [])
        return [b"x" * size]

    async with serving(large, keep_alive=0 if why == "keep_alive=0" else 75) as served:
        with trio.fail_after(10):
            async with await served.connect() as stream:
                await stream.send_all(GET)
                if why == "drain while serving":
                    await working.wait()
                    served.server.drain()
                    await trio.testing.wait_all_tasks_blocked()
                    drained.set()
                received = b""
                while not served.records:  # until the kernel has all of it
                    received += await stream.receive_some(10_000)
                    await trio.sleep(0.001)
                if why == "drain while idle":
                    served.server.drain()
                await trio.sleep(0.05)
                await stream.send_all(GET)
                await trio.sleep(0.05)
                answer = read_answer(received + await receive_all(stream))
    assert answer.closes == (why != "drain while idle")
    assert len(answer.body) == size
    assert len(served.records) == 1
