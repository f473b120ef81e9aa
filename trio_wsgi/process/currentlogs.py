"""The supervisor's own logs, which follow the configuration through reloads.

Law: they go by the place of the file, not by its name: the directory that a name counts from may be another by then.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Self

from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.process.logs import Logs, open_logs


class CurrentLogs:
    """Logs that can be exchanged for others.

    Args:
        config: where they are now.
        patient: whether to wait for who reads a log that is a pipe.

    Raises:
        ConfigError: a log file cannot be opened.
    """

    def __init__(self, config: Config, *, patient: bool = True) -> None:
        self._stack = ExitStack()
        self._config = _placed(config)
        self._logs: Logs = self._stack.enter_context(open_logs(self._config, patient=patient))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def reopen(self) -> None:
        """Open the files anew, after they were moved away."""
        self._logs.reopen()

    def flush(self) -> None:
        """Have what was said written; waits no longer than a moment for a reader."""
        self._logs.flush()

    def follow(self, config: Config) -> None:
        """Log where this configuration says. Waits for nobody, as it is called on the event loop.

        Raises:
            ConfigError: a log file cannot be opened; the old ones stay in use, or standard error in place of those.
        """
        new = _placed(config)
        if (new.error_logfile, new.log_level) == (self._config.error_logfile, self._config.log_level):
            return
        self._stack.close()  # first, for what it puts back is how the loggers were before any of them
        try:
            self._open(new)
        except ConfigError:
            try:
                self._open(self._config)
            except ConfigError:
                self._open(_at_least(self._config))
            raise

    def _open(self, config: Config) -> None:
        self._logs = self._stack.enter_context(open_logs(config, patient=False))
        self._config = config


def open_somehow(config: Config) -> CurrentLogs:
    """Log where this says, or to standard error if that cannot be. Waits for nobody."""
    try:
        return CurrentLogs(config, patient=False)
    except ConfigError:
        return CurrentLogs(_at_least(config))


def _at_least(config: Config) -> Config:
    """Of these settings, what can always be: standard error, which is nobody's to own."""
    return config.replace(error_logfile="-", user=None, group=None)


def _placed(config: Config) -> Config:
    """The settings of our own log, with its place as it is from the working directory of now."""
    path = config.error_logfile
    if path != "-":
        path = os.path.abspath(path)  # noqa: PTH100 - as the log itself has it: links stay
    return config.replace(access_logfile=None, error_logfile=path)
