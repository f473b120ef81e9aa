"""What is told of one request, in the log and to the observers: who asked for what, how far the answer came, and why.

Law: the record is made when all is over, the app's `close()` included, and once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from trio_wsgi.net.apprun import AppRun
from trio_wsgi.net.outlet import Outlet
from trio_wsgi.net.peer import Peer
from trio_wsgi.net.service import Service
from trio_wsgi.net.wire import Wire
from trio_wsgi.record import NO_ENVIRON, Outcome, RequestRecord
from trio_wsgi.rules.forwarded import find_client
from trio_wsgi.rules.headers import get_all

CONTENT_RANGE = b"content-range"
_RANGE_START = re.compile(rb"bytes ([0-9]{1,18})-")
_UNIX = ("", 0)  # who has no address


class Beginning(NamedTuple):
    """When a request began."""

    wall: float  # UNIX time
    clock: float  # Trio's, in seconds


class Account:
    """What is told of one request.

    Args:
        health: whether the server itself answers, at `health_path`.
        beginning: when its first byte came; None for now.

    Attributes:
        began: when its first byte came, by Trio's clock.
        app: what runs the application, where that is asked.
        outcome: how the request ended,
        reason: and why, in one line, where it is not finished.
        ended: when that was, by Trio's clock; 0 where it ends as this is told.
    """

    __slots__ = ("_health", "_outlet", "_peer", "_service", "_started", "_wire",
                 "app", "began", "ended", "outcome", "reason")  # fmt: skip

    def __init__(
        self, service: Service, wire: Wire, outlet: Outlet, peer: Peer, health: bool, beginning: Beginning | None
    ) -> None:
        self._service = service
        self._wire = wire
        self._outlet = outlet
        self._peer = peer
        self._health = health
        self._started, self.began = beginning or (time.time(), service.now())
        self.app: AppRun | None = None
        self.outcome = Outcome.FINISHED
        self.reason = ""
        self.ended = 0.0

    @property
    def label(self) -> str:
        """Who asked for what, for the log."""
        peer, asked, client = self._peer, self._wire.asked, self._client
        who = str(peer) if client == (peer.address or _UNIX) else f"{client[0] or 'unknown'} via {peer.name}"
        return who if asked is None else f"{who} {asked.method.decode('ascii')} {asked.target.decode('latin-1')!r}"

    @property
    def resume_at(self) -> str:
        """Up to where the client has the body, of how much: from there it can ask for the rest (RFC 9110 §14)."""
        sent, promised = self._outlet.sent_head, self._outlet.promised
        ranges = [_RANGE_START.match(value) for value in get_all(sent.headers, CONTENT_RANGE)] if sent else []
        start = int(ranges[0][1]) if ranges and ranges[0] else 0
        return f"{start + self._outlet.body_sent}" + ("" if promised is None else f" of {start + promised}")

    @property
    def age(self) -> float:
        """Seconds since the request began."""
        return self._service.now() - self.began

    def note_shutdown(self) -> None:
        """The server's own end has ended it."""
        self.outcome = Outcome.SHUTDOWN
        if self._outlet.sent_head is None:
            self.reason = "the server shut down before it answered"
        else:
            self.reason = f"cut by the shutdown at byte {self.resume_at}"

    def tell(self, call_on_loop: Callable[[Callable[[], object]], object] | None = None) -> None:
        """Hand the record to the observers, if there are any; `call_on_loop` where this is not the loop's thread."""
        if self.app is not None:
            self.app.errors.flush()  # what close() of the app's file said
        observers = self._service.observers
        if observers.wanted:
            record = self._record()
            if call_on_loop is None:
                observers.tell(record)
            else:
                call_on_loop(partial(observers.tell, record))

    @property
    def _client(self) -> tuple[str, int]:
        """Address and port of the client: as proxies of ours say, where one of them has connected."""
        peer, asked = self._peer, self._wire.asked
        if peer.forwarding is not None and asked is not None:
            told = None if self.app is None else self.app.client
            said = told or find_client(asked.headers, peer.forwarding)
            if said is not None:
                return said[0], int(said[1]) if said[1].isdecimal() else 0
        return peer.address or _UNIX

    def _record(self) -> RequestRecord:
        asked, address, sent = self._wire.asked, self._client, self._outlet.sent_head
        return RequestRecord(
            peer=address[0],
            peer_port=address[1],
            method=asked.method.decode("ascii") if asked else "-",
            target=asked.target.decode("latin-1") if asked else "-",
            version=f"HTTP/{asked.http_version.decode('ascii')}" if asked else "-",
            status=sent.status if sent else 0,
            outcome=self.outcome,
            reason=self.reason,
            body_sent=self._outlet.body_sent,
            body_promised=self._outlet.promised,
            started=self._started,
            duration=(self.ended or self._service.now()) - self.began,
            request_headers=tuple(asked.headers) if asked else (),
            response_headers=tuple([(name.lower(), value) for name, value in sent.headers]) if sent else (),
            environ=NO_ENVIRON if self.app is None else self.app.environ,
            health=self._health,
        )
