"""Whose sockets are watched for room: an epoll (epoll(7)) over deliveries, and what it does not forgive.

Laws:

* A delivery is in the epoll exactly while it is `watched`.
* epoll goes by the open file, not by the descriptor: where a copy of a closed one lives on (dup, fork), it keeps
  reporting the old number and has no way to drop it (questions and answers, Q6). Such an epoll is stale, and is made
  anew.
* The old one is given up when there is a new one. While no descriptor is left for it, what is reported in vain costs
  time, and nobody's bytes.
"""

from __future__ import annotations

import select
from collections.abc import Iterable, Iterator

from sendfile.delivery import Delivery


class Interest:
    """An epoll of our own; whoever makes it closes it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Delivery] = {}  # by descriptor
        self._stale = False

    def __repr__(self) -> str:
        return f"<Interest in {len(self._watched)}{', stale' if self._stale else ''}>"

    def fileno(self) -> int:
        """Its descriptor: readable when a watched socket has room. It changes in `renew`."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Watch nothing any more."""
        self._epoll.close()

    def add(self, delivery: Delivery) -> None:
        """Have it told when the delivery's socket has room. Idempotent."""
        if not delivery.watched:
            self._epoll.register(delivery.fd, select.EPOLLOUT)
            self._watched[delivery.fd] = delivery
            delivery.watched = True

    def discard(self, delivery: Delivery) -> None:
        """Watch it no more. Idempotent."""
        if delivery.watched:
            delivery.watched = False
            del self._watched[delivery.fd]
            try:
                self._epoll.unregister(delivery.fd)
            except OSError:  # closed under us
                self._stale = True

    def poll(self, most: int) -> Iterator[Delivery]:
        """Those with room now, at most so many; never waits."""
        for fd, _ in self._epoll.poll(0, most):
            delivery = self._watched.get(fd)
            if delivery is None:
                self._stale = True
            else:
                yield delivery

    def renew(self, deliveries: Iterable[Delivery]) -> dict[Delivery, OSError | None]:
        """Make a stale epoll anew. Call it where nobody waits on the old one.

        Args:
            deliveries: all there are.

        Returns:
            Those that cannot be watched any more: their socket was closed under them (None), or the kernel refuses it.
        """
        if not self._stale:
            return {}
        try:
            fresh = select.epoll()
        except OSError:
            return {}
        self._epoll.close()
        self._epoll, self._stale = fresh, False
        lost: dict[Delivery, OSError | None] = {
            delivery: None for delivery in deliveries if not delivery.owns_its_descriptor()
        }
        for delivery in self._watched.values():
            if delivery not in lost:
                try:
                    fresh.register(delivery.fd, select.EPOLLOUT)
                except OSError as error:  # its number was closed, and the socket's object does not know
                    lost[delivery] = error
        for delivery in lost:
            delivery.watched = False
            self._watched.pop(delivery.fd, None)
        return lost
