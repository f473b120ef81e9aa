"""Whole files from the page cache, through the application and as a static mount."""

from __future__ import annotations

from bench.bout import Bout, Figures
from bench.contestants import Can
from bench.scenario import Scenario, in_words

LARGE = ("throughput", "cpu_per_gb", "cpu_share", "client_share", "memory", "threads")
SMALL = ("cpu_per_request", "requests_per_second", "throughput", "p50", "p99", "cpu_share", "client_share", "memory")
TITLES = {"1g": "a file of 1 GiB", "10m": "a file of 10 MiB", "100k": "a file of 100 KiB"}


def download(sample: str, connections: int, *, static: bool = False, quick: bool = False) -> Scenario:
    target = f"/{'static' if static else 'file'}/{sample}"

    def measure(bout: Bout) -> Figures:
        bout.check_file(target, sample)
        return bout.load(target, connections, length=bout.samples.length(sample), whole=sample != "1g")

    how = "from a static mount" if static else "through the application"
    return Scenario(
        f"{'static' if static else 'file'}{sample}-{connections}",
        f"{TITLES[sample]} {how}, {in_words(connections)}",
        "files",
        frozenset({Can.STATIC if static else Can.FILES}),
        LARGE if sample == "1g" else SMALL,
        measure,
        static=static,
        quick=quick,
        brief=True,
        samples=(sample,),
    )


SCENARIOS = (
    download("1g", 1),
    download("1g", 8, quick=True),
    download("1g", 64),
    download("10m", 8),
    download("100k", 8, quick=True),
    download("100k", 64),
    download("1g", 8, static=True),
    download("10m", 8, static=True),
    download("100k", 8, static=True),
)
