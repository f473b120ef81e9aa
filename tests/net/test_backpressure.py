"""Memory stays flat however much is produced for clients that do not read, and comes back when they have gone.

Measured on the real command, as a process: its resident set.
"""

from __future__ import annotations

import contextlib
import gc
import http.client
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from downloads import Client, make_sparse
from faults import Vanishes
from serving import Command, command, serving
from waiting import until

MIB = 1 << 20
GIB = 1 << 30

APP = """
import itertools

HALF = bytes(32768)

def block():  # another object each time, for the same one costs nothing however often it is kept
    return HALF + HALF

def app(environ, start_response):
    path, _, size = environ["PATH_INFO"].strip("/").partition("/")
    write = start_response("200 OK", [("Content-Type", "application/octet-stream")])
    if path == "file":
        return environ["wsgi.file_wrapper"](open("large", "rb"))
    if path == "generator":
        return (block() for _ in itertools.repeat(None))
    if path == "tiny":  # blocks whose objects weigh more than their bytes
        return itertools.repeat(b"1234")
    if path == "write":
        for _ in range(int(size) // len(block())):
            while True:
                try:
                    write(block())
                    break
                except BlockingIOError:
                    environ["trio_wsgi.wait_writable"](None)
    if path == "megabytes":  # larger blocks, of which the server holds what the kernel did not take
        while True:
            try:
                write(bytes(1 << 20))
            except BlockingIOError:
                environ["trio_wsgi.wait_writable"](None)
    return [b"hello"]
"""


def settled(running: Command, seconds: float = 10.0, below: float = 0) -> int:
    """The resident set once it has stopped changing (or is `below` what was hoped for)."""
    patience = time.monotonic() + seconds
    last, calm = running.resident, 0
    while time.monotonic() < patience and calm < 4 and not last <= below:
        time.sleep(0.05)
        now = running.resident
        calm = calm + 1 if abs(now - last) < 200_000 else 0
        last = now
    return last


def hello(running: Command) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/hello")
        return connection.getresponse().read()


