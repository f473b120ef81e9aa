"""Spool: memory, then a file without a name; and what a disk that is full makes of it."""

from __future__ import annotations

import errno
import http.client
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from serving import command
from waiting import until
from workers import wait_log

from sendfile import FileSpan, Part
from trio_wsgi.disk.spool import Spool


def held(parts: list[Part]) -> bytes:
    """What parts are, as bytes."""
    return b"".join(
        os.pread(part.file.fileno(), part.count, part.offset) if isinstance(part, FileSpan) else bytes(part)
        for part in parts
    )


LARGE = 70_000  # more than waits for more in memory, once a spool is on disk


@given(
    groups=st.lists(st.lists(st.sampled_from([b"", b"a", b"bc" * 50, b"d" * LARGE]), max_size=70), max_size=5),
    memory=st.integers(0, 2 * LARGE),
)
def test_blocks_given_together_come_out_in_order(groups: list[list[bytes]], memory: int) -> None:
    """Before, at and after the step to the disk, and last of all with the reader."""
    data = b"".join(block for group in groups for block in group)
    last = groups.pop() if groups else []
    with closing(Spool(memory, 0, None)) as spool:
        for group in groups:
            spool.write_blocks(group)
            spool.write(b"")
        assert spool.open_reader(last).read() == data
        assert len(spool) == len(data)
        assert spool.on_disk == (len(data) > memory)


@given(blocks=st.lists(st.binary(max_size=300)), memory=st.integers(0, 600), reader=st.booleans())
def test_what_went_in_comes_out(blocks: list[bytes], memory: int, reader: bool) -> None:
    """In order, wherever the limit of memory lies; on disk exactly when it does not fit."""
    data = b"".join(blocks)
    with closing(Spool(memory, 0, None)) as spool:
        for block in blocks:
            spool.write(block)
        assert len(spool) == len(data)
        assert spool.on_disk == (len(data) > memory)
        assert (spool.open_reader().read() if reader else held(spool.parts())) == data


@pytest.mark.parametrize(
    ("memory", "limit", "sizes", "taken"),
    [
        (10, 0, [10, 10_000], 2),
        (10, 100, [10, 90], 2),
        (10, 100, [10, 91], 1),  # all of it moves to the file, so all of it counts
        (10, 100, [101], 0),
        (0, 100, [100, 1], 1),
        (1000, 100, [500, 500], 2),  # the limit is one of the disk, and nothing is on it
        (1000, 100, [500, 501], 1),
    ],
)
def test_the_limit_is_one_of_bytes_on_disk(memory: int, limit: int, sizes: list[int], taken: int) -> None:
    """temp_limit: "Bytes one request or response may put on disk"."""
    with closing(Spool(memory, limit, None)) as spool:
        for number, size in enumerate(sizes):
            if number < taken:
                spool.write(bytes(size))
                continue
            with pytest.raises(OSError, match=f"temp_limit is {limit}") as failure:
                spool.write(bytes(size))
            assert failure.value.errno == errno.EFBIG


def test_a_failed_spool_stays_failed(tmp_path: Path) -> None:
    """What it holds is not the whole; nobody who asks again and again piles up tracebacks."""
    with closing(Spool(10, 100, str(tmp_path))) as spool:
        spool.write(bytes(60))
        with pytest.raises(OSError, match="temp_limit"):
            spool.write(bytes(60))
        for _ in range(50):
            with pytest.raises(OSError, match="temp_limit") as failure:
                spool.write(b"")
        assert len(failure.traceback) < 6
        for ask in (spool.parts, spool.open_reader):
            with pytest.raises(OSError, match="temp_limit"):
                ask()


def test_the_file_has_no_name(tmp_path: Path) -> None:
    with closing(Spool(0, 0, str(tmp_path))) as spool:
        spool.write(b"x" * 100_000)
        assert list(tmp_path.iterdir()) == []
        (span,) = spool.parts()
        assert isinstance(span, FileSpan)
        assert os.fstat(span.file.fileno()).st_nlink == 0


