"""wsgi.file_wrapper as an object: PEP 3333, "Optional Platform-Specific File Handling", and what its users look for."""

from __future__ import annotations

import io
import os
import socket
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper as ReferenceWrapper

import pytest
from downloads import known_bytes, make_file, make_sparse
from filekinds import gzipped, rewound, zipped

from sendfile import FileSpan
from trio_wsgi.disk.closing import closing_file
from trio_wsgi.errors import AppError
from trio_wsgi.wsgi.filewrapper import DEFAULT_BLOCK_SIZE, FileWrapper, closes_at_once, is_nameless, plain_file

DATA = known_bytes(200_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data.bin").write_bytes(DATA)
    return tmp_path / "data.bin"


@pytest.mark.parametrize("wrapper", [FileWrapper, ReferenceWrapper])
@pytest.mark.parametrize("blksize", [1, 7, 8192, 1 << 20])
def test_it_gives_what_the_reference_gives(wrapper: Any, blksize: int) -> None:
    """PEP 3333: blocks of the size asked for; wsgiref's own wrapper passes the same test."""
    data = DATA[:1000] if blksize == 1 else DATA
    blocks = list(wrapper(io.BytesIO(data), blksize))
    assert b"".join(blocks) == data
    assert {len(block) for block in blocks[:-1]} <= {blksize}


def test_it_takes_the_arguments_of_the_reference() -> None:
    """`filelike` and `blksize` are wsgiref's names, as parameters and as attributes."""
    file = io.BytesIO(b"x")
    wrapper = FileWrapper(filelike=file, blksize=512)
    assert (wrapper.filelike, wrapper.blksize) == (file, 512)
    assert FileWrapper(file).blksize == DEFAULT_BLOCK_SIZE


@pytest.mark.parametrize("blksize", [0, -1])
def test_a_block_size_that_ends_early_or_reads_all_is_refused(blksize: int) -> None:
    """read(0) would look like the end of the file, read(-1) would read gigabytes at once."""
    with pytest.raises(ValueError, match="blksize"):
        FileWrapper(io.BytesIO(b"x"), blksize)


def test_it_is_an_iterator() -> None:
    """PAINS 10: an iterator, not only iterable: iter() gives itself, next() works, the end stays the end."""
    wrapper = FileWrapper(io.BytesIO(b"abc"), 2)
    assert iter(wrapper) is wrapper
    assert [next(wrapper), next(wrapper)] == [b"ab", b"c"]
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(wrapper)


def test_it_closes_the_file_once() -> None:
    """PEP 3333: close() invokes the file's close()."""

    class Counting(io.BytesIO):
        closes = 0

        def close(self) -> None:
            self.closes += 1
            super().close()

    file = Counting(b"x")
    wrapper = FileWrapper(file)
    wrapper.close()
    wrapper.close()
    assert file.closes == 1


def test_an_object_with_read_only_will_do() -> None:
    """PEP 3333 asks for nothing but read(); what the object lacks, the wrapper lacks too."""

    class OnlyRead:
        left = b"abcdef"

        def read(self, size: int) -> bytes:
            block, self.left = self.left[:size], self.left[size:]
            return block

    wrapper = FileWrapper(OnlyRead(), 4)
    assert not any(hasattr(wrapper, name) for name in ("seek", "tell", "seekable", "fileno"))
    assert list(wrapper) == [b"abcd", b"ef"]
    wrapper.close()


def test_seek_tell_and_seekable_pass_through(path: Path) -> None:
    """PAINS 11: without them Werkzeug reads gigabytes to reach a tail range."""
    with path.open("rb") as file:
        wrapper = FileWrapper(file)
        assert wrapper.seekable()
        wrapper.seek(1234)
        assert wrapper.tell() == file.tell() == 1234
        assert next(wrapper).startswith(DATA[1234:2000])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        pytest.param("text", "text mode", id="str"),
        pytest.param(bytearray(b"x"), "bytearray", id="bytearray"),
        pytest.param(7, "int", id="int"),
        pytest.param(None, "non-blocking", id="None, which a raw file gives when it would block"),
    ],
)
def test_what_read_must_not_give(given: object, says: str) -> None:
    """PEP 3333: blocks are bytes; None from a raw non-blocking file is not the end of it (io.RawIOBase.read)."""

    class Wrong:
        def read(self, size: int) -> Any:
            return given

    with pytest.raises(AppError, match=says):
        next(FileWrapper(Wrong()))


@pytest.mark.parametrize("read", [0, 1234])
def test_of_a_file_that_nobody_else_knows_the_descriptor_is_kept(path: Path, read: int) -> None:
    """Its buffer would be a third of what a slow download holds."""
    wrapper = FileWrapper(path.open("rb"))
    wrapper.filelike.read(read)
    found = wrapper.open_span()
    assert found is not None
    bare, offset, count = found[0].file, found[0].offset, found[0].count
    assert (type(bare), offset, count) == (io.FileIO, read, len(DATA) - read)
    assert wrapper.filelike is bare
    assert next(wrapper) == DATA[read : read + DEFAULT_BLOCK_SIZE]  # it may be iterated all the same
    wrapper.close()
    assert bare.closed


KEPT: list[object] = []  # by an application


def _call_at_its_end(file: io.BufferedReader) -> None:
    weakref.finalize(file, list)


