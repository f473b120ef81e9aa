"""What the user brings: an application of their own (--app, --target), a file of their own (--file)."""

from __future__ import annotations

from bench.bout import Bout, Figures
from bench.contestants import Can
from bench.scenario import Scenario, in_words
from bench.scenarios import files, slow

APP_COLUMNS = ("cpu_per_request", "requests_per_second", "throughput", "p50", "p99", "cpu_share", "memory", "threads")


def ask_app(connections: int) -> Scenario:
    def measure(bout: Bout) -> Figures:
        bout.check(bout.own[0])
        return bout.wrk(bout.own[0], connections)

    return Scenario(
        f"own-app-{connections}",
        f"your application, {in_words(connections)}",
        "own",
        frozenset({Can.APP}),
        APP_COLUMNS,
        measure,
        own="app",
    )


def crowd_app(count: int) -> Scenario:
    def measure(bout: Bout) -> Figures:
        length = bout.check(bout.own[0])
        return slow.measure_crowd(bout, bout.own[0], count, slow.RATE, probe=bout.own[0], length=length)

    return Scenario(
        f"own-app-slow-{count}",
        f"your application, {count:,} readers at 16 KB/s each, and one good client",
        "own",
        frozenset({Can.APP}),
        slow.COLUMNS,
        measure,
        own="app",
        connections=count,
    )


def download_file(connections: int) -> Scenario:
    def measure(bout: Bout) -> Figures:
        name = bout.own[1]
        bout.check_file(f"/file/{name}", name)
        return bout.load(f"/file/{name}", connections, length=bout.samples.length(name), whole=False)

    return Scenario(
        f"own-file-{connections}",
        f"your file, {in_words(connections)}",
        "files",
        frozenset({Can.FILES}),
        ("throughput", "cpu_per_gb", *files.SMALL[:2], *files.SMALL[3:]),
        measure,
        own="file",
    )


SCENARIOS = (ask_app(1), ask_app(8), ask_app(64), crowd_app(1000), *(download_file(count) for count in (1, 8, 64)))
