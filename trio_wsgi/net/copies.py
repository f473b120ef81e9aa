"""The copies that forked children have of a server's connections, and that they give up.

What a child does not close stays open when we close it: the peer sees no end until the child has ended, too.

Laws:

* When a child's own code begins, it has no connection of ours, whichever thread has forked it: no byte goes to a client
  from there, and none is taken from one.
* Its number stays taken, by a socket whose peer has gone. So whatever still goes by the number in that child
  (the object, OpenSSL) does not touch what is opened there later.
* A descriptor that nobody can name at that moment, as accept(2) has only just made it, its connection goes over to TLS
  or a thread of the pump sends by a copy, is found among all that is open, by the address where its connection came in.
  Other sockets are not touched.
* It costs who forks, some milliseconds for 10,000 connections. Who serves pays with two assignments for each of them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from sendfile import Pump
from trio_wsgi.forks import undone_in_children
from trio_wsgi.net.connection import Connection

_EVERYWHERE = ("0.0.0.0", "::")  # a listener there takes connections at all addresses


class Copies:
    """What a child is to give up.

    Args:
        connections: those that are open.

    Attributes:
        incomplete: whether there may be one that is not among them yet.
        pump: what sends for them, once it does.
    """

    def __init__(self, connections: Collection[Connection]) -> None:
        self._connections = connections
        self.incomplete = False
        self.pump: Pump | None = None

    @contextmanager
    def given_up(self, names: Collection[object]) -> Iterator[None]:
        """While the block runs, each child that is forked gives them up.

        Args:
            names: of the listeners where they come in, from getsockname(2).

        Raises:
            OSError: there is no descriptor left.
        """
        # Open from now on, for a child might find no descriptor left. A pair, as Trio needs one, too: a sandbox may
        # forbid every other socket that is not for the network (RestrictAddressFamilies in systemd.exec(5)).
        nobody, other = socket.socketpair()
        other.close()
        with nobody, undone_in_children(lambda: self._give_up(nobody.fileno(), names)):
            yield

    def _give_up(self, nobody: int, names: Collection[object]) -> None:
        numbers = {connection.sock.fileno() for connection in self._connections}
        copied = self.pump is not None and self.pump.holds_copies
        if self.incomplete or copied or -1 in numbers:  # -1: its socket is on the way to another object, or closed
            numbers.discard(-1)
            numbers |= _find_connections({_place(name) for name in names}, numbers)
        for number in numbers:
            os.dup2(nobody, number, inheritable=False)


def _find_connections(places: Collection[object], known: Collection[int]) -> set[int]:
    """The descriptors of other connections that came in there."""
    numbers: list[str] = []
    with suppress(OSError):  # there is no /dev/fd, as in some sandboxes
        numbers = os.listdir("/dev/fd")  # noqa: PTH208 - numbers, not paths
    return {number for number in map(int, numbers) if number not in known and _came_in(number, places)}


def _came_in(number: int, places: Collection[object]) -> bool:
    try:
        sock = socket.socket(fileno=number)
    except OSError:  # it is something else
        return False
    try:
        sock.getpeername()  # else it listens, or the peer has reset it
        place = _place(sock.getsockname())
    except OSError:
        return False
    finally:
        sock.detach()
    if not isinstance(place, tuple):
        return place in places
    return any((host, place[1]) in places for host in (place[0], *_EVERYWHERE))


def _place(name: object) -> object:
    """Of a socket's name what a listener and its connections have in common."""
    return name[:2] if isinstance(name, tuple) else name
