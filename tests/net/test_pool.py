"""Rules of the application's threads: who gets one, who waits, who is turned away, and what cancellation leaves."""

from __future__ import annotations

import contextvars
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import sniffio
import trio
import trio.testing
from standing import Gate
from waiting import until, wait_until

import trio_wsgi
import trio_wsgi.net.slot
from trio_wsgi.net.pool import Overloaded, ThreadPool, open_pool
from trio_wsgi.net.slot import Call

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


def cancel_inside(scope: trio.CancelScope, seen: list[BaseException]) -> None:
    """In a call's thread: have the call cancelled, and tell how that was seen."""
    trio.from_thread.run_sync(scope.cancel)
    try:
        trio.from_thread.run(trio.sleep_forever)
    except BaseException as exc:
        seen.append(exc)
        raise


def thread_name() -> int:
    return threading.get_ident()


async def test_a_result_and_an_error_come_back() -> None:
    async with open_pool(2, 0) as pool:
        assert await pool.run(lambda: 42) == 42
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 // 0)
        assert await pool.run(lambda: 43) == 43


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), KeyboardInterrupt(), StopIteration()])
async def test_what_would_end_a_thread_ends_none(error: BaseException) -> None:
    """PAINS: SystemExit and its like out of an app end the server elsewhere."""

    def fail() -> None:
        raise error

    async with open_pool(1, 0) as pool:
        for _ in range(3):
            with pytest.raises((type(error), RuntimeError)) as caught:
                await pool.run(fail)
            assert error in (caught.value, caught.value.__cause__)
        assert await pool.run(lambda: "still here") == "still here"


async def test_the_warmest_thread_goes_first() -> None:
    """One request after the other stays in one thread, however many there could be."""
    async with open_pool(4, 0) as pool:
        assert len({await pool.run(thread_name) for _ in range(20)}) == 1
        gate = Gate()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(pool.run, gate.call)
            await gate.wait_inside(3)
            gate.open.set()
        assert len({await pool.run(thread_name) for _ in range(20)}) == 1


async def test_never_more_threads_than_allowed_and_beyond_the_queue_overloaded() -> None:
    gate = Gate()
    async with open_pool(2, 3) as pool, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(pool.run, gate.call)
        await gate.wait_inside(2)
        with pytest.raises(Overloaded):
            await pool.run(gate.call)
        gate.open.set()
    assert gate.most == 2


async def test_without_a_queue_only_who_finds_a_thread_is_admitted() -> None:
    """queue_size = 0: none waits; also not for a thread that is starting for somebody else."""
    gate = Gate()
    refused = 0

    async def attempt(pool: ThreadPool) -> None:
        nonlocal refused
        try:
            await pool.run(gate.call)
        except Overloaded:
            refused += 1

    async with open_pool(2, 0) as pool, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(attempt, pool)
        await gate.wait_inside(2)
        await until(lambda: refused == 3)
        gate.open.set()


async def test_who_waits_is_served_in_order() -> None:
    order: list[int] = []
    gate = Gate()
    async with open_pool(1, 100) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, gate.call)
        await gate.wait_inside(1)
        for number in range(20):
            nursery.start_soon(pool.run, partial(order.append, number))
            await trio.testing.wait_all_tasks_blocked()
        gate.open.set()
    assert order == list(range(20))


async def test_cancelled_while_queued_it_never_runs() -> None:
    gate = Gate()
    ran: list[int] = []
    async with open_pool(1, 2) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, gate.call)
        await gate.wait_inside(1)
        with trio.move_on_after(0.01) as scope:
            await pool.run(partial(ran.append, 1))
        assert scope.cancelled_caught
        nursery.start_soon(pool.run, partial(ran.append, 2))
        gate.open.set()
    assert ran == [2]


