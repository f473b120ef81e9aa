"""How a file answer ends: closed once, by whom and when; files that change; clients that go (PAINS 17, 29, 36)."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from asking import CLOSE, KEPT, App
from downloads import MIB, Client, Closes, connected, file_app, make_file, make_sparse
from mounted import ask
from opened import descriptors_of
from serving import Served, receive_all, serving
from threeways import serving_three, three_settings, three_ways
from tools import require_tool
from waiting import until, wait_until

from sendfile import alarms, pump
from sendfile.disk import Disk
from trio_wsgi import Outcome

BIG = 16 * MIB  # more than the kernel buffers
SMALL_BUFFER = 16 * 1024  # of the client, so that the server cannot finish before the client reads


@pytest.fixture
def big(tmp_path: Path) -> Path:
    return make_sparse(tmp_path / "big.bin", BIG, {0: b"first", BIG - 4: b"last"})


@pytest.fixture
def closes() -> Iterator[Closes]:
    """Watched closes; whatever the test was about, none may have come twice or on the event loop."""
    watched = Closes()
    yield watched
    assert threading.get_ident() not in watched.threads, "the app's close() ran on the event loop"


@pytest.fixture
def watched(big: Path, closes: Closes) -> App:
    """An app that answers with the big file, whose closes are watched."""
    return file_app(lambda _: closes.watch(big.open("rb")))


@contextlib.asynccontextmanager
async def stalled(served: Served) -> Any:
    """A client that has the first piece of the file and reads no further by itself."""
    async with connected(served, SMALL_BUFFER) as client:
        await client.send("/big")
        head = await client.read_head()
        assert (await client.read_some()).startswith(b"first")
        yield client, head


def error_lines(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    lines = [entry.getMessage() for entry in caplog.records if entry.name == "trio_wsgi.error"]
    return [line for line in lines if word in line]


# -- close(): once, in an application thread ----------------------------------------------------------------------


async def test_closed_once_after_the_last_byte(watched: App, closes: Closes, sendfile: bool) -> None:
    """PEP 3333: close() upon completion of the request; not while bytes of it are still to be sent."""
    async with serving(watched, sendfile=sendfile) as served, stalled(served) as (client, head):
        await trio.sleep(0.1)
        assert len(closes) == 0
        with trio.fail_after(20):
            reply = await client.read(head)
        assert reply.whole
        await closes.wait()
        assert (await client.ask("/hello")).body == b"hello"
        assert len(closes) == 1
        await served.record(2)
        assert [record.outcome for record in served.records] == [Outcome.FINISHED] * 2


@pytest.mark.parametrize("deleted", [True, False], ids=["deleted", "still there"])
async def test_a_file_deleted_while_it_is_sent_is_closed_by_a_thread(way: str, deleted: bool, tmp_path: Path) -> None:
    """unlink(2): the close frees its blocks, some 0.2 ms a MiB. What is still there needs no thread to be closed."""
    path = make_sparse(tmp_path / "big", BIG, {0: b"first"})
    gate, held = threading.Event(), threading.Event()
    inner = three_ways(tmp_path)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["PATH_INFO"] != "/hold":
            return inner(environ, start_response)
        held.set()
        gate.wait(30)
        start_response("200 OK", [])
        return [b"held"]

    async with serving(app, threads=1, linger_timeout=0.05, **three_settings(tmp_path)) as served:
        async with await served.connect() as holder:
            async with connected(served, SMALL_BUFFER) as client:
                await client.send(f"/{way}/big")
                await client.read_head()
                await holder.send_all(b"GET /hold HTTP/1.1\r\nHost: t\r\n\r\n")
                await trio.to_thread.run_sync(held.wait, 10)  # there is no thread for the close any more
                if deleted:
                    path.unlink()
            try:
                await served.record()
                assert bool(descriptors_of(path)) == deleted
            finally:
                gate.set()
        await served.record(2)
        await trio.to_thread.run_sync(wait_until, lambda: not descriptors_of(path))


class BrokenDisk(Disk):
    """Its first MiB can be read, and is in memory."""

    def probe(self, fd: int, offset: int) -> bool | None:
        return offset < MIB

    def fetch(self, fd: int, offset: int, count: int, kernel: bool = True) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """That the disk was: nothing of large files is in memory, nor comes there before the test is over."""
    asked, over = threading.Event(), threading.Event()

    class HangingDisk(Disk):
        def probe(self, fd: int, offset: int) -> bool | None:
            return offset < MIB

        def fetch(self, fd: int, offset: int, count: int, kernel: bool = True) -> None:
            asked.set()
            over.wait(30)

    monkeypatch.setattr(pump, "Disk", HangingDisk)
    monkeypatch.setattr(alarms, "_LOOK", 0.05)
    yield asked
    over.set()


@pytest.mark.usefixtures("asked")
async def test_a_disk_that_hangs_ends_what_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else clients that give up and come again would leave a connection each."""
    monkeypatch.setattr(alarms, "_DISK_PATIENCE", 0.2)
    path = make_sparse(tmp_path / "big", BIG, {0: b"first"})
    async with serving_three(tmp_path) as served:
        async with await served.connect() as stream:
            await stream.send_all(b"GET /wrapped/big HTTP/1.1\r\nHost: a\r\n\r\n")
            with trio.fail_after(10):
                assert len(await receive_all(stream)) < BIG
        record = await served.record()
    assert record.outcome is Outcome.SERVER_ERROR
    assert record.reason == f"{path} could not be read on: its disk gave nothing for 0.2 s"


