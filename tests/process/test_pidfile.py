"""Rules of --pid: who finds which number in the file, and whose file is whose."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trio_wsgi.errors import ConfigError
from trio_wsgi.process.pidfile import open_pid_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.pid"


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives and is no server."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_it_names_this_process_and_is_gone_afterwards(path: Path) -> None:
    before = os.umask(0o077)
    try:
        with open_pid_file(str(path)):
            assert path.read_text() == f"{os.getpid()}\n"
            assert stat.S_IMODE(path.stat().st_mode) == 0o644
            assert list(path.parent.iterdir()) == [path]
    finally:
        os.umask(before)
    assert list(path.parent.iterdir()) == []


def test_none_is_none(path: Path) -> None:
    with open_pid_file(None):
        assert list(path.parent.iterdir()) == []


def test_one_of_a_living_process_is_refused_and_left_alone(path: Path, stranger: subprocess.Popen[bytes]) -> None:
    path.write_text(f"{stranger.pid}\n")
    why = f"pid: {path} names process {stranger.pid}, which is running \\(stop it, or name another file\\)"
    with pytest.raises(ConfigError, match=why), open_pid_file(str(path)):
        raise AssertionError
    assert path.read_text() == f"{stranger.pid}\n"


@pytest.mark.parametrize("content", ["", "nonsense", "-1", "0", "999999999999", "\u0661"])
def test_one_that_names_nobody_is_replaced(path: Path, content: str) -> None:
    path.write_text(content)
    with open_pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"


def test_one_of_a_dead_process_is_replaced(path: Path, stranger: subprocess.Popen[bytes]) -> None:
    path.write_text(f"{stranger.pid}\n")
    stranger.kill()
    os.waitid(os.P_PID, stranger.pid, os.WEXITED | os.WNOWAIT)  # a zombie: nobody has asked yet how it ended
    with open_pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
    stranger.wait()
    path.write_text(f"{stranger.pid}\n")
    with open_pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_number_that_another_process_has_got_since_keeps_nobody_from_starting(
    path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    """After kill -9 and a restart of the machine or the container, numbers are given again."""
    path.write_text(f"{stranger.pid}\n")
    before = time.time() - 3600
    os.utime(path, (before, before))
    with open_pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"


def test_our_own_number_is_ours(path: Path) -> None:
    """The first process of a container has the same number each time; so has one that replaced its program."""
    path.write_text(f"{os.getpid()}\n")
    with open_pid_file(str(path)), open_pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_successors_is_left_alone(path: Path) -> None:
    with open_pid_file(str(path)):
        path.write_text("1\n")
    assert path.read_text() == "1\n"


@pytest.mark.parametrize(("name", "why"), [("no/such/dir/pid", "No such file"), (".", "Is a directory")])
def test_where_it_cannot_be_written_is_told(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"pid: cannot write {name}: {why}"), open_pid_file(name):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []
