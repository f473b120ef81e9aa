"""Who is at the other end of a connection."""

from __future__ import annotations

from dataclasses import dataclass

from trio_wsgi.rules.environ import Site


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, and which site it came to."""

    site: Site
    address: tuple[str, int] | None  # None on a unix socket
