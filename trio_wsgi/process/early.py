"""Signals at the wrong moment: before the event loop can obey them, and after it has ended.

Laws:

* From here on none of them does what the system would do, which is to end the process: each is kept for the loop.
* One that is to end the process does end an import, whatever the imported code does with exceptions: at the latest when
  that has kept ours and goes on.
* Children that are forked meanwhile keep none.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Collection, Iterator
from typing import Any, Self

from trio_wsgi.forks import putting_back, undone_in_children
from trio_wsgi.process.signals import ENDING


class Stopped(BaseException):
    """A signal ended the import of the application; no `except Exception` of its code is to keep it."""


class EarlySignals:
    """While entered, keeps the signals that no event loop has taken over.

    Args:
        handled: the signals that the loop will obey. Those that were blocked, over an exec, come now.
    """

    def __init__(self, handled: Collection[signal.Signals]) -> None:
        self.handled = handled
        self._numbers: list[int] = []
        self._interrupts = False
        self._before: dict[int, Any] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        for number in self.handled:
            self._before[number] = signal.signal(number, self._note)
        self._stack.enter_context(undone_in_children(putting_back(self._before)))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.handled)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self._numbers.append(number)
        if self._interrupts:
            self._stop_if_told()

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Inside, a signal that is to end the process is raised as `Stopped`, and again at the end."""
        self._interrupts = True
        try:
            self._stop_if_told()
            yield
            self._stop_if_told()
        except Exception:
            self._stop_if_told()  # what it has become
            raise
        finally:
            self._interrupts = False

    def _stop_if_told(self) -> None:
        for number in ENDING:
            if number in self._numbers:
                raise Stopped(number.name)

    def keeps(self, number: int) -> bool:
        """Whether nobody else has taken the signal since."""
        return signal.getsignal(number) == self._note

    def was_ignored(self, number: int) -> bool:
        """Whether whoever started this process had it ignore the signal, as nohup(1) does."""
        return self._before[number] is signal.SIG_IGN

    def repeat(self) -> None:
        """Send what was kept once more: to whoever handles it now."""
        numbers, self._numbers = self._numbers, []
        for number in numbers:
            signal.raise_signal(number)

    @contextlib.contextmanager
    def handing_over(self, ordered: Collection[signal.Signals]) -> Iterator[list[signal.Signals]]:
        """Inside, they are blocked, and what was kept is pending: for the program that this process executes there.

        Args:
            ordered: those whose order and number count, which are lost on what is pending.

        Yields:
            Those of them that were kept, as they came; they are not pending.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, self.handled)
        try:
            kept = [signal.Signals(number) for number in self._numbers if number in ordered]
            self._numbers = [number for number in self._numbers if number not in ordered]
            self.repeat()
            yield kept
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.handled)
