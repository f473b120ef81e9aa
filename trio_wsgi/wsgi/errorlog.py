"""`wsgi.errors`: text, line by line into the error log, every character taken literally.

Laws:

* A line goes where the handlers of the log `trio_wsgi.error` write, whatever that log's level, and though the logging
  configuration of an application has switched it off: PEP 3333 promises a stream.
* It is no event of its own for who watches loggers: what an application logs may pass through here.
* Where that log has no handler (inside another program) it is logged as any line is, and ends in a handler of theirs;
  if that one writes here in turn, on standard error.
"""

from __future__ import annotations

import io
import logging
import sys

log = logging.getLogger("trio_wsgi.error")


class ErrorLog(io.TextIOBase):
    """A text stream for one request; a line is logged when it is complete, the rest on `flush` or `close`."""

    __slots__ = ("_busy", "_partial")  # with a dict of its own it would take twice the memory

    def __init__(self) -> None:
        super().__init__()
        self._partial = ""
        self._busy = False  # a line is on its way

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
        if self._busy:
            if sys.stderr is not None:
                sys.stderr.write(line + "\n")
            return
        self._busy = True
        try:
            _pass_on(line)
        finally:
            self._busy = False


def _pass_on(line: str) -> None:
    if not log.handlers:
        log.error("%s", line)  # an argument, never the format: a % in it stays a %
        return
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, "%s", (line,), None)
    for handler in log.handlers:
        handler.handle(record)
