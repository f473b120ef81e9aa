"""The terminal that a server was started at: when that is closed, its HUP asks for no reload.

Law: who was started to outlive its terminal (nohup(1)), or had none, is told nothing by it.
"""

from __future__ import annotations

import os
import signal

from trio_wsgi.process.early import EarlySignals


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


def _is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


NO_TERMINAL = Terminal(matters=False)
