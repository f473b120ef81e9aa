"""What the server would send of an application's file, beside what iterating its answer gives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from trio_wsgi.wsgi.unwrap import find_file


def both(make: Callable[[], Any]) -> tuple[bytes | None, bytes]:
    """The bytes of the span, and those that iterating gives; each from an object of its own."""
    with closing(make()) as result:
        found = find_file(result)
        spanned = None
        if found is not None:
            found.span.file.seek(found.span.offset)
            spanned = found.span.file.read(found.span.count)
    with closing(make()) as result:
        return spanned, b"".join(result)
