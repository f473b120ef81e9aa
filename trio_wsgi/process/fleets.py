"""All fleets of a supervisor: the one that is to serve, and others whose workers boot or leave."""

from __future__ import annotations

from functools import partial

import trio

from trio_wsgi.process.child import Child, HearImports, State
from trio_wsgi.process.fleet import Fleet
from trio_wsgi.process.plan import Plan
from trio_wsgi.process.sockets import Sockets


class Fleets:
    """All of them; the first is there, without a worker.

    Attributes:
        current: the one that is to serve: the first, or what `open` has given since.
    """

    def __init__(self, plan: Plan, sockets: Sockets, processes: trio.Nursery, hear_imports: HearImports) -> None:
        self._make = partial(Fleet, sockets=sockets, processes=processes, hear_imports=hear_imports)
        self.current = self._make(plan)
        self._all = [self.current]

    def __repr__(self) -> str:
        return "; ".join(map(repr, self._needed()))

    def open(self, plan: Plan) -> Fleet:
        """One more, without a worker."""
        fleet = self._make(plan)
        self._all = [*self._needed(), fleet]
        return fleet

    def _needed(self) -> list[Fleet]:
        """Those with workers, and the one that counts, as a slot of it may start another worker."""
        return [fleet for fleet in self._all if fleet.children or fleet is self.current]

    def children(self) -> list[Child]:
        """The workers of all, whatever they are at."""
        return [child for fleet in self._all for child in fleet.children]

    def is_served(self) -> bool:
        """Whether clients are served, or soon will be, as far as that was asked for."""
        return self.current.count == 0 or any(
            child.state in {State.BOOTING, State.SERVING} for child in self.children()
        )

    def signal_booted(self, number: int) -> None:
        """Send it to all workers but those that boot: they might not know yet what to do with it."""
        for child in self.children():
            if child.has_booted:
                child.send_signal(number)
