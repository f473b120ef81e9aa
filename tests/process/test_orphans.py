"""Rules of process 1 in a container, which gets all whom others leave behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
from serving import Command, command
from waiting import wait_until
from workers import ask, end, worker_pids

from trio_wsgi.process import exits

ORPHANS = 60
APP = f"""
import os, subprocess

def app(environ, start_response):
    subprocess.run(["sh", "-c", "for each in $(seq {ORPHANS}); do sleep 0.01 & done"])
    start_response("200 OK", [])
    return [b"one"]
"""
# PR_SET_CHILD_SUBREAPER of prctl(2) has it get them; so there is no need for the leave to make a container.
FIRST = """
import ctypes, os, runpy
from trio_wsgi.process import exits
assert ctypes.CDLL(None).prctl(36, 1) == 0
os.getpid = lambda: 1
exits.ORPHANS_LOOK *= {pace}
runpy.run_module("trio_wsgi", run_name="__main__", alter_sys=True)
"""


def start(code: int) -> int:
    """A child that has ended, and is not collected."""
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {code}"], os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


async def test_those_whom_somebody_waits_for_are_left_to_them(autojump_clock: trio.testing.MockClock) -> None:
    """The others are collected at one look, all of them."""
    ours = start(5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exits.collect_orphans, ours.__eq__)
        await trio.sleep(10 * exits.ORPHANS_LOOK)
        assert await exits.wait_exit(ours) == 5
        orphans = [start(0) for _ in range(ORPHANS)]
        await trio.sleep(1.5 * exits.ORPHANS_LOOK)
        assert not any(Path(f"/proc/{orphan}").exists() for orphan in orphans)  # noqa: ASYNC240
        nursery.cancel_scope.cancel()


@contextmanager
def first(site: Path, pace: float) -> Iterator[Command]:
    """A supervisor as process 1, which looks for orphans so much more often."""
    program = ("-c", FIRST.format(pace=pace))
    (site / "orphans_app.py").write_text(APP)
    with command("orphans_app:app", "-b", "127.0.0.1:0", cwd=site, workers=1, program=program) as run:
        yield run


def test_many_orphans_are_collected_soon(tmp_path: Path) -> None:
    """A container has a limit of processes, and those that nobody has collected count."""
    with first(tmp_path, pace=1.0) as run:
        assert ask(run, "/") == "one"
        wait_until(lambda: len(worker_pids(run)) == 1, timeout=15)
        assert end(run, signal.SIGTERM) == 0


def test_how_our_own_end_is_known_to_who_waits_for_them(tmp_path: Path) -> None:
    """A worker that died, and a trial that failed, are not taken for orphans, however often we look."""
    with first(tmp_path, pace=0.0) as run:
        (pid,) = worker_pids(run)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: f"(pid {pid}) died: signal SIGKILL" in run.log)
        wait_until(lambda: run.log.count("is ready") == 2)
        (tmp_path / "orphans_app.py").write_text("import os\nos._exit(7)\n")
        for count in range(1, 4):  # it is a matter of chance who would be first
            run.send_signal(signal.SIGUSR2)
            wait_until(lambda: run.log.count("SIGUSR2: nothing changes: (exit code 7)") == count, timeout=30)  # noqa: B023
        assert end(run, signal.SIGTERM) == 0


def test_orphans_are_collected_during_a_trial(tmp_path: Path) -> None:
    """It may take as long as a boot, and its own process is known by its number."""
    with first(tmp_path, pace=1.0) as run:
        (tmp_path / "orphans_app.py").write_text("import time\ntime.sleep(600)\n")
        run.send_signal(signal.SIGUSR2)
        wait_until(lambda: len(worker_pids(run)) == 2)
        assert ask(run, "/") == "one"
        wait_until(lambda: len(worker_pids(run)) == 2, timeout=15)
        assert end(run, signal.SIGTERM) == 0