async def test_a_client_that_leaves_while_a_disk_hangs_is_noticed(
    way: str, tmp_path: Path, asked: threading.Event
) -> None:
    """Its connection is not kept until the disk answers, or has had its time."""
    make_sparse(tmp_path / "big", BIG, {0: b"first"})
    async with serving_three(tmp_path, half_close="abort") as served:
        async with connected(served) as client:
            await client.send(f"/{way}/big")
            await client.read_head()
            while not asked.is_set():
                with trio.move_on_after(0.05):
                    await client.read_some()
        record = await served.record()
    assert record.outcome is Outcome.CLIENT_GONE
    assert record.reason == "while sending: the peer closed the connection while its file's disk hung"


async def test_a_disk_that_fails_is_nobody_elses_fault(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """EIO while a file is sent: a cut, and one line that names the file; not the application's, and no traceback."""
    monkeypatch.setattr(pump, "Disk", BrokenDisk)
    path = make_sparse(tmp_path / "big", BIG, {0: b"first"})
    async with serving_three(tmp_path) as served:
        async with connected(served) as client:
            reply = await client.ask(f"/{way}/big")
            assert not reply.whole
        record = await served.record()
    assert record.outcome is Outcome.SERVER_ERROR
    assert record.reason == f"{path} could not be read on: Input/output error"
    (line,) = [entry for entry in caplog.records if entry.name == "trio_wsgi.error"]
    assert record.reason in line.getMessage()
    assert (line.levelname, line.exc_info) == ("ERROR", None)


async def test_the_next_request_starts_after_the_close(big: Path, closes: Closes) -> None:
    """PAINS 17 (uwsgi#2422): a pipelined request does not run before the file of the last one is closed."""
    seen: list[int] = []
    inner = file_app(lambda _: closes.watch(big.open("rb")), [("Content-Length", "5")])

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        seen.append(len(closes))
        return inner(environ, start_response)

    async with serving(app, threads=4) as served:
        await served.exchange(KEPT * 3 + CLOSE)
        await closes.wait(4)
    assert seen == [0, 1, 2, 3]


async def test_closed_once_when_the_client_goes(watched: App, closes: Closes) -> None:
    """A disconnect in the middle ends the delivery; the record says so and how far it came."""
    async with serving(watched) as served:
        async with stalled(served):
            pass
        record = await served.record()
        await closes.wait()
        assert record.outcome is Outcome.CLIENT_GONE
        assert 5 <= record.body_sent < BIG
        assert record.body_promised == BIG
    assert len(closes) == 1


async def test_closed_once_at_the_write_deadline(
    watched: App, closes: Closes, caplog: pytest.LogCaptureFixture
) -> None:
    """PAINS 29 (uwsgi#2059): a stalled client is cut; the log says who, what, for how long and by which setting."""
    caplog.set_level(logging.INFO)
    async with serving(watched, write_timeout=0.3) as served, stalled(served):
        record = await served.record()
        await closes.wait()
        assert (record.outcome, record.body_promised) == (Outcome.WRITE_TIMEOUT, BIG)
        (line,) = error_lines(caplog, "write-timeout")
        for word in ("127.0.0.1:", "/big", "0.3 s", "write_timeout"):
            assert word in line
    assert len(closes) == 1


async def test_closed_once_when_the_server_is_cancelled(watched: App, closes: Closes) -> None:
    """Shutdown cuts the delivery and still runs the app's close(), in a thread, before serve() returns."""
    with trio.fail_after(10):
        async with serving(watched) as served:
            context = stalled(served)
            await context.__aenter__()
            assert len(closes) == 0
        assert len(closes) == 1
        assert served.records[-1].outcome is Outcome.SHUTDOWN
        with contextlib.suppress(trio.BrokenResourceError):
            await context.__aexit__(None, None, None)


async def test_closed_once_when_a_drain_runs_out_of_time(watched: App, closes: Closes) -> None:
    """A drain waits for downloads that move up to drain_max, then cuts them, too."""
    async with serving(watched, graceful_timeout=0.3, drain_max=0.3) as served, stalled(served):
        served.server.drain()
        assert (await served.record()).outcome is Outcome.SHUTDOWN
        await closes.wait()
    assert len(closes) == 1


async def test_a_drain_lets_a_download_finish(watched: App, closes: Closes) -> None:
    """PAINS 3 of the peers: TERM in the middle of a download that progresses does not cut it."""
    async with serving(watched, graceful_timeout=30) as served, stalled(served) as (client, head):
        served.server.drain()
        with trio.fail_after(20):
            reply = await client.read(head)
        assert reply.whole
        assert reply.body.endswith(b"last")
        await closes.wait()
    assert len(closes) == 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(CLOSE.replace(b"GET", b"HEAD"), id="HEAD"),
        pytest.param(CLOSE.replace(b"Host", b"If-None-Match: *\r\nHost"), id="304"),
        pytest.param(CLOSE.replace(b"Host", b"Range: bytes=7-8\r\nHost"), id="206"),
        pytest.param(CLOSE.replace(b"Host", b"Range: bytes=999999999-\r\nHost"), id="416"),
        pytest.param(CLOSE.replace(b"Host", b'If-Match: "x"\r\nHost'), id="412"),
    ],
)
async def test_closed_once_when_nothing_or_little_of_it_is_sent(
    watched: App, closes: Closes, request_bytes: bytes
) -> None:
    """PEP 3333: close() whatever becomes of the body."""
    async with serving(watched) as served:
        assert await served.exchange(request_bytes)
        await closes.wait()
    assert len(closes) == 1


