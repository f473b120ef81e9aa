"""How a request is named in logs and records: who asked for what, and how far the answer came."""

from __future__ import annotations

import re

from trio_wsgi.net.codec import Asked
from trio_wsgi.net.peer import Peer
from trio_wsgi.rules.forwarded import find_client
from trio_wsgi.rules.headers import Head, get_all

CONTENT_RANGE = b"content-range"
_RANGE_START = re.compile(rb"bytes ([0-9]{1,18})-")
_UNIX = ("", 0)  # who has no address


def find_address(peer: Peer, asked: Asked | None, told: tuple[str, str] | None) -> tuple[str, int]:
    """Address and port of the client: as proxies of ours say, where one of them has connected.

    Args:
        asked: the request, if it could be read.
        told: what proxies said, where that was looked for already.
    """
    if peer.forwarding is not None and asked is not None:
        said = told or find_client(asked.headers, peer.forwarding)
        if said is not None:
            return said[0], int(said[1]) if said[1].isdecimal() else 0
    return peer.address or _UNIX


def label_request(peer: Peer, address: tuple[str, int], asked: Asked | None) -> str:
    """Who asked for what, for the log; `address` is `find_address`'s."""
    who = str(peer)
    if address != (peer.address or _UNIX):
        who = f"{address[0] or 'unknown'} via {peer.name}"
    if asked is None:
        return who
    return f"{who} {asked.method.decode('ascii')} {asked.target.decode('latin-1')!r}"


def describe_offset(sent: Head | None, body_sent: int, promised: int | None) -> str:
    """Up to where the client has it, of how much: from there it can ask for the rest (RFC 9110 §14).

    Args:
        sent: the head as it went out.
        body_sent: bytes of body.
        promised: bytes of body, where the head tells.
    """
    ranges = [_RANGE_START.match(value) for value in get_all(sent.headers, CONTENT_RANGE)] if sent else []
    start = int(ranges[0][1]) if ranges and ranges[0] else 0
    total = "" if promised is None else f" of {start + promised}"
    return f"{start + body_sent}{total}"
