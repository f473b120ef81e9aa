"""Requests that last, in the lane: nobody waits behind one, and the loop looks after it as after any other."""

from __future__ import annotations

import contextvars
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from asking import KEPT, Environ, StartResponse
from riding import App, ask_for, board, lane_of, receive, say
from serving import serving
from standing import Gate
from waiting import until

import trio_wsgi.net.pool
from trio_wsgi import Outcome
from trio_wsgi.net import pace
from trio_wsgi.net.status import State

SIZE = 100_000


async def test_nobody_waits_behind_a_request_that_lasts(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """And there is no lane for a while, though the client that lasts is alone to blame."""
    monkeypatch.setattr(pace, "APART_FOR", 60.0)
    app = App(gate=lambda _: gate.call(b"at last"))
    async with serving(app, threads=2) as served, await board(served, 5) as slow, await board(served, 5) as quick:
        lane = lane_of(served)
        await slow.send_all(ask_for("/gate"))
        await gate.wait_inside(1)
        for _ in range(5):
            await quick.send_all(KEPT)
            await receive(quick, 5)
        assert lane is not None
        assert lane.closed
        assert lane_of(served) is lane
        statistics = served.server.statistics()
        assert (statistics.threads.busy, statistics.by_state[State.RUNNING]) == (1, 1)
        assert "open.wait" in str(statistics)
        gate.open.set()
        assert (await receive(slow, 7)).endswith(b"at last")
        assert len(set(app.threads)) == 2


async def test_many_that_each_wait_a_little_are_spread_over_threads() -> None:
    """None of them lasts long enough to be stuck, and yet behind each other they would take eight times as long."""

    def nap(environ: Environ) -> bytes:
        time.sleep(0.003)
        return b"hello"

    app = App(**{"": nap})
    async with serving(app, threads=8) as served, trio.open_nursery() as nursery:

        async def keep_asking() -> None:
            async with await served.connect() as client:
                while True:
                    await client.send_all(KEPT)
                    await receive(client, 5)

        for _ in range(8):
            nursery.start_soon(keep_asking)

        def is_spread() -> bool:
            app.threads.clear()
            return served.server.statistics().threads.busy >= 4

        await until(is_spread)
        nursery.cancel_scope.cancel()


async def test_a_client_that_goes_cancels_its_request() -> None:
    """PAINS 33: also where the request began without the loop."""
    entered, seen = threading.Event(), list[BaseException]()

    def works(environ: Environ) -> bytes:
        entered.set()
        try:
            while True:
                trio.from_thread.check_cancelled()
                time.sleep(0.001)
        except BaseException as exc:
            seen.append(exc)
            raise

    async with serving(App(works=works), half_close="abort", threads=1) as served:
        client = await board(served, 5)
        known = len(served.records)
        await client.send_all(ask_for("/works"))
        await until(entered.is_set)
        await client.aclose()
        assert (await served.record(known + 1)).outcome is Outcome.CLIENT_GONE
        assert [type(exc) for exc in seen] == [trio.Cancelled]
        async with await board(served, 5):  # another thread is in its place
            pass


async def test_the_application_has_its_time_and_no_more() -> None:
    def works(environ: Environ) -> bytes:
        if environ["QUERY_STRING"]:
            environ["trio_wsgi.set_app_timeout"](float(environ["QUERY_STRING"]))
        for _ in range(60):
            trio.from_thread.check_cancelled()
            time.sleep(0.005)
        return b"hello"

    async with serving(App(works=works), app_timeout=0.1) as served:
        for target, status in (("/works", b"504"), ("/works?0.05", b"504"), ("/works?10", b"200")):
            async with await board(served, 5) as client:
                await client.send_all(ask_for(target))
                assert (await receive(client, 0)).startswith(b"HTTP/1.1 " + status), target


async def test_a_thread_that_ignores_its_cancellation_is_lost(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its client is told, others ride elsewhere, and what it brings in the end is closed."""
    monkeypatch.setattr(trio_wsgi.net.pool, "LOST_AFTER", 0.1)
    (tmp_path / "file").write_bytes(bytes(SIZE))
    files: list[Any] = []

    def app(environ: Environ, start_response: StartResponse) -> Any:
        if environ["PATH_INFO"] != "/gate":
            return say(start_response, b"hello")
        gate.call()
        start_response("200 OK", [])
        files.append((tmp_path / "file").open("rb"))
        return environ["wsgi.file_wrapper"](files[0])

    async with serving(app, threads=1, app_timeout=0.05) as served:
        async with await board(served, 5) as client:
            await client.send_all(ask_for("/gate"))
            assert (await receive(client, 0)).startswith(b"HTTP/1.1 504")
        assert served.server.statistics().threads.lost == 1
        async with await board(served, 5):
            pass
        gate.open.set()
        await until(lambda: files and files[0].closed)
        await until(lambda: served.server.statistics().threads.lost == 0)


async def test_what_it_starts_for_its_request_ends_with_it() -> None:
    """environ["trio_wsgi.nursery"]: waited for, and not to be used any more afterwards."""
    events: list[str] = []
    nurseries: list[Any] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            events.append("ended")

    def starts(environ: Environ) -> bytes:
        environ["trio_wsgi.nursery"].start_soon(work)
        return b"hello"

    def keeps(environ: Environ) -> bytes:
        nurseries.append(environ["trio_wsgi.nursery"])
        return b"hello"

    async with serving(App(starts=starts, keeps=keeps)) as served, await board(served, 5) as client:
        await client.send_all(ask_for("/starts"))
        await receive(client, 5)
        await until(lambda: events)
        for _ in range(3):
            await client.send_all(ask_for("/keeps"))
            await receive(client, 5)
        await trio.testing.wait_all_tasks_blocked(0.01)
        for nursery in nurseries:
            with pytest.raises(RuntimeError, match="the request has ended"):
                nursery.start_soon(work)


async def test_what_one_request_sets_in_its_context_the_next_does_not_see() -> None:
    mark = contextvars.ContextVar("mark", default=b"clean")

    def sets(environ: Environ) -> bytes:
        seen = mark.get()
        mark.set(b"dirty")
        return seen

    async with serving(App(sets=sets)) as served, await board(served, 5) as client:
        await client.send_all(ask_for("/sets") * 3)  # one after the other, or ahead
        received = b""
        while received.count(b"\r\n\r\n") < 3 or not received.endswith(b"clean"):
            received += await client.receive_some()
        assert received.count(b"clean") == 3
