"""Whatever has a read(): its bytes arrive as read() gives them, or a clear error does (PEP 3333; PAINS 9, 12)."""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asking import request
from downloads import Closes, file_app, known_bytes
from filekinds import gzipped, rewound, zipped
from mounted import ask
from opened import descriptors_of
from serving import serving
from threeways import serving_three

from trio_wsgi.disk import root
from trio_wsgi.wsgi import filewrapper

DATA = known_bytes(300_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data.bin").write_bytes(DATA)
    return tmp_path / "data.bin"


class OnlyRead:
    """All that PEP 3333 asks for."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._file.read(size)


class Lying(OnlyRead):
    """A fileno() that leads elsewhere, as that of a decrypting or unpacking file does."""

    def __init__(self, data: bytes, path: Path) -> None:
        super().__init__(data)
        self._other = path.open("rb")

    def fileno(self) -> int:
        return self._other.fileno()

    def tell(self) -> int:
        return 0

    def close(self) -> None:
        self._other.close()


class NoFileno(io.BytesIO):
    """gunicorn#595: not UnsupportedOperation, as one expects, but anything."""

    def fileno(self) -> int:
        raise RuntimeError("no descriptor here")


def _pipe(path: Path) -> Any:
    reading, writing = os.pipe()

    def feed() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(DATA)

    threading.Thread(target=feed, daemon=True).start()
    return os.fdopen(reading, "rb")


def _socket(path: Path) -> Any:
    ours, theirs = socket.socketpair()

    def feed() -> None:
        with theirs:
            theirs.sendall(DATA)

    threading.Thread(target=feed, daemon=True).start()
    with ours:
        return ours.makefile("rb")


def _process(path: Path) -> Any:
    child = subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE)
    threading.Thread(target=child.wait, daemon=True).start()
    return child.stdout


def _unflushed(path: Path) -> Any:
    """Written through Python's buffer and not flushed: fstat knows nothing of it yet."""
    file = path.with_name("written").open("w+b")
    file.write(DATA[:100])
    file.seek(0)
    file.seek(0, io.SEEK_END)
    file.write(DATA[100:105])
    file.seek(0)
    return file


def _unlinked(path: Path) -> Any:
    file = path.open("rb")
    path.unlink()
    return file


def _replaced(path: Path) -> Any:
    """PAINS: whoever publishes by rename does not disturb those who read the old file."""
    file = path.open("rb")
    path.with_name("new").write_bytes(b"the new file")
    path.with_name("new").replace(path)
    return file


KINDS: dict[str, Callable[[Path], Any]] = {
    "open": lambda path: path.open("rb"),
    "os.fdopen": lambda path: os.fdopen(os.open(path, os.O_RDONLY), "rb"),
    "BytesIO": lambda path: io.BytesIO(DATA),
    "BytesIO, read in part": lambda path: (file := io.BytesIO(b"xx" + DATA), file.seek(2))[0],
    "fileno that raises": lambda path: NoFileno(DATA),
    "only read": lambda path: OnlyRead(DATA),
    "lying fileno": lambda path: Lying(DATA, path.with_name("data.bin")),
    "GzipFile": gzipped,
    "ZipExtFile": zipped,
    "ZipExtFile of stored bytes": lambda path: zipped(path, zipfile.ZIP_STORED),
    "TemporaryFile": rewound(tempfile.TemporaryFile),
    "NamedTemporaryFile": rewound(tempfile.NamedTemporaryFile),
    "SpooledTemporaryFile in memory": rewound(tempfile.SpooledTemporaryFile, 1 << 20),
    "SpooledTemporaryFile on disk": rewound(tempfile.SpooledTemporaryFile, 1 << 10),
    "BufferedReader over BytesIO": lambda path: io.BufferedReader(io.BytesIO(DATA)),  # type: ignore[type-var]
    "BufferedRandom": lambda path: path.open("r+b"),
    "pipe": _pipe,
    "socket": _socket,
    "process": _process,
    "unlinked": _unlinked,
    "replaced": _replaced,
}


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_file_arrives_whole(path: Path, kind: str, sendfile: bool) -> None:
    """PAINS 9 (gunicorn#595, #1174; uwsgi#1126; bjoern#128): what cannot go by the kernel is read."""
    async with serving(file_app(lambda _: KINDS[kind](path)), sendfile=sendfile) as served:
        assert (await ask(served)).body == DATA
        assert (await served.record()).outcome.value == "finished"


async def test_what_the_app_has_just_written_is_sent(path: Path) -> None:
    """A file for reading and writing is flushed before its size is asked for."""
    async with serving(file_app(lambda _: _unflushed(path))) as served:
        assert (await ask(served)).body == DATA[:105]


def _read(name: str) -> bytes:
    return Path(name).read_bytes()


@pytest.mark.parametrize("name", ["/proc/filesystems", "/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled"])
async def test_files_whose_size_is_made_up_are_read(name: str, way: str) -> None:
    """/proc says 0, /sys says 4096 (proc(5), sysfs(5)): fstat's size is believed only where the bytes are there."""
    path = Path(name)
    try:
        content = _read(name)
    except OSError:
        pytest.skip(f"no {name} here")
    async with serving_three(path.parent) as served:
        answer = await ask(served, f"/{way}/{path.name}")
    assert answer.body == content > b""


