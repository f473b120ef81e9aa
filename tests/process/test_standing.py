"""Rules of the working directory and the umask: those of the plan, whatever the supervisor is at meanwhile."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from serving import Command
from waiting import wait_until
from workers import ask, end, supervised, wait_log, worker_pids, write_app

from trio_wsgi.process.standing import find_umask

# Tells by a file where it boots, and with which umask; and does not until nobody holds it up there.
TELLING = """
import os, time
open(f"made-{os.getpid()}", "w").close()
while os.path.exists("hold"):
    time.sleep(0.01)
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Two versions, each in a directory of its own."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        write_app(tmp_path / version, version)
        app = tmp_path / version / "workers_app.py"
        app.write_text(TELLING + app.read_text())
    return tmp_path


def configure(site: Path, version: str, more: str) -> None:
    (site / "site.toml").write_text(f"chdir = '{version}'\naccess_logfile = 'access.log'\n{more}")


def made_in(folder: Path) -> set[int]:
    """The workers that have told."""
    return {int(path.name.partition("-")[2]) for path in folder.glob("made-*")}


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def kill(run: Command, victim: int) -> None:
    os.kill(victim, signal.SIGKILL)
    wait_log(run, f"(pid {victim}) died")


def test_while_a_reload_is_under_way_nothing_of_the_old_plan_is_done_in_the_place_of_the_new(site: Path) -> None:
    """Nor with its umask: neither a log file that USR1 makes, nor a worker that replaces one which has died."""
    configure(site, "one", "umask = '077'\n")
    one, two = site / "one", site / "two"
    with supervised(site, "-c", "site.toml") as run:
        (old,) = made_in(one)
        configure(site, "two", "")
        (two / "hold").touch()
        run.send_signal(signal.SIGHUP)
        wait_until(lambda: made_in(two))
        (two / "access.log").unlink()
        (one / "access.log").rename(site / "moved")
        run.send_signal(signal.SIGUSR1)
        wait_until((one / "access.log").exists)
        assert not (two / "access.log").exists()
        assert mode_of(one / "access.log") == 0o600
        kill(run, old)
        wait_until(lambda: len(made_in(one)) == 2)
        assert {mode_of(path) for path in one.glob("made-*")} == {0o600}
        (two / "hold").unlink()
        wait_log(run, "listening at ", 2)
        kill(run, made_in(two).pop())  # from now on, the new plan is the one that counts
        wait_until(lambda: ask(run).startswith("two "))
        assert {mode_of(path) for path in two.glob("made-*")} == {0o666 & ~find_umask()}
        run.send_signal(signal.SIGUSR1)
        wait_until((two / "access.log").exists)
        assert end(run, signal.SIGTERM) == 0


def test_a_reload_that_fails_leaves_the_supervisor_where_it_was(site: Path) -> None:
    configure(site, "one", "umask = '077'\n")
    with supervised(site, "-c", "site.toml") as run:
        (old,) = made_in(site / "one")
        configure(site, "two", "middleware = ['no_such_module:wrap']\n")
        run.send_signal(signal.SIGHUP)
        wait_log(run, "SIGHUP: nothing changes")
        assert Path(f"/proc/{run.process.pid}/cwd").readlink() == site / "one"
        kill(run, old)
        wait_until(lambda: len(made_in(site / "one")) == 2)
        assert {mode_of(path) for path in (site / "one").glob("made-*")} == {0o600}
        assert end(run, signal.SIGTERM) == 0


def test_an_upgrade_tries_and_begins_the_program_with_the_umask_of_the_start(site: Path) -> None:
    """What the settings say no more is what it was before they ever said anything."""
    configure(site, "one", "umask = '077'\n")
    with supervised(site, "-c", "site.toml") as run:
        configure(site, "two", "error_logfile = 'error.log'\n")
        log = site / "two" / "error.log"
        run.send_signal(signal.SIGUSR2)
        wait_until(lambda: log.exists() and "listening at " in log.read_text())
        wait_until(lambda: len(worker_pids(run)) == 1)
        seen = {mode_of(path) for path in (log, *(site / "two").glob("made-*"))}
        assert seen == {0o666 & ~find_umask()}
        assert Path(f"/proc/{run.process.pid}/cwd").readlink() == site / "two"
        assert end(run, signal.SIGTERM) == 0
