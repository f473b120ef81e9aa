"""One connection: its nursery, its requests one after the other, and its end.

Laws:

* One nursery per connection; everything that is started for it ends before it does, and the socket is closed last; but
  where it idles, in the step in which nothing of a request was there.
* A client can end its own connection and nothing else: whatever escapes is logged here.
* A client that has sent, or may still send, bytes that nobody reads is lingered for (`linger`).
"""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import trio

from sendfile import Transfer as Job
from trio_wsgi.errors import ClientError, ClientGone, ClientStalled, find_lack
from trio_wsgi.net.account import Beginning
from trio_wsgi.net.exchange import Exchange
from trio_wsgi.net.greeting import LATE, Greeting
from trio_wsgi.net.lane import LOOP, REQUEST, Ride, Wants
from trio_wsgi.net.lanes import SILENT_AFTER
from trio_wsgi.net.linger import has_unread, linger
from trio_wsgi.net.peer import Peer
from trio_wsgi.net.service import Service
from trio_wsgi.net.status import ConnectionStatus, State
from trio_wsgi.net.transport import Transport
from trio_wsgi.net.wire import Wire
from trio_wsgi.rules.head import RequestHead

log = logging.getLogger("trio_wsgi.error")

_BRISK = 0.1  # seconds from an answer to the next request: then the one after that may come as soon, too
_KEPT_LONG = 2 * SILENT_AFTER  # seconds of keep_alive that leave time for a ride
_IN_A_ROW = 16  # requests of one client who asks ahead, before others have their turn
_RESTS_AFTER = 1.0  # seconds without a request; what is given up then costs the next one some µs


