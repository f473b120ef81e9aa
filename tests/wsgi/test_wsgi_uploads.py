"""Where request bodies wait: in memory, in a file, or in the client (issue: "Request buffering")."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from asking import PLAIN, Environ, StartResponse, ask, error_lines, request
from riding import receive
from serving import receive_all, serving
from waiting import until

from trio_wsgi import Outcome
from trio_wsgi.disk.spool import Spool
from trio_wsgi.net import apprun
from trio_wsgi.net.buffers import Buffers

HALF = b"x" * 4096


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def digest(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Answers with the SHA-256 of the body."""
    summed = hashlib.sha256()
    while block := environ["wsgi.input"].read(100_003):
        summed.update(block)
    start_response("200 OK", PLAIN)
    return [f"{environ.get('CONTENT_LENGTH')} {summed.hexdigest()}".encode()]


@pytest.mark.parametrize(
    "settings", [{}, {"body_buffer_size": 0}, {"body_buffer_size": 1500_000}, {"request_buffering": False}], ids=str
)
@pytest.mark.parametrize("size", [0, 1, 1024 * 1024, 3_000_001])
async def test_a_body_arrives_as_it_was_sent(size: int, settings: dict[str, Any]) -> None:
    body = os.urandom(size)
    asked = await ask(digest, request("POST", "/", f"Content-Length: {size}") + body, **settings)
    assert asked.answer.body.decode() == f"{size} {hashlib.sha256(body).hexdigest()}"


@pytest.mark.parametrize("threads", [1])
async def test_slow_uploads_hold_no_thread(threads: int) -> None:
    """PAINS (WSGI layers): "slow-body clients hold the threads of gthread, cheroot and uWSGI: everybody else waits"."""
    async with serving(digest, threads=threads) as served:
        slow = []
        for number in range(20):
            stream = await served.connect()
            sent = request("POST", f"/{number}", "Content-Length: 8192") + HALF
            await stream.send_all(sent)
            slow.append(stream)
        with trio.fail_after(2):
            assert (await served.exchange(request())).endswith(hashlib.sha256().hexdigest().encode())
        for stream in slow:
            await stream.send_all(HALF)
        expected = hashlib.sha256(HALF + HALF).hexdigest().encode()
        with trio.fail_after(5):
            for stream in slow:
                assert (await receive_all(stream)).endswith(expected)
                await stream.aclose()


async def test_a_streamed_body_stays_in_the_client_until_the_app_reads_it() -> None:
    """PAINS 32 (hypercorn#176, #89): the server reads no further ahead than a buffer, whatever a client would send."""
    release = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        assert environ["wsgi.input"].read(1) == b"x"
        assert release.wait(10)
        return digest(environ, start_response)

    total = 48 * 1024 * 1024
    block = b"x" * (1024 * 1024)
    taken = 0

    async def upload(stream: trio.SocketStream) -> None:
        nonlocal taken
        await stream.send_all(request("POST", "/", f"Content-Length: {total}"))
        while taken < total:
            await stream.send_all(block)
            taken += len(block)

    async with serving(app, request_buffering=False) as served, await served.connect() as stream:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload, stream)
            await trio.sleep(0.3)
            # What the kernel holds on both sides is some megabytes; the rest is still with the client.
            assert taken < total / 2
            release.set()
        with trio.fail_after(20):
            raw = await receive_all(stream)
    assert raw.endswith(hashlib.sha256(b"x" * (total - 1)).hexdigest().encode())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at the open files in /proc")
