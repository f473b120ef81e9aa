"""The terminal that a server was started at: when that is closed, its HUP asks for no reload.

Laws:

* Who was started to outlive its terminal (nohup(1)), or had none, is told nothing by it.
* Where there is no terminal, its job control stops nobody: TTIN and TTOU come from who takes us for a supervisor.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from trio_wsgi.process.early import EarlySignals

_JOB_CONTROL = (signal.SIGTTIN, signal.SIGTTOU)


class Terminal:
    """What controls this process (tty(4)), if anything does.

    Args:
        matters: whether its end is ours.
    """

    def __init__(self, matters: bool) -> None:
        self._was_there = matters and _is_there()

    def has_gone(self) -> bool:
        """Whether it has been closed."""
        return self._was_there and not _is_there()


def find_terminal(early: EarlySignals) -> Terminal:
    """That of this process; look for it at the start."""
    return Terminal(not early.was_ignored(signal.SIGHUP))


@contextmanager
def without_job_control() -> Iterator[None]:
    """Ignore TTIN and TTOU while the block runs, where there is no terminal, and nobody else has taken them."""
    ignored = [] if _is_there() else [number for number in _JOB_CONTROL if signal.getsignal(number) is signal.SIG_DFL]
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_DFL)


def _is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


NO_TERMINAL = Terminal(matters=False)
