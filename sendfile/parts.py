"""Parts: what is to be sent, and the queues in which it waits.

Laws:

* A part is bytes at hand or a span of a file; its `size` is in bytes.
* A queue is consumed in place, and only by what has left: whoever holds it sees what has not.
* Nothing here copies a byte.
"""

from __future__ import annotations

from collections import deque
from collections.abc import MutableSequence
from typing import TypeAlias

from sendfile.span import FileSpan

Part: TypeAlias = FileSpan | bytes | bytearray | memoryview
"""What can be sent: bytes at hand, or bytes of a file."""

Parts: TypeAlias = MutableSequence[Part]
"""What is to be sent, first to last: a deque. Or a list, where they are few: to take the first off a list moves the
others, but an empty deque takes ten times its memory, for each of thousands who wait."""


def check_parts(parts: object) -> None:
    """Refuse what cannot be consumed in place, before a byte of it is sent.

    Raises:
        TypeError: it is no deque, list or other mutable sequence; or is itself a part.
    """
    if isinstance(parts, (deque, list)):  # the other question takes five times as long
        return
    if isinstance(parts, bytearray) or not isinstance(parts, MutableSequence):
        raise TypeError(f"parts are consumed in place: pass a deque or a list of them, not {type(parts).__name__}")


def size(part: Part) -> int:
    """How many bytes ``part`` is; for a memoryview that is not its ``len()``, which counts items."""
    if isinstance(part, FileSpan):
        return part.count
    return part.nbytes if isinstance(part, memoryview) else len(part)


def head(parts: Parts) -> Part | None:
    """The first part that holds a byte; empty ones before it are taken off. None: there is no such part."""
    while parts:
        first = parts[0]
        if first.count if isinstance(first, FileSpan) else size(first):  # `size` of a span at once: each step asks
            return first
        del parts[0]
    return None


def consume(parts: Parts, n: int) -> None:
    """Take the first ``n`` bytes off the queue."""
    while parts and n >= (length := size(parts[0])):
        del parts[0]
        n -= length
    if n:
        first = parts[0]
        parts[0] = first.advance(n) if isinstance(first, FileSpan) else memoryview(first).cast("B")[n:]
