"""Parts of a large file: by the server where it can, else by the application, as frameworks do it."""

from __future__ import annotations

from bench.bout import Bout, Figures
from bench.contestants import Can
from bench.samples import MIB
from bench.scenario import Scenario

COLUMNS = ("cpu_per_request", "requests_per_second", "throughput", "p50", "p99", "cpu_share", "client_share", "memory")
STARTS = (0, 300 * MIB + 1, 700 * MIB + 3, 1023 * MIB)  # the last mebibyte as well


def measure(bout: Bout) -> Figures:
    target = "/file/1g" if Can.RANGES in bout.contestant.can else "/ranged/1g"
    fields = [f"Range: bytes={start}-{start + MIB - 1}" for start in STARTS]
    for start, field in zip(STARTS, fields, strict=True):
        bout.check(target, MIB, bout.samples.digest_part("1g", start, MIB), status=206, field=field)
    return bout.load(
        target,
        8,
        targets=[target] * len(fields),
        fields=[field + "\r\n" for field in fields],
        status=206,
        length=MIB,
    )


SCENARIOS = (
    Scenario(
        "ranges-8",
        "ranges of 1 MiB of a file of 1 GiB, 8 connections",
        "ranges",
        frozenset({Can.FILES}),
        COLUMNS,
        measure,
        brief=True,
        samples=("1g",),
    ),
)
