"""Rules of what supervisor and worker tell each other."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsgi.address import Address
from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.process.channel import Channel, open_pair, receive_first_line
from trio_wsgi.process.exits import ExitCode
from trio_wsgi.process.messages import (
    SIGN_OF_LIFE,
    Booted,
    Drain,
    Failed,
    Imported,
    Inherited,
    Order,
    Replace,
    format_message,
    format_order,
    parse_message,
    parse_order,
)
from trio_wsgi.process.plan import Plan

UNUSUAL = Config(
    bind=("127.0.0.1:0", "unix:/tmp/ü"),
    timeout=math.inf,
    workers=3,
    env=(("A", "1"), ("B", "x=y\n")),
    chdir="/",
    static=("/a=/b",),
    access_logformat='%(h)s "%(r)s"',
)


@pytest.mark.parametrize("config", [Config(), UNUSUAL])
def test_an_order_is_one_line_and_reads_back_as_it_was(config: Config) -> None:
    listeners = (Inherited(7, Address("tcp", host="::1", port=80)), Inherited(8, Address("unix", path="@abstract")))
    order = Order(
        2, Plan("module:make('ü')", config, "/home", 0o027, ("/home/site.toml",)), listeners, ("trio-wsgi", "x y")
    )
    line = format_order(order)
    assert line.count(b"\n") == 1
    assert parse_order(line) == order


def test_an_order_of_another_version_is_refused_with_the_name_of_what_is_unknown() -> None:
    value = json.loads(format_order(Order(1, Plan(None, Config(), "/", 0o022), (), ())))
    value["plan"]["config"]["not_yet_invented"] = 1
    with pytest.raises(ConfigError, match="not_yet_invented"):
        parse_order(json.dumps(value).encode())


@pytest.mark.parametrize(
    "message",
    [
        Booted(),
        Failed("a\nb\n", ExitCode.BOOT_ERROR),
        Replace("why", worn=True),
        Drain(math.inf),
        Imported(("/a", "/b"), 1.5),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_is_one_line_and_reads_back_as_it_was(message: Booted | Failed | Replace | Drain | Imported) -> None:
    line = format_message(message)
    assert line.count(b"\n") == 1
    read = parse_message(line)
    assert type(read) is type(message)
    assert [*map(as_tuple, dataclasses.astuple(read))] == [*map(as_tuple, dataclasses.astuple(message))]


def as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


@given(st.binary())
def test_every_other_line_is_text_for_people(line: bytes) -> None:
    """Of a version to come, or of an application that has found the descriptor: nothing of it ends a supervisor."""
    parse_message(line)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)


@given(st.sampled_from(["booted", "failed", "replace", "imported", "drain"]), st.lists(VALUES, max_size=3))
def test_a_message_has_the_values_of_its_kind_or_is_none(kind: str, values: list[object]) -> None:
    """An application may write anything there, and its supervisor goes by what it reads."""
    match parse_message(json.dumps([kind, *values]).encode()):
        case Failed(text, exit_code):
            assert isinstance(text, str) and isinstance(exit_code, ExitCode)
        case Replace(reason, worn):
            assert isinstance(reason, str) and isinstance(worn, bool)
        case Imported(files, since):
            assert all(isinstance(file, str) for file in files) and isinstance(since, float)
        case Drain(graceful_timeout):
            assert isinstance(graceful_timeout, float)
        case other:
            assert other is None or other == Booted()


@pytest.mark.parametrize(
    "line",
    [
        b"Fatal Python error: Segmentation fault",
        b"[]",
        b'["booted", 1]',
        b'["failed", "why", 77]',
        b"[[]]",
        b"7",
        b"[" * 100_000,
    ],
)
def test_lines_that_are_none_of_ours(line: bytes) -> None:
    assert parse_message(line) is None


async def test_a_channel_gives_whole_lines_and_then_the_end() -> None:
    ours, theirs = open_pair()
    with theirs:
        theirs.sendall(b'["boo')
        with pytest.raises(BlockingIOError):
            assert ours.receive_nowait() == []
            ours.receive_nowait()
        theirs.sendall(b'ted"]\n\nrest')
        assert await ours.receive() == [b'["booted"]', b""]
    assert await ours.receive() == [b"rest"]
    assert await ours.receive() == []
    ours.beat()  # nobody listens
    ours.close()


def test_what_is_not_taken_at_once_is_said_later_whole_and_once() -> None:
    """A request for a successor is said once only; the supervisor may be stopped, or on its way to another program."""
    ours, theirs = open_pair()
    theirs.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            theirs.send(SIGN_OF_LIFE)
    channel = Channel(theirs)
    for reason in ("a", "b" * 300_000):  # the second is more than is taken at once
        channel.tell(Replace(reason, worn=False))
        channel.beat()
    heard: list[bytes] = []
    for _ in range(100):
        with contextlib.suppress(BlockingIOError):
            heard += filter(None, ours.receive_nowait() or [])
        channel.beat()
    assert [parse_message(line) for line in heard] == [Replace("a", worn=False), Replace("b" * 300_000, worn=False)]
    channel.close()
    ours.close()


async def test_what_follows_the_order_is_left_in_the_channel() -> None:
    ours, theirs = open_pair()
    with theirs:
        await ours.send_all(b"order\n")
        ours.tell(Drain(1.0))
        assert receive_first_line(theirs) == b"order\n"
        channel = Channel(theirs)
        assert [parse_message(line) for line in await channel.receive()] == [Drain(1.0)]
        ours.close()
        assert await channel.receive() == []


def test_a_supervisor_that_ended_before_its_order_is_no_order() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs, pytest.raises(EOFError):
        receive_first_line(theirs)
