"""What many figures say together: percentiles, medians, spreads.

Laws:
- Medians and percentiles, which one bad round does not move; of an even number of rounds, a median is the middle
  between the two that stand there.
- No figure is None, and never 0.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """The figures of several rounds."""

    median: float
    least: float
    most: float

    @property
    def relative(self) -> float:
        """How far the rounds lie apart, as a part of the median: 0.1 means that they span 10 %."""
        return (self.most - self.least) / self.median if self.median else 0.0


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The least of the values that `percent` per cent of them do not exceed (nearest rank)."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent * len(ordered) / 100 - 1e-9) - 1)]


def spread(values: Sequence[float]) -> Spread | None:
    """Median, least and most of the rounds; None without any."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None
