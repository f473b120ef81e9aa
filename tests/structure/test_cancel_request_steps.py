"""A request is cancelled at each of its steps, as its client's going and as a drain would: the server goes on.

One server lives through it all, with one thread. After each step: what the app opened is closed once, so is its
iterable, there is one record, no task, thread or descriptor more than before, and the same request is served whole.
"""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from lifetimes import PATHS, SIZE, Traces, prepare, settings_of
from opened import count_descriptors
from riding import has_lane
from stepper import CancelsAtStep, ask_in_pieces
from waiting import until

from trio_wsgi import Config, Outcome, RequestRecord, Server

MOST_STEPS = 300


def client_goes(server: Server) -> None:
    """What `DisconnectWatch` does when it hears of it; nothing unless the application is at work."""
    assert server._service is not None
    watch = server._service.watch
    for *_, gone in [*watch._new.values(), *watch._young.values(), *watch._watched.values()]:
        gone("closed")


def connection_is_cut(server: Server) -> None:
    """What a drain does to who does not move."""
    for connection in server._connections:
        connection.cut()


CANCELS: dict[str, tuple[Callable[[Server], None], Outcome]] = {
    "client goes": (client_goes, Outcome.CLIENT_GONE),
    "connection is cut": (connection_is_cut, Outcome.SHUTDOWN),
}


class Site:
    """One server, asked again and again."""

    def __init__(self, name: str, path: Path) -> None:
        answer, self._sends, _ = PATHS[name]
        self.traces = Traces()
        self.records: list[RequestRecord] = []

        def app(environ: dict[str, Any], start: Any) -> Any:
            self.traces.asked += 1
            trio.from_thread.run(trio.sleep, 0)  # some steps to be cancelled at, however quick the application is
            return answer(environ, start, self.traces, path)

        settings = settings_of(name, path.parent)
        self.server = Server(app, Config(threads=1, linger_timeout=1, **settings), observers=(self.records.append,))
        self.port = 0
        self.root: trio.lowlevel.Task | None = None

    async def serve(self, listener: socket.socket, *, task_status: trio.TaskStatus[None]) -> None:
        self.root = trio.lowlevel.current_task()
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(self.server.serve, [listener])
            self.port = address.port
            task_status.started()

    def _is_idle(self) -> bool:
        return not self.server._connections and self.traces.opened == self.traces.closed and not has_lane(self.server)

    async def ask(self, cancel: Callable[[Server], None] | None = None, step: int = 0) -> tuple[bytes, int]:
        """What came, and how many steps it took."""
        self.traces.__init__()  # type: ignore[misc]
        self.records.clear()
        assert self.root is not None
        instrument = CancelsAtStep(lambda: cancel and cancel(self.server), self.root, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            received = await ask_in_pieces(self.port, self._sends, instrument, bool(self.server.config.certfile))
            await until(self._is_idle)
        finally:
            trio.lowlevel.remove_instrument(instrument)
        return received, instrument.steps


def left() -> tuple[int, int]:
    return trio.lowlevel.current_statistics().tasks_living, count_descriptors()


@pytest.mark.parametrize("how", CANCELS)
@pytest.mark.parametrize("name", PATHS)
async def test_a_request_cancelled_at_every_step(
    name: str, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(name, monkeypatch)
    path = tmp_path / "file"
    path.write_bytes(b"x" * SIZE)
    cancel, cancelled = CANCELS[how]
    whole = Outcome.APP_ERROR if name.startswith("error") else Outcome.FINISHED
    site = Site(name, path)
    outcomes: set[Outcome] = set()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # those accepted inherit it
        async with trio.open_nursery() as nursery:
            await nursery.start(site.serve, listener)
            with trio.fail_after(15):
                expected, _ = await site.ask()
                await trio.testing.wait_all_tasks_blocked(0.002)
            before = left()
            for step in range(1, MOST_STEPS):
                where = f"cancelled at step {step} of {name}"
                with trio.fail_after(15):
                    _, steps = await site.ask(cancel, step)
                    assert site.traces.opened == site.traces.closed, where
                    assert len(site.records) == 1 or (not site.records and site.traces.asked == 0), where
                    outcomes |= {record.outcome for record in site.records}
                    received, _ = await site.ask()
                    assert len(received) == len(expected), where
                    assert [record.outcome for record in site.records] == [whole], where
                    await until(lambda: left() == before)
                    threads = site.server.statistics().threads
                    assert (threads.busy, threads.lost, threads.queued) == (0, 0, 0), where
                assert "please report" not in caplog.text, where
                if steps < step:
                    break
            else:
                raise AssertionError(f"{name} takes more than {MOST_STEPS} steps")
            nursery.cancel_scope.cancel()
    assert outcomes <= {whole, cancelled, Outcome.APP_ERROR if "half-way" in name else whole}
    # Of a mount's request nobody looks whether its client goes, nor of one that is quick in the lane.
    assert cancelled in outcomes or (how == "client goes" and (name.startswith("static mount") or "riding" in name))
    gc.collect()  # what nobody closed warns now
