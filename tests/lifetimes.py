"""Every path that a request can take, as applications that note what they open and close: to be cancelled anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from authority import shared_authority
from mounted import have_nothing_at_hand
from riding import ride_at_once

from trio_wsgi.net import lanes

SIZE = 60_000  # several times what the socket buffers of these tests take at once


class Traces:
    """What one run of the app has left."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0
        self.asked = 0


class Iterable:
    """Blocks, and how often they were closed."""

    def __init__(self, traces: Traces, blocks: list[bytes]) -> None:
        traces.opened += 1
        self.traces = traces
        self.blocks = iter(blocks)

    def __iter__(self) -> Iterator[bytes]:
        return self.blocks

    def close(self) -> None:
        self.traces.closed += 1


class OwnFile:
    """A file whose close() is the app's code, and so runs in a thread."""

    def __init__(self, traces: Traces, path: Path) -> None:
        traces.opened += 1
        self.traces = traces
        self.file = path.open("rb")
        self.read, self.fileno, self.tell = self.file.read, self.file.fileno, self.file.tell

    def close(self) -> None:
        self.traces.closed += 1
        self.file.close()


Answer = Callable[[dict[str, Any], Any, Traces, Path], Any]


def answer_bytes(environ: dict[str, Any], start: Any, traces: Traces, path: Path) -> Any:
    start("200 OK", [])
    return [b"x" * SIZE]


def answer_few_bytes(environ: dict[str, Any], start: Any, traces: Traces, path: Path) -> Any:
    start("200 OK", [("Content-Length", "1")])
    return Iterable(traces, [b"x"])


def answer_generator(environ: dict[str, Any], start: Any, traces: Traces, path: Path) -> Any:
    start("200 OK", [])
    return Iterable(traces, [b"x" * 20_000] * 3)


def answer_write(policy: str) -> Answer:
    def answer(environ: dict[str, Any], start: Any, traces: Traces, path: Path) -> Any:
        environ["trio_wsgi.write_policy"] = policy
        write = start("200 OK", [])
        for _ in range(4):
            while True:
                try:
                    write(b"x" * 15_000)
                    break
                except BlockingIOError:
                    environ["trio_wsgi.wait_writable"](5)
        return Iterable(traces, [])

    return answer


def answer_own_file(environ: dict[str, Any], start: Any, traces: Traces, path: Path) -> Any:
    start("200 OK", [])
    return environ["wsgi.file_wrapper"](OwnFile(traces, path))


def answer_plain_file(environ: dict[str, Any], start: Any, traces: Traces, path: Path) -> Any:
    start("200 OK", [])
    return environ["wsgi.file_wrapper"](path.open("rb"))  # a ResourceWarning tells if it is not closed


def answer_upload(environ: dict[str, Any], start: Any, traces: Traces, path: Path) -> Any:
    blocks = Iterable(traces, [])
    try:
        while environ["wsgi.input"].read(20_000):
            pass
        start("200 OK", [])
    except BaseException:
        blocks.close()
        raise
    return blocks


def answer_error(environ: dict[str, Any], start: Any, traces: Traces, path: Path) -> Any:
    raise ValueError("the application's")


def answer_error_later(environ: dict[str, Any], start: Any, traces: Traces, path: Path) -> Any:
    start("200 OK", [])

    class Fails(Iterable):
        def __iter__(self) -> Iterator[bytes]:
            yield b"x" * SIZE
            raise ValueError("the application's")

    return Fails(traces, [])


def answer_named(environ: dict[str, Any], start: Any, traces: Traces, path: Path) -> Any:
    start("200 OK", [("X-Accel-Redirect", f"/protected/{path.name}")])
    return Iterable(traces, [b"in place of this"])


def answer_hints(environ: dict[str, Any], start: Any, traces: Traces, path: Path) -> Any:
    for _ in range(3):
        environ["wsgi.early_hints"]([("Link", f"</{'x' * 5000}>")])
    return answer_generator(environ, start, traces, path)


