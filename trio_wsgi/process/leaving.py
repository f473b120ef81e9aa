"""What the application has left running when its process is to end: its threads, and what it does at exit.

Laws:

* Python waits for these at its exit, without a limit; here they have `graceful_timeout`.
* It is looked at by the process that is about to end, as its last act, and never in somebody else's.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from contextlib import suppress

from trio_wsgi.process.exits import ExitCode
from trio_wsgi.process.patches import find_patches

log = logging.getLogger("trio_wsgi.error")

_SHORTEST = 1.0  # seconds that a process gets to end, however short `graceful_timeout` is
_LONGEST = threading.TIMEOUT_MAX / 2  # seconds; the most that C counts, less what its clock is at


def limit_end(seconds: float) -> float:
    """How many seconds an end may take under this `graceful_timeout`, as timers count: neither 0, nor more than C can.

    Infinite for no limit.
    """
    return min(max(seconds, _SHORTEST), _LONGEST) if math.isfinite(seconds) else math.inf


class LastWait:
    """Ends the process when what is left in it does not."""

    def __init__(self) -> None:
        self.code: int = ExitCode.ERROR  # of the process
        self._seconds = math.inf  # nothing of the application's is there before the settings are known

    def allow(self, graceful_timeout: float) -> None:
        """It may take so many seconds."""
        self._seconds = graceful_timeout

    def begin(self) -> None:
        """From now on, the end is under way."""
        # Where an application that was refused has replaced threads, the start of one would wait for ever.
        if math.isfinite(limit_end(self._seconds)) and not find_patches():
            with suppress(RuntimeError):  # the system has no thread for it
                threading.Thread(target=self._end_late, name="trio-wsgi end", daemon=True).start()

    def _end_late(self) -> None:
        time.sleep(limit_end(self._seconds))
        log.error("%s did not end within %g s (graceful_timeout): leaving it", _what_is_left(), self._seconds)
        os._exit(self.code)


def _what_is_left() -> str:
    """Whom Python waits for, by name."""
    main = threading.main_thread()
    threads = [thread.name for thread in threading.enumerate() if not thread.daemon and thread is not main]
    if not threads:
        return "what the application does at exit"
    return f"the application's {'thread' if len(threads) == 1 else 'threads'} {', '.join(map(repr, threads))}"
