"""Thousands of slow readers, or idle connections, and one good client beside them."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from contextlib import ExitStack

from bench.bout import Bout, Figures, summarize_good_client, wait_until_quiet
from bench.client import Failed
from bench.contestants import Can
from bench.proc import read_tcp_memory
from bench.scenario import Scenario

LEAST = 100  # connections: fewer are no crowd
RESERVED = 500  # descriptors for everything else
RATE = 16_384  # bytes a second and reader: a bad mobile connection
BUFFER = 16_384  # bytes of receive buffer, so that the server and not the kernel has to wait for them
LEAST_SECONDS = 5.0  # a reader has its turn once a second
GATHERING = 60.0  # seconds: more than it takes a crowd to come together
INTERVAL = 0.01  # seconds between the good client's requests
ONLY_AROUND = 3600.0  # seconds between looks at memory: before and after, as a look costs the good client time
COLUMNS = (
    "good_p99",
    "good_p50",
    "good_longest",
    "memory_per_connection",
    "kernel_per_connection",
    "cpu_share",
    "memory",
    "threads",
    "connections",
    "moving",
)


def measure_crowd(
    bout: Bout, target: str, count: int, rate: int, probe: str = "/hello", length: int | None = None
) -> Figures:
    """`count` connections that read `rate` bytes a second (0: idle after the first answer).

    Args:
        probe: what the good client asks for.
        length: bytes of the answer to readers, where they may be too few.

    Raises:
        Failed: there was no such crowd, or not all the time.
    """
    count = min(count, count_possible(files=rate > 0))
    if count < LEAST:
        raise Failed(f"not tried: {read_limit():,} descriptors are too few for a crowd; raise `ulimit -n`")
    seconds = max(bout.seconds, LEAST_SECONDS)
    check_lasting(length, rate, seconds)
    settings = {"target": target, "count": count, "rate": rate, "seconds": seconds}
    with ExitStack() as stack:
        before, kernel_before = wait_until_quiet(bout.server.pid), read_tcp_memory()
        began = time.monotonic()
        crowd = stack.enter_context(bout.client("slow", **settings, buffer=BUFFER if rate else 0))
        arrived = crowd.wait_ready(patience=60 + count / 50)
        if arrived["served"] < count:
            bout.server.check_alive()
            raise Failed(f"served {arrived['served']:,} of {count:,}: {arrived['failure']}")
        check_lasting(length, rate, time.monotonic() - began + seconds)
        good_client = stack.enter_context(bout.good_client(probe, INTERVAL, seconds))
        with bout.watch(interval=ONLY_AROUND) as window:
            crowd.go()
            good_client.go()
            good = good_client.wait_result(seconds + 30)
            stayed = crowd.wait_result(seconds + 60)
        kernel = read_tcp_memory() - kernel_before
    if stayed["alive"] < count:
        raise Failed(f"{count - stayed['alive']:,} of {count:,} were cut off")
    return {
        "connections": count,
        **summarize_good_client(good),
        "memory_per_connection": max(0, window.peak_memory - before) / count,
        "kernel_per_connection": max(0, kernel) / count,
        "cpu_share": window.cpu / window.seconds,
        "memory": window.peak_memory,
        "threads": window.peak_threads,
        "moving": stayed["moving"] if rate else None,
        "client_share": stayed["cpu"] / stayed["seconds"],
    }


def check_lasting(length: int | None, rate: int, seconds: float) -> None:
    """Raises Failed where a reader has read its answer to the end before so many seconds are over: it waits no more."""
    if length is not None and length < rate * seconds:
        raise Failed(
            f"not tried: at {rate:,} bytes/s, the {length:,} bytes of the answer do not last for {seconds:.1f} s; "
            f"name a --target with {rate * (seconds + GATHERING):,.0f} bytes or more"
        )


def count_possible(files: bool) -> int:
    """How many connections a server can have here, each with an open file or not, within its descriptors."""
    return (read_limit() - RESERVED) // (2 if files else 1) // 100 * 100


def tell_smaller_crowds(chosen: Sequence[Scenario]) -> str:
    """A line for the user where descriptors are too few for a crowd that was chosen, else ""."""
    wanted = max((scenario.connections for scenario in chosen), default=0)
    readers, idle = (max(0, count_possible(files)) for files in (True, False))
    if wanted <= readers:
        return ""
    return f"descriptors: {read_limit():,}; crowds are at most {readers:,} readers, {idle:,} idle: raise `ulimit -n`"


def read_limit() -> int:
    """Descriptors that we, and the servers we start, may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def slow_readers(count: int, *, static: bool = False) -> Scenario:
    target = f"/{'static' if static else 'file'}/10m"

    def measure(bout: Bout) -> Figures:
        bout.check_file(target, "10m")
        return measure_crowd(bout, target, count, RATE)

    return Scenario(
        f"slow{'static' if static else ''}-{count}",
        f"{count:,} readers at 16 KB/s each{' of a static mount' if static else ''}, and one good client",
        "slow",
        frozenset({Can.STATIC if static else Can.FILES, Can.HELLO}),
        COLUMNS,
        measure,
        static=static,
        quick=count == 1000 and not static,
        connections=0 if static else count,
        samples=("10m",),
    )


def idle_connections(count: int) -> Scenario:
    def measure(bout: Bout) -> Figures:
        return measure_crowd(bout, "/hello", count, rate=0)

    return Scenario(
        f"idle-{count}",
        f"{count:,} idle kept-alive connections, and one good client",
        "idle",
        frozenset({Can.HELLO}),
        tuple(column for column in COLUMNS if column != "moving"),
        measure,
        connections=count,
    )


SCENARIOS = (
    *(slow_readers(count) for count in (100, 1000, 5000, 10_000)),
    slow_readers(5000, static=True),
    *(idle_connections(count) for count in (100, 1000, 10_000)),
)
