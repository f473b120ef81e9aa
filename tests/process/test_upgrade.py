"""Rules of USR2: the supervisor becomes a new program, in the same process and with the same sockets (issue 5)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
from serving import Command
from waiting import wait_until
from workers import answering_pid, ask, end, held_request, is_alive, supervised, wait_log, worker_pids, write_app

# Boots once nobody holds it up.
HELD = """
import os, time
open("importing", "w").close()
while os.path.exists("hold"):
    time.sleep(0.01)
"""

# Boots so often, and then no more: in the first worker, in the one that tries the program, in ...
COUNTING = """
import os
with open("boots", "a") as told:
    told.write("x")
if os.path.getsize("boots") > {allowed}:
    raise ValueError("once too often")
"""

# Does, when the program is tried, what somebody else may do in the moment after.
BREAKING = """
import os
if os.path.exists("then"):
    with open("then") as file:
        then = file.read()
    os.unlink("then")
    exec(then)
"""


# Put into sitecustomize.py: the new program, and only that one, lacks descriptors.
LACKING = """
import os, pathlib, socket
if "_TRIO_WSGI_STATE" in os.environ and "_TRIO_WSGI_CHECK" not in os.environ:
    def lacking(*args, had=socket.socketpair):
        if pathlib.Path(__file__).with_name("lacking").exists():
            raise OSError(24, "Too many open files")
        return had(*args)
    socket.socketpair = lacking
"""


def upgrade(run: Command) -> None:
    before = run.log.count("listening at ")
    run.send_signal(signal.SIGUSR2)
    wait_log(run, "listening at ", before + 1)


@pytest.mark.slow
def test_the_process_and_its_sockets_stay_while_all_else_is_new(tmp_path: Path) -> None:
    """So systemd, pid files and containers see nothing. Twice, as the new program has to leave all it was left. With a
    TCP socket for each worker, which their successors have to find."""
    write_app(tmp_path)
    path, pid_file = tmp_path / "socket", tmp_path / "pid"
    (tmp_path / "site.toml").write_text("")
    arguments = ["-c", "site.toml", "-b", f"unix:{path}", "--pid", str(pid_file), "--reuse-port"]
    with supervised(tmp_path, *arguments, workers=2) as run:
        inode, started = path.stat().st_ino, start_time(run.process.pid)
        for version in ("two", "three"):
            old = set(worker_pids(run))
            write_app(tmp_path, version)
            (tmp_path / "site.toml").write_text(f"ident = '{version}'\n")
            upgrade(run)
            wait_until(lambda old=old: not old & set(worker_pids(run)))  # they may have taken whoever came meanwhile
            assert ask(run).startswith(f"{version} ")
            assert len(worker_pids(run)) == 2
        assert run.log.count(f"the program has replaced itself (pid {run.process.pid})") == 2
        assert pid_file.read_text() == f"{run.process.pid}\n"
        assert path.stat().st_ino == inode
        assert start_time(run.process.pid) == started
        assert b"_TRIO_WSGI" not in Path(f"/proc/{answering_pid(run)}/environ").read_bytes().replace(
            b"_TRIO_WSGI_PATH", b""
        )
        assert_ident(run, b"three")
        assert {answering_pid(run) for _ in range(40)} == set(worker_pids(run))
        os.kill(worker_pids(run)[0], signal.SIGKILL)  # it is a parent to the workers as its former self was
        wait_log(run, "died: signal SIGKILL")
        assert end(run, signal.SIGTERM) == 0
        assert not path.exists()
        assert not pid_file.exists()


def start_time(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def assert_ident(run: Command, ident: bytes) -> None:
    with socket.create_connection(("127.0.0.1", run.port), timeout=30) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b"\r\nServer: " + ident + b"\r\n" in client.recv(9999)


def test_workers_of_the_former_program_finish_what_they_do(tmp_path: Path) -> None:
    """Those of the new one find their directory where those of the former have found it."""
    site = tmp_path / "site"
    site.mkdir()
    write_app(site)
    with supervised(tmp_path, "--chdir", "site") as run, held_request(run, tmp_path) as held:
        (old,) = worker_pids(run)
        write_app(site, "two")
        upgrade(run)
        assert ask(run).startswith("two ")
        assert held.let_go() == f"one {old}"
        wait_until(lambda: worker_pids(run) == [answering_pid(run)])
        assert end(run, signal.SIGTERM) == 0


def test_the_program_is_begun_where_the_name_of_its_directory_leads_now(tmp_path: Path) -> None:
    """A deployment that points `current` to the next release and removes the one that we stand in."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        write_app(tmp_path / version, version)
    current = tmp_path / "current"
    current.symlink_to("one")
    with supervised(current, PWD=str(current)) as run:
        current.unlink()
        current.symlink_to("two")
        shutil.rmtree(tmp_path / "one")
        upgrade(run)
        wait_until(lambda: ask(run).startswith("two "))
        assert end(run, signal.SIGTERM) == 0


