"""Downloads that take all they are given, and one good client beside them."""

from __future__ import annotations

from bench.bout import Bout, Figures
from bench.contestants import Can
from bench.scenario import Scenario

CONNECTIONS = 8
INTERVAL = 0.01  # seconds between the good client's requests
SAMPLE = "1g"
COLUMNS = ("good_p99", "good_p50", "good_longest", "throughput", "cpu_per_gb", "memory", "threads")


def measure(bout: Bout) -> Figures:
    """They use up the processors: who asks for little waits for what the server does for one of them at a time."""
    target = f"/file/{SAMPLE}"
    bout.check("/hello", 13)
    bout.check_file(target, SAMPLE)
    length = bout.samples.length(SAMPLE)
    return bout.load_beside_good_client(INTERVAL, CONNECTIONS, targets=[target], length=length, whole=False)


SCENARIOS = (
    Scenario(
        "busy",
        f"a file of 1 GiB through the application, {CONNECTIONS} connections, and one good client",
        "files",
        frozenset({Can.FILES, Can.HELLO}),
        COLUMNS,
        measure,
        samples=(SAMPLE,),
    ),
)