@pytest.mark.parametrize("way", ["named", "static"])
async def test_no_end_of_what_is_made_up_is_a_failure(
    way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is read into memory, and some of it has hardly an end (/proc/kcore)."""
    monkeypatch.setattr(root, "_COPIED_MAX", 5)
    async with serving_three(Path("/proc")) as served:
        before = descriptors_of(Path("/proc/version"))
        answer = await ask(served, f"/{way}/version")
        assert answer.status == 500
        assert descriptors_of(Path("/proc/version")) == before == set()
    assert "larger than 5 bytes" in caplog.text


def _text(path: Path) -> Any:
    return path.open("r", encoding="latin-1")


def _closed(path: Path) -> Any:
    file = path.open("rb")
    file.close()
    return file


def _detached(path: Path) -> Any:
    file = path.open("rb")
    file.detach().close()
    return file


def _would_block(path: Path) -> Any:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    file = os.fdopen(reading, "rb", buffering=0)
    close = file.close
    held = os.fdopen(writing, "wb")
    patched: Any = io.BytesIO()
    patched.read = file.read
    patched.close = lambda: (close(), held.close())
    return patched


class Breaking(OnlyRead):
    """Fails on its second read."""

    reads = 0

    def read(self, size: int) -> bytes:
        self.reads += 1
        if self.reads > 1:
            raise OSError(5, "Input/output error")
        return super().read(size)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(_text, "text mode", id="text file"),
        pytest.param(lambda path: io.StringIO("text"), "text mode", id="StringIO"),
        pytest.param(lambda path: path.open("ab"), "read", id="opened for writing"),
        pytest.param(lambda path: path.open("ab", buffering=0), "not open for reading", id="opened for writing, raw"),
        pytest.param(_closed, "closed file", id="closed"),
        pytest.param(_detached, "detached", id="detached"),
        pytest.param(_would_block, "non-blocking", id="non-blocking pipe"),
        pytest.param(lambda path: None, "read", id="None"),
    ],
)
async def test_what_cannot_be_read_is_a_500_that_says_why(
    path: Path, make: Callable[[Path], Any], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """PEP 3333 (a body is bytes): the client gets a 500, the log says what was wrong with the file."""
    async with serving(file_app(lambda _: make(path))) as served:
        answer = await ask(served)
        assert answer.status == 500
        record = await served.record()
        assert record.outcome.value == "app-error"
        assert says in record.reason
        assert says in caplog.text


async def test_a_read_that_fails_half_way_is_cut(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """PAINS (WSGI layers, granian): no clean terminator after half a file; the client can tell."""
    async with serving(file_app(lambda _: Breaking(DATA))) as served:
        raw = await served.exchange(request())
        assert raw.startswith(b"HTTP/1.1 200")
        assert not raw.endswith(b"0\r\n\r\n")
        assert (await served.record()).outcome.value == "app-error"
        assert "Input/output error" in caplog.text


class Passing:
    """A middleware's iterator: passes blocks on, and close()."""

    def __init__(self, blocks: Any) -> None:
        self._blocks = blocks

    def __iter__(self) -> Any:
        return iter(self._blocks)

    def close(self) -> None:
        self._blocks.close()


def _generator(blocks: Any) -> Any:
    try:
        yield from blocks
    finally:
        blocks.close()


@pytest.mark.parametrize("wrap", [Passing, _generator, list], ids=["iterator", "generator", "list"])
async def test_middleware_that_wraps_it_works_and_is_named_once(
    path: Path, wrap: Callable[[Any], Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PAINS 12 (sentry-python#5107, gunicorn#2279): the log says once that the fast path is lost, and to whom."""
    monkeypatch.setattr(filewrapper, "_said_lost", set())
    closes = Closes()
    inner = file_app(lambda _: closes.watch(path.open("rb")))

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        result = inner(environ, start_response)
        wrapped = wrap(result)
        if wrap is list:
            result.close()
        return wrapped

    async with serving(app) as served:
        for _ in range(3):
            assert (await ask(served)).body == DATA
    assert len(closes) == 3
    said = [record.getMessage() for record in caplog.records if "file_wrapper" in record.getMessage()]
    assert len(said) == 1, said
    assert re.search(r"iterated by (test_file_kinds|a middleware)", said[0])


async def test_looking_at_the_first_block_loses_nothing(path: Path) -> None:
    """An app may ask for a block and return the wrapper: the file goes on where its position is."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        wrapper = environ["wsgi.file_wrapper"](path.open("rb"), 100)
        write = start_response("200 OK", [])
        write(next(wrapper))
        return wrapper

    async with serving(app) as served:
        assert (await ask(served)).body == DATA


async def test_a_subclass_of_the_wrapper_gives_its_own_bytes(path: Path) -> None:
    """The class is the app's to extend; what it makes of the file is what is sent."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        class Upper(environ["wsgi.file_wrapper"]):  # type: ignore[misc]
            def __next__(self) -> bytes:
                return bytes(super().__next__()).upper()

        start_response("200 OK", [])
        return Upper(path.open("rb"))

    async with serving(app) as served:
        assert (await ask(served)).body == DATA.upper()
