"""Finding the file in what an application returned, through the wrappers of others that we know.

Laws:

* Only a wrapper whose iteration gives exactly the bytes of a file, or of a part of it, is looked through, and only by
  its exact type. Everything else is iterated.
* The outermost object is what is closed: it closes what it wraps, and knows what else is to be done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sendfile import FileSpan
from trio_wsgi.wsgi.filewrapper import FileStatus, FileWrapper


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file for the kernel to send.

    Args:
        span: the bytes.
        status: of the file, as fstat(2) gave it when the span was made.
        filelike: the app's own object.
    """

    span: FileSpan
    status: FileStatus
    filelike: object


def find_file(result: object) -> FoundFile | None:
    """The file that iterating `result` would give, or None where that is not certain."""
    if type(result) is FileWrapper:  # what a subclass gives is its own
        found = result.open_span()
        return None if found is None else FoundFile(*found, result.filelike)
    look_inside = _KNOWN.get((type(result).__module__, type(result).__qualname__))
    if look_inside is None:
        return None
    try:
        return look_inside(result)
    except (AttributeError, TypeError):  # a version of it that is made otherwise
        return None


def _in_werkzeug_range(result: Any) -> FoundFile | None:
    """Flask's `send_file` answers a Range by itself, with a slicing iterator over our wrapper."""
    if result.read_length or result.end_reached or not result.seekable:  # it was iterated, or reads up to its start
        return None
    found = find_file(result.iterable)
    if found is None:
        return None
    start, size = result.start_byte, found.status.st_size  # it seeks, so it counts from the start of the file
    count = max(0, size - start) if result.byte_range is None else min(result.byte_range, max(0, size - start))
    return FoundFile(FileSpan(found.span.file, start, count), found.status, found.filelike)


def _in_webob_range(result: Any) -> FoundFile | None:
    """Pyramid's `FileResponse` answers a Range with an iterator that would read all that comes before it."""
    found = None if result._pos else find_file(result.app_iter)  # _pos: it was iterated
    if found is None:
        return None
    span = found.span
    start = min(result.start, span.count)
    stop = span.count if result.stop is None else min(result.stop, span.count)
    return FoundFile(FileSpan(span.file, span.offset + start, max(0, stop - start)), found.status, found.filelike)


def _in_werkzeug_closing(result: Any) -> FoundFile | None:
    """Werkzeug adds callbacks to close() around an iterator that it asks for blocks with `next`."""
    arguments: tuple[object, ...] = getattr(result._next, "args", ())
    return find_file(arguments[0]) if arguments else None


_KNOWN: dict[tuple[str, str], Callable[[Any], FoundFile | None]] = {
    ("werkzeug.wsgi", "_RangeWrapper"): _in_werkzeug_range,
    ("werkzeug.wsgi", "ClosingIterator"): _in_werkzeug_closing,
    ("webob.response", "AppIterRange"): _in_webob_range,
}
