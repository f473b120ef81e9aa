"""Who rides in the lane, and how long; what ends a ride."""

from __future__ import annotations

import errno
import os
import select
from typing import Any

import pytest
import trio
from asking import CLOSE, KEPT
from riding import TRIES, App, ask_for, board, counting_steps, lane_of, receive
from serving import receive_all, serving
from standing import Gate
from waiting import until

from trio_wsgi.net.lanes import LOOK_LATER

SIZE = 100_000


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


@pytest.mark.parametrize(("scarce", "left"), [("eventfd", 0), ("epoll", 0), ("epoll", 1)])
async def test_without_descriptors_there_is_no_lane_and_no_harm(
    scarce: str, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = {"eventfd": os, "epoll": select}[scarce]
    make = getattr(module, scarce)
    made = 0

    def fails(*args: object) -> Any:
        nonlocal made
        if made == left:
            made = 0
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made += 1
        return make(*args)

    async with serving(App()) as served, await served.connect() as client:
        monkeypatch.setattr(module, scarce, fails)
        for _ in range(5):
            await client.send_all(KEPT)
            await receive(client, 5)
        assert lane_of(served) is None


async def test_the_loop_looks_rarely_after_the_only_one() -> None:
    """Behind whom nobody waits: at 20 requests a second, looking each 5 ms took twice as much CPU as the requests."""
    async with serving(App()) as served, await board(served, 5) as client:
        lane = lane_of(served)
        async with counting_steps("Lanes._look_after") as steps:
            began = trio.current_time()
            for _ in range(10):
                await client.send_all(KEPT)
                await receive(client, 5)
                await trio.sleep(0.03)
            most = (trio.current_time() - began) / LOOK_LATER
        assert lane_of(served) is lane
        assert 0 < steps.count <= most + 5  # the first ones, before it was known to be alone


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
    async with serving(App(gate=lambda _: gate.call(b"at last"))) as served:
        busy, silent = await board(served, 5), await board(served, 5)
        async with busy, silent:
            await busy.send_all(ask_for("/gate"))
            await gate.wait_inside(1)
            served.server.drain()
            with trio.fail_after(2):
                assert await silent.receive_some() == b""
            gate.open.set()
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