def test_a_program_that_cannot_start_is_not_become(tmp_path: Path) -> None:
    """Tried in a process of its own first: a broken application, settings that cannot be used."""
    write_app(tmp_path)
    (tmp_path / "site.toml").write_text("")
    with supervised(tmp_path, "-c", "site.toml") as run:
        pid = answering_pid(run)
        for text, why in (("threads = 0", "0 is too low"), ("", "ValueError: broken")):
            (tmp_path / "site.toml").write_text(text)
            (tmp_path / "workers_app.py").write_text("raise ValueError('broken')\n")
            before = run.log.count("SIGUSR2: nothing changes")
            run.send_signal(signal.SIGUSR2)
            wait_log(run, "SIGUSR2: nothing changes", before + 1)
            assert why in run.log
            assert answering_pid(run) == pid
        assert "replaced itself" not in run.log
        assert end(run, signal.SIGTERM) == 0


def test_when_only_its_workers_cannot_boot_the_old_ones_go_on(tmp_path: Path) -> None:
    """The new program looks after them, and starts more of them, with the settings that they had."""
    write_app(tmp_path)
    app = tmp_path / "workers_app.py"
    app.write_text(COUNTING.format(allowed=2) + app.read_text())
    with supervised(tmp_path) as run:
        pid = answering_pid(run)
        run.send_signal(signal.SIGUSR2)
        wait_log(run, "SIGUSR2: nothing changes, as the application cannot boot: ")
        assert "replaced itself" in run.log
        assert "ValueError: once too often" in run.log
        assert answering_pid(run) == pid
        write_app(tmp_path, "two")
        os.kill(pid, signal.SIGKILL)
        wait_log(run, f"worker 1 (pid {pid}) died: signal SIGKILL")
        wait_log(run, "is ready", 2)
        assert ask(run).startswith("two ")
        assert end(run, signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("then", "why"),
    [
        ("open('site.toml', 'w').write('threads = ')", "site.toml is not TOML"),
        ("os.rename('logs', 'away')", "logs/error.log: No such file or directory"),
        ("os.unlink('logs/error.log'); os.mkfifo('logs/error.log')", "nobody reads the pipe "),
        ("open('site.toml', 'w').write('cpu_affinity = \"7777\"')", "CPU 7777 is not to be had"),
    ],
)
def test_what_breaks_after_the_trial_ends_nobody(then: str, why: str, tmp_path: Path) -> None:
    """An editor or a deployment that is half way: after exec(2) there is no other program to go back to."""
    write_app(tmp_path)
    app = tmp_path / "workers_app.py"
    app.write_text(BREAKING + app.read_text())
    (tmp_path / "site.toml").write_text("")
    with supervised(tmp_path, "-c", "site.toml", "--pid", "pid") as run:
        pid = answering_pid(run)
        (tmp_path / "site.toml").write_text("error_logfile = 'logs/error.log'\n")
        (tmp_path / "logs").mkdir()
        (tmp_path / "then").write_text(then)
        run.send_signal(signal.SIGUSR2)
        wait_log(run, "SIGUSR2: nothing changes: ")
        assert why in run.log
        assert f"the program has replaced itself (pid {run.process.pid})" in run.log
        assert answering_pid(run) == pid
        (tmp_path / "site.toml").write_text("")
        write_app(tmp_path, "two")
        run.send_signal(signal.SIGHUP)
        wait_until(lambda: ask(run).startswith("two "))
        assert (tmp_path / "pid").read_text() == f"{run.process.pid}\n"
        assert end(run, signal.SIGTERM) == 0
        assert not (tmp_path / "pid").exists()


def test_a_pid_file_that_cannot_be_written_after_the_trial_is_done_without(tmp_path: Path) -> None:
    write_app(tmp_path, "two")
    app = tmp_path / "workers_app.py"
    app.write_text(BREAKING + app.read_text())
    (tmp_path / "run").mkdir()
    with supervised(tmp_path, "--pid", "run/pid") as run:
        pid = answering_pid(run)
        (tmp_path / "then").write_text("import shutil; shutil.rmtree('run')")
        upgrade(run)
        assert "SIGUSR2: the pid file stays as it is: pid: cannot write run/pid" in run.log
        wait_until(lambda: answering_pid(run) != pid)  # once the old one has heard of it
        assert end(run, signal.SIGTERM) == 0


