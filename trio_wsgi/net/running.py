"""A task that runs beside a block."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio


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
