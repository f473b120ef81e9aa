"""The system calls of a server's process tree over a stretch of time, counted by strace.

Laws:
- A traced server is slow: its calls are counted, and nothing else of a traced bout is kept.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.client import Failed
from bench.proc import find_tree
from bench.server import find_program

PATIENCE = 10.0  # seconds to attach to all processes


@dataclass(slots=True)
class Trace:
    """What was counted: calls by name."""

    calls: dict[str, int] = field(default_factory=dict)


@contextmanager
def open_trace(root: int, trace: Trace) -> Iterator[None]:
    """Count the calls of the tree while the block runs, into `trace`.

    Raises:
        Failed: there is no strace, or it may not attach.
    """
    program = find_program("strace")
    if program is None:
        raise Failed("not tried: strace is not installed")
    tree = find_tree(root)
    with tempfile.NamedTemporaryFile(prefix="bench-strace-") as table:
        words = [program, "-f", "-qq", "-c", "-U", "calls,name", "-o", table.name]
        process = subprocess.Popen(
            [*words, *(word for pid in tree for word in ("-p", str(pid)))], stderr=subprocess.PIPE
        )
        with process:
            try:
                wait_attached(process, tree)
                yield
            finally:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE)
                process.kill()
        trace.calls = parse_table(Path(table.name).read_text())


def wait_attached(process: subprocess.Popen[bytes], tree: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not all(is_traced(task) for pid in tree for task in Path(f"/proc/{pid}/task").glob("*")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise Failed("not tried: strace may not attach")
        time.sleep(0.02)


def is_traced(task: Path) -> bool:
    try:
        return "\nTracerPid:\t0\n" not in (task / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True  # it has ended


def parse_table(text: str) -> dict[str, int]:
    """The table that `strace -c -U calls,name` writes: calls by name, without the total."""
    rows = (line.split() for line in text.splitlines())
    return {row[1]: int(row[0]) for row in rows if len(row) == 2 and row[0].isdigit() and row[1] != "total"}