async def test_closed_once_when_the_app_breaks_a_rule(big: Path, closes: Closes) -> None:
    """PAINS 36: also where the answer became a 500, because start_response was never called."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        return environ["wsgi.file_wrapper"](closes.watch(big.open("rb")))

    async with serving(app) as served:
        assert (await ask(served)).status == 500
        await closes.wait()
    assert len(closes) == 1


async def test_a_close_that_fails_or_takes_its_time_disturbs_nobody(
    big: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """close() is the app's code: it may block and raise; other requests and this answer do not suffer."""
    released = threading.Event()

    def open_file(environ: dict[str, Any]) -> Any:
        file: Any = big.open("rb")
        really_close = file.close

        def close() -> None:
            really_close()
            released.wait(5)
            raise RuntimeError("close went wrong")

        file.close = close
        return file

    app = file_app(open_file, [("Content-Length", "5")])
    async with serving(app, threads=2) as served, connected(served) as client:
        assert (await client.ask()).body == b"first"
        async with await served.connect() as other:
            assert (await Client(other).ask("/hello", seconds=2)).body == b"hello"
        released.set()
        assert (await served.record(2)).outcome is Outcome.FINISHED
    assert "close went wrong" in caplog.text


# -- files that change while they are sent ----------------------------------------------------------------------------


