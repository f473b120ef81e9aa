"""Rules of a log whose disk is full: it costs lines and nothing else, each of them is counted, and somebody is told."""

from __future__ import annotations

import json
import logging
import re
import threading
from pathlib import Path

import pytest
from waiting import wait_until

from trio_wsgi import Config
from trio_wsgi.process import logs as logs_module
from trio_wsgi.process.logs import Logs, open_logs

error_log = logging.getLogger("trio_wsgi.error")
access_log = logging.getLogger("trio_wsgi.access")


class Disk:
    """The place of a log, which is full at first; `clean` makes room, `fill` takes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / "access.log"
        self._made = 0
        self.fill()

    def fill(self) -> None:
        self._put("/dev/full")

    def clean(self) -> Path:
        """The file that lines go to from now on."""
        self._made += 1
        file = self._folder / f"file-{self._made}"
        file.touch()
        self._put(str(file))
        return file

    def _put(self, target: str) -> None:
        link = self._folder / "link"
        link.symlink_to(target)
        link.replace(self.path)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def log_lines(logs: Logs, *lines: object) -> None:
    """Log them one by one: each is tried on its own."""
    for line in lines:
        access_log.info("%s", line)
        logs.flush()


def test_each_line_that_is_lost_is_counted(disk: Disk) -> None:
    """Those that were tried later included, and they are not forgotten when the notice itself cannot be written."""
    with open_logs(Config(access_logfile=str(disk.path))) as logs:
        log_lines(logs, *range(60))
        file = disk.clean()
        log_lines(logs, "after", "that")
    notice, *rest = file.read_text().splitlines()
    assert notice == "[60 log lines before this one were dropped: No space left on device]"
    assert rest == ["after", "that"]


def test_lines_that_found_no_room_and_lines_that_failed_are_all_counted(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the threads that log them: a count that several threads wrote would lose some."""
    monkeypatch.setattr(logs_module, "QUEUE_SIZE", 5)
    count, threads = 3000, 4
    with open_logs(Config(access_logfile=str(disk.path))) as logs:
        workers = [
            threading.Thread(target=lambda: [access_log.info("line") for _ in range(count)]) for _ in range(threads)
        ]
        for worker in workers:
            worker.start()
        file = disk.clean()
        for worker in workers:
            worker.join()
        logs.flush()
        log_lines(logs, "after")
    lines = file.read_text().splitlines()
    notices = [line for line in lines if "dropped" in line]
    dropped = sum(int(re.findall(r"\d+", notice)[0]) for notice in notices)
    assert dropped > 0
    assert dropped + len(lines) - len(notices) == count * threads + 1


def test_a_log_in_json_tells_of_lost_lines_in_json(disk: Disk) -> None:
    """Else the notice would be the one line that its reader cannot parse."""
    with open_logs(Config(access_logfile=str(disk.path), access_logformat='{"status":%(s)s}')) as logs:
        log_lines(logs, "{}", "{}")
        file = disk.clean()
        log_lines(logs, "{}")
    notice, line = map(json.loads, file.read_text().splitlines())
    why = "2 log lines before this one were dropped: No space left on device"
    assert (notice, line) == ({"dropped": 2, "reason": why}, {})


def test_the_error_log_tells_once_why_the_access_log_cannot_be_written(disk: Disk, tmp_path: Path) -> None:
    """Whoever looks for the lines looks there; and again when it could be written, and fails anew."""
    errors = tmp_path / "error.log"
    told = f"cannot write to {disk.path}: No space left on device"
    with open_logs(Config(access_logfile=str(disk.path), error_logfile=str(errors))) as logs:
        log_lines(logs, *range(10))
        wait_until(lambda: told in errors.read_text())
        disk.clean()
        log_lines(logs, "written")
        disk.fill()
        log_lines(logs, *range(10))
    assert errors.read_text().count(told) == 2


def test_an_error_log_that_cannot_be_written_costs_its_lines_and_nothing_else(disk: Disk) -> None:
    with open_logs(Config(error_logfile=str(disk.path))) as logs:
        error_log.error("one")
        error_log.error("two")
        logs.flush()
        file = disk.clean()
        error_log.error("three")
    notice, line = file.read_text().splitlines()
    assert notice == "[2 log lines before this one were dropped: No space left on device]"
    assert line.endswith("three")