def test_close_gives_the_descriptor_back() -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    spool = Spool(0, 0, None)
    spool.write(b"x")
    spool.close()
    spool.close()
    assert sorted(Path("/proc/self/fd").iterdir()) == before


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size`: setrlimit(2); Python ignores SIGXFSZ."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("block", [1, 1000, 65536, 300_000])
def test_a_file_that_cannot_grow_fails_the_spool(block: int, tmp_path: Path) -> None:
    """In write, or at the latest when its parts are asked for: Python keeps the last bytes in a buffer."""
    with closing(Spool(0, 0, str(tmp_path))) as spool, largest_file(100_000):
        with pytest.raises(OSError, match="too large") as failure:
            for _ in range(0, 150_000, block):
                spool.write(bytes(block))
            spool.parts()
        assert failure.value.errno == errno.EFBIG
        with pytest.raises(OSError, match="too large"):
            spool.parts()
    assert list(tmp_path.iterdir()) == []


APP = """
import time

def app(environ, start_response):
    write = start_response("200 OK", [])
    if environ["PATH_INFO"] == "/hello":
        return [b"hello"]
    try:
        for _ in range(60):
            write(bytes(100_000))
    except OSError as error:
        environ["wsgi.errors"].write(f"the app saw {type(error).__name__}: {error}\\n")
        if environ["PATH_INFO"] != "/swallow":
            raise
    if environ["PATH_INFO"] == "/wait":
        environ["wsgi.errors"].write("written\\n")
        time.sleep(60)
    return []
"""
BUFFER = ("--write-policy", "buffer", "--write-buffer-size", "10k")


def fetch(url: str) -> tuple[int, bytes]:
    """Status and body, by Python's own client."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=10)
    with closing(connection):
        connection.request("GET", "/" + path)
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.parametrize("path", ["/", "/swallow"])
def test_a_full_disk_is_an_oserror_in_the_app_and_a_clean_500(path: str, tmp_path: Path) -> None:
    """Also when the app swallows it; the server serves on, and nothing is left in temp_path."""
    (tmp_path / "disk_app.py").write_text(APP)
    spool_to = tmp_path / "spool"
    spool_to.mkdir()
    with command("disk_app:app", "-b", "127.0.0.1:0", *BUFFER, "--temp-path", str(spool_to), cwd=tmp_path) as running:
        assert fetch(f"{running.url}{path}")[0] == 200
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        assert fetch(f"{running.url}{path}")[0] == 500
        wait_log(running, "the app saw OSError: [Errno 27] File too large")
        assert fetch(f"{running.url}/hello") == (200, b"hello")
        assert list(spool_to.iterdir()) == []
        assert deleted_files(running.process.pid, spool_to) == []


def deleted_files(pid: int, directory: Path) -> list[str]:
    """Open files of a process that once were in `directory`."""
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(entry))  # noqa: PTH115
        except FileNotFoundError:
            continue
    return [link for link in links if link.startswith(str(directory))]


async def test_nothing_is_left_after_kill_9(tmp_path: Path) -> None:
    """While megabytes are spooled, and after the process was killed without a chance to clean up."""
    (tmp_path / "disk_app.py").write_text(APP)
    spool_to = tmp_path / "spool"
    spool_to.mkdir()
    with command("disk_app:app", "-b", "127.0.0.1:0", *BUFFER, "--temp-path", str(spool_to), cwd=tmp_path) as running:
        with trio.fail_after(20):
            stream = await trio.open_tcp_stream("127.0.0.1", running.port)
            await stream.send_all(b"GET /wait HTTP/1.1\r\nHost: t\r\n\r\n")
            await until(lambda: "written" in running.log)
        assert len(deleted_files(running.process.pid, spool_to)) == 1
        assert list(spool_to.iterdir()) == []
        running.send_signal(signal.SIGKILL)
        running.wait()
        await stream.aclose()
    assert list(spool_to.iterdir()) == []


def test_python_ignores_sigxfsz() -> None:
    """What the tests above and a server under RLIMIT_FSIZE rest on."""
    code = "import signal; print(signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"True\n"
