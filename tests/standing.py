"""Calls of a pool's threads that stand still."""

from __future__ import annotations

import threading
from typing import Any

from waiting import until


class Gate:
    """Calls that stand in their threads until they are let through."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.inside = 0
        self.most = 0
        self._lock = threading.Lock()

    def call(self, value: Any = None) -> Any:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            assert self.open.wait(10)
            return value
        finally:
            with self._lock:
                self.inside -= 1

    async def wait_inside(self, count: int) -> None:
        await until(lambda: self.inside == count)
