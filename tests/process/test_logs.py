"""Rules of the logs: the loop never waits for them, lines are whole, files may be rotated, an end is an end."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import select
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trio_wsgi import Config, ConfigError
from trio_wsgi.owner import Owner
from trio_wsgi.process import logs as logs_module
from trio_wsgi.process.currentlogs import CurrentLogs, open_somehow
from trio_wsgi.process.logs import make_log_files, open_logs

error_log = logging.getLogger("trio_wsgi.error")
access_log = logging.getLogger("trio_wsgi.access")


def until(path: Path, text: str) -> str:
    """The file's content, once it holds `text`."""
    patience = time.monotonic() + 5
    while time.monotonic() < patience:
        if path.exists() and text in (content := path.read_text()):
            return content
        time.sleep(0.005)
    raise AssertionError(f"{text!r} is not in {path}: {path.read_text() if path.exists() else 'no such file'}")


def read_all_there_is(fd: int) -> bytes:
    received = bytearray()
    while select.select([fd], [], [], 0.2)[0]:
        received += os.read(fd, 65536)
    return bytes(received)


@contextmanager
def full_stdout(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Standard output is a pipe of one page that nobody reads; gives the reading end. No fixture: pytest sets its own
    stream again after those."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with os.fdopen(writing, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        yield reading


def test_an_error_line_tells_when_who_and_how_bad(tmp_path: Path) -> None:
    """gunicorn's format: [time with zone] [pid] [level] message."""
    path = tmp_path / "error.log"
    with open_logs(Config(error_logfile=str(path))):
        error_log.error("%s", "100% sure: ü \udc80")
    line = path.read_text("utf-8")
    assert re.fullmatch(
        rf"\[\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{{4}}\] \[{os.getpid()}\] \[ERROR\] 100% sure: ü \\udc80\n", line
    )


def test_a_traceback_is_logged_with_its_message(tmp_path: Path) -> None:
    with open_logs(Config(error_logfile=str(tmp_path / "log"))):
        error_log.error("failed", exc_info=ValueError("because"))
    assert "[ERROR] failed\nValueError: because\n" in (tmp_path / "log").read_text()


def test_all_that_was_logged_is_written_in_order_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("before\n")
    with open_logs(Config(access_logfile=str(path))):
        for number in range(5000):
            access_log.info("%s", number)
    assert path.read_text().split() == ["before", *map(str, range(5000))]


def test_levels_and_propagation_are_restored(tmp_path: Path) -> None:
    """`trio_wsgi.run` in a script leaves its logging as it found it."""
    before = [(log.level, log.propagate, list(log.handlers)) for log in (error_log, access_log)]
    with open_logs(Config(error_logfile=str(tmp_path / "log"), log_level="debug")):
        assert error_log.level == logging.DEBUG
        assert not access_log.isEnabledFor(logging.INFO)  # nobody formats lines that go nowhere
    assert before == [(log.level, log.propagate, list(log.handlers)) for log in (error_log, access_log)]


def test_nobody_switches_them_off(tmp_path: Path) -> None:
    """As an application does that configures its logging while it serves; afterwards they are as they were."""
    before = [type(log) for log in (error_log, access_log)]
    with open_logs(Config(error_logfile=str(tmp_path / "log"), access_logfile=str(tmp_path / "log"))):
        for log in (error_log, access_log):
            log.disabled = True  # what logging.config does to those that it does not name
            log.info("from %s", log.name)
    assert sorted(line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()) == [
        "trio_wsgi.access",
        "trio_wsgi.error",
    ]
    assert [type(log) for log in (error_log, access_log)] == before
    error_log.disabled = True
    assert not error_log.isEnabledFor(logging.CRITICAL)
    error_log.disabled = False


def test_log_level_leaves_out_what_is_less(tmp_path: Path) -> None:
    with open_logs(Config(error_logfile=str(tmp_path / "log"), log_level="warning")):
        error_log.info("quiet")
        error_log.warning("loud")
    assert "loud" in (tmp_path / "log").read_text()
    assert "quiet" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("setting", ["error_logfile", "access_logfile"])
def test_a_log_that_cannot_be_opened_is_the_operators_error(setting: str, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=f"{setting}: cannot write .*nowhere/log: No such file"),
        open_logs(Config(**{setting: str(tmp_path / "nowhere" / "log")})),
    ):
        raise AssertionError


def test_a_pipe_whose_reader_has_gone_is_not_opened_to_make_it(tmp_path: Path) -> None:
    """SIGUSR1 in a supervisor, on its event loop: open(2) would wait for a reader, and TERM with it (fifo(7))."""
    os.mkfifo(tmp_path / "pipe")
    config = Config(access_logfile=str(tmp_path / "pipe"), error_logfile=str(tmp_path / "new.log"))
    making = threading.Thread(target=make_log_files, args=(config, Owner()), daemon=True)
    making.start()
    making.join(5)
    assert not making.is_alive()
    assert (tmp_path / "new.log").exists()


def test_reopen_makes_the_file_anew_after_rotation(tmp_path: Path) -> None:
    """logrotate: move, then SIGUSR1. The new file is there without waiting for a line."""
    path = tmp_path / "access.log"
    with open_logs(Config(access_logfile=str(path))) as logs:
        access_log.info("old")
        until(path, "old")
        path.rename(tmp_path / "access.log.1")
        logs.reopen()
        until(path, "")
        access_log.info("new")
    assert path.read_text() == "new\n"
    assert (tmp_path / "access.log.1").read_text() == "old\n"


