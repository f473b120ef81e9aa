"""What an application enters on the event loop, by `trio.from_thread`, and does not leave there, harms nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from riding import App, Environ, ask_for, receive
from serving import serving
from waiting import until

from trio_wsgi import Outcome

pytestmark = pytest.mark.usefixtures("each_way")


@asynccontextmanager
async def resource() -> AsyncIterator[None]:
    """As clients of websockets and databases are made: with a task of their own."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        yield


KEPT_OPEN: list[Any] = []  # else it is finalized, in some other task


def leave_scope(environ: Environ) -> bytes:
    trio.from_thread.run_sync(trio.move_on_after(0).__enter__)
    return b"hello"


def leave_nursery(environ: Environ) -> bytes:
    KEPT_OPEN.append(resource())
    trio.from_thread.run(KEPT_OPEN[-1].__aenter__)
    return b"hello"


def wait(environ: Environ) -> bytes:
    trio.from_thread.run(trio.sleep, 0)
    return b"hello"


async def test_a_scope_whose_time_is_up_cancels_one_other_request_at_most() -> None:
    """That one shows that its thread is spoilt; the next one has another."""
    async with serving(App(leave=leave_scope, wait=wait), threads=1) as served, await served.connect() as stream:
        statuses = []
        for path in ("/leave", "/wait", "/wait", "/wait"):
            await stream.send_all(ask_for(path))
            statuses.append((await receive(stream, 5))[9:12])
        assert statuses == [b"200", b"500", b"200", b"200"]
        await until(lambda: len(served.records) == 4)
        assert served.server.statistics().threads.idle == 1


@pytest.mark.parametrize("leave", [leave_scope, leave_nursery])
async def test_a_thread_that_ends_with_something_open_is_replaced_and_no_more_than_that(
    leave: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends with the cancellation of its request; the server goes on, and counts its threads as before."""

    def stay(environ: Environ) -> bytes:
        leave(environ)
        trio.from_thread.run(trio.sleep_forever)
        raise AssertionError

    async with serving(App(stay=stay, wait=wait), threads=1, app_timeout=0.1) as served:
        async with await served.connect() as stream:
            await stream.send_all(ask_for("/stay"))
            await receive(stream, 5)
        await until(lambda: served.records)
        async with await served.connect() as stream:
            for _ in range(3):
                await stream.send_all(ask_for("/wait"))
                assert (await receive(stream, 5)).startswith(b"HTTP/1.1 200 ")
            await until(lambda: len(served.records) == 4)
            assert [record.outcome for record in served.records][1:] == [Outcome.FINISHED] * 3
            threads = served.server.statistics().threads
            assert (threads.busy, threads.idle) == (0, 1)
    assert "cannot start another" not in caplog.text
    assert ("has left a nursery open" in caplog.text) is (leave is leave_nursery)
