"""Generated responses: large blocks and tiny ones, yielded and by write()."""

from __future__ import annotations

import hashlib

from bench.app import generate
from bench.bout import Bout, Figures
from bench.contestants import Can
from bench.samples import MIB
from bench.scenario import Scenario

COLUMNS = ("throughput", "cpu_per_gb", "cpu_share", "client_share", "memory", "threads")


def stream(route: str, total: int, block: int, size: str, *, length: bool = False, quick: bool = False) -> Scenario:
    """`total` bytes in blocks of `block`, without a Content-Length unless `length`: the server frames them."""
    target = f"/{route}?total={total}&block={block}" + ("&length=1" if length else "")

    def measure(bout: Bout) -> Figures:
        bout.check(target, total, digest_stream(total, block) if bout.verify else "")
        return bout.load(target, 1, length=total, whole=False)

    how = "by write()" if route == "write" else "yielded"
    known = ", under a Content-Length" if length else ""
    return Scenario(
        f"{route}-{size}{'-length' if length else ''}",
        f"{total // MIB} MiB in blocks of {block:,} bytes, {how}{known}, 1 connection",
        "streams",
        frozenset({Can.APP}),
        COLUMNS,
        measure,
        quick=quick,
        brief=True,
    )


def digest_stream(total: int, block: int) -> str:
    seen = hashlib.sha256()
    for data in generate(total, block):
        seen.update(data)
    return seen.hexdigest()


SCENARIOS = (
    stream("stream", 256 * MIB, 65536, "64k", quick=True),
    stream("stream", 20 * MIB, 512, "512"),
    stream("write", 256 * MIB, 65536, "64k"),
    stream("write", 20 * MIB, 512, "512"),
    stream("stream", 20 * MIB, 512, "512", length=True),
)
