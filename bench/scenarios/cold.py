"""Files that are not in the page cache, and one good client beside those who wait for the disk."""

from __future__ import annotations

from bench.bout import Bout, Figures
from bench.contestants import Can
from bench.samples import COLD
from bench.scenario import Scenario

CONNECTIONS = 4
INTERVAL = 0.005  # seconds between the good client's requests
COLUMNS = ("good_p99", "good_p50", "good_longest", "throughput", "cpu_per_gb", "memory", "threads")


def measure(bout: Bout) -> Figures:
    """Each request is for the next of 16 files of 64 MiB, dropped from the cache right before."""
    bout.check("/hello", 13)
    bout.check_file(f"/file/{COLD[0]}", COLD[0])
    length = bout.samples.length(COLD[0])
    targets = [f"/file/{name}" for name in COLD]
    files = [str(bout.samples.path(name)) for name in COLD]
    return bout.load_beside_good_client(INTERVAL, CONNECTIONS, targets=targets, evict=files, length=length, whole=False)


SCENARIOS = (
    Scenario(
        "cold",
        f"files of 64 MiB that are not in the page cache, {CONNECTIONS} connections, and one good client",
        "cold",
        frozenset({Can.FILES, Can.HELLO}),
        COLUMNS,
        measure,
        samples=COLD,
    ),
)
