"""Two threads at one moment: what either does in between two steps of the other harms nobody.

Moments that are too short to be met are made longer by small classes in place of the system's.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from answers import read_answer
from asking import PLAIN, Environ, StartResponse, request
from riding import board, say
from serving import serving
from waiting import until

import trio_wsgi.net.drain
import trio_wsgi.net.pool
from trio_wsgi import Outcome
from trio_wsgi.net.lane import Lane
from trio_wsgi.net.watch import RIPE
from trio_wsgi.net.work import Work

HELLO = 5


def hello(environ: Environ, start_response: StartResponse) -> list[bytes]:
    return say(start_response, b"hello")


class Epoll:
    """An epoll that calls `before` with each descriptor that is to be registered."""

    def __init__(self, before: Callable[[int], object]) -> None:
        self._epoll = select.epoll()
        self._before = before

    def register(self, fd: int, events: int) -> None:
        self._before(fd)
        self._epoll.register(fd, events)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


# -- the lane ----------------------------------------------------------------------------------------------------------


async def test_a_ride_is_there_to_be_taken_only_once_its_client_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that still held an old event of that number took it out, and could not unregister it."""
    early: list[int] = []
    make = Lane.__init__

    def with_epoll(lane: Lane, *args: Any) -> None:
        make(lane, *args)
        wake = lane._wake
        lane._epoll.close()
        lane._epoll = Epoll(lambda fd: early.append(fd) if fd in lane._waiting else None)  # type: ignore[assignment]
        lane._epoll.register(wake, select.EPOLLIN)

    monkeypatch.setattr(Lane, "__init__", with_epoll)
    async with serving(hello) as served, await board(served, HELLO):
        assert early == []


def test_the_loop_knows_of_the_lanes_thread_when_its_clock_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    get_clock = time.pthread_getcpuclockid

    def look(thread: int) -> int:
        seen.append(lane.thread)
        return get_clock(thread)

    async def make() -> Lane:
        return Lane(time.monotonic, lambda: None)

    lane = trio.run(make)
    lane.closed = True
    monkeypatch.setattr(time, "pthread_getcpuclockid", look)
    lane.run_in_thread()
    assert seen == [0]
    assert lane.thread == threading.get_ident()
    lane._epoll.close()
    os.close(lane._wake)


async def test_nothing_is_started_for_a_request_that_ends_while_the_loop_looks_whether_it_lives() -> None:
    """The task would have lived on, and the connection, whose nursery waits for it."""

    def ends_meanwhile() -> bool:
        work.end_unused()
        return True

    async with trio.open_nursery() as nursery:
        work = Work(nursery, "the request", trio.lowlevel.current_trio_token(), ends_meanwhile)
        with pytest.raises(RuntimeError, match="the request has ended"):
            work.start_soon(trio.sleep_forever)


# -- cancellations -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take the interpreter from each other as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty", "each_way")
async def test_a_cancelled_request_is_never_the_applications_error() -> None:
    """504, although Trio gives a thread its Cancelled before the thread can look whether it was cancelled."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        trio.from_thread.run(trio.sleep, 60)
        raise AssertionError("it was cancelled")

    async with serving(app, app_timeout=0.02, threads=8) as served:

        async def ask_some() -> None:
            for _ in range(15):
                assert read_answer(await served.exchange(request(), timeout=60)).status == 504

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask_some)
    assert {record.outcome for record in served.records} == {Outcome.APP_TIMEOUT}


@pytest.mark.usefixtures("each_way")
async def test_what_a_lost_thread_writes_to_is_closed_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of a descriptor that is closed meanwhile is soon another client's socket's."""
    monkeypatch.setattr(trio_wsgi.net.pool, "LOST_AFTER", 0.1)
    writing, disk = threading.Event(), threading.Event()

    class Late(bytes):
        """A block that a slow disk takes its time for."""

        def __len__(self) -> int:
            writing.set()
            disk.wait(10)
            return super().__len__()

    def files() -> list[str]:
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]  # noqa: PTH208
        return [os.readlink(link) for link in links if os.path.exists(link) and tmp_path.name in os.readlink(link)]  # noqa: PTH110, PTH115

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", PLAIN)
        write(bytes(100_000))
        write(Late(b"late"))
        return []

    settings = {"write_policy": "buffer", "write_buffer_size": 10, "temp_path": str(tmp_path), "app_timeout": 0.05}
    async with serving(app, **settings) as served:
        with trio.fail_after(10):
            assert read_answer(await served.exchange(request())).status == 504
            assert writing.is_set()
            assert len(files()) == 1
            disk.set()
            await until(lambda: not files())


# -- the watch, the drain, a look at it all ----------------------------------------------------------------------------


async def test_who_cannot_be_watched_is_served_unwatched() -> None:
    """epoll_ctl(2), ENOSPC: fs.epoll.max_user_watches is reached."""
    refused: list[int] = []

    def refuse(fd: int) -> None:
        refused.append(fd)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def slow(environ: Environ, start_response: StartResponse) -> list[bytes]:
        time.sleep(3 * RIPE)
        return say(start_response, b"hello")

    async with serving(slow) as served:
        assert served.server._service is not None
        watch = served.server._service.watch
        listening, watch._epoll = watch._epoll, Epoll(refuse)  # type: ignore[assignment]
        assert (await served.exchange(request())).endswith(b"hello")
        watch._epoll, spare = listening, watch._epoll
        assert spare is not None
        spare.close()
    assert refused


async def test_a_drain_bears_a_connection_whose_socket_is_closed_and_whose_work_still_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HTTP/1.0 without a length: a cut is a reset, at once; what the app has started takes a while to end."""
    monkeypatch.setattr(trio_wsgi.net.drain, "LOOK", 0.02)

    async def takes_its_time() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.3)

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        environ["trio_wsgi.nursery"].start_soon(takes_its_time)
        start_response("200 OK", PLAIN)
        while True:
            yield bytes(100_000)

    async with serving(app, graceful_timeout=0.1) as served, await served.connect(4096) as stalled:
        await stalled.send_all(request(version="1.0"))
        await stalled.receive_some(1)
        served.server.drain()
        with trio.fail_after(5):
            await served.server.connections_ended.wait()
    assert served.records[0].outcome is Outcome.SHUTDOWN