async def test_a_file_that_shrinks_is_cut_and_logged(
    big: Path, watched: App, closes: Closes, sendfile: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The promised length cannot be kept: the client can tell, and the log names the file and where it ended."""
    caplog.set_level(logging.INFO)
    async with serving(watched, sendfile=sendfile) as served, stalled(served) as (client, head):
        os.truncate(big, 10 * MIB)
        with trio.fail_after(20):
            reply = await client.read(head)
        assert not reply.whole
        assert len(reply.body) <= 10 * MIB
        record = await served.record()
        assert (record.outcome, record.body_sent, record.body_promised) == (Outcome.FILE_TOO_SHORT, 10 * MIB, BIG)
        (line,) = error_lines(caplog, "file-too-short")
        assert not error_lines(caplog, "report")
        for word in ("127.0.0.1:", "/big", str(big), f"byte {10 * MIB}", f"{6 * MIB} bytes"):
            assert word in line
        await closes.wait()
    assert len(closes) == 1


async def test_a_file_that_grows_is_sent_as_promised(big: Path, sendfile: bool) -> None:
    """The length is that of the moment the answer began; the connection stays in step."""
    async with (
        serving(file_app(lambda _: big.open("rb")), sendfile=sendfile) as served,
        stalled(served) as (client, head),
    ):
        with big.open("ab") as file:
            file.write(b"more" * 10_000)
        with trio.fail_after(20):
            reply = await client.read(head)
        assert reply.whole
        assert len(b"first") <= len(reply.body) <= BIG
        assert reply.body.endswith(b"last")
        assert (await client.ask("/hello")).body == b"hello"
        assert served.records[0].body_sent == BIG


async def test_a_file_that_is_replaced_is_sent_as_it_was(big: Path) -> None:
    """A new file under the same name does not mix with the old one."""
    async with serving(file_app(lambda _: big.open("rb"))) as served, stalled(served) as (client, head):
        big.with_name("new").write_bytes(b"new" * MIB)
        big.with_name("new").replace(big)
        with trio.fail_after(20):
            reply = await client.read(head)
        assert reply.whole
        assert reply.body.endswith(b"last")
        assert b"new" not in reply.body[-100:]


async def test_a_file_closed_by_the_app_while_it_is_sent(big: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The app's fault, not the client's: the connection is cut, the server goes on, and nobody else's file is sent."""
    files: list[Any] = []

    def open_file(_: object) -> Any:
        files.append(big.open("rb"))
        return files[-1]

    async with serving(file_app(open_file)) as served:
        async with stalled(served) as (client, head):
            files[0].close()
            with trio.fail_after(20):
                assert not (await client.read(head)).whole
        record = await served.record()
        assert record.outcome not in (Outcome.FINISHED, Outcome.CLIENT_GONE)
        assert "closed file" in record.reason
        assert (await ask(served, "/hello")).body == b"hello"


# -- clients that go --------------------------------------------------------------------------------------------------


async def test_kill_9_of_curl_in_the_middle(tmp_path: Path, closes: Closes) -> None:
    """The record says client-gone and how much was sent; the file is closed; no thread was held."""
    curl = require_tool("curl")
    path, out = make_sparse(tmp_path / "huge.bin", 106 * MIB), tmp_path / "out"
    app = file_app(lambda _: closes.watch(path.open("rb")))
    async with serving(app, threads=1) as served:
        command = [curl, "-s", "--limit-rate", "1M", "-o", str(out), served.url + "/huge"]
        child = subprocess.Popen(command)  # noqa: ASYNC220
        try:
            await until(lambda: out.exists() and out.stat().st_size > 100_000)
        finally:
            child.kill()
            child.wait()
        record = await served.record()
        await closes.wait()
        assert record.outcome is Outcome.CLIENT_GONE
        assert 100_000 < record.body_sent < record.body_promised == 106 * MIB
    assert len(closes) == 1


async def test_a_client_that_closes_its_sending_side_still_gets_the_file(tmp_path: Path) -> None:
    """A half-closed connection is no disconnect (RFC 9112 §9.6): `printf … | nc` works."""
    data = make_file(tmp_path / "data.bin", 5 * MIB)
    async with serving(file_app(lambda _: (tmp_path / "data.bin").open("rb"))) as served:
        async with await served.connect(SMALL_BUFFER) as stream:
            await stream.send_all(CLOSE)
            await stream.send_eof()
            received = bytearray()
            with trio.fail_after(20):
                async for chunk in stream:
                    received += chunk
        assert bytes(received).endswith(data)


async def test_progress_keeps_a_slow_download_alive(tmp_path: Path) -> None:
    """PAINS 30 (cheroot#20): the deadline counts time without any progress, not the time of the download."""
    path = make_sparse(tmp_path / "data.bin", 8 * MIB)
    async with serving(file_app(lambda _: path.open("rb")), write_timeout=0.4) as served:
        async with await served.connect(SMALL_BUFFER) as stream:
            await stream.send_all(CLOSE)
            start = time.monotonic()
            count = 0
            with trio.fail_after(30):
                while data := await stream.receive_some(MIB):
                    count += len(data)
                    # 300 KB/s: it takes longer than the deadline to make room that the kernel tells us of
                    if time.monotonic() - start < 1.6:
                        await trio.sleep(0.05)
        assert count > 8 * MIB
        assert (await served.record()).outcome is Outcome.FINISHED


@pytest.mark.parametrize("where", ["tcp", "unix"])
async def test_a_stall_is_noticed_in_time(tmp_path: Path, where: str) -> None:
    """A reader that has stopped is ended after write_timeout and not much later."""
    path = make_sparse(tmp_path / "data.bin", 64 * MIB)
    bind = ("127.0.0.1:0",) if where == "tcp" else (f"unix:{tmp_path}/s",)
    async with serving(file_app(lambda _: path.open("rb")), write_timeout=0.4, bind=bind) as served:
        stream = await served.connect() if where == "tcp" else await trio.open_unix_socket(f"{tmp_path}/s")
        async with stream:
            await stream.send_all(CLOSE)
            record = await served.record()
        assert record.outcome is Outcome.WRITE_TIMEOUT
        assert 0.4 <= record.duration < 1.5
