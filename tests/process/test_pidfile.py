"""Rules of --pid: who finds which number in the file, and whose file is whose."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import wait_until

from trio_wsgi.errors import ConfigError
from trio_wsgi.process.pidfile import check_pid_file, open_pid_file


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


@pytest.mark.parametrize("content", ["", "\n", "-1", "0\n", "999999999999"])
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


PROGRAM = """
import sys
from trio_wsgi.process.pidfile import open_pid_file

with open_pid_file(sys.argv[1]):
    input()
"""


def test_one_of_a_living_server_is_refused_whatever_the_clock_says(path: Path) -> None:
    """After kill -9 it is replaced. A clock that is set moves what the system says of when a process began, not the
    file's time."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", PROGRAM, str(path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, env=environment) as process:
        try:
            wait_until(path.exists)
            before = time.time() - 3600
            os.utime(path, (before, before))
            assert_refused(
                str(path), f"{path} names process {process.pid}, which is running (stop it, or name another file)"
            )
            assert path.read_text() == f"{process.pid}\n"
        finally:
            process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
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


@pytest.mark.parametrize(
    ("name", "why"),
    [("no/such/dir/pid", "cannot write no/such/dir/pid: No such file"), (".", ". is a directory and no file")],
)
def test_where_it_cannot_be_written_is_told(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(name, why)
    assert list(tmp_path.iterdir()) == []


def assert_refused(name: str, why: str) -> None:
    """At the start, and when an upgrade is tried."""
    with pytest.raises(ConfigError, match=f"^pid: {re.escape(why)}"), open_pid_file(name):
        raise AssertionError
    with pytest.raises(ConfigError, match=f"^pid: {re.escape(why)}"):
        check_pid_file(name, os.getpid())


# -- what is no pid file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["nonsense", "[section]\n", "\u0661", "1 2", "1\n2\n", "\n" * 64 + "text"])
def test_a_file_that_holds_something_else_is_refused_and_left_alone(path: Path, content: str) -> None:
    """A slip of the hand, as `--pid site.toml`, is not to cost what the file holds."""
    path.write_text(content)
    assert_refused(str(path), f"{path} holds something else than a process id (remove it, or name another file)")
    assert path.read_text() == content


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_file_is_refused_and_neither_opened_nor_replaced(path: Path, kind: str) -> None:
    """As `--pid /dev/null`, which all programs of the machine use; and who opens a pipe waits for its other end."""
    with socket.socket(socket.AF_UNIX) as sock:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            sock.bind(str(path))
        else:
            try:
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
            except PermissionError:
                pytest.skip("only root can make one, and not in every container")
        before = path.lstat()
        assert_refused(str(path), f"{path} is a {kind} and no file (name a file, or leave the setting out)")
        assert path.lstat() == before


@pytest.mark.parametrize("there", [True, False])
def test_a_symlink_stays_and_says_where_the_file_is(path: Path, there: bool) -> None:
    """Links such as /dev/stdout are more than a name of ours."""
    target = path.with_name("target")
    if there:
        target.write_text("")
    path.symlink_to(target.name)
    with open_pid_file(str(path)):
        assert path.is_symlink()
        assert target.read_text() == f"{os.getpid()}\n"
    assert path.is_symlink()
    assert not target.exists()


def test_a_symlink_to_something_else_is_refused_like_that(path: Path) -> None:
    target = path.with_name("target")
    target.write_text("nonsense")
    path.symlink_to(target.name)
    assert_refused(str(path), f"{path} holds something else than a process id")
    assert target.read_text() == "nonsense"


def test_what_has_taken_the_name_since_is_left_alone(path: Path) -> None:
    """The end of the process waits for no pipe."""
    with open_pid_file(str(path)):
        path.unlink()
        os.mkfifo(path)
    assert stat.S_ISFIFO(path.lstat().st_mode)
