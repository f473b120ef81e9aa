"""Where there is no epoll: the caller's own task does for its delivery what the pump's task would do.

Laws:

* Same behaviour, at the price of a wake-up for each time a socket has room.
* The pump's table, its readers and its alarms serve these deliveries, too. Whoever ends one ends its task's wait: by
  its scope, or that for a fetch by waking it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from sendfile.delivery import Delivery
from sendfile.residency import Residency


async def step_on(
    delivery: Delivery, residency: Residency, fetch: Callable[[Delivery, float], Awaitable[None]]
) -> None:
    """Step after step until all is out, or it was ended.

    Args:
        delivery: open, and begun by the present task.
        residency: what is in memory.
        fetch: has its next bytes brought into memory; returns then, or when it was ended.

    Raises what ``Delivery.step`` raises.
    """
    with trio.CancelScope() as delivery.scope:
        while delivery.parts:
            now = trio.current_time()
            room = delivery.room(now)
            if not room:
                assert delivery.rate is not None
                delivery.pause(now)
                await trio.sleep_until(delivery.rate.ready_at())
                delivery.resume(trio.current_time())
            elif not (warm := delivery.warm(now, residency)):
                await fetch(delivery, now)
                if not delivery.open:
                    return
            elif delivery.step(now, min(room, warm)):
                await trio.lowlevel.checkpoint()
            else:
                delivery.await_room(now)
                await trio.lowlevel.wait_writable(delivery.sock)
