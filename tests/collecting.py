"""What is left for the garbage collector."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def collected() -> Iterator[Counter[str]]:
    """Yields how many things of ours, by their types, the block has left for the collector; filled at its end."""
    found = Counter[str]()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found.update(type(thing).__qualname__ for thing in gc.garbage if _is_ours(thing))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _is_ours(thing: object) -> bool:
    where = thing.f_globals.get("__name__", "") if isinstance(thing, FrameType) else type(thing).__module__
    return where.partition(".")[0] in ("trio_wsgi", "sendfile", "h11", "httptools")
