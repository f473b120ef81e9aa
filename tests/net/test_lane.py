"""Rules of the lane: a thread serves clients that ask without a rest, and the loop hears only of what it must."""

from __future__ import annotations

import contextvars
import errno
import io
import os
import select
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
from asking import PLAIN, Environ, StartResponse
from riding import KEPT, board, lane_of, receive
from serving import receive_all, serving

import trio_wsgi.net.apps
from trio_wsgi import Outcome
from trio_wsgi.disk.root import AtHand, WouldBlock
from trio_wsgi.net import pace
from trio_wsgi.net.status import State

CLOSE = KEPT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
SIZE = 100_000
TRIES = 20  # where a processor that somebody else has taken for 5 ms makes a request one that lasts


def ask_for(path: str) -> bytes:
    return KEPT.replace(b" / ", f" {path} ".encode())


def say(start_response: StartResponse, body: bytes) -> list[bytes]:
    start_response("200 OK", [*PLAIN, ("Content-Length", str(len(body)))])
    return [body]


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - it happens in threads
            await trio.sleep(0.001)


class App:
    """Answers "hello", or does what is to be done for a path; notes which threads it ran in."""

    def __init__(self, **views: Callable[[Environ], bytes]) -> None:
        self.views = views
        self.threads: list[int] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        self.threads.append(threading.get_ident())
        view = self.views.get(environ["PATH_INFO"][1:])
        return say(start_response, b"hello" if view is None else view(environ))


class Gate:
    """A view that stands still until it is let go; it ignores what else is going on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, environ: Environ) -> bytes:
        self.entered.set()
        assert self.go_on.wait(10)
        return b"at last"

    async def is_entered(self) -> None:
        await until(self.entered.is_set)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.go_on.set()


class Steps(trio.abc.Instrument):
    """Counts the steps of the tasks that serve connections."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name == "trio_wsgi connection"


@asynccontextmanager
async def counting_steps() -> AsyncIterator[Steps]:
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    yield steps
    trio.lowlevel.remove_instrument(steps)


@pytest.mark.usefixtures("each_engine")
async def test_a_brisk_client_is_served_by_one_thread_and_without_the_loop() -> None:
    app = App()
    async with serving(app) as served:
        for _ in range(TRIES):
            async with await board(served, 5) as client, counting_steps() as steps:
                app.threads.clear()
                for _ in range(20):
                    await client.send_all(KEPT)
                    assert (await receive(client, 5)).endswith(b"\r\n\r\nhello")
                if (len(set(app.threads)), steps.count) == (1, 0):
                    return
    raise AssertionError("the loop had a part in it, each time")


async def test_every_request_has_its_record_though_the_client_says_nothing_more() -> None:
    async with serving(App()) as served, await board(served, 5) as client:
        known = len(served.records)
        for count in range(1, 4):
            await client.send_all(KEPT)
            await receive(client, 5)
            record = await served.record(known + count)
            assert (record.outcome, record.body_sent, record.status) == (Outcome.FINISHED, 5, 200)
            assert 0 < record.duration < 5


class Noted(io.BufferedReader):
    """A file whose close is the application's own code."""

    closed_in: ClassVar[list[str]] = []

    def close(self) -> None:
        if not self.closed:
            self.closed_in.append(threading.current_thread().name)
        super().close()


async def test_a_file_is_closed_where_its_closing_may_block(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(SIZE))
    Noted.closed_in.clear()

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [("Content-Length", str(SIZE))])
        return environ["wsgi.file_wrapper"](Noted(io.FileIO(tmp_path / "file")))

    async with serving(app) as served, await board(served, SIZE) as client:
        for _ in range(5):
            await client.send_all(KEPT)
            await receive(client, SIZE)
        await client.send_all(CLOSE)
        await receive_all(client)
        await until(lambda: not served.server.statistics().connections)
        assert Noted.closed_in == ["trio-wsgi app"] * len(served.records)


async def test_what_the_kernel_does_not_take_at_once_leaves_without_the_thread() -> None:
    """A slow reader holds no thread, wherever its request was served; afterwards it may ride again."""
    size = 8_000_000

    def app(environ: Environ, start_response: StartResponse) -> Any:
        return say(start_response, bytes(size if environ["PATH_INFO"] == "/big" else 5))

    async with serving(app, threads=1) as served, await board(served, 5) as client:
        await client.send_all(ask_for("/big"))
        await until(lambda: State.SENDING in served.server.statistics().by_state)
        await until(lambda: served.server.statistics().threads.busy == 0)
        async with await served.connect() as other:
            await other.send_all(KEPT)
            await receive(other, 5)
        assert len(await receive(client, size)) > size
        await client.send_all(KEPT)
        await receive(client, 5)


