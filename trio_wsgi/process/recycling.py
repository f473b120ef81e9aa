"""When a worker asks to be replaced: after so many requests, beyond so much memory, or because somebody says so.

Laws:

* It only asks, and once. The supervisor starts a successor first and drains this worker then; until that begins, no
  response says a word of it (`Connection: close` comes with the drain).
* A request is counted when it has ended, so what is under way is nobody's last request.
* Counting costs an addition per request; memory is looked at every few seconds.
* A worker that is too large as it begins is told to the operator, and stays for a while: a successor is no smaller.
"""

from __future__ import annotations

import logging
import math
import os
import random
from pathlib import Path

import trio

from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.record import RequestRecord
from trio_wsgi.rules.listing import format_size

log = logging.getLogger("trio_wsgi.error")

LOOK = 3.0  # seconds between two looks at the memory
SHORTEST_LIFE = 60.0  # seconds of a worker that began with more memory than it may have; uWSGI's min-worker-lifetime
_STATM = Path("/proc/self/statm")


class Recycling:
    """The reasons of one worker to be replaced; an observer of its finished requests. Lives on the event loop.

    Args:
        max_requests: of them; 0 for no limit.
        jitter: up to so many more, at random.
        max_rss: bytes; 0 for no limit.
    """

    def __init__(self, max_requests: int, jitter: int, max_rss: int) -> None:
        self._limit = max_requests + random.randint(0, jitter) if max_requests else math.inf
        self._max_rss = max_rss
        self._count = 0
        self.worn = False  # by its use, so that a successor may ask as soon
        self._reason = ""
        self._due = trio.Event()

    def __repr__(self) -> str:
        return f"<Recycling {self._reason or 'not due'}, {self._count} requests>"

    def __call__(self, record: RequestRecord) -> None:
        self._count += 1
        if self._count >= self._limit:
            self._wear(f"max_requests: {self._count} requests")

    def ask(self, reason: str) -> None:
        """Have the worker replaced; the first reason is the one that is told. Call it on the event loop."""
        if not self._due.is_set():
            self._reason = reason
            self._due.set()

    def _wear(self, reason: str) -> None:
        self.worn = self.worn or not self._due.is_set()
        self.ask(reason)

    async def wait_due(self) -> str:
        """Wait until the worker is to be replaced; the reason, for the log."""
        async with trio.open_nursery() as nursery:
            if self._max_rss:
                nursery.start_soon(self._watch_memory)
            await self._due.wait()
            nursery.cancel_scope.cancel()
        return self._reason

    async def _watch_memory(self) -> None:
        limit = format_size(self._max_rss)
        if (size := resident_memory()) is not None and size > self._max_rss:
            meant = self._max_rss < 1 << 20
            hint = f"write --max-rss {self._max_rss}m, if MiB are meant" if meant else "set it higher"
            text = "max_rss: %s of memory at its start, more than %s: this worker is not replaced within %g s (%s)"
            log.warning(text, format_size(size), limit, SHORTEST_LIFE, hint)
            await trio.sleep(SHORTEST_LIFE)
        while (size := resident_memory()) is not None:
            if size > self._max_rss:
                self._wear(f"max_rss: {format_size(size)} of memory, more than {limit}")
            await trio.sleep(LOOK)
        log.warning("max_rss: this system does not tell how much memory a process has; the setting is ignored")


def resident_memory() -> int | None:
    """Bytes of memory that this process has now (proc_pid_statm(5)); None where that is not told."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return None


def check_replaceable(config: Config) -> None:
    """Refuse, in a process without a supervisor, what only a supervisor can do.

    Raises:
        ConfigError: names the setting.
    """
    asked = {
        "max_requests": config.max_requests > 0,
        "max_rss": config.max_rss > 0,
        "reload": config.reload,
        "reload_mechanism": config.script_reloading and config.reload_mechanism == "process",
    }
    for name, wanted in asked.items():
        if wanted:
            why = "there is no supervisor here that could replace this process"
            raise ConfigError(name, why, "give --workers 1 or more")
