"""The listening sockets of a supervisor: open before the first worker, and longer than any.

Laws:

* They go by the address as it is configured. A reload keeps those that stay, opens those that come, and closes those
  that go once no new worker listens there.
* One whose file somebody has removed is opened anew by a reload, which closes the old one, or puts it back.
* As long as one is open here, what is queued in it is lost with no worker.
* Where each worker has a socket of its own (`reuse_port`), it goes by the worker's number: a successor takes over the
  queue, too. It is the worker that listens there, once it has loaded the application; if its successor cannot, the
  socket is closed, for the kernel would give it connections that nobody accepts. The first worker's listens from the
  start, for who comes before any worker, and whenever no other does.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from trio_wsgi.address import Address
from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.net.listeners import Listener, Resolved, open_listeners, open_sibling, start_listening
from trio_wsgi.net.unixsocket import Access

log = logging.getLogger("trio_wsgi.error")


@dataclass(slots=True)
class Binding:
    """What is open at one configured address.

    Args:
        listeners: by the number of the worker that has them; all have the first's, where they are not spread.
        spread: whether each worker has a socket of its own there.
    """

    address: Address
    listeners: dict[int, list[Listener]]
    spread: bool = False
    opening: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)  # of what we opened

    def has_gone(self) -> bool:
        """Whether nobody can connect there any more."""
        return any(listener.file is not None and listener.file.has_gone() for listener in self.listeners[1])

    def close(self) -> None:
        """Refuse whoever comes from now on, once no worker has them any more."""
        self.opening.close()
        for listeners in self.listeners.values():
            _close(listeners)

    def abandon(self, number: int, backlog: int) -> None:
        """Let the kernel give nothing to the worker with this number, where others listen."""
        if number > 1:
            _close(self.listeners.pop(number, []))
        elif self._is_heard_by_others():
            with contextlib.suppress(ConfigError):  # there is no descriptor for it: then they wait
                silent = [open_sibling(each) for each in self.listeners[1]]
                _close(self.listeners[1])
                self.listeners[1] = silent
        if not self._is_heard_by_others():
            for listener in self.listeners[1]:
                start_listening(listener, backlog)

    def _is_heard_by_others(self) -> bool:
        return any(each.is_listening for number, found in self.listeners.items() if number > 1 for each in found)


class Sockets:
    """All that is open.

    Args:
        bindings: that a former self has opened.
    """

    def __init__(self, bindings: Iterable[Binding] = ()) -> None:
        self._bindings = {binding.address: binding for binding in bindings}
        self._former: dict[Address, Binding] = {}  # that workers still have, where a reload has opened others

    def bindings(self) -> list[Binding]:
        """What is open now."""
        return list(self._bindings.values())

    def missing(self, config: Config) -> list[Address]:
        """The addresses that are to be opened."""
        return [
            address
            for address in each_address(config)
            if address not in self._bindings or self._bindings[address].has_gone()
        ]

    def open_missing(self, config: Config, resolved: Sequence[Resolved], access: Access) -> None:
        """Open them. Either `close_others` or `put_back` is to follow, if anything was open.

        Args:
            resolved: what `resolve` found for the missing ones.
            access: what `find_access` found.

        Raises:
            ConfigError: one cannot be listened at; then none of them is open.
        """
        opened: dict[Address, Binding] = {}
        try:
            for address in dict.fromkeys(address for address, _ in resolved):
                binding = opened[address] = Binding(address, {1: []}, config.reuse_port and address.kind == "tcp")
                mine = [each for each in resolved if each[0] == address]
                opening = open_listeners(mine, config.backlog, reuse_port=binding.spread, access=access)
                binding.listeners[1] += binding.opening.enter_context(opening)
        except ConfigError:
            for binding in opened.values():
                binding.close()
            raise
        self._former = {address: self._bindings[address] for address in opened if address in self._bindings}
        for address in self._former:
            log.warning("%s was removed, or replaced: it is made anew", address)
        self._bindings |= opened

    def put_back(self) -> None:
        """Close what was opened in place of others: those are still served."""
        for address in self._former:
            self._bindings[address].close()
        self._bindings |= self._former
        self._former = {}

    def close_others(self, config: Config) -> None:
        """Close what is not configured, but for what was handed to us: nobody could hand it to us again."""
        for binding in self._former.values():
            binding.close()
        self._former = {}
        for address in self._bindings.keys() - set(config.addresses):
            if address.kind != "fd":
                self._bindings.pop(address).close()

    def close(self) -> None:
        """Close all of them."""
        for binding in (*self._bindings.values(), *self._former.values()):
            binding.close()

    def listeners(self, config: Config) -> list[Listener]:
        """Where we listen, for people."""
        return [listener for address in each_address(config) for listener in self._bindings[address].listeners[1]]

    def listeners_of(self, config: Config, number: int) -> list[Listener]:
        """The sockets of the worker with this number, from 1.

        Raises:
            ConfigError: one of its own cannot be opened.
        """
        found: list[Listener] = []
        for binding in map(self._bindings.__getitem__, each_address(config)):
            holder = number if binding.spread else 1
            if holder not in binding.listeners:
                binding.listeners[holder] = [open_sibling(each) for each in binding.listeners[1]]
            found += binding.listeners[holder]
        return found

    def abandon_beyond(self, config: Config, count: int) -> None:
        """Close the sockets of workers beyond so many, where they are their own: there will be no such workers."""
        for number in {number for binding in self._bindings.values() for number in binding.listeners}:
            if number > max(count, 1):
                self.abandon(config, number)

    def abandon(self, config: Config, number: int) -> None:
        """Let the kernel give nothing to the worker with this number, where its sockets are its own: it cannot boot."""
        for binding in self._bindings.values():
            if binding.spread:
                binding.abandon(number, config.backlog)


def _close(listeners: Iterable[Listener]) -> None:
    for listener in listeners:
        listener.close()


def each_address(config: Config) -> list[Address]:
    """Each once, in their order: one descriptor would be served, and closed, twice."""
    return list(dict.fromkeys(config.addresses))


def take_socket(fd: int) -> socket.socket:
    """The socket that a supervisor, or its former self, has left open for us.

    Raises:
        OSError: the descriptor is not open, or no socket.
    """
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock
