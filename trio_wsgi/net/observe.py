"""Observers of finished requests that come with the server."""

from __future__ import annotations

import logging

from trio_wsgi.record import RequestRecord
from trio_wsgi.rules.logline import compile_format

access_log = logging.getLogger("trio_wsgi.access")


class AccessLog:
    """Writes a line for each request to the logger `trio_wsgi.access`.

    Args:
        line_format: gunicorn's atoms and ours; see `rules.logline`.
    """

    def __init__(self, line_format: str) -> None:
        self._format = compile_format(line_format)

    def __call__(self, record: RequestRecord) -> None:
        if access_log.isEnabledFor(logging.INFO):
            access_log.info("%s", self._format(record))
