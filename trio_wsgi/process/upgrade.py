"""A supervisor that becomes a new program, without anybody noticing: same process, same sockets, same workers.

Laws:

* The command line is what it was. Another process tries it first (`trial`).
* Sockets, channels and stacks stay open over exec(2), and an environment variable says which is which.
* Signals are blocked meanwhile (`EarlySignals`); they come once the new program can obey them. What was asked for
  before, and waits for its turn, is written down: the kernel keeps each signal once, and gives the lowest number first.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from trio_wsgi.address import Address
from trio_wsgi.errors import ConfigError
from trio_wsgi.net.listeners import Listener
from trio_wsgi.net.unixsocket import SocketFile
from trio_wsgi.process.channel import Channel
from trio_wsgi.process.child import Child, State
from trio_wsgi.process.currentlogs import CurrentLogs
from trio_wsgi.process.early import EarlySignals
from trio_wsgi.process.plan import Plan, plan_from_json, plan_to_json
from trio_wsgi.process.signals import JOBS
from trio_wsgi.process.sockets import Binding, take_socket
from trio_wsgi.process.stacks import Stacks
from trio_wsgi.process.standing import at_home
from trio_wsgi.process.systemd import Systemd

STATE_VARIABLE = "_TRIO_WSGI_STATE"

TakeSocket = Callable[[int], socket.socket]
TakeStacks = Callable[[int], Stacks]


@dataclass(frozen=True, slots=True)
class Legacy:
    """What a supervisor leaves to the program that it becomes.

    Args:
        plan: of the workers that serve.
        count: of its slots.
        children: all workers, whatever they are at.
        asked: what is to be done next, in this order, by the signals that asked for it.
        wrong: why who takes it over goes on with this plan and these workers, and starts no others; not written down.
    """

    plan: Plan
    count: int
    bindings: list[Binding]
    children: list[Child]
    asked: list[signal.Signals]
    wrong: Exception | None = None


def format_legacy(legacy: Legacy) -> str:
    """The text that says it, with the numbers of sockets, channels and stacks."""
    value = {
        "plan": plan_to_json(legacy.plan),
        "count": legacy.count,
        "bindings": [
            {
                "address": asdict(binding.address),
                "spread": binding.spread,
                "listeners": {number: _format_listeners(each) for number, each in binding.listeners.items()},
            }
            for binding in legacy.bindings
        ],
        "children": [
            [
                child.number,
                child.pid,
                child.channel.fileno(),
                child.stacks.fileno(),
                child.state.value,
                child.needs_successor.is_set(),
                base64.b64encode(child.channel.received).decode(),
            ]
            for child in sorted(legacy.children, key=lambda child: child.state is State.BOOTING)
        ],
        "asked": [number.name for number in legacy.asked],
    }
    return json.dumps(value)


def let_go(legacy: Legacy) -> None:
    """Leave its sockets, channels and stacks open, over exec(2) as well: from now on their numbers count."""
    for binding in legacy.bindings:
        for listeners in binding.listeners.values():
            for listener in listeners:
                os.set_inheritable(listener.sock.detach(), True)
    for child in legacy.children:
        os.set_inheritable(child.channel.detach(), True)
        os.set_inheritable(child.stacks.detach(), True)


def parse_legacy(text: str, take: TakeSocket = take_socket, read: TakeStacks = Stacks) -> Legacy:
    """What a text says.

    Args:
        take: gives the socket of a descriptor.
        read: gives the stacks of a descriptor.

    Raises:
        ConfigError, ValueError, KeyError, TypeError: it comes from a version too different.
        OSError: a descriptor is not open.
    """
    value: dict[str, Any] = json.loads(text)
    return Legacy(
        plan=plan_from_json(value["plan"]),
        count=value["count"],
        bindings=[
            Binding(
                Address(**binding["address"]),
                {int(number): _parse_listeners(each, take) for number, each in binding["listeners"].items()},
                binding["spread"],
            )
            for binding in value["bindings"]
        ],
        children=[_parse_child(each, take, read) for each in value["children"]],
        asked=[signal.Signals[name] for name in value["asked"]],
    )


def check_legacy(text: str) -> None:
    """Look whether `parse_legacy` would understand it, in a process that has none of the descriptors.

    Raises:
        ConfigError: it would not.
    """
    with contextlib.ExitStack() as stack:

        def stand_in(fd: int) -> socket.socket:
            return stack.enter_context(socket.socket())

        try:
            parse_legacy(text, stand_in, lambda fd: Stacks(stand_in(fd).fileno()))
        except (ConfigError, ValueError, KeyError, TypeError) as error:
            why = f"this version cannot take over from the one that runs: {error!r}"
            raise ConfigError("upgrade", why, "stop it, and start it anew") from error


def _parse_child(value: Sequence[Any], take: TakeSocket, read: TakeStacks) -> Child:
    number, pid, channel, stacks, state, needs_successor, received = value
    child = Child(number, pid, Channel(take(channel), base64.b64decode(received)), read(stacks), State(state))
    if needs_successor:
        child.needs_successor.set()
    return child


def _format_listeners(listeners: Iterable[Listener]) -> list[Any]:
    return [[listener.sock.fileno(), asdict(listener.address), listener.file] for listener in listeners]


def _parse_listeners(values: Iterable[Any], take: TakeSocket) -> list[Listener]:
    return [
        Listener(take(fd), Address(**address), None if file is None else SocketFile(*file))
        for fd, address, file in values
    ]


def build_command_line() -> list[str]:
    """What this process was started with."""
    return [sys.executable, *sys.orig_argv[1:]]


def become_new(legacy: Legacy, early: EarlySignals, logs: CurrentLogs, systemd: Systemd) -> Legacy:
    """Replace this program by itself; returns what it leaves to itself if that cannot be."""
    environ = dict(os.environ)
    systemd.give_back(environ)
    logs.flush()
    with early.handing_over(JOBS) as asked:
        legacy.asked.extend(asked)
        state = format_legacy(legacy)
        let_go(legacy)
        try:
            with at_home(legacy.plan):
                os.execve(sys.executable, build_command_line(), {**environ, STATE_VARIABLE: state})
        except (ConfigError, OSError) as error:
            why = f"the new program cannot be executed: {error}"
            wrong = ConfigError("upgrade", why, "see that its interpreter and its directory are there")
    return replace(parse_legacy(state), wrong=wrong)
