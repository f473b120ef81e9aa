"""Rules of how a process ends: its exit code, and how a supervisor learns of it."""

from __future__ import annotations

import errno
import os
import signal
import sys

import pytest
import trio

from trio_wsgi.config import Config
from trio_wsgi.errors import AppLoadError, ConfigError
from trio_wsgi.process.channel import open_pair
from trio_wsgi.process.child import Child, State
from trio_wsgi.process.exits import UNKNOWN, describe_exit, wait_exit
from trio_wsgi.process.failure import describe_failure
from trio_wsgi.process.fleet import STEADY
from trio_wsgi.process.messages import Booted, Replace, format_message
from trio_wsgi.process.stacks import open_stacks


@pytest.fixture(params=["pidfd", "looking"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pidfd_open(2), and where there is none, nor a thread to wait in."""
    request.getfixturevalue("no_thread")
    if request.param == "looking":
        monkeypatch.delattr(os, "pidfd_open", raising=False)


def start(code: str) -> int:
    return os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("code", "expected"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", -9)])
async def test_the_exit_code_of_a_child_is_learnt_from_its_number(code: str, expected: int) -> None:
    pid = start(code)
    with trio.fail_after(30):
        assert await wait_exit(pid) == expected
    assert await wait_exit(pid) == UNKNOWN  # it is nobody's any more


@pytest.mark.usefixtures("way")
async def test_who_stops_waiting_for_a_child_can_wait_for_it_again() -> None:
    pid = start("import time; time.sleep(60)")
    with trio.move_on_after(0.05) as brief:
        await wait_exit(pid)
    assert brief.cancelled_caught
    os.kill(pid, signal.SIGKILL)
    with trio.fail_after(30):
        assert await wait_exit(pid) == -signal.SIGKILL


@pytest.mark.parametrize("worn", [True, False])
async def test_who_is_worn_soon_is_as_one_that_died_soon(worn: bool) -> None:
    """So that limits which are too low make no storm of workers; who asks for another reason has no pause."""
    channel, theirs = open_pair()
    stacks, written = open_stacks()
    child = Child(1, start("import time; time.sleep(60)"), channel, stacks)
    with theirs, trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.watch, Config())
            theirs.sendall(format_message(Booted()) + format_message(Replace("why", worn)))
            await child.needs_successor.wait()
            assert child.state is State.SERVING
            assert (child.lived < STEADY) == worn
            child.stop(signal.SIGKILL)
    os.close(written)


async def test_who_may_not_be_sent_a_signal_is_told_by_the_end_of_its_channel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where rules of the system keep us from it: its end is still heard, and nothing raises."""

    def refuse(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    channel, theirs = open_pair()
    stacks, written = open_stacks()
    child = Child(1, start("pass"), channel, stacks, State.SERVING)
    monkeypatch.setattr(os, "kill", refuse)
    with theirs:
        child.send_signal(signal.SIGUSR1)
        child.stop(signal.SIGTERM)
        assert theirs.recv(1) == b""
        theirs.sendall(format_message(Replace("why", worn=False)))  # is still heard
        assert channel.receive_nowait() == [b'["replace", "why", false]']
        channel.close()
    await wait_exit(child.pid)
    stacks.close()
    os.close(written)
    told = [record.getMessage().rpartition(") ")[2] for record in caplog.records]
    assert told == [f"cannot be sent {name}: the system does not permit it" for name in ("SIGUSR1", "SIGTERM")]


def test_ends_in_words() -> None:
    assert [describe_exit(code) for code in (3, -9, -62)] == ["exit code 3", "signal SIGKILL", "signal 62"]


# -- failures to boot --------------------------------------------------------------------------------------------------


def caused(cause: Exception | None) -> AppLoadError:
    error = AppLoadError("what was tried")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("bind", "is wrong"), 1),
        (caused(None), 4),
        (caused(ModuleNotFoundError("x")), 4),
        (caused(SyntaxError("x")), 4),
        (caused(AttributeError("x")), 4),
        (caused(ValueError("x")), 3),
        (OSError("x"), 3),
    ],
    ids=repr,
)
def test_exit_codes_of_failures(error: Exception, code: int) -> None:
    """gunicorn's: 1 usage, 3 a worker cannot boot, 4 there is no such application."""
    assert describe_failure(error).exit_code == code


def test_a_failure_is_told_in_short_by_its_last_line() -> None:
    """Of a group: by the first error that it is made of."""
    for error in (OSError(24, "Too many open files"), ExceptionGroup("a", [ExceptionGroup("b", [OSError(24, "x")])])):
        assert describe_failure(error).text.splitlines()[-1].startswith("OSError: [Errno 24] ")
