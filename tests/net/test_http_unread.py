"""What is left unread of a request's body: a response that does not say `close` is followed by the next request's.

RFC 9112 §9.6: who is going to close SHOULD say so. A client that was not told sends its next request, and may not send
it again where it was lost: a POST may have had its effect (§9.3.1).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from answers import Answer, read_answer, read_answers
from asking import Environ
from serving import receive_all, serving

from trio_wsgi.net.inlet import UNREAD_MAX

pytestmark = pytest.mark.usefixtures("each_engine")

App = Callable[..., Any]
MIB = 1024 * 1024
NEXT = b"GET /next HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


def _put(*lines: bytes, path: bytes = b"/") -> bytes:
    return b"\r\n".join([b"PUT %b HTTP/1.1" % path, b"Host: test", *lines, b"", b""])


def _long(size: int, path: bytes = b"/") -> bytes:
    return _put(b"Content-Length: %d" % size, path=path) + bytes(size)


def _chunks(count: int, size: int, path: bytes = b"/") -> bytes:
    chunk = b"%x\r\n%b\r\n" % (size, bytes(size))
    return _put(b"Transfer-Encoding: chunked", path=path) + chunk * count + b"0\r\n\r\n"


class Closing:
    """What a framework returns: blocks of which nobody knows how many, and close()."""

    def __init__(self, blocks: list[bytes]) -> None:
        self._blocks = blocks

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._blocks)

    def close(self) -> None:
        pass


class Known(list[bytes]):
    def close(self) -> None:
        pass


def _written(environ: Environ, start: App) -> Iterable[bytes]:
    start("403 Forbidden", [])(b"no")
    return []


def _wrapped(environ: Environ, start: App) -> Iterable[bytes]:
    start("403 Forbidden", [])
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(b"no"))
    return wrapped


def _generated(environ: Environ, start: App) -> Iterator[bytes]:
    start("403 Forbidden", [])
    yield b""
    yield b"no"


def _empty(environ: Environ, start: App) -> Iterator[bytes]:
    start("403 Forbidden", [])
    yield from ()


def _returning(make: Callable[[], Iterable[bytes]]) -> App:
    def app(environ: Environ, start: App) -> Iterable[bytes]:
        start("403 Forbidden", [])
        return make()

    return app


ANSWERS: dict[str, App] = {
    "list": _returning(lambda: [b"no"]),
    "many blocks": _returning(lambda: [b"no"] * 300),
    "tuple": _returning(lambda: (b"no",)),
    "generator": _generated,
    "empty generator": _empty,
    "write": _written,
    "object with close": _returning(lambda: Closing([b"no"])),
    "list with close": _returning(lambda: Known([b"no"])),
    "file wrapper": _wrapped,
}
each_answer = pytest.mark.parametrize("answer", ANSWERS)


def _refusing(answer: str, read: int = 0) -> App:
    """Refuses a PUT, of which it has read so many bytes, by this kind of answer."""

    def app(environ: Environ, start: App) -> Any:
        if environ["REQUEST_METHOD"] == "GET":
            start("200 OK", [])
            return [b"next"]
        environ["wsgi.input"].read(read)
        return ANSWERS[answer](environ, start)

    return app


def _see_next(raw: bytes) -> Answer:
    """The connection was kept, and the next request answered."""
    first, second = read_answers(raw, ["PUT", "GET"])
    assert not first.closes
    assert second.status == 200
    return first


@each_answer
async def test_a_large_body_that_nobody_reads_ends_the_connection_and_the_head_says_so(answer: str) -> None:
    """Told by Content-Length and more than is read on: be the head framed by the app's thread or by the loop."""
    async with serving(_refusing(answer), request_buffering=False) as served:
        with trio.fail_after(5):
            async with await served.connect() as stream:
                await stream.send_all(_put(b"Content-Length: %d" % MIB) + bytes(1000))
                refused = read_answer(await receive_all(stream), "PUT")
    assert (refused.status, refused.closes) == (403, True)


@each_answer
async def test_a_chunked_body_that_nobody_reads_is_read_on(answer: str) -> None:
    """How long it is nobody knows when the head leaves; what that promises is kept, however many chunks there are."""
    async with serving(_refusing(answer), request_buffering=False) as served:
        assert _see_next(await served.exchange(_chunks(20, 10_000) + NEXT)).status == 403