def test_an_upgrade_that_cannot_be_executed_changes_nothing(tmp_path: Path) -> None:
    """Its directory is removed after the trial; the workers are those of before."""
    site = tmp_path / "site"
    site.mkdir()
    write_app(site)
    app = site / "workers_app.py"
    app.write_text(BREAKING + app.read_text())
    with supervised(site) as run:
        pid = answering_pid(run)
        (site / "then").write_text("os.rename('../site', '../away')")
        run.send_signal(signal.SIGUSR2)
        wait_log(run, "SIGUSR2: nothing changes: upgrade: the new program cannot be executed: ")
        assert "replaced itself" not in run.log
        assert answering_pid(run) == pid
        (tmp_path / "away").rename(site)
        upgrade(run)
        assert answering_pid(run) != pid
        assert end(run, signal.SIGTERM) == 0


@pytest.mark.parametrize("ended_first", [False, True])
def test_a_new_program_without_an_event_loop_tries_again_until_it_has_one_or_is_to_end(
    ended_first: bool, tmp_path: Path
) -> None:
    """Its workers serve meanwhile; they finish when it has ended."""
    write_app(tmp_path)
    (tmp_path / "sitecustomize.py").write_text(LACKING)
    (tmp_path / "lacking").touch()
    with supervised(tmp_path, PYTHONPATH=str(tmp_path)) as run:
        pid = answering_pid(run)
        run.send_signal(signal.SIGUSR2)
        wait_log(run, "SIGUSR2: there is no event loop to be had: [Errno 24] Too many open files; trying again")
        assert answering_pid(run) == pid
        if not ended_first:
            (tmp_path / "lacking").unlink()
            wait_log(run, "listening at ", 2)
            wait_until(lambda: answering_pid(run) != pid)
        assert end(run, signal.SIGTERM) == 0
        wait_until(lambda: not is_alive(pid))
        assert "Traceback" not in run.log


def test_signals_at_any_moment_of_it_neither_kill_nor_get_lost(tmp_path: Path) -> None:
    """Between exec(2) and its handlers, a process dies of what nobody blocks."""
    write_app(tmp_path)
    with supervised(tmp_path) as run:
        run.send_signal(signal.SIGUSR2)
        while "replaced itself" not in run.log:
            for number in (signal.SIGUSR1, signal.SIGTTOU, signal.SIGPWR):  # TTIN would be a worker each time
                run.send_signal(number)
            assert run.process.poll() is None
            time.sleep(0.001)  # sent without a rest, Python's handlers interrupt each other up to a RecursionError
        write_app(tmp_path, "two")
        run.send_signal(signal.SIGHUP)
        wait_until(lambda: ask(run).startswith("two "))
        assert end(run, signal.SIGTERM) == 0


def test_what_is_asked_for_during_the_trial_is_done_afterwards_in_this_order(tmp_path: Path) -> None:
    """Each as often as it was asked for; pending in the kernel, they would be done once, and by their numbers."""
    write_app(tmp_path)
    app = tmp_path / "workers_app.py"
    app.write_text(HELD + app.read_text())
    with supervised(tmp_path) as run:
        (tmp_path / "importing").unlink()
        (tmp_path / "hold").touch()
        run.send_signal(signal.SIGUSR2)
        wait_until((tmp_path / "importing").exists)
        for count, number in enumerate((signal.SIGTTIN, signal.SIGWINCH, signal.SIGTTIN), 1):
            run.send_signal(number)
            run.send_signal(signal.SIGUSR1)  # is obeyed at once, when the other has been heard
            wait_log(run, "SIGUSR1: reopening", count)
        (tmp_path / "hold").unlink()
        wait_log(run, "SIGTTIN: workers: ", 2)
        done = re.findall(r"(SIG\w+|replaced itself)(?:: workers: (\d), were (\d))?", run.log)
        assert [each for each in done if each[1] or each[0] == "replaced itself"] == [
            ("replaced itself", "", ""),
            ("SIGTTIN", "2", "1"),
            ("SIGWINCH", "0", "2"),
            ("SIGTTIN", "1", "0"),
        ]
        assert ask(run).startswith("one ")
        assert end(run, signal.SIGTERM) == 0


@pytest.mark.slow
def test_term_at_any_moment_of_it_is_a_clean_end(tmp_path: Path) -> None:
    write_app(tmp_path)
    for text in ("the program has replaced itself", None):
        with supervised(tmp_path) as run:
            (pid,) = worker_pids(run)
            run.send_signal(signal.SIGUSR2)
            if text is None:  # the very moment that it is another program
                wait_until(lambda: b"_TRIO_WSGI_STATE" in Path(f"/proc/{run.process.pid}/environ").read_bytes())
            else:
                wait_log(run, text)
            assert end(run, signal.SIGTERM) == 0, run.log
            wait_until(lambda pid=pid: not is_alive(pid))
            assert "Traceback" not in run.log
