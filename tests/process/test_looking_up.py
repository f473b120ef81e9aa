"""Rules of users and groups in a supervisor: who they are may take minutes to find out, and nobody waits for that."""

from __future__ import annotations

import os
import pwd
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving import Command, command
from waiting import wait_until
from workers import ask, end, wait_log, worker_pids, write_app

ME = pwd.getpwuid(os.geteuid()).pw_name

# A database of users that says where it is asked, and does not answer as long as a file is there.
PROGRAM = """
import os, pwd, sys, time
import trio
getpwnam = pwd.getpwnam
def ask(name):
    os.write(1, b"asked on the event loop\\n" if trio.lowlevel.in_trio_run() else b"asked\\n")
    while os.path.exists("/proc/self/cwd/hang"):
        time.sleep(0.01)
    return getpwnam(name)
pwd.getpwnam = ask
from trio_wsgi.cli import main
sys.exit(main())
"""


@contextmanager
def running(site: Path) -> Iterator[Command]:
    write_app(site)
    configure(site, "one")
    arguments = ["workers_app:app", "-c", "site.toml"]
    with command(*arguments, cwd=site, workers=1, program=("-c", PROGRAM)) as run:
        yield run


def configure(site: Path, name: str) -> None:
    (site / "site.toml").write_text(
        f"bind = ['127.0.0.1:0', 'unix:{site / name}']\naccess_logfile = '{name}.log'\nuser = '{ME}'\n"
        f"unix_socket_owner = '{ME}'\n"
    )


def test_they_are_looked_up_in_a_thread(tmp_path: Path) -> None:
    """For a reload with other sockets and another log, and when USR1 makes a log file that belongs to one of them."""
    with running(tmp_path) as run:
        configure(tmp_path, "two")
        asked = run.log.count("asked\n")
        assert asked
        run.send_signal(signal.SIGHUP)
        wait_log(run, "listening at ", 2)
        assert run.log.count("asked\n") > asked
        (tmp_path / "two.log").unlink()
        run.send_signal(signal.SIGUSR1)
        wait_until((tmp_path / "two.log").exists)
        assert end(run, signal.SIGTERM) == 0
        assert "asked on the event loop" not in run.log


def test_a_supervisor_that_is_told_to_end_does_not_wait_for_an_answer(tmp_path: Path) -> None:
    """Of a reload; meanwhile clients are served."""
    with running(tmp_path) as run:
        (worker,) = worker_pids(run)
        asked = run.log.count("asked\n")
        (tmp_path / "hang").touch()
        run.send_signal(signal.SIGHUP)
        wait_log(run, "asked\n", asked + 1)
        assert ask(run) == f"one {worker}"
        started = time.monotonic()
        assert end(run, signal.SIGTERM) == 0
        assert time.monotonic() - started < 10