async def test_who_asks_ahead_is_answered_in_order() -> None:
    """RFC 9112 §9.3.2; and more than are served before others have their turn."""
    app = App(**{str(number): lambda environ: environ["PATH_INFO"].encode() for number in range(50)})
    async with serving(app) as served, await board(served, 5) as client:
        await client.send_all(b"".join(ask_for(f"/{number}") for number in range(50)))
        received = b""
        with trio.fail_after(10):
            while not received.endswith(b"/49"):
                received += await client.receive_some()
        answers = [line.rpartition(b"\r\n\r\n")[2] for line in received.split(b"HTTP/1.1 ")[1:]]
        assert answers == [f"/{number}".encode() for number in range(50)]


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("pause", [0.0, 0.02])
async def test_a_request_in_pieces_and_one_with_a_body(pause: float) -> None:
    app = App(upload=lambda environ: environ["wsgi.input"].read())
    upload = b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nupload"
    async with serving(app) as served, await board(served, 5) as client:
        for sent, answer in ((KEPT, b"hello"), (upload, b"upload"), (KEPT, b"hello")):
            for byte in sent if pause == 0 else [sent[:9], sent[9:-3], sent[-3:]]:
                await client.send_all(bytes([byte]) if isinstance(byte, int) else byte)
                await trio.sleep(pause)
            assert (await receive(client, len(answer))).endswith(b"\r\n\r\n" + answer)


