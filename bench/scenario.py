"""What a scenario is: a name, what it needs, and a function that measures one bout.

Laws:
- A scenario tells what is asked and what is looked at; how servers and clients are run is `bout.py`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.bout import Bout, Figures
from bench.contestants import Can, Contestant


def in_words(connections: int) -> str:
    """For a title."""
    return f"{connections} connection{'s' if connections > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing to measure.

    Attributes:
        name: on the command line and in results.
        title: in the report.
        tag: the family; contestants with tags run only those.
        needs: what a contestant must be able to do.
        columns: keys of METRICS that the report shows, the headline first.
        measure: one bout → its figures.
        static, tls: how the server is to be started.
        quick: whether `--quick` runs it.
        brief: whether a second shows as much as five: its rounds are shorter and more, in the same time.
        connections: of a scenario that is run at several, for the plot of cost against connections.
        samples: files that are needed, made beforehand.
        own: "app" or "file" where it measures what the user brings.
    """

    name: str
    title: str
    tag: str
    needs: frozenset[Can]
    columns: tuple[str, ...]
    measure: Callable[[Bout], Figures]
    static: bool = False
    tls: bool = False
    quick: bool = False
    brief: bool = False
    connections: int = 0
    samples: tuple[str, ...] = ()
    own: str = ""

    def admits(self, contestant: Contestant) -> bool:
        return self.needs <= contestant.can and (not contestant.tags or self.tag in contestant.tags)
