"""What comes before HTTP on a connection: a proxy's PROXY header, then the handshake of TLS."""

from __future__ import annotations

import dataclasses
import logging

import trio

from trio_wsgi.errors import ClientError
from trio_wsgi.net.certificates import Tls
from trio_wsgi.net.peer import Peer
from trio_wsgi.net.proxyheader import meet_client
from trio_wsgi.net.service import Service
from trio_wsgi.net.tls import TlsTransport
from trio_wsgi.net.transport import Transport
from trio_wsgi.rules.certificates import build_variables
from trio_wsgi.rules.proxies import Proxies

log = logging.getLogger("trio_wsgi.error")

LATE = 1.0  # seconds for a client that had only just come when the server began to drain: to say what it came for


class Greeting:
    """The greeting of one connection.

    Attributes:
        transport: of the connection from now on, whatever comes of it; closed by whoever owns the connection.
        peer: who is at the other end, as far as that is known.
    """

    def __init__(self, service: Service, transport: Transport, peer: Peer) -> None:
        self._service = service
        self._scope = trio.CancelScope()
        self._hurried = False
        self.transport = transport
        self.peer = peer

    def hurry(self) -> None:
        """The server drains: there is `LATE` for all of it, and as long again to ask for what the client came for."""
        self._hurried = True
        self._scope.deadline = trio.current_time() + LATE

    async def run(self) -> bool:
        """Go through it; whether HTTP comes next.

        Raises:
            ClientError: the client speaks plain HTTP where TLS is wanted; `transport` lets it be told.
        """
        proxies, tls, begun = self._service.proxy_protocol, self._service.tls, False
        with self._scope:
            begun = (proxies is None or await self._meet_client(proxies)) and (
                tls is None or await self._shake_hands(tls)
            )
        if begun and tls is not None and self._hurried:
            with trio.move_on_after(LATE):
                await self.transport.wait_readable()
        return begun

    async def _meet_client(self, proxies: Proxies) -> bool:
        """The peer is a proxy that names its client first: take the client for the peer; False without one."""
        service = self._service
        timeout = service.config.handshake_timeout
        client = await meet_client(self.transport.sock, self.peer, proxies, service.forwarding, timeout)
        if client is not None:
            self.peer = client
        return client is not None

    async def _shake_hands(self, tls: Tls) -> bool:
        """Go over to TLS; False when nothing came of it."""
        service, config = self._service, self._service.config
        try:
            self.transport = transport = TlsTransport(
                self.transport.sock, tls.context, service.tls_buffer, service.pump
            )
            session = await transport.shake_hands(config.handshake_timeout)
        except ClientError:
            self.transport = transport.give_up()
            raise
        except OSError as exc:  # ClientGone is one; whoever wants certificates wants to know who has none
            level = logging.DEBUG if config.cert_reqs == "none" else logging.INFO
            log.log(level, "%s: no TLS: %s", self.peer, exc.strerror or exc)
            return False
        variables = {**self.peer.variables, **build_variables(session)}
        self.peer = dataclasses.replace(self.peer, variables=variables)
        return True
