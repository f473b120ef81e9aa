"""Whether two contestants differ by more than the noise of their rounds.

Laws:
- Pure: the figures of rounds in, a verdict out. Seen from the other side, better is worse, and undecided undecided.
- Nothing is assumed of how noise is distributed, and no round is thrown away as an outlier.

The rule is Mann's and Whitney's, as in Go's benchstat, asked as Rust's criterion asks: not whether there is any
difference, but whether there is a noticeable one. Of all pairs of a round of the one and a round of the other, the one
must be noticeably better in all but so few that chance does it once in twenty times to somebody who is not. That needs
three rounds of both. Pairs of the same round alone would say less: on virtual machines with neighbours, what disturbs a
window of a second or two is gone in the next one, so that it hits one contestant and not its whole round. And two runs
have no rounds in common.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

NOTICEABLE = 1.05  # a difference of less than 5 % is none
CHANCE = 0.05  # of somebody who is not better to be called so
_EXACT = 20  # rounds of the one with fewer; with more, the normal distribution is as good
_DEVIATIONS = 1.645  # of the normal distribution: what lies below so many has that chance


class Verdict(StrEnum):
    """Of one contestant beside another, as tables show it."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "~"


class Span(NamedTuple):
    """Between what and what a ratio lies, in nine of ten cases."""

    least: float
    most: float


def judge(ones: Sequence[float], others: Sequence[float], direction: int) -> Verdict:
    """What the rounds of one contestant are beside those of another.

    Args:
        direction: 1: more is better, -1: less is.
    """
    exceptions = count_exceptions(len(ones), len(others))
    for verdict, first, second in ((Verdict.BETTER, ones, others), (Verdict.WORSE, others, ones)):
        if sum(not is_better(*pair, direction) for pair in itertools.product(first, second)) <= exceptions:
            return verdict
    return Verdict.UNDECIDED


def is_better(one: float, other: float, direction: int) -> bool:
    """Whether a figure is better than another by more than what can be noticed."""
    return one > other * NOTICEABLE if direction > 0 else one * NOTICEABLE < other


def find_span(ones: Sequence[float], others: Sequence[float]) -> Span | None:
    """Where the ratio of the ones to the others lies; None with too few rounds to tell, or where there is no ratio."""
    exceptions = count_exceptions(len(ones), len(others))
    if exceptions < 0 or min(*ones, *others) <= 0:
        return None
    ratios = sorted(one / other for one, other in itertools.product(ones, others))
    return Span(ratios[exceptions], ratios[-1 - exceptions])


@functools.cache
def count_exceptions(ones: int, others: int) -> int:
    """How many pairs may speak against a difference between so many rounds and so many; -1: it cannot be told."""
    fewer, more = sorted((ones, others))
    if fewer > _EXACT:
        deviation = math.sqrt(fewer * more * (fewer + more + 1) / 12)
        return math.floor(fewer * more / 2 - _DEVIATIONS * deviation - 0.5)
    allowed = CHANCE * math.comb(ones + others, ones)
    return sum(count <= allowed for count in itertools.accumulate(count_orders(fewer, more))) - 1


def count_orders(ones: int, others: int) -> list[int]:
    """Of all orders in which the rounds of two may come out, in how many 0, 1, 2... pairs are the other way round.

    The coefficients of the Gaussian binomial: the product of (1 - q^(others + i)) / (1 - q^i) for i from 1 to `ones`.
    """
    counts = [1] + [0] * (ones * others)
    for number in range(1, ones + 1):
        for at in range(len(counts) - 1, others + number - 1, -1):
            counts[at] -= counts[at - others - number]
        for at in range(number, len(counts)):
            counts[at] += counts[at - number]
    return counts
