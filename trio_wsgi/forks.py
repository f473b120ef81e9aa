"""Children that the application forks, by multiprocessing or `os.fork`: copies of this process that are no servers.

Laws:

* What this process has for itself alone is undone in such a child before any other code runs there, newest first.
* Each is undone whatever becomes of the others, and once: a child's own children have nothing of it.
* No signal comes between the fork and that: whoever is told to end as soon as it is there does end.
* A handler that the application has set stays as it is.
* No child goes on as the server that it is a copy of: what the application was called by ends there (`is_copy`).
* What is started as a program (`subprocess`, posix_spawn(3)) is no such child: it gets what it is given.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

_undoing: list[Callable[[], object]] = []  # what is to be called in a child


class Here(threading.local):
    """What is known of the present thread.

    Attributes:
        is_copy: whether it has come here by a fork; threads that such a child starts, maybe for a server of its own,
            have not.
        mask: the signals that it had blocked before it forked; None while it does not.
    """

    is_copy = False
    mask: set[int | signal.Signals] | None = None


here = Here()


def undo_in_children(undo: Callable[[], object]) -> None:
    """Have `undo` called in each child that is forked from now on, by whichever thread; it must wait for nobody."""
    _undoing.append(undo)


@contextmanager
def undone_in_children(undo: Callable[[], object]) -> Iterator[None]:
    """The same for children that are forked while the block runs."""
    undo_in_children(undo)
    try:
        yield
    finally:
        with suppress(ValueError):  # this is such a child
            _undoing.remove(undo)


def putting_back(before: Mapping[int, Any]) -> Callable[[], None]:
    """What puts signal handlers back, but for those that somebody else has set meanwhile.

    Args:
        before: the handlers of signals that are ours now. In place of Python's own, and of none, there is to be what
            the system does: an exception in a child would come up to us, who are beneath the application.
    """
    ours = {number: signal.getsignal(number) for number in before}

    def put_back() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) == ours[number]:
                is_python = handler is None or handler is signal.default_int_handler
                signal.signal(number, signal.SIG_DFL if is_python else handler)

    return put_back


def _block_signals() -> None:
    if _undoing:
        here.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _unblock_signals() -> None:
    mask, here.mask = here.mask, None
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _undo_all() -> None:
    here.is_copy = True
    with ExitStack() as stack:
        stack.callback(_unblock_signals)
        for undo in _undoing:
            stack.callback(undo)
        _undoing.clear()


# At import: with the first use, two threads that begin to serve might do it twice, or the application before us.
os.register_at_fork(before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_undo_all)
