"""Downloads over TLS."""

from __future__ import annotations

from bench.bout import Bout, Figures
from bench.contestants import Can
from bench.scenario import Scenario

COLUMNS = ("throughput", "cpu_per_gb", "p50", "p99", "cpu_share", "client_share", "memory", "threads")


def measure(bout: Bout) -> Figures:
    bout.check_file("/file/10m", "10m")
    return bout.load("/file/10m", 8, length=bout.samples.length("10m"))


SCENARIOS = (
    Scenario(
        "tls10m-8",
        "a file of 10 MiB over TLS, 8 connections",
        "tls",
        frozenset({Can.FILES, Can.TLS}),
        COLUMNS,
        measure,
        tls=True,
        brief=True,
        samples=("10m",),
    ),
)