@contextlib.contextmanager
def stalled_clients(running: Command, count: int, path: str) -> Iterator[None]:
    """So many that have asked and do not read."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(10)
            sock.connect(("127.0.0.1", running.port))
            sock.sendall(b"GET %b HTTP/1.1\r\nHost: t\r\n\r\n" % path.encode())
            sock.recv(1)
        yield


@contextlib.contextmanager
def serving_large(tmp_path: Path, *arguments: str) -> Iterator[Command]:
    (tmp_path / "large_app.py").write_text(APP)
    make_sparse(tmp_path / "large", GIB)
    spool_to = tmp_path / "spool"
    spool_to.mkdir()
    options = ("-b", "127.0.0.1:0", "--temp-path", str(spool_to), *arguments)
    # As docs say for apps with large blocks: without it glibc keeps freed megabytes for itself (mallopt(3)).
    with command("large_app:app", *options, cwd=tmp_path, MALLOC_TRIM_THRESHOLD_="131072") as running:
        for _ in range(10):
            assert hello(running) == b"hello"
        yield running


class Block(bytes):
    """A block that tells when nobody has it any more."""

    dropped: ClassVar[list[int]] = []

    def __del__(self) -> None:
        self.dropped.append(len(self))


@pytest.fixture
def no_collector(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What is freed now is freed because nobody holds it: a collector comes too late for gigabytes."""
    caplog.set_level(logging.CRITICAL + 1, "trio_wsgi.error")  # pytest keeps records, and so the tracebacks in them
    Block.dropped.clear()
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def produces(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    write = start_response("200 OK", [])
    match environ["PATH_INFO"].rpartition("/")[2]:
        case "list":
            return [Block(1_000_000)]
        case "generator":
            return (Block(1_000_000) for _ in range(int(environ["QUERY_STRING"] or 1)))
        case "write":
            for _ in range(int(environ["QUERY_STRING"] or 1)):
                write(Block(1_000_000))
        case "fails":
            block = Block(1_000_000)
            raise ValueError(len(block))
    return []


PRODUCES = ["list", "generator", "write", "fails"]


@pytest.mark.parametrize("ahead", [0, 5_000_000])
@pytest.mark.parametrize("policy", ["block", "raise", "buffer"])
@pytest.mark.parametrize("how", PRODUCES)
async def test_an_idle_connection_holds_nothing_of_its_last_response(
    how: str, policy: str, ahead: int, no_collector: None
) -> None:
    """PAINS 24 (waitress#111, #265, #357): buffers kept on keep-alive."""
    async with serving(produces, write_policy=policy, output_buffering=ahead) as served:
        client = Client(await served.connect())
        async with client.stream:
            reply = await client.ask(f"/{how}")
            assert reply.whole
            await until(lambda: Block.dropped == [1_000_000])


@pytest.mark.parametrize("ahead", [0, 5_000_000])
@pytest.mark.parametrize("policy", ["block", "raise"])
@pytest.mark.parametrize("how", ["generator?40", "write?40"])
async def test_a_client_that_has_gone_leaves_nothing_behind(
    how: str, policy: str, ahead: int, no_collector: None
) -> None:
    """Nor does the traceback of the error that it was: that of the app's own frames."""
    async with serving(produces, write_policy=policy, output_buffering=ahead) as served:
        stream = await served.connect(16384)
        await stream.send_all(b"GET /%b HTTP/1.1\r\nHost: t\r\n\r\n" % how.encode())
        await Vanishes(stream, 1000, reset=True).run()
        record = await served.record()
        assert record.status == 200
        # isinstance() would ask every object for its __class__, and wake up the lazy ones of other tests.
        await until(lambda: not any(type(item) is Block for item in gc.get_objects()))
        made = len(Block.dropped)
        assert made >= 1
    gc.collect()
    assert len(Block.dropped) == made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "arguments", "each"),
    [
        ("/file", ("--threads", "1"), 100_000),
        ("/file", ("--threads", "1", "--no-sendfile"), 200_000),
        ("/generator", ("--threads", "21"), 400_000),
        ("/generator", ("--threads", "21", "--output-buffering", "256k"), 900_000),
        ("/tiny", ("--threads", "21", "--output-buffering", "256k"), 900_000),
        (f"/write/{GIB}", ("--threads", "21"), 400_000),
        (f"/write/{GIB}", ("--threads", "21", "--write-policy", "raise"), 400_000),
        ("/megabytes", ("--threads", "21", "--write-policy", "raise"), 3_500_000),
        (f"/write/{64 * MIB}", ("--threads", "1", "--write-policy", "buffer", "--write-buffer-size", "64k"), 400_000),
        (f"/write/{MIB}", ("--threads", "1", "--write-policy", "buffer"), 1_500_000),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_stalled_clients_cost_little_and_give_it_back(
    path: str, arguments: tuple[str, ...], each: int, tmp_path: Path
) -> None:
    """PAINS 23 (granian#885, girder#3799: a 10 GB download grew RAM by 10 GB), 24 (waitress#67: an app that yields was
    run to its end); of the WSGI layers: 60 that never read grew one server to 20 GB, and 85 MiB stayed with another.

    Args:
        each: bytes that a stalled client may cost.
    """
    count = 20
    with serving_large(tmp_path, *arguments) as running:
        with stalled_clients(running, 5, path):  # whatever is allocated once
            settled(running)
        before = settled(running)
        for _ in range(3):
            with stalled_clients(running, count, path):
                during = settled(running)
                assert hello(running) == b"hello"
            allowed = before + 12 * MIB
            after = settled(running, below=allowed)
            assert during - before <= count * each
            assert after <= allowed
        assert list((tmp_path / "spool").iterdir()) == []
