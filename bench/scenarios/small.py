"""Small keep-alive requests: 13 bytes, asked for by wrk."""

from __future__ import annotations

import hashlib

from bench.app import HELLO
from bench.bout import Bout, Figures
from bench.contestants import Can
from bench.scenario import Scenario

COLUMNS = ("cpu_per_request", "requests_per_second", "p50", "p99", "cpu_share", "client_share", "memory", "threads")


def ask_by(connections: int) -> Scenario:
    def measure(bout: Bout) -> Figures:
        bout.check("/hello", len(HELLO), hashlib.sha256(HELLO).hexdigest() if bout.verify else "")
        return bout.wrk("/hello", connections)

    return Scenario(
        f"small-{connections}",
        f"“Hello, world!” over {connections} kept-alive connections",
        "small",
        frozenset({Can.HELLO}),
        COLUMNS,
        measure,
        quick=connections == 8,
        brief=True,
    )


SCENARIOS = (ask_by(1), ask_by(8), ask_by(64))
