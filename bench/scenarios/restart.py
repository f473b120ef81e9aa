"""Workers that are replaced while requests come in: what a deployment costs those who ask meanwhile."""

from __future__ import annotations

import os
import signal
import time

from bench.bout import Bout, Figures, summarize
from bench.client import Failed
from bench.contestants import Can
from bench.proc import find_tree, open_watch
from bench.scenario import Scenario

CONNECTIONS = 16
RESTARTS = 2
LEAST_SECONDS = 6.0  # two restarts, each with the time to start a worker
COLUMNS = ("failed", "longest", "p99", "retried", "restarts", "requests_per_second")


def measure(bout: Bout) -> Figures:
    """A closed loop of small requests, through which the first process gets its reload signal twice."""
    bout.check("/hello", 13)
    seconds = max(bout.seconds, LEAST_SECONDS)
    number = signal.Signals["SIG" + bout.contestant.reload]
    settings = {"targets": ["/hello"], "connections": CONNECTIONS, "tolerate": True, "seconds": seconds}
    before = set(find_tree(bout.server.pid)) - {bout.server.pid}
    with bout.client("load", **settings) as load:
        load.wait_ready()
        with open_watch(bout.server.pid) as watch:  # processes are meant to come and go here
            load.go()
            for _ in range(RESTARTS):
                time.sleep(seconds / (RESTARTS + 1))
                bout.server.check_alive()
                os.kill(bout.server.pid, number)
            facts = load.wait_result(seconds + 60)
    bout.server.check_alive()
    if before <= set(find_tree(bout.server.pid)):
        raise Failed(f"{bout.contestant.reload} replaced no process")
    failed = {"failed": sum(facts["failures"].values()), "retried": facts["retried"], "restarts": RESTARTS}
    return summarize(facts, watch) | failed


SCENARIOS = (
    Scenario(
        "restart",
        f"{RESTARTS} graceful restarts under small requests over {CONNECTIONS} connections",
        "restart",
        frozenset({Can.HELLO, Can.RELOAD}),
        COLUMNS,
        measure,
    ),
)
