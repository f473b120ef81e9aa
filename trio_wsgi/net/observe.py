"""Who is told of finished requests: the access log, and whoever embeds the server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from trio_wsgi.record import RequestRecord
from trio_wsgi.rules.logline import compile_format, reads

log = logging.getLogger("trio_wsgi.error")
access_log = logging.getLogger("trio_wsgi.access")

Observer = Callable[[RequestRecord], object]  # what it returns is nobody's


class AccessLog:
    """Writes a line for each request to the logger `trio_wsgi.access`: at INFO, those at health_path at DEBUG.

    Args:
        line_format: gunicorn's atoms and ours; see `rules.logline`.
    """

    def __init__(self, line_format: str) -> None:
        self._format = compile_format(line_format)
        self.reads_environ = reads(line_format, "e")
        self.reads_response_headers = reads(line_format, "o")

    def __call__(self, record: RequestRecord) -> None:
        level = logging.DEBUG if record.health else logging.INFO  # every second, of every load balancer
        if access_log.isEnabledFor(level):
            access_log.log(level, "%s", self._format(record))


class Observers:
    """Everybody who is told of finished requests.

    Args:
        access: the access log.
        others: called with the record of every finished request; what they raise is logged.
    """

    def __init__(self, access: AccessLog, others: Sequence[Observer]) -> None:
        self._access = access
        self._others = others
        self._all: tuple[Observer, ...] = (access, *others)

    @property
    def wanted(self) -> bool:
        """Whether a record is worth being made."""
        return bool(self._others) or access_log.isEnabledFor(logging.INFO)

    @property
    def wants_environ(self) -> bool:
        """Whether a record is to have one: thousands of slow downloads hold some 2 KiB each for it."""
        return bool(self._others) or (self._access.reads_environ and self.wanted)

    @property
    def wants_response_headers(self) -> bool:
        """Whether a record is to have them; those of a response that leaves at once are there in any case."""
        return bool(self._others) or (self._access.reads_response_headers and self.wanted)

    def tell(self, record: RequestRecord) -> None:
        """Tell each of them."""
        for observer in self._all:
            try:
                observer(record)
            except BaseException:  # SystemExit, too: whoever rides in the lane is told of inside of Trio's own task
                log.exception("an observer of finished requests failed")
