"""Numbers of CPUs as a text: the kernel's list format (cpuset(7)), such as ``0,2-3``.

Law: `parse_cpus` reads what `show_cpus` writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST = 1 << 16  # CPUs: more than any kernel counts (NR_CPUS)
_LIST = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")


def parse_cpus(text: str) -> tuple[int, ...]:
    """The CPUs of a list, in its order, each once.

    Raises:
        ValueError: it is no list, has a range that runs backwards, or goes to what no kernel counts; and what to write.
    """
    if _LIST.fullmatch(text) is None:
        raise ValueError(f"{text!r} names no CPUs; write auto, off or a list such as 0,2-3")
    found: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.partition("-")
        for number in (first, last or first):
            if len(number) > 9 or int(number) >= MOST:
                raise ValueError(f"there is no CPU {number:.20}; write numbers below {MOST}")
        if dash and int(last) < int(first):
            raise ValueError(f"{part!r} runs backwards; write {last}-{first}")
        found |= dict.fromkeys(range(int(first), int(last or first) + 1))
    return tuple(found)


def show_cpus(cpus: Iterable[int]) -> str:
    """The shortest list of these CPUs, in ascending order."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
