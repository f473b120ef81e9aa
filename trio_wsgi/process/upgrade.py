"""A supervisor that becomes a new program, without anybody noticing: same process, same sockets, same workers.

Laws:

* The command line is what it was. Another process tries it first: it must get as far as having the application.
* Sockets and channels stay open over exec(2), and an environment variable says which is which.
* Signals are blocked meanwhile (`EarlySignals`); they come once the new program can obey them.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio

from trio_wsgi.address import Address
from trio_wsgi.net.listeners import Listener
from trio_wsgi.net.unixsocket import build_remover
from trio_wsgi.process.channel import Channel
from trio_wsgi.process.child import Child, State
from trio_wsgi.process.exits import describe_exit
from trio_wsgi.process.order import Plan, plan_from_json, plan_to_json
from trio_wsgi.process.sockets import Place

STATE_VARIABLE = "_TRIO_WSGI_STATE"
CHECK_VARIABLE = "_TRIO_WSGI_CHECK"


@dataclass(frozen=True, slots=True)
class Legacy:
    """What a supervisor leaves to the program that it becomes.

    Args:
        plan: of the workers that serve.
        count: of its slots.
        children: all workers, whatever they are at.
    """

    plan: Plan
    count: int
    places: list[Place]
    children: list[Child]


def format_legacy(legacy: Legacy) -> str:
    """The text that says it. Sockets and channels are let go of, and open over exec(2): their numbers count now."""
    value = {
        "plan": plan_to_json(legacy.plan),
        "count": legacy.count,
        "places": [
            {
                "address": asdict(place.address),
                "spread": place.spread,
                "listeners": _format_listeners(place.listeners),
                "siblings": {number: _format_listeners(each) for number, each in place.siblings.items()},
            }
            for place in legacy.places
        ],
        "children": [
            [
                child.number,
                child.pid,
                _let_go(child.channel.detach()),
                child.state.value,
                child.unwanted.is_set(),
                base64.b64encode(child.channel.received).decode(),
            ]
            for child in sorted(legacy.children, key=lambda child: child.state is State.BOOTING)
        ],
    }
    return json.dumps(value)


def parse_legacy(text: str) -> Legacy:
    """What a text says.

    Raises:
        ConfigError, ValueError, KeyError, TypeError: it comes from a version too different.
        OSError: a descriptor is not open.
    """
    value: dict[str, Any] = json.loads(text)
    return Legacy(
        plan=plan_from_json(value["plan"]),
        count=value["count"],
        places=[
            Place(
                Address(**place["address"]),
                _parse_listeners(place["listeners"]),
                place["spread"],
                {int(number): _parse_listeners(each) for number, each in place["siblings"].items()},
            )
            for place in value["places"]
        ],
        children=[_parse_child(*each) for each in value["children"]],
    )


def _parse_child(number: int, pid: int, fd: int, state: str, unwanted: bool, received: str) -> Child:
    child = Child(number, pid, Channel(socket.socket(fileno=fd), base64.b64decode(received)), State(state))
    if unwanted:
        child.unwanted.set()
    return child


def _format_listeners(listeners: Iterable[Listener]) -> list[Any]:
    return [
        [_let_go(listener.sock.detach()), asdict(listener.address), listener.remove_file is not None]
        for listener in listeners
    ]


def _let_go(fd: int) -> int:
    os.set_inheritable(fd, True)
    return fd


def _parse_listeners(values: Iterable[Any]) -> list[Listener]:
    listeners = []
    for fd, address, has_file in values:
        sock = socket.socket(fileno=fd)
        sock.set_inheritable(False)
        sock.setblocking(False)
        where = Address(**address)
        listeners.append(Listener(sock, where, build_remover(Path(where.path)) if has_file else None))
    return listeners


def build_command_line() -> list[str]:
    """What this process was started with."""
    return [sys.executable, *sys.orig_argv[1:]]


async def try_program(home: str, timeout: float) -> str:
    """Start the program anew as if it were to serve, up to having the application.

    Args:
        home: the directory that it is started in.
        timeout: seconds that it may take.

    Returns:
        What is wrong with it; empty when nothing is.

    Cancellation: it is killed.
    """
    with trio.move_on_after(timeout):
        done = await trio.run_process(
            build_command_line(),
            env={**os.environ, CHECK_VARIABLE: "1"},
            cwd=home,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        if done.returncode == 0:
            return ""
        said = done.stdout.decode(errors="replace").rstrip()
        return f"{said}\n({describe_exit(done.returncode)})".lstrip()
    return f"it took more than {timeout:g} s (boot_timeout)"


def execute(legacy: str, home: str, environ: Mapping[str, str]) -> None:
    """Become the program anew.

    Args:
        legacy: from `format_legacy`.

    Raises:
        OSError: it cannot be executed; all is as it was.
    """
    before = Path.cwd()
    try:
        os.chdir(home)
        os.execve(sys.executable, build_command_line(), {**environ, STATE_VARIABLE: legacy})
    finally:
        os.chdir(before)
