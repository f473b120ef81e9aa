"""The server is cancelled at every step of a request, one run per step, until the request gets through.

Whatever the step: what the app opened is closed once, its iterable is closed once, one record is told, no thread is
busy, no task and no descriptor is left, nothing is asked to be reported.
"""

from __future__ import annotations

import gc
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
from lifetimes import PATHS, SIZE, Answer, Traces, prepare, settings_of
from opened import count_descriptors
from stepper import CancelsAtStep, ask_in_pieces

from trio_wsgi import Config, Outcome, RequestRecord, Server

MOST_STEPS = 300


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
            instruments.append(CancelsAtStep(scope.cancel, trio.lowlevel.current_task(), step))
            with scope:
                await self._server.serve([listener], task_status=task_status)
            ended.set()

        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(serve)
            (instrument,) = instruments
            trio.lowlevel.add_instrument(instrument)
            try:
                self.received = await ask_in_pieces(address.port, self._sends, instrument, bool(self._config.certfile))
            finally:
                trio.lowlevel.remove_instrument(instrument)
            through = not scope.cancel_called
            scope.cancel()
            await ended.wait()
        return through


@pytest.mark.parametrize("name", PATHS)
async def test_cancelled_at_every_step(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(name, monkeypatch)
    path = tmp_path / "file"
    path.write_bytes(b"x" * SIZE)
    answer, sends, _ = PATHS[name]
    settings = settings_of(name, tmp_path)
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
        open_before = count_descriptors() if open_before is None else open_before
        assert count_descriptors() <= open_before, where
        if through:
            assert run.records[0].outcome is (Outcome.APP_ERROR if "error" in name else Outcome.FINISHED)
            break
    else:
        raise AssertionError(f"{name} takes more than {MOST_STEPS} steps")
    # What a thread does in the lane is over before the loop makes a step, unless it waits for the loop.
    assert Outcome.SHUTDOWN in outcomes or "riding" in name
    gc.collect()  # what nobody closed warns now
    assert not [thread for thread in threading.enumerate() if thread.name == "trio-wsgi app"]