async def test_cancelled_before_it_begins_it_never_runs() -> None:
    ran: list[int] = []
    async with open_pool(1, 2) as pool:
        await pool.run(lambda: None)
        with trio.CancelScope() as scope:
            scope.cancel()
            await pool.run(partial(ran.append, 1))
    assert scope.cancelled_caught
    assert ran == []


async def test_cancelled_while_it_runs_it_sees_cancelled_and_the_thread_is_replaced() -> None:
    """The call finds out through `trio.from_thread`; nobody else's call is touched, and the place is free again."""
    seen: list[BaseException] = []

    async with open_pool(1, 5) as pool:
        for _ in range(3):
            with trio.CancelScope() as scope:
                await pool.run(partial(cancel_inside, scope, seen))
            assert scope.cancelled_caught
        assert await pool.run(lambda: "served") == "served"
    assert [type(error) for error in seen] == [trio.Cancelled] * 3


async def test_a_call_that_is_done_is_not_given_up_though_the_loop_has_not_heard_of_it() -> None:
    """Its caller gets the result, and its thread goes on."""
    gate = Gate()
    call = Call(partial(gate.call, "done"))
    results = []

    async def run(pool: ThreadPool) -> None:
        results.append(await pool.run(call))

    async with open_pool(1, 0) as pool, trio.open_nursery() as nursery:
        thread = await pool.run(thread_name)
        nursery.start_soon(run, pool)
        await gate.wait_inside(1)
        gate.open.set()
        wait_until(lambda: not pool._handover.done.empty())  # the loop stands still meanwhile
        pool.abandon(call)
        await trio.testing.wait_all_tasks_blocked()
        assert (results, call.cancelled) == (["done"], False)
        assert await pool.run(thread_name) == thread


async def test_a_call_that_ignores_its_cancellation_keeps_its_thread_and_its_caller() -> None:
    """Its result is still returned, so that what it opened can be closed; the others use what threads are left."""
    gate = Gate()
    async with open_pool(2, 5) as pool, trio.open_nursery() as nursery:
        results: list[object] = []

        async def cancelled() -> None:
            with trio.CancelScope() as scope:
                nursery.start_soon(canceller, scope)
                results.append(await pool.run(partial(gate.call, "result")))

        async def canceller(scope: trio.CancelScope) -> None:
            await gate.wait_inside(1)
            scope.cancel()

        nursery.start_soon(cancelled)
        await gate.wait_inside(1)
        assert len({await pool.run(thread_name) for _ in range(5)}) == 1
        assert results == []
        gate.open.set()
    assert results == ["result"]


async def test_a_stored_cancelled_of_another_request_is_an_error_of_this_one() -> None:
    """An app that keeps an exception and raises it again later must not cancel the server."""
    kept: list[BaseException] = []

    def raise_kept() -> None:
        raise kept[0]

    async with open_pool(1, 5) as pool:
        with trio.CancelScope() as scope:
            await pool.run(partial(cancel_inside, scope, kept))
        with pytest.raises(RuntimeError, match="Cancelled of another"):
            await pool.run(raise_kept)


async def test_who_was_put_behind_a_call_that_lasts_is_freed_though_nothing_else_happens() -> None:
    """After 5 ms; the deadline for it must not be set when the loop has decided already for how long it waits."""
    for _ in range(20):
        both = threading.Barrier(2)
        async with open_pool(2, 5) as pool, trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(pool.run, partial(both.wait, 2))


async def assert_not_stuck(use: Callable[[ThreadPool], Awaitable[bool]]) -> None:
    """That `use` of a warm pool goes well, and spreads no calls; whose processor another guest of the machine takes for
    5 ms is stuck, too, so that once in ten will do."""
    for _ in range(10):
        async with open_pool(8, 100) as pool:
            await pool.run(thread_name)
            if await use(pool) and pool.pace.together:
                return
    raise AssertionError("they were found stuck, again and again")


