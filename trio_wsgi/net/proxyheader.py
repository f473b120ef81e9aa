"""The PROXY header of a connection: received from the bare socket, before TLS or HTTP.

Laws:

* Not one byte beyond the header is taken: what follows belongs to whoever reads next.
* A connection without a right header, or from somebody who may not send one, gets no answer and costs one line in the
  log.
* From then on the client is the peer: whether its Forwarded and X-Forwarded-* are believed goes by its own address, for
  a proxy that sends this header may pass on the bytes of its clients unread. Of a client without address they are not.
"""

from __future__ import annotations

import dataclasses
import logging
import socket
from typing import Any

import trio

from trio_wsgi.net.peer import Peer, build_peer
from trio_wsgi.rules.forwarded import Forwarding
from trio_wsgi.rules.proxies import Proxies, parse_ip
from trio_wsgi.rules.proxyprotocol import V2_MAX, ProxyHeader, ProxyHeaderError, header_length, parse_header

log = logging.getLogger("trio_wsgi.error")


async def meet_client(
    sock: socket.socket, peer: Peer, proxies: Proxies, forwarding: Forwarding, timeout: float
) -> Peer | None:
    """Learn who the client is.

    Args:
        sock: connected and non-blocking; nothing was read from it.
        peer: who has connected.
        proxies: whose header is believed.
        forwarding: whose other headers.
        timeout: seconds for the header to arrive (handshake_timeout).

    Returns:
        The client; None when the connection is to be closed, which was logged.
    """
    try:
        if not proxies.has_peer(peer.address[0] if peer.address else None):
            raise ProxyHeaderError("sent by somebody who is not in proxy_allow_from")
        with trio.fail_after(timeout):
            header = await _receive(sock)
    except trio.TooSlowError:
        log.info("%s: no PROXY header within %g s (handshake_timeout); closed", peer, timeout)
    except ProxyHeaderError as exc:
        log.info("%s: PROXY header: %s; closed", peer, exc)
    except OSError as exc:
        log.info("%s: no PROXY header: %s; closed", peer, exc)
    else:
        return None if header is None else _build_client(peer, header, forwarding)
    return None


async def _receive(sock: socket.socket) -> ProxyHeader | None:
    """The header; None when the peer leaves without a byte, as a load balancer does that looks whether we listen."""
    taken = b""
    while True:
        try:
            ahead = _receive_nowait(sock, V2_MAX, socket.MSG_PEEK)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)
            continue
        except ConnectionResetError:
            ahead = b""
        if not ahead:
            if taken:
                raise ProxyHeaderError(f"ends after {len(taken)} bytes")
            return None
        length = header_length(taken + ahead)
        wanted = length - len(taken) if length else len(ahead)
        taken += _receive_nowait(sock, min(wanted, len(ahead)))
        if len(taken) == length:
            return parse_header(taken)


def _receive_nowait(sock: socket.socket, size: int, flags: int = 0) -> bytes:
    return socket.socket.recv(sock, size, flags)  # of an SSLSocket, too, the bytes beneath TLS


def _build_client(peer: Peer, header: ProxyHeader, forwarding: Forwarding) -> Peer:
    variables: dict[str, Any] = {"PROXY_PROTOCOL": header.family} if header.family else {}
    if header.destination is not None:
        host, port = header.destination
        variables |= {"PROXY_ADDR": host, "PROXY_PORT": str(port)}
    if header.client is None:
        unix = header.family == "UNIX"
        return dataclasses.replace(peer, address=None if unix else peer.address, forwarding=None, variables=variables)
    client = str(parse_ip(header.client[0])), header.client[1]
    return dataclasses.replace(build_peer(peer.site, client, forwarding), name=peer.name, variables=variables)
