"""What a tree of processes uses, read from /proc: CPU, memory, threads.

Laws:
- A tree is a process with all that descend from it, found anew at each look.
- CPU is counted once: of the living by the kernel's clock of each process (nanoseconds, all threads, ended ones
  too), of ended children by what their parent has inherited (cutime and cstime, hundredths of a second).
- A process that ends while we look counts as ended, not as an error.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
LOOK = 0.25  # seconds between looks; each holds up what the server maps for a moment (some ms with 200 MB)
GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tree uses at one moment."""

    cpu: float  # seconds since its beginning, user and system
    memory: int  # bytes: proportional set size (PSS), where we may read it; else resident set size (RSS)
    threads: int
    processes: int


def find_tree(root: int) -> list[int]:
    """The process ids of `root` and its descendants, parents first; empty once it has gone."""
    tree: list[int] = []
    found = [root]
    while found:
        pid = found.pop()
        with contextlib.suppress(*GONE):
            children = [
                int(child) for task in (PROC / str(pid) / "task").iterdir() for child in read_words(task / "children")
            ]
            tree.append(pid)
            found += children
    return tree


def read_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except GONE:
        return []


def read_cpu(pid: int) -> float:
    """Seconds of CPU of a process and its ended, waited-for children.

    Raises:
        OSError: it has gone.

    Spec: clock_getcpuclockid(3), proc_pid_stat(5)
    """
    own = time.clock_gettime((~pid << 3) | 2)  # the clock id that clock_getcpuclockid() builds
    after_name = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    cutime, cstime = int(after_name[13]), int(after_name[14])
    return own + (cutime + cstime) / TICKS


def read_memory(pid: int) -> int:
    """Bytes of memory of a process: its PSS, or its RSS where the kernel does not show us the PSS."""
    try:
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (PermissionError, FileNotFoundError):
        pass
    return int((PROC / str(pid) / "statm").read_text().split()[1]) * PAGE


def memory_kind() -> str:
    """What `read_memory` tells on this machine: "PSS" or "RSS"."""
    return "PSS" if os.access("/proc/self/smaps_rollup", os.R_OK) else "RSS"


def read_cpu_of_tree(root: int) -> float:
    """Seconds of CPU of the tree."""
    total = 0.0
    for pid in find_tree(root):
        with contextlib.suppress(OSError):
            total += read_cpu(pid)
    return total


def read_usage(root: int) -> Usage:
    cpu, memory, threads, processes = 0.0, 0, 0, 0
    for pid in find_tree(root):
        with contextlib.suppress(OSError):
            cpu += read_cpu(pid)
            memory += read_memory(pid)
            threads += len(list((PROC / str(pid) / "task").iterdir()))
            processes += 1
    return Usage(cpu, memory, threads, processes)


def read_tcp_memory() -> int:
    """Bytes that the kernel holds for all TCP sockets of this machine, both ends of loopback connections.

    Spec: /proc/net/sockstat (pages)
    """
    for line in (PROC / "net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            words = line.split()
            return int(words[words.index("mem") + 1]) * PAGE
    return 0


@dataclass(slots=True)
class Watch:
    """A tree over a stretch of time: CPU from `begin` to `end`, and the peaks between."""

    root: int
    cpu: float = 0.0
    seconds: float = 0.0
    peak_memory: int = 0
    peak_threads: int = 0
    _cpu_at: float = field(default=0.0, repr=False)
    _began: float = field(default=0.0, repr=False)

    def begin(self) -> None:
        self._began, self._cpu_at = time.monotonic(), read_cpu_of_tree(self.root)

    def end(self) -> None:
        self.cpu = read_cpu_of_tree(self.root) - self._cpu_at
        self.seconds = time.monotonic() - self._began

    def look(self) -> None:
        usage = read_usage(self.root)
        self.peak_memory = max(self.peak_memory, usage.memory)
        self.peak_threads = max(self.peak_threads, usage.threads)


@contextmanager
def open_watch(root: int, interval: float = LOOK) -> Iterator[Watch]:
    """Watch a tree while the block runs, looking for peaks each `interval` seconds.

    The looking is done by a thread of ours, so its CPU is not the tree's.
    """
    watch = Watch(root)
    done = threading.Event()

    def look_again_and_again() -> None:
        while not done.wait(interval):
            watch.look()

    looker = threading.Thread(target=look_again_and_again, name="bench-watch")
    watch.look()
    looker.start()
    watch.begin()
    try:
        yield watch
    finally:
        watch.end()
        done.set()
        looker.join()
        watch.look()
