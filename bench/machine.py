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
        "kernel": f"{platform.system()} {platform.release()}",
        "memory is": memory_kind() + " of the server's processes together",
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }
    return {title: fact for title, fact in facts.items() if fact}


def read_cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()
