"""What a supervisor and its workers tell each other: values, and the lines of text they travel as.

Laws:

* A message is one line: a JSON list of its kind and its fields. An empty line is a sign of life.
* Every other line is text for people: a message of a version to come, or of an application that found the channel.
* What is read is checked as everything that comes from outside.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from trio_wsgi.address import Address
from trio_wsgi.process.exits import ExitCode
from trio_wsgi.process.plan import Plan, plan_from_json, plan_to_json

SIGN_OF_LIFE = b"\n"
SILENT_SPELLS = 4  # that make up `timeout`: if the supervisor itself was stopped meanwhile, that is one of them


@dataclass(frozen=True, slots=True)
class Inherited:
    """A listening socket that a process was started with."""

    fd: int
    address: Address


@dataclass(frozen=True, slots=True)
class Order:
    """To a worker, as its first line: all it has to know.

    Args:
        number: of the worker, from 1; its successors have the same.
        argv: what the program was called with, for applications that look at `sys.argv`.
    """

    number: int
    plan: Plan
    listeners: tuple[Inherited, ...]
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drain:
    """To a worker: finish what is under way, and exit; downloads that move may take as long as they like.

    Args:
        graceful_timeout: in place of the setting of this name.
    """

    graceful_timeout: float


@dataclass(frozen=True, slots=True)
class Booted:
    """From a worker: it accepts connections."""


@dataclass(frozen=True, slots=True)
class Failed:
    """From a worker: it cannot boot, and exits.

    Args:
        text: why, for people; may hold a traceback. Its last line says it in short.
        exit_code: for the supervisor, if it can do nothing but end.
    """

    text: str
    exit_code: ExitCode

    @property
    def short(self) -> str:
        """The last line."""
        return self.text.rstrip().rpartition("\n")[2]


@dataclass(frozen=True, slots=True)
class Replace:
    """From a worker: it wants a successor.

    Args:
        reason: for people.
        worn: whether it is by its use, so that a successor may ask as soon.
    """

    reason: str
    worn: bool


@dataclass(frozen=True, slots=True)
class Imported:
    """From a worker, under `reload`: files it consists of, or whose change may mend it.

    Args:
        since: UNIX time; a file that has changed after it may have been imported before.
    """

    files: tuple[str, ...]
    since: float


Message = Booted | Failed | Replace | Imported | Drain

_KINDS: Mapping[str, Any] = {kind.__name__.lower(): kind for kind in get_args(Message)}


def format_message(message: Message) -> bytes:
    """The line that says it."""
    values = [getattr(message, field.name) for field in dataclasses.fields(message)]
    return json.dumps([type(message).__name__.lower(), *values]).encode() + b"\n"


def parse_message(line: bytes) -> Message | None:
    """What a line says; None when it is text for people."""
    try:
        name, *values = json.loads(line)
        kind = _KINDS[name]
        types = [field.type for field in dataclasses.fields(kind)]
        message: Message = kind(*(_read(type_, value) for type_, value in zip(types, values, strict=True)))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return message


def _read(annotation: object, value: object) -> object:
    """A value of JSON as a field of a message; a TypeError or ValueError where that does not take it."""
    match annotation, value:
        case ("str", str()) | ("bool", bool()) | ("float", float()):
            return value
        case "ExitCode", int():
            return ExitCode(value)
        case "tuple[str, ...]", list() if all(isinstance(each, str) for each in value):
            return tuple(value)
    raise TypeError(f"{value!r} is no {annotation}")


def format_order(order: Order) -> bytes:
    """The line that says it."""
    value = {
        "number": order.number,
        "plan": plan_to_json(order.plan),
        "listeners": [[listener.fd, dataclasses.asdict(listener.address)] for listener in order.listeners],
        "argv": order.argv,
    }
    return json.dumps(value).encode() + b"\n"


def parse_order(line: bytes) -> Order:
    """The order that a line says.

    Raises:
        ConfigError: a setting that is unknown here: the program was exchanged under a supervisor that runs.
        ValueError, KeyError, TypeError: it is none.
    """
    value = json.loads(line)
    return Order(
        number=value["number"],
        plan=plan_from_json(value["plan"]),
        listeners=tuple(Inherited(fd, Address(**address)) for fd, address in value["listeners"]),
        argv=tuple(value["argv"]),
    )
