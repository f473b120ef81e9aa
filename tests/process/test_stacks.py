"""Rules of the stacks that a worker tells: all threads, the event loop's among them, and nothing else is harmed."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from serving import Command
from waiting import wait_until
from workers import answering_pid, ask, end, supervised, wait_log, worker_pids

from trio_wsgi.process.stacks import LONGEST, QUIET, open_stacks

THREADS = 16  # whose stacks are some 60 KiB, in thousands of pieces

# Views below some middleware, and one that blocks the event loop.
APP = """
import os, time, trio

def deep(frames, function):
    return deep(frames - 1, function) if frames else function()

def app(environ, start_response):
    if environ["PATH_INFO"] == "/hold":
        deep(30, hold)
    if environ["PATH_INFO"] == "/block":
        trio.from_thread.run_sync(block_the_loop)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"one {os.getpid()}".encode()]

def hold():
    with open("held", "a") as told:
        told.write("x")
    while not os.path.exists("let-go"):
        time.sleep(0.01)

def block_the_loop():
    time.sleep(60)
"""


@contextmanager
def busy(folder: Path, *arguments: str) -> Iterator[Command]:
    """A worker whose threads but one are deep in the application."""
    (folder / "workers_app.py").write_text(APP)
    held = folder / "held"
    with supervised(folder, "--threads", str(THREADS), "--graceful-timeout", "1", *arguments) as run:
        clients = [send(run, "/hold") for _ in range(THREADS - 1)]
        wait_until(lambda: held.exists() and held.stat().st_size == THREADS - 1)
        yield run
        (folder / "let-go").touch()
        for client in clients:
            client.close()


def send(run: Command, path: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", run.port), timeout=30)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return client


def assert_whole(stacks: str) -> None:
    """faulthandler tells the main thread last, which is the event loop."""
    assert stacks.count(" in hold\n") == THREADS - 1
    assert stacks.count(" in deep\n") >= 30 * (THREADS - 1)
    assert re.search(r"worker\.py\", line \d+ in main\n  File \"<string>\", line 1 in <module>$", stacks.rstrip())


def test_usr2_to_a_worker_tells_all_its_threads_in_one_entry(tmp_path: Path) -> None:
    """Twice: the second is no part of the first."""
    with busy(tmp_path) as run:
        (pid,) = worker_pids(run)
        for count in (1, 2):
            os.kill(pid, signal.SIGUSR2)
            wait_log(run, f"(pid {pid}) says:\n", count)
            assert_whole(run.log.rpartition(f"(pid {pid}) says:\n")[2])
        (tmp_path / "let-go").touch()
        assert answering_pid(run) == pid
        assert end(run, signal.SIGTERM) == 0


@pytest.mark.slow
def test_a_worker_whose_loop_is_blocked_is_killed_with_all_its_stacks_in_the_log(tmp_path: Path) -> None:
    """What holds up the event loop is what this is for."""
    with busy(tmp_path, "--timeout", "2") as run, send(run, "/block"):
        (pid,) = worker_pids(run)
        wait_log(run, f"(pid {pid}) died: signal SIGKILL")
        stacks = run.log.partition("it is killed. Where its threads were:\n")[2]
        assert_whole(stacks.partition("\n[20")[0])  # the next line's time
        assert " in block_the_loop\n" in stacks


def test_a_worker_that_asks_for_a_successor_after_such_a_dump_gets_one(tmp_path: Path) -> None:
    """It says so once: nothing else that it says may come between."""
    with busy(tmp_path, "--max-requests", "3") as run:
        (pid,) = worker_pids(run)
        os.kill(run.process.pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGUSR2)
        for _ in range(3):
            ask(run)
        os.kill(run.process.pid, signal.SIGCONT)
        wait_log(run, f"(pid {pid}) asks for a successor: max_requests: 3 requests")
        wait_log(run, f"(pid {pid}) says:\n")
        wait_until(lambda: worker_pids(run) != [pid])


async def test_pieces_are_one_text_until_it_is_quiet(autojump_clock: trio.testing.MockClock) -> None:
    stacks, written = open_stacks()
    heard: list[tuple[float, str]] = []

    async def hear() -> None:
        began = trio.current_time()
        for _ in range(2):
            await stacks.wait_written()
            heard.append((trio.current_time() - began, stacks.take()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        for text in ("Thread 1\n", "\n", "  File"):
            os.write(written, text.encode())
            await trio.sleep(0.75 * QUIET)
        await trio.sleep(QUIET)
        os.write(written, b"Thread 2\n")
        os.close(written)
    stacks.close()
    assert heard == [(2.5 * QUIET, "Thread 1\n  File"), (pytest.approx(4.25 * QUIET), "Thread 2")]


async def test_who_never_is_quiet_is_told_in_parts() -> None:
    stacks, written = open_stacks()
    assert os.write(written, b"x" * LONGEST) == LONGEST
    with trio.fail_after(QUIET / 2):
        await stacks.wait_written()
    assert len(stacks.take()) == LONGEST
    stacks.close()
    os.close(written)


def test_much_is_held_while_nobody_reads() -> None:
    """In pieces as small as faulthandler's; by a supervisor that is stopped, or becomes another program."""
    stacks, written = open_stacks()
    os.set_blocking(written, False)
    for _ in range(LONGEST // 64):
        assert os.write(written, b"x" * 60) == 60
    assert len(stacks.take()) == LONGEST // 64 * 60
    stacks.close()
    os.close(written)
