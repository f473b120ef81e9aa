"""A task that runs beside a block, and who has threads for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Protocol, TypeVar

import trio


class HasThreads(Protocol):
    """What has threads in a nursery that somebody else owns."""

    def close(self) -> None:
        """Let every thread end when it has nothing left to do."""

    def forget(self) -> None:
        """The last thread has ended."""


H = TypeVar("H", bound=HasThreads)


@asynccontextmanager
async def running(task: Callable[..., Awaitable[None]]) -> AsyncIterator[None]:
    """A task that outlives those it serves: when all is cancelled, each of them sees its own cancellation first."""
    stop = trio.CancelScope(shield=True)

    @trio.lowlevel.enable_ki_protection
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        with stop:
            await task(task_status=task_status)

    async with trio.open_nursery() as nursery:
        with trio.CancelScope(shield=True):  # Trio does not take over a task that starts under a cancelled `start`
            await nursery.start(run)
        try:
            yield
        finally:
            stop.cancel()


@asynccontextmanager
async def hosting(make: Callable[[trio.Nursery], H]) -> AsyncIterator[H]:
    """What `make` gives for a nursery; leaving it waits until every thread has come back."""
    with ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            made = make(nursery)
            stack.callback(made.forget)
            try:
                yield made
            finally:
                made.close()
