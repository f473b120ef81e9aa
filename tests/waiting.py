"""Wait for what another process or thread does, without saying how long that takes."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio


def wait_until(condition: Callable[[], object], what: str = "what is waited for", timeout: float = 120.0) -> None:
    """Look again and again until it holds.

    Args:
        what: the condition in words.

    Raises:
        AssertionError: it does not within `timeout` seconds.
    """
    patience = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < patience, f"still not: {what}"
        time.sleep(0.01)


async def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """The same in a task, by Trio's clock.

    Raises:
        trio.TooSlowError: it does not within `timeout` seconds.
    """
    with trio.fail_after(timeout):
        while not condition():  # noqa: ASYNC110 - it happens in threads
            await trio.sleep(0.001)
