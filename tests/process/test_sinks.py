"""Rules of what lines are written to: lines of several writers are not mixed, and one in part is no line."""

from __future__ import annotations

import fcntl
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pytest

from trio_wsgi.owner import Owner
from trio_wsgi.process.sinks import File, Sink, Stream

PAGE = 4096  # bytes, of the smallest pipe, and PIPE_BUF
SIZE = 64 * 1024 * 1024  # bytes, of a large file


@contextmanager
def small_pipe() -> Iterator[tuple[int, int]]:
    """A pipe of one page; its reading and its writing end. The latter is the block's to close."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PAGE)
    try:
        yield reading, writing
    finally:
        os.close(reading)


def read_to_the_end(fd: int) -> bytes:
    return b"".join(iter(lambda: os.read(fd, PAGE), b""))


def write_and_close(sink: Sink, records: list[bytes]) -> None:
    sink.write(records)
    sink.close()


def write_side_by_side(batches: list[list[bytes]], blocking: bool = True) -> bytes:
    """What a slow reader gets of these batches, each of which another writer puts into one pipe."""
    with small_pipe() as (reading, writing):
        os.set_blocking(writing, blocking)
        sinks = [Sink(os.dup(writing)) for _ in batches]
        os.close(writing)
        threads = [threading.Thread(target=write_and_close, args=pair) for pair in zip(sinks, batches, strict=True)]
        for thread in threads:
            thread.start()
        received = read_to_the_end(reading)
        for thread in threads:
            thread.join()
    return received


@pytest.mark.parametrize("blocking", [True, False])
def test_lines_of_several_writers_stay_whole_in_a_pipe(blocking: bool) -> None:
    """Workers share standard output; docker and logger(1) read it through a pipe. Whoever shares it with us may have
    made it non-blocking."""
    lines = [[letter * length + b"\n" for length in range(30, 130)] * 5 for letter in (b"a", b"b", b"c")]
    received = write_side_by_side(lines, blocking).splitlines(keepends=True)
    assert sorted(received) == sorted(chain(*lines))


def test_a_traceback_stays_whole_in_a_pipe() -> None:
    """A record of several lines is not divided either, as long as the kernel takes it at once."""
    records = [[(letter * 60 + b"\n") * 20] * 20 for letter in (b"a", b"b")]
    received = write_side_by_side(records)
    size = len(records[0][0])
    assert len(received) == 40 * size
    assert all(len(set(received[start : start + size])) == 2 for start in range(0, len(received), size))


def test_a_record_that_a_pipe_does_not_take_at_once_is_divided_between_its_lines() -> None:
    lines = [[letter * 100 + b"\n"] * 1000 for letter in (b"a", b"b")]
    received = write_side_by_side([[b"".join(batch)] for batch in lines]).splitlines(keepends=True)
    assert sorted(received) == sorted(chain(*lines))


def test_a_line_longer_than_a_pipe_takes_at_once_arrives() -> None:
    long = b"x" * 3 * PAGE + b"\n"
    assert write_side_by_side([[b"before\n", long, b"after\n"]]) == b"before\n" + long + b"after\n"


# -- where there is no room for all ------------------------------------------------------------------------------------


@contextmanager
def room_for(path: Path, count: int) -> Iterator[None]:
    """The file takes so many bytes more; it is large, of holes before its last line, so that other files may grow."""
    with path.open("r+b") as file:
        file.seek(SIZE - count - 1)
        file.write(b"\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def written(path: Path) -> bytes:
    """What has been written to the file since `room_for` began."""
    return path.read_bytes().lstrip(b"\0").removeprefix(b"\n")


def test_a_line_that_is_written_in_part_is_not_counted_and_is_ended(tmp_path: Path) -> None:
    """Those before it are counted, and whatever comes after it begins a line of its own."""
    path = tmp_path / "log"
    sink = File(str(path), (-1, -1))
    with room_for(path, 20):
        assert sink.write([b"one\n", b"a line\nand another\n", b"three\n"]) == (1, "File too large")
        assert sink.write([b"four\n"]) == (0, "File too large")
    assert sink.write([b"five\n", b"six\n"]) == (2, "")
    sink.close()
    assert written(path).splitlines() == [b"one", b"a line", b"and anoth", b"five", b"six"]


def test_a_file_that_is_full_up_to_the_end_of_a_line_gets_no_empty_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = File(str(path), (-1, -1))
    with room_for(path, 4):
        assert sink.write([b"one\n", b"two\n"]) == (1, "File too large")
    assert sink.write([b"three\n"]) == (1, "")
    sink.close()
    assert written(path) == b"one\nthree\n"


@pytest.mark.parametrize("as_stream", [False, True])
def test_half_a_line_of_one_process_is_ended_by_the_next_that_writes(tmp_path: Path, as_stream: bool) -> None:
    """Workers share a file, by its name or as standard output; none of them gets its line behind half of another's."""
    path = tmp_path / "log"
    with path.open("a") as shared:
        torn, other = (Stream(shared) if as_stream else File(str(path), (-1, -1)) for _ in range(2))
        with room_for(path, 8):
            assert torn.write([b"one\n", b"the second\n"]) == (1, "File too large")
            assert other.write([b"lost\n"]) == (0, "File too large")
        assert other.write([b"three\n"]) == (1, "")
        assert torn.write([b"four\n"]) == (1, "")
        torn.close()
        other.close()
    assert written(path) == b"one\nthe \nthree\nfour\n"


@pytest.mark.parametrize("leave", [File.reopen, File.close])
def test_nothing_is_written_to_a_number_that_is_closed(
    leave: Callable[[File], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a child is forked in that very moment, the number may be another file's there when it writes a line."""
    (tmp_path / "log").touch()
    sink = File(str(tmp_path / "log"), Owner())
    close, written = os.close, []

    def write_after_close(fd: int) -> None:
        close(fd)
        written.append(sink.write([b"line\n"]))

    monkeypatch.setattr(os, "close", write_after_close)
    leave(sink)
    monkeypatch.undo()
    sink.close()
    assert written == [(1, "")] * 2
