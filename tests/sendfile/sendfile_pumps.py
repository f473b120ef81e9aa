"""Pumps that run, and deliveries in tasks of their own, for the tests of `sendfile`."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from sendfile import Parts, Pump, send_all
from sendfile.span import HasFileno


@contextlib.asynccontextmanager
async def running(pump: Pump) -> AsyncIterator[Pump]:
    """The pump runs in here, and whoever asks it to deliver has seen the end of that."""
    async with trio.open_nursery() as nursery:
        await nursery.start(pump.run)
        yield pump
        assert pump.jobs() == [], "every delivery has ended with its test"
        nursery.cancel_scope.cancel()


class Outcome:
    """How a delivery in a task of its own ends; `begin` makes it."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.sent: int | None = None
        self.scope = trio.CancelScope()
        self._end = trio.Event()

    @property
    def ended(self) -> bool:
        return self.error is not None or self.sent is not None

    async def wait_end(self) -> None:
        """Over TCP an event may be a moment late, so waiting until all are blocked is not enough."""
        with trio.fail_after(10):
            await self._end.wait()

    async def run(self, deliver: Callable[[], Awaitable[int]]) -> None:
        try:
            with self.scope:
                self.sent = await deliver()
        except Exception as error:
            self.error = error
        self._end.set()


def begin(nursery: trio.Nursery, pump: Pump, sock: HasFileno, parts: Parts, **options: Any) -> Outcome:
    """Deliver in a task of the nursery; ``options`` are those of ``Pump.deliver``."""
    outcome = Outcome()
    nursery.start_soon(outcome.run, lambda: pump.deliver(sock, parts, **options))
    return outcome


async def let_pass(clock: MockClock, seconds: float) -> None:
    """Time passes, and all is done that is due then."""
    clock.jump(seconds)
    await wait_all_tasks_blocked()


class Deliver(Protocol):
    def __call__(
        self,
        sock: socket.socket,
        parts: Parts,
        *,
        kernel: bool = True,
        progress: Callable[[int], None] | None = None,
    ) -> Awaitable[object]: ...


@dataclass
class Ways:
    """One interface, three ways: the pump, the pump without epoll, and send_all."""

    name: str
    pump: Pump

    @property
    def deliver(self) -> Deliver:
        return send_all if self.name == "send_all" else self.pump.deliver