class Connection:
    """One accepted connection.

    Args:
        sock: connected, non-blocking; owned from now on.
    """

    __slots__ = ("__weakref__", "_beginning", "_born", "_brisk", "_draining", "_fast_until", "_fresh", "_greeting",
                 "_idle_since", "_nursery", "_over", "_peer", "_ride", "_service", "_serving", "_state", "_transport",
                 "_trouble", "_until", "_waiting", "_wire")  # fmt: skip

    def __init__(self, service: Service, sock: socket.socket, peer: Peer) -> None:
        self._service = service
        self._peer = peer
        self._transport = Transport(sock, service.pump, service.config.sendfile)
        self._wire = Wire(self._transport, service.head_limits, service.config.limit_request_body, service.make_codec)
        self._waiting = False  # for bytes of a request
        self._until = math.inf  # when it has waited enough
        self._over = False  # it has: there is no more to wait for them
        self._draining = False
        self._born = service.now()
        self._idle_since = -math.inf
        self._brisk = False  # its client asks without a rest
        self._fast_until: float | None = None  # the next request tells whether its client reads fast
        self._ride: Ride | None = None  # while it rides
        self._trouble: Exception | None = None  # with what came meanwhile
        self._beginning: Beginning | None = None  # of a request whose head is not whole
        self._fresh = True  # no byte of a request has come yet
        self._greeting: Greeting | None = None  # what comes before HTTP
        self._nursery: trio.Nursery | None = None  # while it runs
        self._serving: Exchange | None = None
        self._state = State.IDLE

    def __repr__(self) -> str:
        return f"<Connection {self.state.value}, {self._peer.address}>"

    @trio.lowlevel.enable_ki_protection
    async def run(self, ended: Callable[[Connection], object]) -> None:
        """Serve until the client, a deadline or the server ends it.

        Args:
            ended: told of it then, on every path.
        """
        try:
            async with trio.open_nursery() as self._nursery:
                if await self._greet():
                    await self._serve()
        except Exception as exc:
            if (lack := find_lack(exc)) is not None:
                log.error("%r is closed for what the system lacks: %s", self, lack)
            else:
                log.exception("%r failed; please report this", self)
        finally:
            self._state = State.CLOSED
            self._service.alarms.call_off(self)
            self._transport.close()
            ended(self)

    def drain(self) -> None:
        """Take no further request: an idle connection ends at once, a busy one after its response."""
        self._draining = True
        if self._ride is not None:
            self._ride.recall()
        if self._greeting is not None:
            self._greeting.hurry()
        now = self._service.now()
        self._until = until = self._patient_until(now, math.inf)
        if until > now:
            self._service.alarms.set(self, until)
        else:
            self.ring()

    def ring(self) -> None:
        """An idle connection is to rest, or has waited enough (`Alarms`); for a busy one there is nothing to do."""
        if self._waiting and self._until > self._service.now():
            self._wire.codec.rest()
            self._service.alarms.set(self, self._until)
        elif self._waiting:
            self._over = True
            trio.lowlevel.notify_closing(self._transport.sock)  # ends the wait; the socket stays open

    def cut(self) -> None:
        """End now, whatever is under way."""
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    @property
    def state(self) -> State:
        """What it is doing."""
        serving = self._serving  # looked at once, here as below: the lane's thread may end it meanwhile
        return self._state if serving is None else serving.state

    @property
    def sock(self) -> socket.socket:
        """Its socket; that is closed while another object takes it over, to begin TLS."""
        greeting = self._greeting
        return (self._transport if greeting is None else greeting.transport).sock

    @property
    def taken(self) -> int:
        """Bytes of the present response that the client itself has taken; falls when the next one begins."""
        serving = self._serving
        return 0 if serving is None else serving.taken

    def status(self, jobs: Mapping[int, Job]) -> ConnectionStatus:
        """A snapshot; `jobs` are the pump's, by the identity of their sockets."""
        who, serving = str(self._peer), self._serving
        if serving is None:
            return ConnectionStatus(who, self._state)
        return serving.status(who, jobs.get(id(self._transport.sock)))

    async def _greet(self) -> bool:
        """What comes before HTTP; False where nothing comes after it."""
        service = self._service
        if service.proxy_protocol is None and service.tls is None:
            return True
        self._state = State.HANDSHAKE
        greeting = self._greeting = Greeting(service, self._transport, self._peer)
        if self._draining:
            greeting.hurry()
        try:
            return await greeting.run()
        except ClientError as exc:
            refused = exc
        finally:
            self._peer = greeting.peer
            self._transport = self._wire.transport = greeting.transport
            self._greeting = None
        await self._refuse(refused)
        await self._linger()
        return False

    async def _refuse(self, exc: Exception) -> Exchange:
        exchange = self._begin_exchange(None)
        await exchange.run(refused=exc)
        self._serving = None
        return exchange

    async def _serve(self) -> None:
        wire = self._wire
        while True:
            try:
                exchange = await self._next_request()
            except (ClientError, ClientGone) as exc:
                exchange = await self._refuse(exc)
                break
            if exchange is None:
                if self._transport.held():  # of the last answer
                    await self._linger(until_taken=True)
                self._transport.close()  # in the step of the last look: what came in a later one would be lost
                return
            try:
                await exchange.run()
            except BaseException:
                self._serving, self._state = None, State.CLOSED  # what the app has started may still run
                raise
            finally:
                if exchange.looks_whole:
                    self._transport.abort()
            if not exchange.keep or not self._end_exchange():
                break
            del exchange  # an idle connection keeps no request alive
        self._serving = None
        unread = exchange.may_be_followed or not wire.body_done or wire.has_input
        if exchange.listened_to and (unread or has_unread(self._transport)):
            await self._linger()

    async def _next_request(self) -> Exchange | None:
        """The next request, which the lane may have begun, or even ended; None when there is none to come.

        Raises:
            ClientError, ClientGone: it began, and was no good.
        """
        self._idle_since = self._service.now()
        if self._may_ride():
            await self._ride_in_lane()
            self._raise_trouble()
            if self._serving is not None:
                return self._serving
        head = await self._next_head()
        return None if head is None else self._begin_exchange(head)

    def _raise_trouble(self) -> None:
        """Raise what came in the lane, and keep it no longer: it holds frames that hold it."""
        trouble, self._trouble = self._trouble, None
        try:
            if trouble is not None:
                raise trouble
        finally:
            del trouble

    def _begin_exchange(self, head: RequestHead | None) -> Exchange:
        assert self._nursery is not None
        beginning, self._beginning = self._beginning, None
        exchange = self._serving = Exchange(
            self._service, self._wire, self._nursery, self._peer, head, self._is_draining, beginning
        )
        return exchange

    def _end_exchange(self) -> bool:
        """It has ended well; whether another one may begin."""
        assert self._serving is not None
        if not self._wire.codec.start_next_cycle():
            return False
        # Who asks ahead may not have read the answer.
        self._fast_until = None if self._wire.has_input else self._serving.fast_until
        self._serving = None
        return True

    def _note_speed(self, fast_until: float) -> None:
        """The next request has come: by then its client had the last answer."""
        self._transport.fast = self._service.now() <= fast_until
        self._fast_until = None

    # -- in the lane (`lane.Rider`) ------------------------------------------------------------------------------

    def _may_ride(self) -> bool:
        lanes, config = self._service.lanes, self._service.config
        return (
            lanes is not None
            and (self._brisk or (self._fresh and lanes.going and config.header_timeout >= _KEPT_LONG))
            and config.keep_alive >= _KEPT_LONG
            and not self._wire.has_input  # of which the lane would not hear
            and not self._draining
            and self._transport.bare
        )

    async def _ride_in_lane(self) -> None:
        lanes = self._service.lanes
        assert lanes is not None
        self._state = State.IDLE
        ride = lanes.begin(self._transport.sock, self)
        if ride is None:
            return
        self._ride = ride
        try:
            await ride.carried()
        finally:
            self._ride = None
        self._idle_since = ride.stirred
        self._brisk = self._service.now() - self._idle_since < SILENT_AFTER

    def go_on(self, ride: Ride) -> Wants:
        """In the lane's thread: send what is left of an answer, and serve what has come (`lane.Rider`)."""
        wire = self._wire
        for _ in range(_IN_A_ROW):
            if self._serving is not None:
                wants = ride.call_again(self._serving.send_on_in_lane)
            else:
                try:
                    head = wire.receive_head_nowait()
                except trio.WouldBlock:
                    return LOOP if self._note_beginning() else REQUEST
                except ClientGone as exc:
                    if wire.has_input:
                        self._trouble = exc
                    return LOOP
                except ClientError as exc:
                    self._trouble = exc
                    return LOOP
                self._fresh = False
                if self._fast_until is not None:
                    self._note_speed(self._fast_until)
                wants = ride.call(self._begin_exchange(head).serve_in_lane)
            if wants is not REQUEST:
                return wants
            if not self._end_exchange():
                return LOOP
            if not wire.has_input:
                ride.stirred = self._service.now()
                return REQUEST
        return LOOP

    def attend(self, ride: Ride, since: float) -> None:
        """On the loop: look after the present request (`lane.Rider`)."""
        serving = self._serving
        if serving is not None:
            serving.attend(ride, since)

    def lose(self, ride: Ride) -> Callable[[], None]:
        """On the loop: do without the end of the present request (`lane.Rider`)."""
        assert self._serving is not None
        self._serving.lose(ride)
        return self._serving.dispose

    # -- waiting for a request -----------------------------------------------------------------------------------

    def _is_draining(self) -> bool:
        return self._draining

    async def _next_head(self) -> RequestHead | None:
        """The next request, None when there is none to come.

        Raises:
            ClientError, ClientGone: it began, and was no good.
        """
        wire, service = self._wire, self._service
        setting = "header_timeout" if self._fresh else "keep_alive"
        patience: float = getattr(service.config, setting)
        self._state = State.IDLE
        now = service.now()
        self._until = until = self._patient_until(self._idle_since, patience)
        self._over = until <= now
        # It is not called off when a request comes, but moved by the next wait.
        service.alarms.set(self, until if self._fresh else min(until, now + _RESTS_AFTER))
        at_once = self._fresh  # most clients ask with what opens the connection
        try:
            while True:
                if at_once:
                    at_once = False
                elif wire.has_input:  # nothing need wait on the way; who asks ahead gives way to others all the same
                    await trio.lowlevel.checkpoint()
                elif not self._over:
                    self._waiting = True
                    try:
                        await self._transport.wait_readable()
                    except trio.ClosedResourceError:  # the time is up, or the server drains
                        self._over = True
                    self._waiting = False
                try:
                    head = wire.receive_head_nowait()
                    if self._fast_until is not None:
                        self._note_speed(self._fast_until)
                    # who has just come has not had an answer
                    self._brisk = not self._fresh and service.now() - self._idle_since <= _BRISK
                    return head
                except trio.WouldBlock:
                    if (beginning := self._note_beginning()) is not None:
                        return await self._rest_of_head(beginning)
                    if self._over:
                        if not self._draining:
                            log.debug("%r: no request for %g s (%s)", self, patience, setting)
                        return None
                    # nothing but empty lines came
                except ClientGone:
                    if not wire.has_input:
                        return None
                    raise
        finally:
            self._waiting = self._fresh = False

    def _patient_until(self, now: float, patience: float) -> float:
        """When there is no more to wait for a request; a drain leaves some time to those who have only just come."""
        if not self._draining:
            return now + patience
        return min(now + patience, self._born + LATE) if self._fresh else now

    def _note_beginning(self) -> Beginning | None:
        """No whole head has come: when the one began that has come in part, up to now; None where there is none."""
        if not self._wire.has_input:
            self._beginning = None
        elif self._beginning is None:
            self._beginning = Beginning(time.time(), self._service.now())
        return self._beginning

    async def _rest_of_head(self, beginning: Beginning) -> RequestHead:
        self._state = State.READING_HEAD
        timeout = self._service.config.header_timeout
        with trio.move_on_at(beginning.clock + timeout):
            while True:
                await self._transport.wait_readable()
                try:
                    return self._wire.receive_head_nowait()
                except trio.WouldBlock:
                    self._note_beginning()  # anew, where what came was the second half of an empty line
        with suppress(trio.WouldBlock):
            return self._wire.receive_head_nowait()  # it may have come long ago, and we have paused
        self._wire.note_unfinished()
        raise ClientStalled("header_timeout", timeout)

    async def _linger(self, until_taken: bool = False) -> None:
        self._state = State.LINGERING
        await linger(self._transport, self._service.config.linger_timeout, until_taken)
