"""Where the two logs go: `trio_wsgi.error` and `trio_wsgi.access`.

Laws:

* The event loop never waits for a log: lines pass through a bounded queue to one thread that writes them. When nobody
  reads standard output, or the disk is full, lines are dropped and counted; requests go on, and the process ends.
* Each line is written or counted, and the count is told, with the reason, before the next line that is written. That of
  lines which found no room is kept in the queue, under its own mutex; that of those which failed is the thread's.
* Lines are written whole, in batches (`sinks`).
* Where the system has no thread to give, no process begins. A supervisor that runs, and opens its logs anew, goes on
  without: it writes each line itself.
* A child that the application forks has no such thread, and never touches the queue, which may be locked there for
  ever: it writes each line itself. Those that waited when it was forked are its parent's to write.
* No logging configuration of an application's switches them off, whenever it comes.
* Files are opened before anything is served. They are opened anew by `reopen`, and on their own when they were moved.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.forks import undone_in_children
from trio_wsgi.net.inthread import MORE_THREADS, needing_thread
from trio_wsgi.owner import Owner, find_heir
from trio_wsgi.process.sinks import File, Sink, Stream, make_file
from trio_wsgi.rules.logline import writes_json

log = logging.getLogger("trio_wsgi.error")

FLUSH_TIMEOUT = 0.5  # seconds without a line taken, after which the end of a process waits no longer for its log
DRAIN_TIMEOUT = 5.0  # seconds for all of them
QUEUE_SIZE = 10_000  # lines
BATCH_SIZE = 64 * 1024  # bytes of lines that are written at once
ERROR_FORMAT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S %z"

_LOGGERS = ("trio_wsgi.error", "trio_wsgi.access")


class _Waiting(queue.Queue[bytes | int | None]):
    """Lines that wait to be written, `QUEUE_SIZE` of them; None: the end, or time to reopen.

    Where lines found no room, an int stands in their place: how many they were.
    """

    def _put(self, item: bytes | int | None) -> None:  # what `put` calls while it holds the mutex
        if item is None or len(self.queue) < QUEUE_SIZE:
            self.queue.append(item)
        elif isinstance(self.queue[-1], int):
            self.queue[-1] += 1
            self.unfinished_tasks -= 1  # `put` adds one for each item
        else:
            self.queue.append(1)


class _Writer(logging.Handler):
    """Formats records where they are logged, and writes them in a thread of its own.

    Raises:
        OSError: there is no thread to be had, and it is `patient`; else it does without.
    """

    def __init__(self, source: str, target: Sink, formatter: logging.Formatter, as_json: bool, patient: bool) -> None:
        super().__init__()
        self._json = as_json
        self._source = source
        self._target = target
        self.setFormatter(formatter)
        self._lines = _Waiting()
        self._put: Callable[[bytes], None] = self._lines.put_nowait
        self._lost = 0  # lines that could not be written, since one could; the thread's alone, like the reason:
        self._why = ""
        self._reopening = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="trio-wsgi log", daemon=True)
        try:
            with needing_thread():
                self._thread.start()
        except OSError:
            if patient:
                raise
            self.write_directly()

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """None: what happens in `emit` is safe in all threads, and nobody is to wait here at exit."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """What `logging.Handler.handle` does, but for the lock: since Python 3.13 that one takes it without looking."""
        kept: object = self.filter(record)  # since Python 3.12 a filter may give another record
        if kept:
            self.emit(kept if isinstance(kept, logging.LogRecord) else record)
        return bool(kept)

    def emit(self, record: logging.LogRecord) -> None:
        """Put its line into the queue."""
        try:
            self._put(self.format(record).encode("utf-8", "backslashreplace") + b"\n")
        except Exception:
            self.handleError(record)

    def write_directly(self) -> None:
        """Without the thread, as in a forked child: write lines where they are logged, from now on."""
        self._lines = _Waiting()
        self._lost, self._why = 0, ""  # the parent tells it
        logging.Handler.createLock(self)  # of threads that the child starts, and anew in its own children
        self._put = self._write_in_turn

    def _write_in_turn(self, line: bytes) -> None:
        assert self.lock is not None
        with self.lock:
            self._reopen_if_told()
            self._write([line])

    def reopen(self) -> None:
        """Let who writes open the file anew before the next line."""
        self._reopening = True
        self._wake()

    def drain(self) -> bool:
        """Wait until what was logged is written; False when nobody takes it."""
        left = self._lines.unfinished_tasks
        end = time.monotonic() + DRAIN_TIMEOUT
        patience = time.monotonic() + FLUSH_TIMEOUT
        while left and time.monotonic() < min(patience, end):
            time.sleep(0.005)
            if self._lines.unfinished_tasks < left:
                left = self._lines.unfinished_tasks
                patience = time.monotonic() + FLUSH_TIMEOUT
        return not left

    def stop(self) -> None:
        """Write what is left, and end; a thread that nobody reads from is left behind."""
        drained = self.drain()
        self._stopping = True
        if drained:
            self._wake()
            if self._thread.is_alive():
                self._thread.join()
            self._target.close()
        self.close()

    def _wake(self) -> None:
        if self._thread.is_alive() and self._lines.empty():  # else it has something to wake up for
            self._lines.put_nowait(None)

    def _run(self) -> None:
        # Where a terminal wants no output from the background (stty tostop), it takes that of threads which block the
        # signal; with the supervisor's handler, the write would begin again and again.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        while not self._stopping:
            batch = self._next_batch()
            self._reopen_if_told()
            try:
                self._write([item for item in batch if item is not None])
            finally:
                for _ in batch:
                    self._lines.task_done()

    def _write(self, items: list[bytes | int]) -> None:
        """Write lines, and what is to be told of those that were dropped; what fails is kept as a count."""
        if not items:
            return
        records = [item if isinstance(item, bytes) else self._tell_dropped(item, "nobody took them") for item in items]
        if self._lost:
            items.insert(0, self._lost)
            records.insert(0, self._tell_dropped(self._lost, self._why))
        whole, why = self._target.write(records)
        if why and not self._lost:
            self._complain(why)
        self._why = why
        self._lost = sum([1 if isinstance(item, bytes) else item for item in items[whole:]])

    def _tell_dropped(self, count: int, why: str) -> bytes:
        told = f"{count} log lines before this one were dropped: {why}"
        return (json.dumps({"dropped": count, "reason": told}) if self._json else f"[{told}]").encode() + b"\n"

    def _complain(self, why: str) -> None:
        if self._source != log.name:  # the error log can only tell later what it could not tell
            log.error("cannot write to %s: %s; its lines are dropped, and counted", self._target, why)

    def _reopen_if_told(self) -> None:
        if not self._reopening:
            return
        self._reopening = False
        try:
            self._target.reopen()
        except OSError as exc:
            log.error("cannot reopen %s: %s; going on in the old file", exc.filename, exc.strerror)

    def _next_batch(self) -> list[bytes | int | None]:
        batch = [self._lines.get()]
        size = 0
        with contextlib.suppress(queue.Empty):
            while size < BATCH_SIZE:
                batch.append(item := self._lines.get_nowait())
                size += len(item) if isinstance(item, bytes) else 0
        return batch


@dataclass
class Logs:
    """The open logs of a process."""

    _writers: list[_Writer]

    def flush(self) -> None:
        """Give the writing threads a moment to write what they have; for a process that ends without unwinding."""
        for writer in self._writers:
            writer.drain()

    def reopen(self) -> None:
        """Open the files anew, after they were moved away; standard streams stay."""
        for writer in self._writers:
            writer.reopen()


def make_log_files(config: Config, owner: Owner) -> None:
    """Make those that are not there, for processes that may not do so any more; what fails is told by those."""
    for path in (config.error_logfile, config.access_logfile):
        if path not in {None, "-"}:
            with contextlib.suppress(OSError):
                os.close(make_file(str(path), owner))


@contextmanager
def open_logs(config: Config, owner: Owner | None = None, *, patient: bool = True) -> Iterator[Logs]:
    """Set up both loggers; what is logged inside is written by the time this is left, if anybody takes it.

    Args:
        owner: of files that are made; else `find_heir` finds it here, which may wait for the network.
        patient: at a start, which may wait for who reads a log that is a pipe, and needs a thread that writes.

    Raises:
        ConfigError: a log file cannot be opened or written, or `user` or `group` is not known.
    """
    errors = logging.Formatter(ERROR_FORMAT, TIME_FORMAT)
    plain = logging.Formatter("%(message)s")
    owner = find_heir(config) if owner is None else owner
    with contextlib.ExitStack() as stack:
        for name in _LOGGERS:
            stack.enter_context(_staying_on(logging.getLogger(name)))
        target = _open("error_logfile", config.error_logfile, sys.stderr, owner, patient)
        level = config.log_level.upper()
        logs = Logs([stack.enter_context(_route("trio_wsgi.error", level, target, errors, patient))])
        if config.access_logfile is None:
            access_log = logging.getLogger("trio_wsgi.access")
            stack.callback(access_log.setLevel, access_log.level)
            access_log.setLevel(logging.CRITICAL)
        else:
            target = _open("access_logfile", config.access_logfile, sys.stdout, owner, patient)
            as_json = writes_json(config.access_logformat)
            route = _route("trio_wsgi.access", "INFO", target, plain, patient, as_json)
            logs._writers.append(stack.enter_context(route))
        yield logs


def _open(setting: str, path: str, stream: TextIO | None, owner: Owner, patient: bool) -> Sink:
    if path == "-":
        return Stream(stream)
    try:
        return File(path, owner, patient=patient)
    except OSError as exc:
        if exc.errno == errno.ENXIO and Path(path).is_fifo():
            raise ConfigError(setting, f"nobody reads the pipe {path}", "start its reader first") from exc
        raise ConfigError(setting, f"cannot write {path}: {exc.strerror}", "name a file that can be written") from exc


@contextmanager
def _staying_on(logger: logging.Logger) -> Iterator[None]:
    """Inside, nobody disables it; afterwards it is as it was.

    An application's own configuration (logging.config) disables every logger that it does not name, unless it says
    `disable_existing_loggers: False`; nobody means the server's by that. It may come with the import, but also with
    the first request, or when a changed file is loaded anew.
    """
    before = type(logger)  # logging.Logger, if no setLoggerClass() says otherwise
    never = property(lambda logger: False, lambda logger, value: None)
    logger.__class__ = type(before.__name__, (before,), {"disabled": never})
    try:
        yield
    finally:
        logger.__class__ = before


@contextmanager
def _route(
    name: str,
    level: str,
    target: Sink,
    formatter: logging.Formatter,
    patient: bool,
    as_json: bool = False,
) -> Iterator[_Writer]:
    """The logger writes to `target`, and there alone; afterwards it is as it was."""
    logger = logging.getLogger(name)
    before = logger.level, logger.propagate
    former = [each for each in logger.handlers if isinstance(each, _Writer)]  # where a child of a server serves itself
    try:
        writer = _Writer(name, target, formatter, as_json, patient)
    except OSError as error:
        target.close()
        raise ConfigError("log", f"nobody can write it: {error.strerror}", MORE_THREADS) from error
    _exchange(logger, former, [writer])
    logger.setLevel(level)
    logger.propagate = False
    try:
        with undone_in_children(writer.write_directly):
            yield writer
    finally:
        _exchange(logger, [writer], former)
        logger.setLevel(before[0])
        logger.propagate = before[1]
        writer.stop()


def _exchange(logger: logging.Logger, old: Iterable[_Writer], new: Iterable[_Writer]) -> None:
    for writer in old:
        logger.removeHandler(writer)
    for writer in new:
        logger.addHandler(writer)
