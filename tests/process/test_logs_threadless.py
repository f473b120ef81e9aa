"""Rules of the logs where the system has no thread to give (RLIMIT_NPROC, a limit of pids)."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

import pytest

from trio_wsgi import Config, ConfigError
from trio_wsgi.cli import main
from trio_wsgi.owner import Owner
from trio_wsgi.process.currentlogs import CurrentLogs, open_somehow
from trio_wsgi.process.logs import open_logs

log = logging.getLogger("trio_wsgi.error")


@pytest.fixture
def no_thread_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from now; threads that are there go on."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.usefixtures("no_thread_at_all")
def test_loggers_are_then_as_they_were(tmp_path: Path) -> None:
    before = [*log.handlers], log.level, log.propagate
    with (
        pytest.raises(ConfigError, match="log: nobody can write it: no thread can be started"),
        open_logs(Config(error_logfile=str(tmp_path / "log"))),
    ):
        pass
    assert ([*log.handlers], log.level, log.propagate) == before


@pytest.mark.usefixtures("no_thread_at_all")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_start_is_then_one_line_and_exit_code_1(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    assert main(["-b", "127.0.0.1:0", "-w", str(workers), "app:app"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("trio-wsgi: error: log: nobody can write it: ")
    assert err.count("\n") == 1


def test_a_supervisor_that_runs_goes_on_and_writes_its_lines_itself(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """At a reload that moves the log, and opened anew (USR1)."""
    old, new, moved = (tmp_path / name for name in ("old", "new", "moved"))
    with CurrentLogs(Config(error_logfile=str(old))) as logs:
        log.error("one")
        request.getfixturevalue("no_thread_at_all")
        logs.follow(Config(error_logfile=str(new)), Owner())
        log.error("two")
        assert new.read_text().endswith(" two\n")
        new.rename(moved)
        logs.reopen()
        log.error("three")
        assert new.read_text().endswith(" three\n")
        logs.flush()
    assert old.read_text().endswith(" one\n")


@pytest.mark.usefixtures("no_thread_at_all")
def test_so_does_a_new_program(tmp_path: Path) -> None:
    """After USR2 there are workers that somebody has to look after."""
    with open_somehow(Config(error_logfile=str(tmp_path / "log"))):
        log.error("one")
    assert (tmp_path / "log").read_text().endswith(" one\n")