async def test_whom_the_loop_has_not_woken_yet_is_not_stuck() -> None:
    """Its turns last for 16 ms, as when many clients come at once: to spread the calls over threads would not help."""
    keep_busy = partial(time.sleep, 0.002)
    idents: set[int] = set()

    async def keep_calling(pool: ThreadPool) -> None:
        for _ in range(8):
            keep_busy()
            idents.add(await pool.run(thread_name))

    async def use(pool: ThreadPool) -> bool:
        idents.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(keep_calling, pool)
        return len(idents) == 1

    await assert_not_stuck(use)


class TakenLate(queue.SimpleQueue[Any]):
    """Whoever is woken for what is in it gets no processor, or not the interpreter, for 20 ms."""

    def get(self, *_: object) -> Any:
        while self.empty():
            time.sleep(0.001)
        time.sleep(0.02)
        return super().get()


async def test_whose_thread_has_not_begun_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread would fare no better."""
    async with open_pool(8, 100) as pool:
        monkeypatch.setattr(trio_wsgi.net.slot.queue, "SimpleQueue", TakenLate)
        await pool.run(thread_name)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(pool.run, thread_name)
        assert pool.pace.together


async def test_who_is_looked_at_late_is_looked_at_again() -> None:
    """While the loop was at something else the call has had little of the interpreter."""
    keep_busy = partial(time.sleep, 0.009)

    async def use(pool: ThreadPool) -> bool:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(pool.run, partial(time.sleep, 0.012))
            await trio.sleep(0.001)
            keep_busy()
        return True

    await assert_not_stuck(use)


async def test_context_variables_flow_in_and_do_not_leak_out() -> None:
    def read_and_write() -> str:
        before = variable.get()
        variable.set("written in the thread")
        return before

    async with open_pool(1, 0) as pool:
        variable.set("set in the task")
        assert await pool.run(read_and_write) == "set in the task"
        assert variable.get() == "set in the task"
        assert await pool.run(variable.get) == "set in the task"


async def test_trio_from_thread_works_in_a_call_and_trio_itself_does_not() -> None:
    """An application's thread is a thread: it may ask the loop, and libraries see that no loop runs in it."""

    async def name() -> str:
        await trio.lowlevel.checkpoint()
        return trio.lowlevel.current_task().name

    def ask() -> tuple[str, float]:
        trio.from_thread.check_cancelled()
        with pytest.raises(sniffio.AsyncLibraryNotFoundError):
            sniffio.current_async_library()
        return trio.from_thread.run(name), trio.from_thread.run_sync(trio.current_time)

    async with open_pool(1, 0) as pool:
        host, now = await pool.run(ask)
    assert "ThreadPool" in host
    assert now > 0


async def test_an_idle_thread_keeps_nothing_of_its_last_call_alive() -> None:
    class Large:
        gone = threading.Event()

        def __del__(self) -> None:
            self.gone.set()

    async with open_pool(1, 0) as pool:
        await pool.run(Large)
        await pool.run_closing(lambda: None)
        assert Large.gone.is_set()