def _mark(file: Any) -> None:
    file.mark = 1


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param(KEPT.append, id="the file"),
        pytest.param(lambda file: KEPT.append(file.close), id="a method"),
        pytest.param(lambda file: KEPT.append(FileWrapper(file)), id="another wrapper"),
        pytest.param(_call_at_its_end, id="a weak reference"),
        pytest.param(_mark, id="an attribute"),
    ],
)
def test_a_file_that_somebody_knows_stays_as_it_is(path: Path, keep: Callable[[Any], object]) -> None:
    """A buffered file is unusable without its descriptor: whoever has it would get ValueError from all that it asks."""
    file = path.open("rb")
    keep(file)
    wrapper = FileWrapper(file)
    del file
    found = wrapper.open_span()
    assert found is not None
    buffered: Any = found[0].file
    assert wrapper.filelike is buffered
    assert (type(buffered), buffered.tell()) == (io.BufferedReader, 0)
    wrapper.close()
    assert buffered.closed
    KEPT.clear()


def _buffered_subclass(path: Path) -> Any:
    class Shouting(io.BufferedReader):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(size).upper()

    return Shouting(io.FileIO(path))


def _raw_subclass(path: Path) -> Any:
    class Inverted(io.FileIO):
        def readinto(self, buffer: Any, /) -> int:
            count = super().readinto(buffer) or 0
            buffer[:count] = bytes(byte ^ 255 for byte in buffer[:count])
            return count

    return io.BufferedReader(Inverted(path))


def _patched(path: Path) -> Any:
    file: Any = path.open("rb")
    read = file.read
    file.read = lambda size=-1: read(size).lower()
    return file


def _lying(path: Path) -> Any:
    class Lying(io.BytesIO):
        def fileno(self) -> int:
            return os.open(path, os.O_RDONLY)

    return Lying(b"other bytes")


class _Borrowing:
    """As Django's File: attributes of the real file, looked up through it."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.close = file.close

    @property
    def read(self) -> Any:
        return self.file.read


@pytest.mark.parametrize(
    ("make", "plain"),
    [
        pytest.param(lambda path: path.open("rb"), True, id="open"),
        pytest.param(lambda path: path.open("rb", buffering=0), True, id="unbuffered"),
        pytest.param(lambda path: path.open("r+b"), True, id="read and write"),
        pytest.param(lambda path: _Borrowing(path.open("rb")), True, id="whose read is another file's own"),
        pytest.param(rewound(tempfile.TemporaryFile), True, id="TemporaryFile"),
        pytest.param(rewound(tempfile.NamedTemporaryFile), True, id="NamedTemporaryFile"),
        pytest.param(rewound(tempfile.SpooledTemporaryFile, 1 << 20), False, id="SpooledTemporaryFile"),
        pytest.param(gzipped, False, id="GzipFile, whose fileno is that of the packed bytes"),
        pytest.param(zipped, False, id="ZipExtFile"),
        pytest.param(_lying, False, id="BytesIO with a lying fileno"),
        pytest.param(_buffered_subclass, False, id="BufferedReader with another read"),
        pytest.param(_raw_subclass, False, id="BufferedReader over a raw file with another readinto"),
        pytest.param(_patched, False, id="file whose read was replaced"),
        pytest.param(lambda path: path.open("r", encoding="latin-1"), False, id="text"),
        pytest.param(lambda path: io.BytesIO(DATA), False, id="BytesIO"),
        pytest.param(lambda path: object(), False, id="no file at all"),
    ],
)
def test_only_what_is_certain_is_plain(path: Path, make: Callable[[Path], Any], plain: bool) -> None:
    """PAINS (WSGI layers): a fileno() proves nothing about what read() gives."""
    file = make(path)
    try:
        assert (plain_file(file) is not None) is plain
    finally:
        if hasattr(file, "close"):
            file.close()


def test_a_detached_or_closed_file_is_not_plain_or_fails_when_read(path: Path) -> None:
    """Looking at it never raises; reading it does, in the app's name."""
    detached = path.open("rb")
    raw = detached.detach()
    assert plain_file(detached) is None
    with pytest.raises(ValueError, match="detached"):
        next(FileWrapper(detached))
    raw.close()


def test_sockets_and_pipes_are_read() -> None:
    """PAINS 9: what has a descriptor but is no regular file is iterated."""
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as file:
        theirs.sendall(b"from a socket")
        theirs.close()
        assert list(FileWrapper(file)) == [b"from a socket"]


def test_only_a_plain_close_happens_on_the_loop(path: Path) -> None:
    """The app's own close() may block."""
    with path.open("rb") as plain, path.open("rb") as patched:
        assert closes_at_once(plain)
        patched.close = patched.close  # type: ignore[method-assign]
        assert not closes_at_once(patched)


def test_a_file_without_a_name_is_told_from_one_whose_names_are_not_counted(path: Path) -> None:
    """Many file systems of FUSE say of every file that it has none: its name tells, as far as the kernel knows it."""
    with path.open("rb") as file:
        span, uncounted = FileSpan(file, 0, 1), os.stat_result([*os.fstat(file.fileno())[:3], 0, *range(6)])
        assert uncounted.st_nlink == 0
        assert not is_nameless(span, uncounted)
        path.unlink()
        assert is_nameless(span, os.fstat(file.fileno()))


class Gone:
    """A file whose descriptor was closed under it."""

    def fileno(self) -> int:
        return 2**30


def test_a_file_that_the_app_closed_is_closed_at_once(tmp_path: Path) -> None:
    """There is nothing left to wait for, and nothing raises."""
    with make_sparse(tmp_path / "large", 8 << 20).open("rb") as file:
        status = os.fstat(file.fileno())
    for closed in (file, Gone()):
        closing = closing_file(lambda: None, closed, status, local=True)
        assert closing.large is not None
        assert closing.at_once


def test_make_file_tells_what_it_wrote(tmp_path: Path) -> None:
    """The helper that all tests of downloads stand on."""
    assert make_file(tmp_path / "x", 10) == (tmp_path / "x").read_bytes() == known_bytes(10)
