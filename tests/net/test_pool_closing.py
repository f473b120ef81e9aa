"""Rules of what the application's threads close: by whom, before whom, and whatever has been cancelled meanwhile."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import trio
import trio.testing
from standing import Gate

from trio_wsgi.net.pool import open_pool


async def test_closing_runs_when_its_caller_has_gone_and_before_who_waits() -> None:
    order: list[str] = []
    gate = Gate()
    async with open_pool(1, 5) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, gate.call)
        await gate.wait_inside(1)
        nursery.start_soon(pool.run, partial(order.append, "request"))
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await pool.run_closing(partial(order.append, "close"))
        gate.open.set()
    assert order == ["close", "request"]


async def test_closing_runs_in_the_thread_that_had_opened_it_if_that_is_idle() -> None:
    """Django keeps connections to databases by thread, and closes those of the thread that closes the response."""
    both = threading.Barrier(2)

    def identify() -> int:
        both.wait(5)  # for two threads
        return threading.get_ident()

    threads: list[int] = []

    async def note() -> None:
        threads.append(await pool.run(identify))

    async with open_pool(2, 5) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note)
            nursery.start_soon(note)
        ran: list[int] = []
        for thread in [*threads, *threads]:
            await pool.run_closing(lambda: ran.append(threading.get_ident()), thread)
    assert ran == threads * 2


async def test_closing_is_admitted_where_requests_are_not() -> None:
    gate = Gate()
    closed: list[int] = []
    async with open_pool(1, 0) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, gate.call)
        await gate.wait_inside(1)
        nursery.start_soon(pool.run_closing, partial(closed.append, 1))
        await trio.testing.wait_all_tasks_blocked()
        gate.open.set()
    assert closed == [1]


async def test_closing_runs_although_the_pool_closes_and_all_is_cancelled() -> None:
    """One thread is busy until the end; what waits behind it still runs before the pool is gone."""
    gate = Gate()
    closed: list[int] = []
    with trio.CancelScope() as scope:
        async with open_pool(1, 0) as pool, trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, gate.call)
            await gate.wait_inside(1)
            for number in range(3):
                with trio.move_on_after(0):
                    await pool.run_closing(partial(closed.append, number))
            scope.cancel()
            threading.Timer(0.05, gate.open.set).start()
    assert sorted(closed) == [0, 1, 2]


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1)])
async def test_what_closing_raises_is_logged_and_hurts_nobody(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error

    async with open_pool(1, 0) as pool:
        await pool.run_closing(fail)
        assert await pool.run(lambda: 1) == 1
    assert [record.message for record in caplog.records] == ["closing what the application has opened failed"]