@pytest.mark.parametrize("seed", range(4))
async def test_threads_are_bounded_and_none_is_lost_under_random_cancels(seed: int) -> None:
    """Whatever is cancelled when: never more than 3 calls at once, each call begun once, each closing run, all places
    free at the end."""
    rng = random.Random(seed)
    lock = threading.Lock()
    state = {"inside": 0, "most": 0, "begun": 0, "closed": 0}
    outcomes = {"done": 0, "cancelled": 0, "overloaded": 0}

    def work(duration: float, polite: bool) -> None:
        with lock:
            state["inside"] += 1
            state["begun"] += 1
            state["most"] = max(state["most"], state["inside"])
        try:
            if polite:
                trio.from_thread.run(trio.sleep, duration)
            else:
                time.sleep(duration)
        finally:
            with lock:
                state["inside"] -= 1

    def close() -> None:
        with lock:
            state["closed"] += 1

    async def request(pool: ThreadPool, delay: float, patience: float, duration: float, polite: bool) -> None:
        await trio.sleep(delay)
        result = "cancelled"
        with trio.move_on_after(patience):
            try:
                await pool.run(partial(work, duration, polite))
                result = "done"
            except Overloaded:
                result = "overloaded"
        outcomes[result] += 1
        with trio.move_on_after(0.001 * rng.random(), shield=True):
            await pool.run_closing(close)

    with trio.fail_after(20):
        async with open_pool(3, 10) as pool:
            async with trio.open_nursery() as nursery:
                for _ in range(200):
                    nursery.start_soon(
                        request,
                        pool,
                        rng.random() * 0.3,
                        rng.choice([0, 0.002, 0.02, 1]),
                        rng.random() * 0.01,
                        rng.random() < 0.7,
                    )
            await until(lambda: state["closed"] == 200)
            gate = Gate()
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(pool.run, gate.call)
                await gate.wait_inside(3)
                gate.open.set()
    assert state["most"] <= 3
    assert state["begun"] >= outcomes["done"] > 0
    assert sum(outcomes.values()) == state["closed"] == 200


async def test_an_anyio_that_is_too_old_for_this_trio_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no dependency of ours, so that nobody may have seen to it."""

    def fail() -> NoReturn:
        raise AttributeError("module 'trio' has no attribute 'MultiError'")

    monkeypatch.setattr(trio_wsgi.net.slot.anyio, "get_cancelled_exc_class", fail)
    async with open_pool(1, 0) as pool:
        assert await pool.run(lambda: trio.from_thread.run_sync(lambda: "served")) == "served"


NO_MORE_THREADS = """
import resource, trio
import anyio.to_thread
from trio_wsgi.net.pool import Overloaded, open_pool

def limit(room):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, resource.RLIM_INFINITY))

async def main():
    anyio.to_thread.current_default_thread_limiter()  # imports its backend, while there is memory
    async with open_pool(2, 5) as pool:
        limit(1 << 20)
        for _ in range(3):
            try:
                await pool.run(lambda: 1)
            except Overloaded:
                print("overloaded")
        limit(1 << 30)
        print(await pool.run(lambda: "served"))

trio.run(main)
"""


def test_where_the_system_has_no_thread_to_give_requests_are_turned_away_until_it_has() -> None:
    """RuntimeError: can't start new thread. It costs the requests of the moment, never the server."""
    done = subprocess.run(
        [sys.executable, "-c", NO_MORE_THREADS],
        capture_output=True,
        text=True,
        timeout=20,
        cwd=Path(trio_wsgi.__file__).parent.parent,
    )
    assert (done.returncode, done.stdout) == (0, "overloaded\noverloaded\noverloaded\nserved\n"), done.stderr
    assert "cannot start another app thread: can't start new thread; 0 are running" in done.stderr


@pytest.mark.parametrize("works", [False, True])
async def test_calls_that_wait_are_spread_and_those_that_compute_are_not(works: bool) -> None:
    """2 ms each, too short to be stuck: behind one another, eight that wait would take eight times as long."""
    idents: set[int] = set()

    def call() -> None:
        idents.add(threading.get_ident())
        if works:
            until = time.thread_time() + 0.0005
            while time.thread_time() < until:
                pass
        else:
            time.sleep(0.002)

    async def keep_calling(pool: ThreadPool) -> None:
        for _ in range(8):
            await pool.run(call)

    for _ in range(10 if works else 1):  # whose processor another guest of the machine takes for 5 ms lasts, too
        async with open_pool(8, 100) as pool:
            await pool.run(call)
            for _ in range(2):  # the first ones show what they are
                idents.clear()
                async with trio.open_nursery() as nursery:
                    for _ in range(8):
                        nursery.start_soon(keep_calling, pool)
        if (len(idents) < 4) is works:
            return
    raise AssertionError(f"they ran in {len(idents)} threads")
