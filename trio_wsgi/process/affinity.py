"""Which CPU a worker is pinned to.

Laws:

* Only CPUs that this process may use are taken: those of its mask, which a cpuset of its container narrows.
* A worker pins itself before it starts a thread; its threads, and the programs it starts, are pinned with it.
* A CPU that cannot be had is the operator's mistake and is told before anything is served.
"""

from __future__ import annotations

import logging
import os

from trio_wsgi.cpulist import parse_cpus, show_cpus
from trio_wsgi.errors import ConfigError

log = logging.getLogger("trio_wsgi.error")

SETTING = "cpu_affinity"


def allowed_cpus() -> frozenset[int] | None:
    """The CPUs this process may run on; None where the system does not tell, or pin (macOS)."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return frozenset(os.sched_getaffinity(0))


def decide_cpu(setting: str, slot: int, allowed: frozenset[int]) -> int | None:
    """The CPU for the worker of a slot, from 0: those to be had are dealt out in turn, and then again from the first.

    Raises:
        ConfigError: the list names others.
    """
    if setting == "off":
        return None
    cpus = tuple(sorted(allowed)) if setting == "auto" else parse_cpus(setting)
    if missing := [cpu for cpu in cpus if cpu not in allowed]:
        which = f"CPU {missing[0]} is" if len(missing) == 1 else f"CPUs {show_cpus(missing)} are"
        raise ConfigError(SETTING, f"{which} not to be had", f"this process may use {show_cpus(allowed)}")
    return cpus[slot % len(cpus)]


def check_cpus_available(setting: str) -> None:
    """Tell the operator at once what no worker could do; for the parent, which pins itself to nothing.

    Raises:
        ConfigError: the list names CPUs that are not to be had.
    """
    if setting == "off":
        return
    allowed = allowed_cpus()
    if allowed is None:
        log.warning("%s: this system cannot pin processes to CPUs; the setting is ignored", SETTING)
        return
    decide_cpu(setting, 0, allowed)


def pin_worker(setting: str, slot: int) -> None:
    """Pin this thread, and with it all that it starts; call it in a worker before it starts any.

    Raises:
        ConfigError: as `check_cpus_available`, or the kernel refused.
    """
    allowed = None if setting == "off" else allowed_cpus()
    cpu = None if allowed is None else decide_cpu(setting, slot, allowed)
    if cpu is not None:
        try:
            os.sched_setaffinity(0, {cpu})
        except OSError as error:
            raise ConfigError(SETTING, f"cannot pin to CPU {cpu}: {error.strerror}", "write off") from None