def answer_with_work(environ: dict[str, Any], start: Any, traces: Traces, path: Path) -> Any:
    async def work(turns: float) -> None:
        traces.opened += 1
        try:
            while turns > 0:
                await trio.lowlevel.checkpoint()
                turns -= 1
                if turns == float("inf"):
                    await trio.sleep_forever()
        finally:
            traces.closed += 1

    environ["trio_wsgi.nursery"].start_soon(work, float("inf"))
    environ["trio_wsgi.server_nursery"].start_soon(work, 3)
    trio.from_thread.run(trio.sleep, 0)
    return answer_generator(environ, start, traces, path)


GET = [b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]
RANGE = [b"GET / HTTP/1.1\r\nHost: x\r\nRange: bytes=100-50099\r\nConnection: close\r\n\r\n"]
KEPT = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]
STATIC = [b"GET /static/file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]
UPLOAD = [
    b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 90000\r\n\r\n" + b"b" * 30_000,
    b"b" * 30_000,
    b"b" * 30_000,
]
TLS = {"certfile": (shared_authority()[1],)}
PATHS: dict[str, tuple[Answer, list[bytes], dict[str, Any]]] = {  # {folder} is where the file lies
    "bytes": (answer_bytes, GET, {}),
    "bytes, riding": (answer_bytes, GET, {}),
    "few bytes, riding": (answer_few_bytes, GET, {}),
    "few bytes, riding on": (answer_few_bytes, KEPT, {"keep_alive": 0.01}),
    "file, riding": (answer_plain_file, GET, {}),
    "write, raise, riding": (answer_write("raise"), GET, {}),
    "work in nurseries, riding": (answer_with_work, GET, {}),
    "static mount, riding": (answer_error, STATIC, {"static": ("/static={folder}",)}),
    "error, riding": (answer_error, GET, {}),
    "generator": (answer_generator, GET, {}),
    "generator, ahead": (answer_generator, GET, {"output_buffering": 25_000}),
    "write, block": (answer_write("block"), GET, {}),
    "write, raise": (answer_write("raise"), GET, {}),
    "write, buffer": (answer_write("buffer"), GET, {"write_buffer_size": 20_000}),
    "file": (answer_plain_file, GET, {}),
    "file of the app's own": (answer_own_file, GET, {}),
    "range": (answer_own_file, RANGE, {}),
    "static mount": (answer_error, STATIC, {"static": ("/static={folder}",)}),
    "static mount, cold": (answer_error, STATIC, {"static": ("/static={folder}",)}),
    "file named by a header": (answer_named, GET, {"accel": ("/protected/={folder}",)}),
    "early hints": (answer_hints, GET, {}),
    "work in nurseries": (answer_with_work, GET, {}),
    "upload, buffered": (answer_upload, UPLOAD, {"body_buffer_size": 50_000}),
    "upload, streamed": (answer_upload, UPLOAD, {"request_buffering": False}),
    "error": (answer_error, GET, {}),
    "error, half-way": (answer_error_later, GET, {}),
    "TLS, file": (answer_plain_file, GET, TLS),
    "TLS, write, raise": (answer_write("raise"), GET, TLS),
    "TLS, upload, streamed": (answer_upload, UPLOAD, TLS | {"request_buffering": False}),
}


def prepare(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a path needs besides: names that the kernel has not at hand, or a client that rides in the lane."""
    if "cold" in name:
        have_nothing_at_hand(monkeypatch)
    if "riding" in name:
        ride_at_once(monkeypatch)
        monkeypatch.setattr(lanes, "SILENT_AFTER", 0.02)


def settings_of(name: str, folder: Path) -> dict[str, Any]:
    """The settings that a path needs."""
    return {
        key: tuple(value.format(folder=folder) for value in values) if isinstance(values, tuple) else values
        for key, values in PATHS[name][2].items()
    }