async def test_a_temporary_file_has_no_name_and_is_freed(tmp_path: Path) -> None:
    seen = []

    def open_files() -> list[str]:
        names = []
        for number in Path("/proc/self/fd").iterdir():
            try:
                names.append(str(number.readlink()))
            except FileNotFoundError:
                continue
        return [name for name in names if name.startswith(str(tmp_path))]

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append((names_in(tmp_path), open_files()))
        start_response("200 OK", PLAIN)
        if environ["PATH_INFO"] == "/fail":
            raise RuntimeError("half-way")
        return [b"ok"]

    async with serving(app, temp_path=str(tmp_path), body_buffer_size=1000) as served:
        for path in ("/", "/fail"):
            await served.exchange(request("POST", path, body=b"x" * 5000))
        async with await served.connect() as stream:  # one that leaves while its body is on disk
            await stream.send_all(request("POST", "/", "Content-Length: 9000000") + b"x" * 2_000_000)
            await until(open_files)
            assert names_in(tmp_path) == []
        await served.record(3)
        assert open_files() == []
    for listed, opened in seen:
        assert listed == []
        assert len(opened) == 1


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
async def test_more_than_temp_limit_is_413(chunked: bool, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """PAINS 24, 32: what waits in files has a limit, too."""
    sent = request("POST", body=b"x" * 5000, chunked=chunked)
    asked = await ask(digest, sent, body_buffer_size=1000, temp_limit=4000, temp_path=str(tmp_path))
    assert asked.answer.status == 413
    assert asked.record.outcome is Outcome.REFUSED
    assert "temp_limit" in asked.record.reason
    assert error_lines(caplog) == []  # nobody's but the client's
    assert names_in(tmp_path) == []


async def test_a_directory_that_cannot_be_written_is_503_and_named_in_the_log(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    asked = await ask(digest, request("POST", body=b"x" * 5000), body_buffer_size=1000, temp_path=str(missing))
    assert asked.answer.status == 503
    assert asked.record.outcome is Outcome.SERVER_ERROR
    (line,) = error_lines(caplog)
    assert str(missing) in line and "temp_path" in line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("size", [5000, 3_000_000], ids=["found out at the end", "found out on the way"])
async def test_a_full_disk_is_503_and_said_in_one_line(
    size: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_a_full_disk(**_: object) -> Any:
        return Path("/dev/full").open("w+b", buffering=0)

    monkeypatch.setattr(tempfile, "TemporaryFile", on_a_full_disk)
    asked = await ask(digest, request("POST", body=b"x" * size), body_buffer_size=1000)
    assert asked.answer.status == 503
    (line,) = error_lines(caplog)
    assert "No space left" in line


async def test_a_body_of_thousands_of_tiny_chunks_costs_no_more_memory_than_its_bytes() -> None:
    """A block for each two bytes would cost twenty times as much, on every connection that is slow to finish."""
    from trio_wsgi.disk.spool import Spool

    spool = Spool(1_000_000, 0, None)
    for _ in range(100_000):
        spool.write(b"ab")
    held = spool.__dict__["_held"]
    assert len(held) == len(spool) == 200_000
    assert held.__sizeof__() < 500_000


async def test_tiny_chunks_that_are_being_gathered_cost_no_more_memory_than_their_bytes() -> None:
    from trio_wsgi.net.inlet import SMALL, _append

    blocks: list[bytes | bytearray | memoryview] = []
    for block in [b"large" * SMALL, *[b"ab"] * 100_000, b"large" * SMALL, b"small"]:
        _append(blocks, block)
    assert list(map(len, blocks)) == [5 * SMALL, 200_000, 5 * SMALL, 5]
    assert sum(block.__sizeof__() for block in blocks) < 10 * SMALL + 500_000


async def test_uploads_that_wait_hold_no_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of slow uploads would take a MiB each."""
    lend = Buffers.lend
    lent = [0]  # now

    @contextmanager
    def counting(buffers: Buffers) -> Iterator[memoryview]:
        with lend(buffers) as buffer:
            lent[0] += 1
            try:
                yield buffer
            finally:
                lent[0] -= 1
        assert len(buffers._free) <= 2

    monkeypatch.setattr(Buffers, "lend", counting)
    size = 3 * 1024 * 1024
    body = os.urandom(size)
    expected = hashlib.sha256(body).hexdigest().encode()
    async with serving(digest) as served, AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(await served.connect()) for _ in range(6)]
        for stream in streams:
            await stream.send_all(request("POST", "/", f"Content-Length: {size}") + body[: size // 2])
        with trio.fail_after(20):
            await until(lambda: not lent[0])
            for stream in streams:
                await stream.send_all(body[size // 2 :])
            for stream in streams:
                assert (await receive_all(stream)).endswith(expected)
    assert lent == [0]


async def test_who_reads_on_after_the_request_gets_no_byte_of_the_next_one() -> None:
    """An app that left `wsgi.input` to a thread of its own."""
    kept: list[Any] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        if not kept:
            kept.append(environ["wsgi.input"])
            assert environ["wsgi.input"].read(150_000) == b"1" * 150_000
        else:
            with pytest.raises(ValueError, match="the request is over"):
                kept[0].read(200_000)
            assert environ["wsgi.input"].read() == b"2" * 200_000
        start_response("200 OK", PLAIN)
        return [b"fine"]

    async with serving(app, request_buffering=False) as served, await served.connect() as stream:
        for digit in (b"1", b"2"):
            await stream.send_all(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 200000\r\n\r\n" + digit * 200_000)
            assert (await receive(stream, 4)).endswith(b"fine")


async def test_a_fast_upload_to_memory_lets_others_have_their_turn() -> None:
    """Gathering never waits while bytes are there; it has to give way all the same."""
    size = 60 * 1024 * 1024
    async with serving(digest, body_buffer_size=size) as served, await served.connect() as stream:
        answered_at: list[float] = []

        async def upload() -> None:
            await stream.send_all(request("POST", "/", f"Content-Length: {size}"))
            await trio.to_thread.run_sync(_send_blocking, stream.socket, b"x" * size)
            await receive_all(stream)
            answered_at.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            await trio.sleep(0.01)
            with trio.fail_after(5):
                await served.exchange(request())
            assert not answered_at  # it was served while the upload was under way
            nursery.cancel_scope.deadline = trio.current_time() + 20


def _send_blocking(sock: trio.socket.SocketType, data: bytes) -> None:
    import select
    import socket

    with socket.socket(fileno=os.dup(sock.fileno())) as mine:
        view = memoryview(data)
        while view:
            select.select([], [mine], [])
            view = view[mine.send(view) :]


async def test_the_threads_that_the_whole_program_shares_are_left_to_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """However many uploads wait for the disk: an embedding program uses `trio.to_thread` for its own."""
    go_on = threading.Event()

    class Slow(Spool):
        def write_blocks(self, blocks: Any) -> None:
            go_on.wait(10)
            super().write_blocks(blocks)

    monkeypatch.setattr(apprun, "Spool", Slow)
    shared = trio.to_thread.current_default_thread_limiter()
    async with serving(digest, body_buffer_size=0, temp_path=str(tmp_path)) as served, AsyncExitStack() as clients:
        streams = [await clients.enter_async_context(await served.connect()) for _ in range(20)]
        try:
            for stream in streams:
                await stream.send_all(request("POST", "/", f"Content-Length: {len(HALF)}") + HALF)
            with trio.fail_after(5):
                await until(lambda: len(served.server.statistics().connections) == 20)
                await trio.testing.wait_all_tasks_blocked(0.1)
            assert shared.borrowed_tokens == 0
        finally:
            go_on.set()
        for stream in streams:
            assert (await receive_all(stream)).endswith(hashlib.sha256(HALF).hexdigest().encode())
