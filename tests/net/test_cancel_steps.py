"""The server is cancelled at every step of a request, one run per step, until the request gets through.

Whatever the step: what the app opened is closed once, its iterable is closed once, one record is told, no thread is
busy, no task and no descriptor is left, nothing is asked to be reported.
"""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from serving import receive_all
from stepper import CancelsAtStep

from trio_wsgi import Config, Outcome, RequestRecord, Server

SIZE = 60_000  # several times what the socket buffers of these tests take at once
MOST_STEPS = 300


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


class Traces:
    """What one run of the app has left."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0


Answer = Callable[[dict[str, Any], Any, Traces, Path], Any]


def answer_bytes(environ: dict[str, Any], start: Any, traces: Traces, path: Path) -> Any:
    start("200 OK", [])
    return [b"x" * SIZE]


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


GET = [b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]
UPLOAD = [
    b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 90000\r\n\r\n" + b"b" * 30_000,
    b"b" * 30_000,
    b"b" * 30_000,
]
PATHS: dict[str, tuple[Answer, list[bytes], dict[str, Any]]] = {
    "bytes": (answer_bytes, GET, {}),
    "generator": (answer_generator, GET, {}),
    "generator, ahead": (answer_generator, GET, {"output_buffering": 25_000}),
    "write, block": (answer_write("block"), GET, {}),
    "write, raise": (answer_write("raise"), GET, {}),
    "write, buffer": (answer_write("buffer"), GET, {"write_buffer_size": 20_000}),
    "file": (answer_plain_file, GET, {}),
    "file of the app's own": (answer_own_file, GET, {}),
    "upload, buffered": (answer_upload, UPLOAD, {"body_buffer_size": 50_000}),
    "upload, streamed": (answer_upload, UPLOAD, {"request_buffering": False}),
    "error": (answer_error, GET, {}),
    "error, half-way": (answer_error_later, GET, {}),
}


class Run:
    """One server, one request, one cancellation."""

    def __init__(self, answer: Answer, sends: list[bytes], settings: dict[str, Any], path: Path) -> None:
        self.traces = Traces()
        self.records: list[RequestRecord] = []
        self.received = b""
        self.asked = 0
        self._sends = sends
        self._config = Config(threads=2, linger_timeout=1, **settings)

        def app(environ: dict[str, Any], start: Any) -> Any:
            self.asked += 1
            return answer(environ, start, self.traces, path)

        self._server = Server(app, self._config, observers=(self.records.append,))

    async def cancelled_at(self, step: int) -> bool:
        """Whether the request got through before that step came."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # those accepted inherit it
            return await self._cancelled_at(step, listener)

    async def _cancelled_at(self, step: int, listener: socket.socket) -> bool:
        ended = trio.Event()
        scope = trio.CancelScope()
        instruments: list[CancelsAtStep] = []

        async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
            instruments.append(CancelsAtStep(scope, trio.lowlevel.current_task(), step))
            with scope:
                await self._server.serve([listener], task_status=task_status)
            ended.set()

        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(serve)
            (instrument,) = instruments
            trio.lowlevel.add_instrument(instrument)
            try:
                await self._ask(address.port, instrument)
            finally:
                trio.lowlevel.remove_instrument(instrument)
            through = not scope.cancel_called
            scope.cancel()
            await ended.wait()
        return through

    async def _ask(self, port: int, instrument: CancelsAtStep) -> None:
        sock = trio.socket.socket()
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 8192)
        await sock.connect(("127.0.0.1", port))
        instrument.armed = True
        async with trio.SocketStream(sock) as client:
            try:
                for data in self._sends:
                    await client.send_all(data)
                    await trio.sleep(0.001)
            except trio.BrokenResourceError:
                pass
            self.received = await receive_all(client)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.slow
@pytest.mark.parametrize("name", PATHS)
async def test_cancelled_at_every_step(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * SIZE)
    answer, sends, settings = PATHS[name]
    tasks = trio.lowlevel.current_statistics().tasks_living
    open_before: int | None = None
    outcomes: set[Outcome] = set()
    for step in range(1, MOST_STEPS):
        run = Run(answer, sends, settings, path)
        with trio.fail_after(10):
            through = await run.cancelled_at(step)
        where = f"cancelled at step {step} of {name}"
        assert run.traces.opened == run.traces.closed, where
        assert len(run.records) == 1 or (not run.records and run.asked == 0), where
        if run.records:
            outcomes.add(run.records[0].outcome)
            assert run.records[0].outcome in {Outcome.FINISHED, Outcome.SHUTDOWN, Outcome.APP_ERROR}, where
        assert trio.lowlevel.current_statistics().tasks_living == tasks, where
        assert "please report" not in caplog.text, where
        open_before = descriptors() if open_before is None else open_before
        assert descriptors() <= open_before, where
        if through:
            assert run.records[0].outcome is (Outcome.APP_ERROR if "error" in name else Outcome.FINISHED)
            break
    else:
        raise AssertionError(f"{name} takes more than {MOST_STEPS} steps")
    assert Outcome.SHUTDOWN in outcomes
    gc.collect()  # what nobody closed warns now
    assert not [thread for thread in threading.enumerate() if thread.name == "trio-wsgi app"]
