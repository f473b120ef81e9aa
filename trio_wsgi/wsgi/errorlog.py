"""`wsgi.errors`: text, line by line into the error log, every character taken literally."""

from __future__ import annotations

import io
import logging

log = logging.getLogger("trio_wsgi.error")


class ErrorLog(io.TextIOBase):
    """A text stream for one request; a line is logged when it is complete, the rest on `flush` or `close`."""

    __slots__ = ("_partial",)  # with a dict of its own it would take twice the memory

    def __init__(self) -> None:
        super().__init__()
        self._partial = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._log(line)
        return len(text)

    def flush(self) -> None:
        if self._partial and not self.closed:
            line, self._partial = self._partial, ""
            self._log(line)

    def _log(self, line: str) -> None:
        log.error("%s", line)  # an argument, never the format: a % in it stays a %
