"""Request bodies: `Expect: 100-continue`, and bodies left unread (RFC 9110 §10.1.1, RFC 9112 §9.6)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import h11
import httpx
import pytest
import trio
from answers import read_answer, read_answers
from asking import Environ
from faults import reset_on_close
from serving import Served, receive_all, serving

from trio_wsgi import Outcome
from trio_wsgi.net.codec import PARSED_MAX

pytestmark = pytest.mark.usefixtures("each_engine")

MIB = 1024 * 1024


def reader(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [body]


def deaf(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answers without reading."""
    start_response("403 Forbidden", [])
    return [b"no"]


def failing(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    raise RuntimeError("on purpose")


def _put(*lines: bytes, version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"PUT / HTTP/" + version, b"Host: test", *lines, b"", b""])


NEXT = b"GET /next HTTP/1.1\r\nHost: test\r\n\r\n"
EXPECT = b"Expect: 100-continue"
FRAMINGS = {
    "Content-Length": (b"Content-Length: 5", b"hello"),
    "chunked": (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
}
framings = pytest.mark.parametrize("framing", FRAMINGS)
bufferings = pytest.mark.parametrize("buffering", [True, False], ids=["buffered", "streamed"])


@framings
@bufferings
async def test_100_is_sent_when_the_body_is_asked_for(framing: str, buffering: bool) -> None:
    line, body = FRAMINGS[framing]
    async with serving(reader, request_buffering=buffering) as served:
        with trio.fail_after(5):
            async with await served.connect() as stream:
                await stream.send_all(_put(EXPECT, line))
                interim = b""
                while not interim.endswith(b"\r\n\r\n"):
                    interim += await stream.receive_some()
                assert interim.startswith(b"HTTP/1.1 100 ")
                await stream.send_all(body + NEXT)
                await stream.send_eof()
                answers = read_answers(await receive_all(stream), ["PUT", "GET"])
    assert [answer.body for answer in answers] == [b"hello", b""]
    assert not answers[0].closes


def digester(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    digest = hashlib.sha256(environ["wsgi.input"].read()).hexdigest().encode()
    start_response("200 OK", [("Content-Length", str(len(digest)))])
    return [digest]


@bufferings
@pytest.mark.parametrize("size", [PARSED_MAX, PARSED_MAX + 1, MIB], ids=["parsed", "just not parsed", "not parsed"])
@pytest.mark.parametrize(
    ("version", "lines", "keeps"),
    [
        (b"1.1", [], True),
        (b"1.1", [b"Connection: close"], False),
        (b"1.1", [EXPECT], True),
        (b"1.0", [b"Connection: keep-alive"], True),
        (b"1.0", [], False),
    ],
    ids=["1.1", "close", "expect", "1.0 keep-alive", "1.0"],
)
async def test_a_large_body_of_known_length_changes_nothing_else(
    version: bytes, lines: list[bytes], keeps: bool, size: int, buffering: bool
) -> None:
    """Nobody parses it: the next request begins where it ends, and the connection is what it would be."""
    body = bytes(range(251)) * (size // 251 + 1)
    sent = _put(b"Content-Length: %d" % size, *lines, version=version) + body[:size]
    async with serving(digester, request_buffering=buffering) as served:
        with trio.fail_after(10):
            async with await served.connect() as stream:
                await stream.send_all(sent + sent + NEXT)
                await stream.send_eof()
                raw = await receive_all(stream)
    whole = hashlib.sha256(body[:size]).hexdigest().encode()
    answers = read_answers(raw, ["PUT", "PUT", "GET"] if keeps else ["PUT"])
    empty = hashlib.sha256().hexdigest().encode()
    assert [answer.body for answer in answers] == ([whole, whole, empty] if keeps else [whole])
    assert answers[0].closes is not keeps


@pytest.mark.parametrize("missing", [1, MIB - 1, MIB])
@bufferings
async def test_a_large_body_that_ends_early_is_none(missing: int, buffering: bool) -> None:
    async with serving(digester, request_buffering=buffering, half_close="serve") as served:
        with trio.fail_after(10):
            async with await served.connect() as stream:
                await stream.send_all(_put(b"Content-Length: %d" % MIB) + bytes(MIB - missing))
                await stream.send_eof()
                assert b" 200 " not in await receive_all(stream)
        assert [record.outcome for record in served.records] == [Outcome.CLIENT_GONE]


@framings
@bufferings
async def test_no_100_and_no_keep_alive_when_the_app_does_not_read(framing: str, buffering: bool) -> None:
    # Whether the body comes nobody can tell: what follows could be read in two ways.
    line, _ = FRAMINGS[framing]
    async with serving(deaf, request_buffering=buffering) as served:
        with trio.fail_after(5):
            async with await served.connect() as stream:
                await stream.send_all(_put(EXPECT, line))
                answer = read_answer(await receive_all(stream), "PUT")
                assert (answer.status, answer.interim, answer.closes) == (403, [], True)
        assert len(served.records) == 1


@bufferings
async def test_no_100_before_the_500_of_an_app_that_does_not_read(buffering: bool) -> None:
    async with serving(failing, request_buffering=buffering) as served:
        with trio.fail_after(5):
            async with await served.connect() as stream:
                await stream.send_all(_put(EXPECT, b"Content-Length: 5"))
                answer = read_answer(await receive_all(stream), "PUT")
    assert (answer.status, answer.interim, answer.closes) == (500, [], True)


@framings
@bufferings
async def test_a_client_may_send_the_body_without_waiting_for_100(framing: str, buffering: bool) -> None:
    line, body = FRAMINGS[framing]
    async with serving(reader, request_buffering=buffering) as served:
        raw = await served.exchange(_put(EXPECT, line) + body + NEXT)
    answers = read_answers(raw, ["PUT", "GET"])
    assert [answer.body for answer in answers] == [b"hello", b""]


@bufferings
async def test_a_body_sent_without_waiting_to_an_app_that_does_not_read_is_no_request(buffering: bool) -> None:
    calls = []

    def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        calls.append(environ["PATH_INFO"])
        return deaf(environ, start_response)

    async with serving(app, request_buffering=buffering) as served:
        raw = await served.exchange(_put(EXPECT, b"Content-Length: %d" % len(NEXT)) + NEXT + NEXT)
    answer = read_answer(raw, "PUT")
    assert (answer.status, answer.closes, calls) == (403, True, ["/"])


@pytest.mark.parametrize(
    "request_bytes",
    [_put(EXPECT), _put(EXPECT, b"Content-Length: 0"), _put(EXPECT, b"Content-Length: 5", version=b"1.0") + b"hello"],
    ids=["no body", "empty body", "HTTP/1.0"],
)
async def test_no_100_where_none_is_due(request_bytes: bytes) -> None:
    # RFC 9110 §10.1.1: a 1.0 client's expectation is ignored; without a body there is nothing to continue with.
    async with serving(reader) as served:
        answer = read_answer(await served.exchange(request_bytes), "PUT")
    assert (answer.status, answer.interim) == (200, [])


async def test_no_100_after_the_response_has_begun() -> None:
    # It would stand in the middle of the answer. The client has been answered, and may send its body or not.
    def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        write(b"early ")
        yield environ["wsgi.input"].read()

    async with serving(app) as served:
        raw = await served.exchange(_put(EXPECT, b"Content-Length: 5") + b"hello" + NEXT)
    answer = read_answer(raw, "PUT")
    assert (answer.body, answer.interim, answer.closes) == (b"early hello", [], True)


# -- bodies that nobody reads ----------------------------------------------------------------------------------------


async def _upload_then_read(served: Served, head: bytes, size: int, block: bytes) -> bytes:
    """A client that reads nothing before it has sent everything: a reset would take the answer from it."""
    with trio.fail_after(15):
        async with await served.connect() as stream:
            await stream.send_all(head)
            for _ in range(size // len(block)):
                await stream.send_all(block)
            return await receive_all(stream)


@bufferings
@pytest.mark.parametrize("app", [deaf, failing], ids=["answers", "fails"])
async def test_the_answer_to_an_unread_upload_is_seen(app: Callable[..., Any], buffering: bool) -> None:
    head = _put(b"Content-Length: %d" % (10 * MIB), b"Connection: close")
    async with serving(app, request_buffering=buffering) as served:
        raw = await _upload_then_read(served, head, 10 * MIB, b"x" * MIB)
    answer = read_answer(raw, "PUT")
    assert (answer.status, answer.closes) == (500 if app is failing else 403, True)


async def test_the_answer_to_a_too_large_upload_is_seen() -> None:
    head = _put(b"Content-Length: %d" % (10 * MIB))
    async with serving(deaf, limit_request_body=MIB) as served:
        raw = await _upload_then_read(served, head, 10 * MIB, b"x" * MIB)
    assert read_answer(raw, "PUT").status == 413


async def test_the_answer_to_a_too_large_chunked_upload_is_seen() -> None:
    block = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    async with serving(reader, limit_request_body=MIB) as served:
        raw = await _upload_then_read(served, _put(b"Transfer-Encoding: chunked"), 160 * len(block), block)
    assert read_answer(raw, "PUT").status == 413


async def test_the_answer_to_a_refused_head_with_a_large_body_is_seen() -> None:
    head = _put(b"Content-Length: %d" % (10 * MIB), b"X : y")
    async with serving(deaf) as served:
        raw = await _upload_then_read(served, head, 10 * MIB, b"x" * MIB)
    assert read_answer(raw, "PUT").status == 400


@framings
@bufferings
async def test_a_small_unread_body_is_read_on_and_the_connection_kept(framing: str, buffering: bool) -> None:
    line, body = FRAMINGS[framing]
    async with serving(deaf, request_buffering=buffering) as served:
        raw = await served.exchange((_put(line) + body) * 2 + NEXT)
    answers = read_answers(raw, ["PUT", "PUT", "GET"])
    assert [answer.status for answer in answers] == [403] * 3
    assert not any(answer.closes for answer in answers)


async def test_a_large_unread_body_ends_the_connection_and_says_so() -> None:
    # Streamed, told by Content-Length and more than is read on: the client is told not to send another request.
    async with serving(deaf, request_buffering=False) as served:
        with trio.fail_after(5):
            async with await served.connect() as stream:
                await stream.send_all(_put(b"Content-Length: %d" % MIB) + b"x" * 1000)
                answer = read_answer(await receive_all(stream), "PUT")
    assert (answer.status, answer.closes) == (403, True)


async def test_a_partly_read_body_does_not_leak_into_the_next_request() -> None:
    def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [environ["wsgi.input"].read(3)]

    async with serving(app, request_buffering=False) as served:
        raw = await served.exchange((_put(b"Content-Length: 5") + b"hello") * 2)
    assert [answer.body for answer in read_answers(raw, ["PUT", "PUT"])] == [b"hel", b"hel"]


# -- bodies that do not arrive whole ---------------------------------------------------------------------------------

TRUNCATED = [
    pytest.param(_put(b"Content-Length: 5") + b"hell", id="Content-Length"),
    pytest.param(_put(b"Transfer-Encoding: chunked") + b"5\r\nhell", id="in a chunk"),
    pytest.param(_put(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n", id="between chunks"),
    pytest.param(_put(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n", id="before the last line"),
    pytest.param(_put(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\nX: y\r\n", id="in the trailers"),
]


@bufferings
@pytest.mark.parametrize("raw", TRUNCATED)
async def test_a_truncated_body_never_looks_complete(raw: bytes, buffering: bool) -> None:
    """PAINS (WSGI layers; RFC 9112 §8): granian, cheroot and hypercorn hand it to the app as whole."""
    bodies: list[bytes] = []
    errors: list[Exception] = []

    def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            bodies.append(environ["wsgi.input"].read())
        except OSError as exc:
            errors.append(exc)
            raise
        start_response("200 OK", [])
        return []

    async with serving(app, request_buffering=buffering) as served:
        assert b" 200 " not in await served.exchange(raw)
        record = await served.record()
    assert bodies == []
    assert len(errors) == (0 if buffering else 1)
    assert record.outcome.value == "client-gone"


# -- real clients ----------------------------------------------------------------------------------------------------


@bufferings
async def test_httpx_uploads_to_an_app_that_does_not_read(buffering: bool) -> None:
    async with serving(deaf, request_buffering=buffering) as served, httpx.AsyncClient(base_url=served.url) as client:
        for _ in range(2):
            assert (await client.put("/", content=b"x" * (3 * MIB))).status_code == 403


@bufferings
async def test_h11_as_client_with_expect(buffering: bool) -> None:
    """The exchange as a client that keeps to the letter sees it: body after 100, answer after body."""
    body = bytes(range(256)) * 4096
    async with serving(reader, request_buffering=buffering) as served:
        with trio.fail_after(10):
            async with await served.connect() as stream:
                client = h11.Connection(h11.CLIENT)

                async def send(event: Any) -> None:
                    await stream.send_all(client.send(event) or b"")

                async def receive() -> Any:
                    while (event := client.next_event()) is h11.NEED_DATA:
                        client.receive_data(await stream.receive_some())
                    return event

                headers = [("Host", "test"), ("Expect", "100-continue"), ("Transfer-Encoding", "chunked")]
                for _ in range(3):
                    await send(h11.Request(method="POST", target="/", headers=headers))
                    assert (await receive()).status_code == 100
                    await send(h11.Data(data=body))
                    await send(h11.EndOfMessage())
                    assert (await receive()).status_code == 200
                    digest = hashlib.sha256()
                    while type(event := await receive()) is h11.Data:
                        digest.update(event.data)
                    assert digest.digest() == hashlib.sha256(body).digest()
                    client.start_next_cycle()


async def test_a_client_that_resets_while_it_uploads(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(reader, request_buffering=False) as served:
        with trio.fail_after(5):
            stream = await served.connect()
            await stream.send_all(_put(b"Content-Length: 1000") + b"x")
            reset_on_close(stream)
            await trio.sleep(0.05)
            await stream.aclose()
            record = await served.record()
        assert record.outcome.value == "client-gone"
        assert read_answer(await served.exchange(NEXT)).status == 200
    assert not [line for line in caplog.records if line.exc_info]


async def test_what_the_app_left_of_a_body_and_never_comes_ends_the_connection_and_nothing_else() -> None:
    """The response was sent: its record does not tell of a body that nobody wanted."""
    async with serving(deaf, request_buffering=False, body_timeout=0.1, linger_timeout=1) as served:
        with trio.fail_after(5):
            async with await served.connect() as stream:
                await stream.send_all(_put(b"Content-Length: 100") + b"some")
                assert read_answer(await receive_all(stream), "PUT").status == 403
        assert (await served.record()).outcome is Outcome.FINISHED
