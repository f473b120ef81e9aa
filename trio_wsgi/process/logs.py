"""Where the two logs go: `trio_wsgi.error` and `trio_wsgi.access`.

Laws:

* The event loop never waits for a log: records pass through a bounded queue to one thread that writes them. When nobody
  reads standard output, lines are dropped and counted; requests go on.
* Files are opened before anything is served, and can be reopened after they were rotated (`reopen`).
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError

FLUSH_TIMEOUT = 0.5  # seconds
QUEUE_SIZE = 10_000  # records
ERROR_FORMAT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S %z"


class _Queueing(logging.handlers.QueueHandler):
    """Puts records into the queue, and counts those that find no room."""

    dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1
        else:
            if self.dropped:
                lost, self.dropped = self.dropped, 0
                record.msg = (
                    f"[{lost} log lines before this one were dropped: nobody read the log] {record.getMessage()}"
                )
                record.args = None


@dataclass
class Logs:
    """The open logs of a process."""

    _files: list[logging.FileHandler] = field(default_factory=list)
    _queues: list[queue.Queue[logging.LogRecord]] = field(default_factory=list)

    def flush(self) -> None:
        """Give the writing thread a moment to write what it has; for a process that ends without unwinding."""
        patience = time.monotonic() + FLUSH_TIMEOUT
        while any(not records.empty() for records in self._queues) and time.monotonic() < patience:
            time.sleep(0.01)

    def reopen(self) -> None:
        """Open the files anew, after they were moved away; standard streams stay."""
        for handler in self._files:
            handler.acquire()
            try:
                handler.close()  # FileHandler opens again with the next record
            finally:
                handler.release()

    def open_handler(self, setting: str, path: str, stream: TextIO) -> logging.Handler:
        """A handler that writes to `path`, or to `stream` for '-'."""
        if path == "-":
            return logging.StreamHandler(stream)
        try:
            handler = logging.handlers.WatchedFileHandler(path, encoding="utf-8", errors="backslashreplace")
        except OSError as exc:
            raise ConfigError(
                setting, f"cannot write {path}: {exc.strerror}", "name a file that can be written"
            ) from exc
        self._files.append(handler)
        return handler


@contextmanager
def open_logs(config: Config) -> Iterator[Logs]:
    """Set up both loggers; what is logged inside is written by the time this is left.

    Raises:
        ConfigError: a log file cannot be opened.
    """
    logs = Logs()
    errors = logs.open_handler("error_logfile", config.error_logfile, sys.stderr)
    errors.setFormatter(logging.Formatter(ERROR_FORMAT, TIME_FORMAT))
    routes = [("trio_wsgi.error", config.log_level.upper(), errors)]
    if config.access_logfile is not None:
        access = logs.open_handler("access_logfile", config.access_logfile, sys.stdout)
        access.setFormatter(logging.Formatter("%(message)s"))
        routes.append(("trio_wsgi.access", "INFO", access))
    else:
        logging.getLogger("trio_wsgi.access").setLevel(logging.CRITICAL)
    listeners = [_attach(*route) for route in routes]
    logs._queues.extend(records for records, _, _ in listeners)
    try:
        yield logs
    finally:
        for (name, _, handler), (_, listener, queueing) in zip(routes, listeners, strict=True):
            logging.getLogger(name).removeHandler(queueing)
            listener.stop()
            handler.close()


def _attach(
    name: str, level: str, handler: logging.Handler
) -> tuple[queue.Queue[logging.LogRecord], logging.handlers.QueueListener, logging.Handler]:
    records: queue.Queue[logging.LogRecord] = queue.Queue(QUEUE_SIZE)
    queueing = _Queueing(records)
    listener = logging.handlers.QueueListener(records, handler)
    listener.start()
    logger = logging.getLogger(name)
    logger.setLevel(level)
    logger.propagate = False
    logger.addHandler(queueing)
    return records, listener, queueing
