"""Request bodies that the application reads in blocks of 64 KiB; who buffers them first does so."""

from __future__ import annotations

import hashlib

from bench.bout import Bout, Figures
from bench.contestants import Can
from bench.samples import MIB
from bench.scenario import Scenario, in_words

COLUMNS = ("throughput", "cpu_per_gb", "p50", "p99", "cpu_share", "client_share", "memory", "threads")


def upload(size: int, connections: int) -> Scenario:
    def measure(bout: Bout) -> Figures:
        if bout.verify:
            count = str(size).encode()  # what the application answers: how many bytes it has read
            bout.check("/upload", len(count), hashlib.sha256(count).hexdigest(), body=size)
        return bout.load("/upload", connections, body=size, length=len(str(size)), whole=size < 100 * MIB)

    return Scenario(
        f"upload{size // MIB}m-{connections}",
        f"uploads of {size // MIB} MiB, {in_words(connections)}",
        "uploads",
        frozenset({Can.APP}),
        COLUMNS,
        measure,
        brief=size < 100 * MIB,
    )


SCENARIOS = (upload(256 * MIB, 1), upload(MIB, 8))
