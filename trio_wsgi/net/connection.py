"""One connection: its nursery, its requests one after the other, and its end.

Laws:

* One nursery per connection; everything that is started for it ends before it does, and the socket is closed last,
  once.
* A client can end its own connection and nothing else: whatever escapes is logged here.
* A client that has sent, or may still send, bytes that nobody reads is given time to read our answer before the
  connection is closed (lingering close), or the kernel would reset it and destroy that answer.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import socket
from collections.abc import Callable, Mapping

import trio

from sendfile import Transfer as Job
from trio_wsgi.errors import ClientError, ClientGone, ClientStalled
from trio_wsgi.net.certificates import Tls
from trio_wsgi.net.exchange import Exchange
from trio_wsgi.net.peer import Peer
from trio_wsgi.net.proxyheader import meet_client
from trio_wsgi.net.service import Service
from trio_wsgi.net.status import ConnectionStatus, State
from trio_wsgi.net.tls import TlsTransport
from trio_wsgi.net.transport import PlainTransport
from trio_wsgi.net.wire import RECEIVE_SIZE, Wire
from trio_wsgi.rules.certificates import build_variables
from trio_wsgi.rules.head import RequestHead
from trio_wsgi.rules.proxies import Proxies

log = logging.getLogger("trio_wsgi.error")

_ACK_LATE = 0.05  # seconds: the system of a client acknowledges a short answer some 40 ms late (RFC 9293 §3.8.6.3)
# Seconds from an answer to the next request. Where a client rests longer, so do the processors: to have its answer sent
# by the thread that was just woken made the slowest hundredth of them wait a third longer.
_BRISK = 0.001
_RESTS_AFTER = 1.0  # seconds without a request; what is given up then costs the next one some µs
LATE = 1.0  # seconds for a client that had only just come when the server began to drain: to say what it came for


class Connection:
    """One accepted connection.

    Args:
        service: what all connections share.
        sock: connected, non-blocking; owned from now on.
        peer: who is at the other end.
    """

    __slots__ = ("__weakref__", "_born", "_draining", "_fresh", "_idle_since", "_meeting", "_nursery", "_over", "_peer",
                 "_service", "_serving", "_state", "_transport", "_until", "_waiting", "_wire")  # fmt: skip

    def __init__(self, service: Service, sock: socket.socket, peer: Peer) -> None:
        self._service = service
        self._peer = peer
        self._transport = PlainTransport(sock, service.pump, service.config.sendfile)
        self._wire = Wire(self._transport, service.head_limits, service.config.limit_request_body, service.make_codec)
        self._waiting = False  # for bytes of a request
        self._until = math.inf  # when it has waited enough
        self._over = False  # it has: there is no more to wait for them
        self._draining = False
        self._born = service.now()
        self._idle_since = -math.inf
        self._fresh = True  # no byte of a request has come yet
        self._meeting: trio.CancelScope | None = None  # around the wait for a PROXY header
        self._nursery: trio.Nursery | None = None  # while it runs
        self._serving: Exchange | None = None
        self._state = State.IDLE

    def __repr__(self) -> str:
        return f"<Connection {self.state.value}, {self._peer.address}>"

    async def run(self, ended: Callable[[Connection], object]) -> None:
        """Serve until the client, a deadline or the server ends it.

        Args:
            ended: told of it then, on every path.
        """
        try:
            async with trio.open_nursery() as self._nursery:
                if await self._begin(self._nursery):
                    await self._serve(self._nursery)
        except Exception:
            log.exception("%r failed; please report this", self)
        finally:
            self._state = State.CLOSED
            self._service.alarms.call_off(self)
            self._transport.close()
            ended(self)

    def drain(self) -> None:
        """Take no further request: an idle connection ends at once, a busy one after its response."""
        self._draining = True
        if self._meeting is not None:
            self._meeting.deadline = trio.current_time() + LATE
        now = self._service.now()
        self._until = until = self._patient_until(now, math.inf)
        if until > now:
            self._service.alarms.set(self, until)
        else:
            self.ring()

    def ring(self) -> None:
        """An idle connection is to rest, or has waited enough (`Alarms`); for a busy one there is nothing to do."""
        if self._waiting and self._until > self._service.now():
            self._wire.rest()
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
        return self._state if self._serving is None else self._serving.state

    @property
    def taken(self) -> int:
        """Bytes of the present response that the client itself has taken; falls when the next one begins."""
        return 0 if self._serving is None else self._serving.taken

    def status(self, jobs: Mapping[int, Job]) -> ConnectionStatus:
        """A snapshot; `jobs` are the pump's, by the identity of their sockets."""
        who = str(self._peer)
        return (
            ConnectionStatus(who, self._state)
            if self._serving is None
            else self._serving.status(who, jobs.get(id(self._transport.sock)))
        )

    async def _begin(self, nursery: trio.Nursery) -> bool:
        """What comes before HTTP; False where nothing comes after it."""
        proxies, tls = self._service.proxy_protocol, self._service.tls
        return (proxies is None or await self._meet_client(proxies)) and (
            tls is None or await self._shake_hands(nursery, tls)
        )

    async def _meet_client(self, proxies: Proxies) -> bool:
        """Where the peer is a proxy that names its client first, take the client for the peer; False without one."""
        service, sock, client = self._service, self._transport.sock, None
        self._state = State.HANDSHAKE
        with trio.CancelScope() as self._meeting:
            if self._draining:
                self._meeting.deadline = trio.current_time() + LATE
            timeout = service.config.handshake_timeout
            client = await meet_client(sock, self._peer, proxies, service.forwarding, timeout)
        self._meeting = None
        if client is not None:
            self._peer = client
        return client is not None

    async def _shake_hands(self, nursery: trio.Nursery, tls: Tls) -> bool:
        """Go over to TLS; False when nothing came of it."""
        config = self._service.config
        self._state = State.HANDSHAKE
        try:
            self._use(transport := TlsTransport(self._transport.sock, tls, self._service.pump))
            session = await transport.shake_hands(config.handshake_timeout)
        except ClientError as exc:
            self._use(transport.give_up())
            await self._refuse(nursery, exc)
            await self._linger()
            return False
        except OSError as exc:  # ClientGone is one; whoever wants certificates wants to know who has none
            level = logging.DEBUG if config.cert_reqs == "none" else logging.INFO
            log.log(level, "%s: no TLS: %s", self._peer, exc.strerror or exc)
            return False
        variables = {**self._peer.variables, **build_variables(session)}
        self._peer = dataclasses.replace(self._peer, variables=variables)
        if self._draining:  # what it came for could not be asked before
            with trio.move_on_after(LATE):
                await transport.wait_readable()
        return True

    def _use(self, transport: PlainTransport) -> None:
        self._transport = self._wire.transport = transport

    async def _refuse(self, nursery: trio.Nursery, exc: Exception) -> Exchange:
        exchange = self._serving = Exchange(self._service, self._wire, nursery, self._peer, None, self._is_draining)
        await exchange.run(refused=exc)
        self._serving = None
        return exchange

    async def _serve(self, nursery: trio.Nursery) -> None:
        service, wire, draining = self._service, self._wire, self._is_draining
        idle_setting = "header_timeout"
        unread = heard = False
        while True:
            try:
                head = await self._next_head(idle_setting, heard)
            except (ClientError, ClientGone) as exc:
                exchange = await self._refuse(nursery, exc)
                unread = True  # more of what was refused may be on its way
                break
            if head is None:
                if self._transport.held():  # of the last answer
                    await self._linger(until_taken=True)
                return
            brisk = service.now() - self._idle_since <= _BRISK
            exchange = self._serving = Exchange(service, wire, nursery, self._peer, head, draining)
            try:
                await exchange.run(brisk=brisk)
            finally:
                if exchange.cut and wire.ends_by_closing:
                    self._transport.abort()
            if not exchange.keep or not wire.start_next_cycle():
                break
            idle_setting, heard = "keep_alive", exchange.heard
            self._serving = None
            del exchange, head  # an idle connection keeps no request alive
        self._serving = None
        # A client that would have kept the connection may be sending its next request.
        unread = unread or head is None or head.keep_alive or not wire.body_done
        if (unread or wire.has_input or self._has_unread()) and not exchange.cut:
            await self._linger()

    def _is_draining(self) -> bool:
        return self._draining

    async def _next_head(self, idle_setting: str, heard: bool) -> RequestHead | None:
        """The next request, None when there is none to come.

        Args:
            idle_setting: how long to wait for it.
            heard: there is something to receive already.

        Raises:
            ClientError, ClientGone: it began, and was no good.
        """
        wire, service = self._wire, self._service
        patience: float = getattr(service.config, idle_setting)
        self._state = State.IDLE
        now = service.now()
        self._idle_since = -math.inf if self._fresh else now  # who has just come has not had an answer
        self._until = until = self._patient_until(now, patience)
        self._over = until <= now
        # It is not called off when a request comes, but moved by the next wait.
        service.alarms.set(self, until if self._fresh else min(until, now + _RESTS_AFTER))
        try:
            while True:
                if not (heard or wire.has_input or self._over):
                    self._waiting = True
                    try:
                        await self._transport.wait_readable()
                    except trio.ClosedResourceError:  # the time is up, or the server drains
                        self._over = True
                    self._waiting = False
                heard = False
                try:
                    return wire.receive_head_nowait()
                except trio.WouldBlock:
                    if wire.has_input:
                        return await self._rest_of_head()
                    if self._over:
                        if not self._draining:
                            log.debug("%r: no request for %g s (%s)", self, patience, idle_setting)
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

    async def _rest_of_head(self) -> RequestHead:
        self._state = State.READING_HEAD
        timeout = self._service.config.header_timeout
        with trio.move_on_after(timeout):
            while True:
                await self._transport.wait_readable()
                try:
                    return self._wire.receive_head_nowait()
                except trio.WouldBlock:
                    continue
        raise ClientStalled("header_timeout", timeout)

    async def _linger(self, until_taken: bool = False) -> None:
        """Tell the client that nothing more comes, and read on until it has seen it (RFC 9112 §9.6).

        Args:
            until_taken: no longer than until it has taken our answer: it has not begun to send anything.
        """
        self._state = State.LINGERING
        self._transport.end_sending()
        with trio.move_on_after(self._service.config.linger_timeout):
            while not until_taken or self._transport.held():
                with trio.move_on_after(_ACK_LATE if until_taken else math.inf):
                    await self._transport.wait_readable()
                try:
                    if not self._transport.receive_nowait(RECEIVE_SIZE):
                        return
                except trio.WouldBlock:
                    continue
                except ClientGone:
                    return

    def _has_unread(self) -> bool:
        try:
            return bool(self._transport.receive_nowait(1))
        except (trio.WouldBlock, ClientGone):
            return False
