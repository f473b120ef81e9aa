"""Rules of signals that come while the application is imported."""

from __future__ import annotations

import contextlib
import signal

import pytest

from trio_wsgi.process.early import EarlySignals, Stopped
from trio_wsgi.process.signals import ENDING


@pytest.mark.parametrize("becomes", ["nothing", "another error"])
def test_an_import_that_keeps_the_end_to_itself_is_ended_when_it_is_over(becomes: str) -> None:
    """`except:` of its own is found in applications that try one module and then another."""
    reached = False
    with EarlySignals(ENDING) as early, pytest.raises(Stopped, match="SIGTERM"), early.interrupting():
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        reached = True
        if becomes == "another error":
            raise ImportError("neither of them")
    assert reached


def test_what_ends_nothing_waits_for_the_loop() -> None:
    heard: list[int] = []
    with EarlySignals([*ENDING, signal.SIGHUP]) as early:
        with early.interrupting():
            signal.raise_signal(signal.SIGHUP)
        before = signal.signal(signal.SIGHUP, lambda number, frame: heard.append(number))
        early.repeat()
        signal.signal(signal.SIGHUP, before)
    assert heard == [signal.SIGHUP]


def test_what_waits_for_its_turn_is_handed_over_in_order_and_all_else_is_pending() -> None:
    """For the program that this one becomes."""
    with EarlySignals([*ENDING, signal.SIGTTIN, signal.SIGWINCH]) as early:
        for number in (signal.SIGWINCH, signal.SIGTERM, signal.SIGTTIN, signal.SIGWINCH):
            signal.raise_signal(number)
        with early.handing_over([signal.SIGTTIN, signal.SIGWINCH]) as asked:
            assert asked == [signal.SIGWINCH, signal.SIGTTIN, signal.SIGWINCH]
            assert signal.sigpending() == {signal.SIGTERM}
        with early.handing_over([]) as asked:
            assert signal.sigpending() == {signal.SIGTERM}