@each_answer
async def test_a_chunk_that_is_larger_than_what_is_read_on_ends_the_connection(answer: str) -> None:
    """Its size is known as soon as it begins: where the app has read of it and is done, it is told."""
    async with serving(_refusing(answer, read=1), request_buffering=False) as served:
        raw = await served.exchange(_chunks(1, MIB) + NEXT)
    answers = read_answers(raw, ["PUT", "GET"])
    assert answers[0].closes is (len(answers) == 1)


@each_answer
@pytest.mark.parametrize("expect", [True, False], ids=["expect", "at once"])
async def test_a_large_body_of_which_a_part_was_read(answer: str, expect: bool) -> None:
    """Who looks at the start of an upload and refuses it loses the connection and says so; or it is kept, where the
    app might have read on when the head left."""
    lines = [b"Content-Length: %d" % MIB, *([b"Expect: 100-continue"] if expect else [])]
    async with serving(_refusing(answer, read=4), request_buffering=False) as served:
        raw = await served.exchange(_put(*lines) + bytes(MIB) + NEXT)
    answers = read_answers(raw, ["PUT", "GET"])
    assert answers[0].status == 403
    assert answers[0].closes is (len(answers) == 1)
    if answer in {"list", "many blocks", "tuple", "list with close"}:
        assert answers[0].closes  # it was complete
    if answer in {"generator", "write", "object with close"}:
        assert not answers[0].closes


@pytest.mark.parametrize("long", [True, False], ids=["Content-Length", "chunked"])
async def test_an_app_that_echoes_a_large_body_keeps_its_connection(long: bool) -> None:
    """It answers while it reads: that most of the body has not come yet when its head leaves is no reason to close."""

    def echo(environ: Environ, start: App) -> Iterator[bytes]:
        start("200 OK", [])
        while block := environ["wsgi.input"].read(10_000):
            yield block

    body = _long(MIB) if long else _chunks(8, 2 * UNREAD_MAX)
    received = bytearray()
    async with serving(echo, request_buffering=False) as served:
        with trio.fail_after(10):
            async with await served.connect() as stream, trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, body + NEXT)
                async for data in stream:
                    received += data
    assert _see_next(bytes(received)).body == bytes(MIB)


@pytest.mark.parametrize("size", [UNREAD_MAX - 1, UNREAD_MAX, UNREAD_MAX + 1])
@pytest.mark.parametrize("path", [b"/", b"/s/file"], ids=["app", "mount"])
async def test_what_is_just_read_on(path: bytes, size: int, tmp_path: Path) -> None:
    """The length that the head is decided by is the one that is read on, to its end."""
    (tmp_path / "file").write_bytes(b"file")
    async with serving(_refusing("list"), request_buffering=False, static=(f"/s={tmp_path}",)) as served:
        raw = await served.exchange(_long(size, path) + NEXT)
    if size > UNREAD_MAX:
        assert read_answer(raw, "PUT").closes
    else:
        _see_next(raw)


@pytest.mark.parametrize("count", [1023, 1024, 3000])
@pytest.mark.parametrize("path", [b"/", b"/s/file"], ids=["app", "mount"])
async def test_many_small_chunks_are_read_on(path: bytes, count: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"file")
    async with serving(_refusing("list"), request_buffering=False, static=(f"/s={tmp_path}",)) as served:
        _see_next(await served.exchange(_chunks(count, 10, path) + NEXT))


@pytest.mark.parametrize("large", [True, False], ids=["large", "chunked"])
async def test_a_mount_that_is_sent_a_body(large: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"file")
    body = _long(MIB, b"/s/file") if large else _chunks(20, 10_000, b"/s/file")
    async with serving(_refusing("list"), static=(f"/s={tmp_path}",)) as served:
        raw = await served.exchange(body + NEXT)
    if large:
        assert read_answer(raw, "PUT").closes
    else:
        assert _see_next(raw).status == 405


@pytest.mark.parametrize("line", [b"Content-Length: 5", b"Transfer-Encoding: chunked"], ids=["length", "chunked"])
async def test_who_reads_nothing_on_says_so(line: bytes) -> None:
    """`linger_timeout` of 0: a body that was not read ends the connection, however small."""
    async with serving(_refusing("list"), request_buffering=False, linger_timeout=0) as served:
        with trio.fail_after(5):
            async with await served.connect() as stream:
                await stream.send_all(_put(line))
                assert read_answer(await receive_all(stream), "PUT").closes
