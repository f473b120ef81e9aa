"""Observers of finished requests that come with the server."""

from __future__ import annotations

import logging

from trio_wsgi.record import RequestRecord
from trio_wsgi.rules.logline import compile_format

access_log = logging.getLogger("trio_wsgi.access")


class AccessLog:
    """Writes a line for each request to the logger `trio_wsgi.access`: at INFO, those at health_path at DEBUG.

    Args:
        line_format: gunicorn's atoms and ours; see `rules.logline`.
    """

    def __init__(self, line_format: str) -> None:
        self._format = compile_format(line_format)

    def __call__(self, record: RequestRecord) -> None:
        level = logging.DEBUG if record.health else logging.INFO  # every second, of every load balancer
        if access_log.isEnabledFor(level):
            access_log.log(level, "%s", self._format(record))
