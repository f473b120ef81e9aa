"""Where a run happens: processor, kernel, Python, memory; and what this machine lets us do.

Laws:
- A fact that cannot be had is left out.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from pathlib import Path

from bench.proc import memory_kind

CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60  # bytes: version 1 writes nearly 2⁶³ where there is no limit
WANTED_DESCRIPTORS = 60_000  # twice 10,000 connections with a file each, and some


def raise_descriptor_limit() -> int:
    """Allow us, and the servers that inherit it, as many descriptors as 10,000 downloads need.

    Returns:
        the limit that holds now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in ((WANTED_DESCRIPTORS, max(hard, WANTED_DESCRIPTORS)), (hard, hard)):
        if soft >= WANTED_DESCRIPTORS:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            break
        except (ValueError, OSError):
            continue  # not root: the hard limit is what there is
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def describe_machine() -> dict[str, str]:
    """Facts by title, in the order to show them."""
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "CPU": read_cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / (1 << 30):.0f} GiB",
        **read_container_limits(),
        "kernel": f"{platform.system()} {platform.release()}",
        "memory is": memory_kind() + " of the server's processes together",
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }
    return {title: fact for title, fact in facts.items() if fact}


def read_container_limits() -> dict[str, str]:
    """What a container may use of it, where it is limited.

    Spec: cgroups(7), version 2: cpu.max, memory.max; version 1: cpu.cfs_quota_us, memory.limit_in_bytes
    """
    limits = {}
    cpu = read_numbers("cpu.max") or read_numbers("cpu/cpu.cfs_quota_us") + read_numbers("cpu/cpu.cfs_period_us")
    if len(cpu) == 2 and cpu[0] > 0:
        limits["cores by quota"] = f"{cpu[0] / cpu[1]:g}"
    memory = read_numbers("memory.max") or read_numbers("memory/memory.limit_in_bytes")
    if memory and memory[0] < UNLIMITED:
        limits["memory by limit"] = f"{memory[0] / (1 << 30):.3g} GiB"
    return limits


def read_numbers(name: str) -> list[int]:
    """Those of a file of the control group; none where there is no such file, or it says "max"."""
    try:
        return [int(word) for word in (CGROUP / name).read_text().split()]
    except (OSError, ValueError):
        return []


def read_cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()
