"""What the kernel is asked to do for a download: sendfile, no read of the file, no spinning (PAINS 8 of the peers)."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from answers import read_answers
from asking import request
from downloads import MIB, blocking_client, make_file
from serving import read_all
from tools import require_tool

import trio_wsgi

SIZE = 40 * MIB
APP = """\
def app(environ, start_response):
    length = environ['QUERY_STRING']
    start_response('200 OK', [('Content-Length', length)] if length else [])
    if environ['PATH_INFO'] == '/hello':
        return [b'hello']
    file = open('data.bin', 'rb')
    file.read(10)
    return environ['wsgi.file_wrapper'](file)
"""
CALLS = "sendfile,read,pread64,preadv,preadv2,readv,mmap,splice,epoll_wait,epoll_pwait,poll,sendto,sendmsg,close"


class Traced:
    """The real command under strace, with the paths of descriptors (-y)."""

    def __init__(self, directory: Path, port: int) -> None:
        self._trace = directory / "trace"
        self.port = port

    @property
    def lines(self) -> list[str]:
        return self._trace.read_text(errors="replace").splitlines()

    def of_file(self, name: str = "data.bin") -> list[str]:
        """The calls on the file since it was opened for the answer."""
        return [line for line in self.lines if f"/{name}>" in line]


@contextlib.contextmanager
def traced(directory: Path, *options: str) -> Iterator[Traced]:
    """Run the command under strace until the block ends. With -D the process is the server, its tracer a child's child
    of it that ends with it."""
    strace = [require_tool("strace"), "-D", "-f", "-y", "-o", str(directory / "trace"), "-e", f"trace={CALLS}"]
    server = [sys.executable, "-m", "trio_wsgi", "app:app", "-b", "127.0.0.1:0", *options]
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            strace + server,
            cwd=directory,
            env={"PYTHONPATH": str(Path(trio_wsgi.__file__).parent.parent), "PATH": "/usr/bin:/bin"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        patience = time.monotonic() + 30
        while not (found := re.search(r"listening at http://127.0.0.1:(\d+)", log.read_text())):
            assert process.poll() is None and time.monotonic() < patience, log.read_text()
            time.sleep(0.05)
        yield Traced(directory, int(found[1]))
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    make_file(tmp_path / "data.bin", SIZE)
    return tmp_path


def sendfile_results(lines: list[str]) -> tuple[list[int], int]:
    """What each sendfile call moved, and how many would have blocked."""
    calls = [line for line in lines if re.search(r"\bsendfile(64)?\(|sendfile(64)? resumed", line)]
    moved = [int(found[1]) for line in calls if (found := re.search(r"= (\d+)$", line))]
    return moved, sum("EAGAIN" in line for line in calls)


def download(directory: Path, *options: str) -> list[str]:
    """By curl, whole; the calls that were traced."""
    with traced(directory, *options) as server:
        out = directory / "out"
        curl = [require_tool("curl"), "-sS", "-o", str(out), f"http://127.0.0.1:{server.port}/"]
        subprocess.run(curl, check=True, timeout=40)
        lines = server.lines
    assert out.read_bytes() == (directory / "data.bin").read_bytes()[10:]
    return lines


@pytest.mark.slow
def test_a_download_is_sendfile_and_nothing_else(directory: Path) -> None:
    """Read through Python's buffer once by the app; from there on every byte moves by sendfile(2), in large steps."""
    lines = download(directory)
    moved, blocked = sendfile_results(lines)
    assert sum(moved) == SIZE - 10
    reads = [line for line in lines if re.search(r"\b(read|readv|pread64|preadv|mmap|splice)\(.*/data.bin>", line)]
    assert len(reads) <= 1, reads  # the app's own read(10), which fills Python's buffer
    probes = [line for line in lines if "preadv2" in line and "unfinished" not in line]  # is it in memory?
    assert all(re.search(r"RWF_NOWAIT\) = 1$", line) for line in probes), probes
    assert len(probes) <= 2 * (len(moved) + blocked) + 2  # of a step's first byte and its last
    assert SIZE / len(moved) > 64 * 1024, f"{len(moved)} calls"
    assert blocked <= len(moved) + 2, f"{blocked} of {len(moved)} calls would have blocked"
    bodies = [line for line in lines if re.search(r"\bsend(to|msg)\(", line) and "socket" in line]
    assert len(bodies) < 20  # the head, and what the loop wakes itself with


@pytest.mark.slow
def test_what_no_peer_combines(directory: Path) -> None:
    """PAINS 1 of the peers: (a) sendfile(2), (b) the only thread freed meanwhile, (c) offset and Content-Length
    respected, (d) no body for HEAD. PAINS 9 of the peers: a server may have a file_wrapper, and never call sendfile."""
    count = SIZE - 100
    asked = b"GET /?%d HTTP/1.1\r\nHost: t\r\n\r\n" % count
    with traced(directory, "--threads", "1") as server, blocking_client(server.port, 8192) as slow:
        slow.sendall(asked)
        received = slow.recv(1000)
        with blocking_client(server.port) as other:
            other.sendall(asked.replace(b"GET", b"HEAD") + request("GET", "/hello?5"))
            head, hello = read_answers(read_all(other), ["HEAD", "GET"])
        assert (head.body, head.value("content-length"), hello.body) == (b"", str(count), b"hello")
        slow.sendall(request("GET", "/hello?5"))
        received += read_all(slow)
        moved, _ = sendfile_results(server.lines)
    answer, _ = read_answers(received, ["GET", "GET"])
    assert answer.body == (directory / "data.bin").read_bytes()[10 : 10 + count]
    assert sum(moved) == count


def wait_silent(server: Traced) -> int:
    """How often the file was asked for, once the kernel's buffers are full and strace has written all that it saw."""
    patience, count, silent_since = time.monotonic() + 10, -1, 0.0
    while time.monotonic() < patience:
        if (now := len(server.of_file())) != count:
            count, silent_since = now, time.monotonic()
        elif time.monotonic() - silent_since > 0.3:
            return count
        time.sleep(0.02)
    raise AssertionError(f"the client reads nothing, and yet the file is asked for: {count} times, and it goes on")


@pytest.mark.slow
def test_a_slow_download_asks_once_per_wake_up(directory: Path) -> None:
    """PAINS 8 of the peers (pyruvate: 290,000 calls for 200 MB): a full socket is waited for, not asked again."""
    with traced(directory) as server, blocking_client(server.port, 8192) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        received = 0
        while received < 6 * MIB:
            received += len(sock.recv(65_536))
        before = wait_silent(server)
        time.sleep(1)
        still = len(server.of_file())
        moved, blocked = sendfile_results(server.lines)
        waits = sum("epoll" in line for line in server.lines)
    assert still - before <= 6, "the client reads nothing, and yet the file is asked for"
    assert blocked <= waits
    assert blocked <= len(moved) + 6
    assert waits < 2000


@pytest.mark.slow
def test_without_sendfile_there_is_none(directory: Path) -> None:
    """--no-sendfile: the file is read at its offsets (pread), and not by sendfile."""
    lines = download(directory, "--no-sendfile")
    assert not any("sendfile(" in line for line in lines)
    assert any("pread64(" in line and "/data.bin>" in line for line in lines)