def test_a_file_that_was_moved_is_noticed_without_a_signal(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with open_logs(Config(access_logfile=str(path))):
        access_log.info("old")
        until(path, "old")
        path.rename(tmp_path / "access.log.1")
        access_log.info("new")
    assert path.read_text() == "new\n"


def test_a_file_that_cannot_be_opened_anew_goes_on_in_the_old_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "access.log"
    with open_logs(Config(access_logfile=str(path))) as logs:
        access_log.info("one")
        until(path, "one")
        folder.rename(tmp_path / "moved")
        logs.reopen()
        access_log.info("two")
    assert (tmp_path / "moved" / "access.log").read_text() == "one\ntwo\n"
    assert f"cannot reopen {path}: No such file or directory; going on in the old file" in capfd.readouterr().err


def test_a_relative_name_is_that_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that changes directory does not take the log along when it is reopened."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with open_logs(Config(access_logfile="access.log")) as logs:
        monkeypatch.chdir("elsewhere")
        logs.reopen()
        access_log.info("here")
    assert (tmp_path / "access.log").read_text() == "here\n"


def test_nobody_reads_stdout_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines beyond the queue are dropped and counted; the end does not wait for a reader either."""
    monkeypatch.setattr(logs_module, "QUEUE_SIZE", 100)
    monkeypatch.setattr(logs_module, "FLUSH_TIMEOUT", 0.1)
    with full_stdout(monkeypatch) as reading:
        started = time.monotonic()
        with open_logs(Config(access_logfile="-")):
            for _ in range(500):
                access_log.info("%s", "x" * 99)
        assert 0.1 <= time.monotonic() - started < 2
        os.close(reading)  # lets the thread go


def test_a_reader_that_comes_back_is_told_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "QUEUE_SIZE", 100)
    received = bytearray()
    with full_stdout(monkeypatch) as reading:
        with open_logs(Config(access_logfile="-")):
            for number in range(2000):
                access_log.info("%s", f"{number} " + "x" * 99)
            received += read_all_there_is(reading)
            access_log.info("after")
            while b"after\n" not in received:
                received += os.read(reading, 65536)
        os.close(reading)
    lines = received.decode().splitlines()
    notes = [line for line in lines if "dropped" in line]
    dropped = [int(re.findall(r"\d+", note)[0]) for note in notes]
    assert sum(dropped) > 1000
    assert sum(dropped) + len(lines) - len(notes) == 2001
    assert lines[-1] == "after"


def test_the_reader_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """EPIPE costs the lines and nothing else."""
    with full_stdout(monkeypatch) as reading:
        os.close(reading)
        with open_logs(Config(access_logfile="-")):
            for _ in range(10):
                access_log.info("line")


def test_a_stream_without_a_descriptor_is_written_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`trio_wsgi.run` where standard output is an object, as in a notebook."""
    with open_logs(Config(access_logfile="-")):
        access_log.info("told")
    assert capsys.readouterr().out == "told\n"
    monkeypatch.setattr(sys, "stdout", None)
    with open_logs(Config(access_logfile="-")):
        access_log.info("told nobody")


# -- the supervisor's own ----------------------------------------------------------------------------------------------


def test_a_name_that_means_another_file_by_now_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a reload in the next release; and back to the file of before, where the new one cannot be opened."""
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    (tmp_path / "three" / "log").mkdir()
    config = Config(error_logfile="log")
    monkeypatch.chdir(tmp_path / "one")
    with CurrentLogs(config) as logs:
        error_log.error("first")
        monkeypatch.chdir(tmp_path / "two")
        logs.follow(config, Owner())
        error_log.error("second")
        monkeypatch.chdir(tmp_path / "three")
        with pytest.raises(ConfigError, match="cannot write"):
            logs.follow(config, Owner())
        error_log.error("third")
    assert [line.split()[-1] for line in (tmp_path / "one" / "log").read_text().splitlines()] == ["first"]
    assert [line.split()[-1] for line in (tmp_path / "two" / "log").read_text().splitlines()] == ["second", "third"]


def test_a_pipe_that_nobody_reads_is_not_waited_for_on_the_event_loop(tmp_path: Path) -> None:
    """HUP in a supervisor: open(2) would wait for a reader, and TERM with it. One that is read is a log like others."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with CurrentLogs(Config(error_logfile=str(tmp_path / "log"))) as logs:
        with pytest.raises(ConfigError, match=f"nobody reads the pipe {path}"):
            logs.follow(Config(error_logfile=str(path)), Owner())
        error_log.error("first")
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        logs.follow(Config(error_logfile=str(path)), Owner())
        error_log.error("second")
    assert (tmp_path / "log").read_text().split()[-1] == "first"
    assert os.read(reader, 99).split()[-1] == b"second"
    os.close(reader)


def test_a_log_that_has_to_be_is_standard_error_if_it_can_be_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """After exec(2), and where a reload finds neither the new file nor the old: somebody has to say so."""
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    with open_somehow(Config(error_logfile=str(tmp_path / "no" / "log"))) as logs:
        error_log.error("first")
        (tmp_path / "made").mkdir()
        logs.follow(Config(error_logfile=str(tmp_path / "made" / "log")), Owner())
        (tmp_path / "made").rename(tmp_path / "away")
        with pytest.raises(ConfigError, match="cannot write"):
            logs.follow(Config(error_logfile=str(tmp_path / "no" / "log")), Owner())
        error_log.error("second")
    assert [line.split()[-1] for line in capfd.readouterr().err.splitlines()] == ["first", "second"]
