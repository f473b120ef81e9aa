"""Where a file answer starts, where it ends, and how it is framed (PEP 3333; RFC 9112 §6; PAINS 1, 2, 5, 6, 13)."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from answers import read_answer, read_answers
from asking import CLOSE, KEPT
from downloads import Headers, connected, file_app, known_bytes
from serving import serving

DATA = known_bytes(70_000) + b"a line\nanother line\n" + known_bytes(30_000, seed=8)

POSITIONS: dict[str, Callable[[Any], object]] = {
    "at the start": lambda file: None,
    "after read, which reads ahead": lambda file: file.read(10),
    "after peek, which moves nothing": lambda file: file.peek(10) if hasattr(file, "peek") else None,
    "after readline": lambda file: file.readline(),
    "after a line of iteration": lambda file: next(file),
    "after seek": lambda file: file.seek(65_537),
    "after read and seek back": lambda file: (file.read(50_000), file.seek(3)),
    "after seek from the end": lambda file: file.seek(-5, io.SEEK_END),
    "at the last byte": lambda file: file.seek(len(DATA) - 1),
    "at the end": lambda file: file.read(),
    "beyond the end": lambda file: file.seek(len(DATA) + 1000),
}
MODES = {"buffered": {}, "unbuffered": {"buffering": 0}, "read and write": {"mode": "r+b"}}

GET_10 = b"GET / HTTP/1.0\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data.bin").write_bytes(DATA)
    return tmp_path / "data.bin"


def opener(path: Path, position: str, mode: str = "buffered") -> Callable[[Any], BinaryIO]:
    def open_file(_: object) -> BinaryIO:
        file: Any = path.open(**({"mode": "rb"} | MODES[mode]))
        POSITIONS[position](file)
        return file  # type: ignore[no-any-return]

    return open_file


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("position", POSITIONS)
async def test_it_starts_at_the_current_position(path: Path, position: str, mode: str, sendfile: bool) -> None:
    """PAINS 1, 2 (gunicorn#2669, uwsgi#1230): what is sent is what read() would have given; its length is added."""
    open_file = opener(path, position, mode)
    with open_file(None) as reference:
        rest = reference.read()
    async with serving(file_app(open_file), sendfile=sendfile) as served:
        for request in (CLOSE, GET_10):
            answer = read_answer(await served.exchange(request))
            assert answer.body == rest
            assert answer.value("Content-Length") == str(len(rest))
        head = read_answer(await served.exchange(HEAD), "HEAD")
        assert head.value("Content-Length") == str(len(rest))


@pytest.mark.parametrize("length", [0, 1, 10, 30_000])
async def test_content_length_cuts_it_exactly(path: Path, length: int, sendfile: bool) -> None:
    """PAINS 5, 6 (web2py#2658): never a byte beyond Content-Length, so the next response starts where it has to."""
    headers = [("Content-Length", str(length)), ("Content-Range", f"bytes 65537-{65536 + length}/{len(DATA)}")]
    app = file_app(opener(path, "after seek"), headers, status="206 Partial Content")
    async with serving(app, sendfile=sendfile) as served, connected(served) as client:
        for _ in range(3):
            reply = await client.ask()
            assert (reply.status, reply.whole) == (206, True)
            assert reply.body == DATA[65_537 : 65_537 + length]
            assert (await client.ask("/hello")).body == b"hello"


@pytest.mark.parametrize("position", ["at the start", "after seek", "at the end", "beyond the end"])
async def test_a_content_length_that_promises_too_much_is_seen_by_the_client(
    path: Path, position: str, sendfile: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """PAINS 22: all there is is sent, then the connection ends, so that the client knows that bytes are missing."""
    open_file = opener(path, position)
    with open_file(None) as reference:
        rest = reference.read()
    app = file_app(open_file, [("Content-Length", str(len(rest) + 7))])
    async with serving(app, sendfile=sendfile) as served:
        async with connected(served) as client:
            reply = await client.ask()
        assert (reply.body, reply.whole) == (rest, False)
        assert reply.headers[b"content-length"] == str(len(rest) + 7).encode()
        record = await served.record()
        assert (record.outcome.value, record.body_sent, record.body_promised) == (
            "app-error",
            len(rest),
            len(rest) + 7,
        )
        assert "7 bytes" in caplog.text


@pytest.mark.parametrize("promised", [None, "0"], ids=["length added", "length set"])
@pytest.mark.parametrize("open_empty", ["empty file", "file at its end", "empty BytesIO", "/dev/null"])
async def test_nothing_to_send_is_framed_rightly(path: Path, open_empty: str, promised: str | None) -> None:
    """PAINS 13 (bjoern#165), 8 of the peers (fastwsgi died of a file without a length); of the WSGI layers: two peers
    end an empty file twice, one takes the server down with it."""
    empty = path.with_name("empty")
    empty.touch()
    openers: dict[str, Callable[[Any], Any]] = {
        "empty file": lambda _: empty.open("rb"),
        "file at its end": opener(path, "at the end"),
        "empty BytesIO": lambda _: io.BytesIO(),
        "/dev/null": lambda _: Path("/dev/null").open("rb"),  # noqa: SIM115
    }
    app = file_app(openers[open_empty], [("Content-Length", promised)] if promised else [])
    async with serving(app) as served:
        raw = await served.exchange(KEPT + HEAD.replace(b"Connection: close\r\n", b"") + KEPT + CLOSE)
        answers = read_answers(raw, ["GET", "HEAD", "GET", "GET"])
        assert [(answer.status, answer.body) for answer in answers] == [(200, b"")] * 4
        assert [answer.value("Content-Length") for answer in answers if answer is not answers[1]] == ["0"] * 3
        # HEAD: an iterable that gives nothing says nothing of GET's length, a file does (RFC 9110 §8.6)
        assert answers[1].values("Content-Length") == (["0"] if promised or "file" in open_empty else [])
        assert read_answer(await served.exchange(GET_10)).body == b""
        assert read_answer(await served.exchange(HEAD.replace(b"1.1", b"1.0")), "HEAD").body == b""


FRAMINGS: dict[str, tuple[bytes, Headers]] = {
    "chunked": (CLOSE, []),
    "ended by closing": (GET_10, []),
    "counted": (CLOSE, [("Content-Length", "{total}")]),
    "counted, 1.0": (GET_10, [("Content-Length", "{total}")]),
}


@pytest.mark.parametrize("policy", ["block", "raise", "buffer"])
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("position", ["at the start", "after seek", "at the end", "beyond the end"])
async def test_a_file_after_write(path: Path, position: str, framing: str, policy: str) -> None:
    """PAINS (WSGI layers): write() followed by a file breaks the framing of others, first of all an empty one."""
    request, headers = FRAMINGS[framing]
    open_file = opener(path, position)
    with open_file(None) as reference:
        whole = b"written first\n" + reference.read()
    headers = [(name, value.format(total=len(whole))) for name, value in headers]
    app = file_app(open_file, headers, before=b"written first\n")
    async with serving(app, write_policy=policy) as served:
        raw = await served.exchange(request)
        answer = read_answer(raw)
        assert answer.body == whole
        if answer.values("Transfer-Encoding"):
            assert raw.endswith(b"\r\n0\r\n\r\n")
            assert not raw.endswith(b"0\r\n\r\n0\r\n\r\n")
        assert read_answer(await served.exchange(request.replace(b"GET", b"HEAD")), "HEAD").body == b""


async def test_write_and_a_file_cut_together(path: Path) -> None:
    """Content-Length counts what was written and what the file gives as one body."""
    app = file_app(opener(path, "at the start"), [("Content-Length", "100")], before=b"written first\n")
    async with serving(app) as served, connected(served) as client:
        for _ in range(2):
            assert (await client.ask()).body == b"written first\n" + DATA[:86]


@pytest.mark.parametrize("headers", [[], [("Content-Length", "10")]], ids=["length added", "length set"])
async def test_head_has_the_headers_of_get_and_no_body(path: Path, headers: Headers) -> None:
    """PAINS 5 of the peers: HEAD on a view that returns a file sent the file (RFC 9110 §9.3.2)."""
    async with serving(file_app(opener(path, "after seek"), headers)) as served:
        get = read_answer(await served.exchange(CLOSE))
        head = read_answer(await served.exchange(HEAD), "HEAD")
        both = [{name: value for name, value in answer.headers if name != b"date"} for answer in (get, head)]
        assert both[0] == both[1]
        assert head.body == b""
        record = await served.record(2)
        assert (record.method, record.outcome.value, record.body_sent) == ("HEAD", "finished", 0)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_a_status_without_body_sends_no_file(path: Path, status: str) -> None:
    """RFC 9110 §15.3.5, §15.4.5: the file is closed and nothing of it leaves; the connection goes on."""
    async with (
        serving(file_app(opener(path, "at the start"), status=status)) as served,
        connected(served) as client,
    ):
        for _ in range(2):
            reply = await client.ask()
            assert (reply.status, reply.body, reply.whole) == (int(status[:3]), b"", True)


@pytest.mark.parametrize("blksize", [1, 1000, 10**9])
async def test_the_block_size_changes_no_byte(path: Path, blksize: int) -> None:
    """PEP 3333: the block size is a suggestion."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [])
        file = path.open("rb") if environ["PATH_INFO"] == "/file" else io.BytesIO(DATA[:3000])
        return environ["wsgi.file_wrapper"](file, blksize)

    async with serving(app) as served, connected(served) as client:
        assert (await client.ask("/file")).body == DATA
        assert (await client.ask("/memory")).body == DATA[:3000]
