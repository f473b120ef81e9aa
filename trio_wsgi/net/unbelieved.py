"""Who says something of its clients and is not believed: told in the log, for it may be a proxy that nobody has named.

Laws:

* One line for each address, and only for the first few: strangers send such headers, too.
* It belongs to the event loop. What rides in the lane is not told of; whoever rides has asked the loop before, or will.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

log = logging.getLogger("trio_wsgi.error")

TOLD_MAX = 16  # addresses


class Unbelieved:
    """The addresses that were told of.

    Args:
        allowed: the setting `forwarded_allow_ips`.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = ", ".join(filter(None, allowed)) or "nobody"
        self._told: set[str] = set()

    def note(self, peer: tuple[str, int] | None, name: bytes) -> None:
        """A header of a request has been dropped; `peer` is the address that it came from, `name` lower case."""
        if peer is None or peer[0] in self._told or len(self._told) >= TOLD_MAX:
            return
        self._told.add(peer[0])
        log.info(
            "%s sends %s, which is dropped, for forwarded_allow_ips does not name it (%s): if it is a proxy of yours, "
            "add --forwarded-allow-ips %s; links may begin with http:// until then (said once for each address)",
            peer[0],
            name.decode("latin-1").title(),
            self._allowed,
            peer[0],
        )
