"""Whose fault a failure is, and in which words it is told."""

from __future__ import annotations

import pytest

from trio_wsgi import Outcome
from trio_wsgi.net.verdict import AppFailed, judge


class Unprintable(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no text")


BROKEN = SyntaxError("'(' was never closed", ("views.py", 1, 5, "x = (", 1, 6))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (ValueError(" indented"), "ValueError:  indented"),
        (ValueError(), "ValueError"),
        (BROKEN, "SyntaxError: '(' was never closed"),
        (IndentationError("unexpected indent", ("views.py", 2, 2, " x", 2, 3)), "IndentationError: unexpected indent"),
        (SyntaxError("of no place"), "SyntaxError: of no place"),
    ],
    ids=repr,
)
def test_the_reason_of_an_error_names_it_in_one_line(error: Exception, reason: str) -> None:
    """That of a module which cannot be read says what is wrong with it, as that of any other."""
    failure = AppFailed()
    failure.__cause__ = error
    verdict = judge(failure)
    assert (verdict.outcome, verdict.reason) == (Outcome.APP_ERROR, reason)


def test_an_error_that_cannot_be_printed_is_named() -> None:
    failure = AppFailed()
    failure.__cause__ = Unprintable()
    assert "Unprintable: <exception str() failed>" in judge(failure).reason
