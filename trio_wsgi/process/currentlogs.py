"""The logs of a supervisor, which follow the configuration through reloads: its own, and the files of its workers'.

Laws:

* They go by the place of the file, not by its name: the directory that a name counts from may be another by then.
* Who their owner is was asked before: that may take long, and they follow, and are reopened, on the event loop.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Self

from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.owner import Owner, find_heir
from trio_wsgi.process.logs import make_log_files, open_logs


class CurrentLogs:
    """Logs that can be exchanged for others.

    Args:
        config: where they are now.
        patient: as in `open_logs`.

    Raises:
        ConfigError: a log file cannot be opened or written, or `user` or `group` is not known.
    """

    def __init__(self, config: Config, *, patient: bool = True) -> None:
        self._stack = ExitStack()
        self._config = config.placed()
        self._owner = find_heir(config)
        self._open(self._config, patient)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def is_standard(self) -> bool:
        """Whether what is logged is on standard error."""
        return self._config.error_logfile == "-"

    def reopen(self) -> None:
        """Open the files anew, after they were moved away, and make those of workers, who may not be able to."""
        make_log_files(self._config, self._owner)
        self._logs.reopen()

    def flush(self) -> None:
        """Have what was said written; waits no longer than a moment for a reader."""
        self._logs.flush()

    def follow(self, config: Config, owner: Owner) -> None:
        """Log where this configuration says. Waits for nobody, as it is called on the event loop.

        Args:
            owner: what `find_heir` found for it.

        Raises:
            ConfigError: a log file cannot be opened; the old ones stay in use, or standard error in place of those.
        """
        old, new = self._config, config.placed()
        stays = (new.error_logfile, new.log_level, owner) == (old.error_logfile, old.log_level, self._owner)
        self._config, self._owner = new, owner
        if stays:
            return
        self._stack.close()  # first, for what it puts back is how the loggers were before any of them
        try:
            self._open(new)
        except ConfigError:
            try:
                self._open(new.replace(error_logfile=old.error_logfile))
            except ConfigError:
                self._open(new.replace(error_logfile="-"))
            raise

    def _open(self, config: Config, patient: bool = False) -> None:
        own = config.replace(access_logfile=None)
        self._logs = self._stack.enter_context(open_logs(own, self._owner, patient=patient))
        self._config = config


def open_somehow(config: Config) -> CurrentLogs:
    """Log where this says, or to standard error if that cannot be. Waits for nobody."""
    try:
        return CurrentLogs(config, patient=False)
    except ConfigError:
        return CurrentLogs(config.replace(error_logfile="-", user=None, group=None))
