"""The terminal that a server was started at: when that is closed, its HUP asks for no reload.

Laws:

* Who was started to outlive its terminal (nohup(1)), or had none, is told nothing by it.
* Where there is no terminal, its job control stops nobody: TTIN and TTOU come from who takes us for a supervisor.
  Programs and children that the application starts there have them as any have: a terminal of their own means them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trio_wsgi.forks import putting_back, undo_in_children, undone_in_children
from trio_wsgi.process.early import EarlySignals
from trio_wsgi.process.signals import do_nothing

_JOB_CONTROL = (signal.SIGTTIN, signal.SIGTTOU)


def watch_terminal(early: EarlySignals) -> Callable[[], bool]:
    """What tells, from the start on, whether the terminal that controls this process (tty(4)) has been closed."""
    matters = not early.was_ignored(signal.SIGHUP) and _is_there()
    return lambda: matters and not _is_there()


@contextmanager
def without_job_control() -> Iterator[None]:
    """Have TTIN and TTOU do nothing while the block runs, where there is no terminal, and nobody else has them."""
    ours = [] if _is_there() else [number for number in _JOB_CONTROL if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, do_nothing)
    try:
        with undone_in_children(putting_back(dict.fromkeys(ours, signal.SIG_DFL))):
            yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def leave_job_control() -> None:
    """Have TTIN and TTOU stop no worker, from now on."""
    if _is_there():
        # Our process group is in the background there, with all that the application starts: who asks the terminal for
        # a password is to fail, not to stop for ever. With a handler, a write to one with tostop would never end.
        for number in _JOB_CONTROL:
            signal.signal(number, signal.SIG_IGN)
    else:
        for number in _JOB_CONTROL:
            signal.signal(number, do_nothing)
        undo_in_children(putting_back(dict.fromkeys(_JOB_CONTROL, signal.SIG_DFL)))


def _is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