@pytest.mark.parametrize(
    ("sent", "status", "outcome"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400", Outcome.REFUSED),
        (ask_for("/fails"), b"500", Outcome.APP_ERROR),
        (ask_for("/leaves"), b"500", Outcome.APP_ERROR),
        (ask_for("/unsendable"), b"500", Outcome.APP_ERROR),
    ],
)
async def test_what_goes_wrong_is_answered_as_everywhere(sent: bytes, status: bytes, outcome: Outcome) -> None:
    def leaves(environ: Environ) -> bytes:
        raise SystemExit(3)

    def unsendable(environ: Environ) -> bytes:
        environ["trio_wsgi.limit_rate"] = "fast"
        return b"hello"

    app = App(fails=lambda environ: b"%d" % (1 // 0), leaves=leaves, unsendable=unsendable)
    async with serving(app) as served, await board(served, 5) as client:
        known = len(served.records)
        await client.send_all(sent)
        assert (await receive(client, 0)).startswith(b"HTTP/1.1 " + status)
        assert (await served.record(known + 1)).outcome is outcome
        async with await board(served, 5):  # it goes on
            pass


async def test_a_client_that_leaves_in_silence_leaves_nothing_behind() -> None:
    async with serving(App()) as served:
        client = await board(served, 5)
        await client.aclose()
        await until(lambda: not served.server.statistics().connections)
        assert {record.outcome for record in served.records} == {Outcome.FINISHED}


# -- requests that last ---------------------------------------------------------------------------------------------


async def test_nobody_waits_behind_a_request_that_lasts(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """And there is no lane for a while, though the client that lasts is alone to blame."""
    monkeypatch.setattr(pace, "APART_FOR", 60.0)
    app = App(gate=gate)
    async with serving(app, threads=2) as served, await board(served, 5) as slow, await board(served, 5) as quick:
        lane = lane_of(served)
        await slow.send_all(ask_for("/gate"))
        await gate.is_entered()
        for _ in range(5):
            await quick.send_all(KEPT)
            await receive(quick, 5)
        assert lane is not None
        assert lane.closed
        assert lane_of(served) is lane
        statistics = served.server.statistics()
        assert (statistics.threads.busy, statistics.by_state[State.RUNNING]) == (1, 1)
        assert "gate.wait" in str(statistics) or "go_on.wait" in str(statistics)
        gate.go_on.set()
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
    monkeypatch.setattr(trio_wsgi.net.apps, "LOST_AFTER", 0.1)
    (tmp_path / "file").write_bytes(bytes(SIZE))
    files: list[Any] = []

    def app(environ: Environ, start_response: StartResponse) -> Any:
        if environ["PATH_INFO"] != "/gate":
            return say(start_response, b"hello")
        gate(environ)
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
        gate.go_on.set()
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


# -- who rides, and how long ----------------------------------------------------------------------------------------


async def test_the_only_thread_is_for_everybody() -> None:
    """threads=1, queue_size=0: a silent rider keeps nobody from it, nor a lane from being opened again."""
    async with serving(App(), threads=1, queue_size=0) as served:
        for _ in range(3):
            async with await board(served, 5):
                assert (await served.exchange(CLOSE)).endswith(b"hello")


async def test_a_silent_client_rides_no_longer_and_the_lane_ends_with_the_last() -> None:
    async with serving(App()) as served, await board(served, 5) as client:
        lane = lane_of(served)
        assert lane is not None
        await until(lambda: lane.closed and not lane.rides)
        threads = served.server.statistics().threads
        assert (threads.busy, threads.queued) == (0, 0)
        await client.send_all(KEPT)
        await receive(client, 5)


@pytest.mark.parametrize("scarce", ["eventfd", "epoll"])
async def test_without_descriptors_there_is_no_lane_and_no_harm(scarce: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with serving(App()) as served, await served.connect() as client:
        monkeypatch.setattr(*{"eventfd": (os, "eventfd"), "epoll": (select, "epoll")}[scarce], fails)
        for _ in range(5):
            await client.send_all(KEPT)
            await receive(client, 5)
        assert lane_of(served) is None


async def test_who_comes_while_others_ride_is_served_there_at_once() -> None:
    """A crowd that arrives at once boards sooner than the loop could serve it beside a busy thread."""
    app = App()
    async with serving(app) as served:
        for _ in range(TRIES):
            async with await board(served, 5) as brisk:
                app.threads.clear()
                async with await served.connect() as fresh:
                    await fresh.send_all(KEPT)
                    await receive(fresh, 5)
                    await brisk.send_all(KEPT)
                    await receive(brisk, 5)
                if len(app.threads) == 2 and len(set(app.threads)) == 1:
                    return
        raise AssertionError("it was served by another thread each time")


async def test_who_comes_while_others_ride_has_to_say_something_in_time() -> None:
    """header_timeout counts from the connection, wherever it is waited for."""
    async with serving(App(), header_timeout=0.6) as served, await board(served, 5) as brisk:
        began = trio.current_time()
        async with await served.connect() as silent, trio.open_nursery() as nursery:

            async def go_on() -> None:
                while True:
                    await brisk.send_all(KEPT)
                    await receive(brisk, 5)
                    await trio.sleep(0.02)

            nursery.start_soon(go_on)
            with trio.fail_after(10):
                assert await receive_all(silent) == b""
            assert trio.current_time() - began >= 0.6
            nursery.cancel_scope.cancel()


async def test_keep_alive_counts_from_the_last_answer() -> None:
    async with serving(App(), keep_alive=0.6) as served, await board(served, 5) as client:
        with trio.fail_after(5):
            began = trio.current_time()
            assert await client.receive_some() == b""
            assert trio.current_time() - began >= 0.5


async def test_a_drain_ends_silent_riders_at_once_and_busy_ones_after_their_answer(gate: Gate) -> None:
    async with serving(App(gate=gate)) as served:
        busy, silent = await board(served, 5), await board(served, 5)
        async with busy, silent:
            await busy.send_all(ask_for("/gate"))
            await gate.is_entered()
            served.server.drain()
            with trio.fail_after(2):
                assert await silent.receive_some() == b""
            gate.go_on.set()
            answer = await receive_all(busy)
            assert b"connection: close" in answer.lower()
            assert answer.endswith(b"at last")


async def test_requests_that_arrive_while_riders_are_recalled_are_answered() -> None:
    """Over and over a lane is closed under riders that go on asking: none is lost, none is served twice."""
    app = App()
    async with serving(app, threads=4) as served, trio.open_nursery() as nursery:
        answers = 0

        async def keep_asking() -> None:
            nonlocal answers
            async with await served.connect() as client:
                for _ in range(300):
                    await client.send_all(KEPT)
                    await receive(client, 5)
                    answers += 1

        async def disturb() -> None:
            while True:
                await trio.sleep(0.002)
                lane = lane_of(served)
                if lane is not None and not lane.closed:
                    lane.close()

        async with trio.open_nursery() as clients:
            nursery.start_soon(disturb)
            for _ in range(6):
                clients.start_soon(keep_asking)
        nursery.cancel_scope.cancel()
    assert answers == len(app.threads) == 1800


async def test_files_of_mounts_are_served_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"from the mount")
    async with serving(App(), static=(f"/static={tmp_path}",)) as served, await board(served, 5) as client:
        await client.send_all(ask_for("/static/file"))
        await receive(client, 14)  # from now on the kernel has it at hand
        for _ in range(TRIES):
            async with await board(served, 5) as rider, counting_steps() as steps:
                for target, body in (("/static/file", b"from the mount"), ("/", b"hello")):
                    await rider.send_all(ask_for(target))
                    assert (await receive(rider, len(body))).endswith(body)
                if steps.count == 0:
                    return
    raise AssertionError("the loop had a part in it, each time")


async def test_files_that_are_not_at_hand_come_from_the_disks_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def would_block(at_hand: AtHand, names: Any) -> Any:
        asked.append(threading.get_ident())
        raise WouldBlock

    monkeypatch.setattr(AtHand, "open", would_block)
    (tmp_path / "file").write_bytes(b"from the mount")
    async with serving(App(), static=(f"/static={tmp_path}",)) as served, await board(served, 5) as client:
        for _ in range(3):
            await client.send_all(ask_for("/static/file"))
            assert (await receive(client, 14)).endswith(b"from the mount")
        assert len(asked) == 3  # it is not looked for twice
