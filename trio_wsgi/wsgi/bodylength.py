"""How long the body of a response is to be, and how much of it the application has given (PEP 3333, "Handling the
Content-Length Header").

Law: never a byte more than Content-Length. What is too much is cut off, and that is logged once; what is missing is
known at the end.
"""

from __future__ import annotations

import logging
import math

from sendfile import FileSpan, Part
from trio_wsgi.rules.head import RequestHead

log = logging.getLogger("trio_wsgi.error")


class BodyLength:
    """The account of one body.

    Args:
        request: what it answers, for the log.

    Attributes:
        promised: bytes, by Content-Length; None where the application set none.
        allowed: bytes that may be given in all; infinite where none are promised.
        given: bytes that count.
        overrun: whether there were more.
    """

    __slots__ = ("_request", "allowed", "given", "overrun", "promised")

    def __init__(self, request: RequestHead) -> None:
        self._request = request
        self.promised: int | None = None
        self.allowed: float = math.inf
        self.given = 0
        self.overrun = False

    def promise(self, promised: int | None) -> None:
        """A head is known: what may have been given belongs to the answer that this one replaces."""
        self.promised = promised
        self.allowed = math.inf if promised is None else promised
        self.given = 0
        self.overrun = False

    @property
    def missing(self) -> int:
        """Bytes that were promised and not given."""
        return 0 if self.promised is None else self.promised - self.given

    def clip(self, data: bytes) -> bytes:
        """What of a block may leave; to be counted by whoever sends it."""
        room = self.allowed - self.given
        if len(data) <= room:
            return data
        self._note_overrun()
        return data[: int(room)]

    def count_parts(self, parts: list[Part]) -> list[Part]:
        """Count the last of the body, and return what of it may leave."""
        kept: list[Part] = []
        for part in parts:
            room = self.allowed - self.given
            if len(part) > room:
                # More of a file than Content-Length is how a range is served, and no error.
                if not isinstance(part, FileSpan):
                    self._note_overrun()
                part = part.split(int(room))[0] if isinstance(part, FileSpan) else part[: int(room)]
            self.given += len(part)
            if part:
                kept.append(part)
        return kept

    def _note_overrun(self) -> None:
        if not self.overrun:
            self.overrun = True
            log.warning(
                "%s %s: the body is longer than its Content-Length of %s bytes; the rest is not sent",
                self._request.method.decode("ascii"),
                self._request.target.decode("latin-1"),
                self.promised,
            )
