"""Rules of the supervisor: who is watched and replaced, what signals do, and with which code it ends (issue 5)."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Command, clean_environment, command
from waiting import wait_until
from workers import (
    answering_pid,
    ask,
    end,
    held_request,
    is_alive,
    ready_pids,
    supervised,
    wait_log,
    worker_pids,
    write_app,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_app(folder)
    return folder


@pytest.fixture(scope="module")
def two(site: Path) -> Iterator[Command]:
    """Two workers that many tests use, one after another; each leaves two."""
    with supervised(site, workers=2) as run:
        yield run


def wait_count(run: Command, count: int) -> None:
    """Until there are so many workers, all of them booted."""
    wait_until(lambda: len(worker_pids(run)) == len(ready_pids(run)) == count)


# -- workers -----------------------------------------------------------------------------------------------------------


def test_workers_are_fresh_interpreters_that_know_our_words(two: Command) -> None:
    """No fork of a threaded process: their command lines are their own; each leads a process group."""
    pids = worker_pids(two)
    assert len(pids) == 2
    assert two.process.pid not in pids
    for pid in pids:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"trio-wsgi worker " in line
        assert b": workers_app:app" in line
        assert os.getpgid(pid) == pid
    assert answering_pid(two) in pids


def test_a_worker_has_the_channel_of_no_other(two: Command) -> None:
    """Else the end of a supervisor or worker would not be seen. One channel, one listener; Trio has a socketpair."""
    for pid in worker_pids(two):
        others = set(worker_pids(two)) - {pid}
        sockets = socket_inodes(pid)
        for other in others:
            assert len(sockets & socket_inodes(other)) == 1  # the listener


def socket_inodes(pid: int) -> set[str]:
    found = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed by now
            found.add(str(fd.readlink()))
    return {target for target in found if target.startswith("socket:")}


def test_a_killed_worker_is_replaced_and_the_log_says_how_it_died(two: Command) -> None:
    victim = worker_pids(two)[0]
    os.kill(victim, signal.SIGKILL)
    wait_log(two, f"(pid {victim}) died: signal SIGKILL")
    wait_count(two, 2)
    assert answering_pid(two) in worker_pids(two)


def test_what_is_queued_while_no_worker_is_there_is_answered(two: Command) -> None:
    """The supervisor holds the socket: nobody is refused, nobody is reset."""
    old = set(worker_pids(two))
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, old)))
    clients = [socket.create_connection(("127.0.0.1", two.port), timeout=30) for _ in range(20)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    for client in clients:
        with client:
            assert client.recv(12) == b"HTTP/1.1 200"
    wait_count(two, 2)


def test_ttin_and_ttou_add_and_take_away_a_worker(two: Command) -> None:
    """gunicorn's; never below one."""
    two.send_signal(signal.SIGTTIN)
    wait_count(two, 3)
    two.send_signal(signal.SIGTTOU)
    wait_count(two, 2)
    two.send_signal(signal.SIGTTOU)
    wait_count(two, 1)
    before = two.log.count("SIGTTOU: workers: 1, were 1")
    two.send_signal(signal.SIGTTOU)
    wait_log(two, "SIGTTOU: workers: 1, were 1", before + 1)
    assert len(worker_pids(two)) == 1
    assert ask(two).startswith("one ")
    two.send_signal(signal.SIGTTIN)
    wait_count(two, 2)


def test_winch_takes_the_workers_away_and_ttin_brings_them_back(two: Command) -> None:
    two.send_signal(signal.SIGWINCH)
    wait_count(two, 0)
    with socket.create_connection(("127.0.0.1", two.port), timeout=30) as client:  # it waits in the queue meanwhile
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        two.send_signal(signal.SIGTTIN)
        assert client.recv(12) == b"HTTP/1.1 200"
    wait_count(two, 2)


def test_a_dump_is_passed_on_to_the_workers(two: Command) -> None:
    """Puma's PWR."""
    before = two.log.count("server serving; ")
    two.send_signal(signal.SIGPWR)
    wait_log(two, "server serving; ", before + 2)
    assert "SIGPWR: <Fleet of 2: " in two.log


def test_a_dump_names_those_who_are_there(two: Command) -> None:
    """Not the workers of before a reload, once they have ended."""
    old = set(worker_pids(two))
    two.send_signal(signal.SIGHUP)
    for pid in old:  # the supervisor has seen it, and not only the kernel
        wait_log(two, f"(pid {pid}) has ended")
    wait_count(two, 2)
    before = two.log.count("SIGPWR: <Fleet")
    two.send_signal(signal.SIGPWR)
    wait_log(two, "SIGPWR: <Fleet", before + 1)
    line = two.log.rpartition("SIGPWR: <Fleet")[2].partition("\n")[0]
    assert "<Fleet" not in line
    assert all(f"(pid {pid}) serving" in line for pid in worker_pids(two))


def test_usr2_to_a_worker_logs_its_stacks(two: Command) -> None:
    pid = answering_pid(two)
    os.kill(pid, signal.SIGUSR2)
    wait_log(two, f"(pid {pid}) says:\n")
    wait_log(two, "Current thread ")
    assert is_alive(pid)


def test_what_is_meant_for_the_supervisor_stops_no_worker(two: Command) -> None:
    """Sent to all processes of a service; TTOU comes to who writes to a terminal as well (stty tostop)."""
    pid = answering_pid(two)
    before = two.log.count(f"(pid {pid}) says:\n")
    for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH, signal.SIGUSR2):
        os.kill(pid, number)
    wait_log(two, f"(pid {pid}) says:\n", before + 1)
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T"


def test_workers_know_that_they_are_several(tmp_path: Path) -> None:
    """PEP 3333: wsgi.multiprocess; and the words of the command line are what applications see."""
    (tmp_path / "workers_app.py").write_text(
        "import sys\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [f'{environ[\"wsgi.multiprocess\"]} {sys.argv[1:]} {sys.stdin.read()!r}'.encode()]\n"
    )
    with supervised(tmp_path, "--threads", "2", workers=2) as run:
        assert ask(run) == "True ['workers_app:app', '-b', '127.0.0.1:0', '--threads', '2'] ''"


def test_a_module_beside_the_application_shadows_nothing_of_ours(tmp_path: Path) -> None:
    """A worker's own imports come from where its supervisor's came from; the application's from its directory."""
    write_app(tmp_path)
    for name in ("queue", "select", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    with command(
        "workers_app:app", "-b", "127.0.0.1:0", cwd="/", workers=1, TRIO_WSGI_CHDIR=str(tmp_path)
    ) as run:  # -m puts the directory it is started in first, so that is another one
        assert ask(run).startswith("one ")
        assert end(run, signal.SIGTERM) == 0


# -- the end -----------------------------------------------------------------------------------------------------------


def test_term_lets_requests_finish_and_exits_0(site: Path) -> None:
    with supervised(site, workers=2) as run:
        pids = worker_pids(run)
        with held_request(run, site) as held:
            run.send_signal(signal.SIGTERM)
            wait_log(run, "SIGTERM: finishing")
            assert held.let_go().startswith("one ")
        assert run.wait(30) == 0
        assert not any(map(is_alive, pids))
        assert run.log.rstrip().endswith("stopped")
        assert run.log.count("SIGTERM: finishing what is under way") == 1


AT_A_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup(1), under which tests may run, ignores it
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # standard input becomes the controlling terminal
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def start_at_terminal(site: Path, how: str, *flags: str) -> tuple[subprocess.Popen[bytes], int]:
    """A server at a terminal of its own, started by a program that is text, and that terminal's other end."""
    master, slave = pty.openpty()
    words = ["-m", "trio_wsgi", "workers_app:app", "-b", "127.0.0.1:0", *flags]
    run = subprocess.Popen(
        [sys.executable, "-c", how, *words],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=site,
        env=clean_environment(),
        start_new_session=True,
    )
    os.close(slave)
    return run, master


@pytest.mark.parametrize(("how", "workers"), [("Ctrl-C", 1), ("hangup", 1), ("hangup", 0)])
def test_the_terminal_ends_it(site: Path, how: str, workers: int) -> None:
    """Ctrl-C goes to the foreground process group: were the workers in it, ours would be their second signal. And
    a terminal that is closed is not the HUP that asks for a reload."""
    errors = site / f"{how} {workers}.log"
    run, master = start_at_terminal(site, AT_A_TERMINAL, "-w", str(workers), "--log-file", str(errors))
    try:
        wait_until(lambda: errors.exists() and "listening at" in errors.read_text())
        if how == "Ctrl-C":
            os.write(master, b"\x03")
        else:
            os.close(master)
        assert run.wait(30) == 0
    finally:
        run.kill()
        run.wait()
        if how == "Ctrl-C":
            os.close(master)
    log = errors.read_text()
    assert ("SIGINT: stopping" if how == "Ctrl-C" else "the terminal has gone") in log
    assert log.count("(pid") == 2 * workers + 1  # ready, listening, has ended
    assert "has ended: " not in log


IN_THE_BACKGROUND = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
attributes = termios.tcgetattr(0)
attributes[3] |= termios.TOSTOP  # local modes: who writes from the background gets SIGTTOU
termios.tcsetattr(0, termios.TCSANOW, attributes)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_terminal_that_wants_no_output_from_the_background_changes_nothing(site: Path) -> None:
    """stty tostop: the signal that comes with each line does not end a worker, as it would if it were sent."""
    run, master = start_at_terminal(site, IN_THE_BACKGROUND, "-w", "1")
    told, asked = "", False
    try:
        while "stopped" not in told and select.select([master], [], [], 10)[0]:
            told += os.read(master, 4096).decode()
            if "listening at" in told and not asked:
                asked = True
                signal_child(run, signal.SIGTERM)
        assert "stopped" in told
        assert "SIGTTOU" not in told
        assert run.wait(30) == 0
    finally:
        if run.poll() is None:
            signal_child(run, signal.SIGKILL)
        run.wait()
        os.close(master)


def signal_child(run: subprocess.Popen[bytes], number: int) -> None:
    for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split():
        os.kill(int(pid), number)


def test_a_second_signal_ends_all_at_once(site: Path) -> None:
    with supervised(site, workers=2) as run, held_request(run, site):
        pids = worker_pids(run)
        run.send_signal(signal.SIGTERM)
        wait_log(run, "SIGTERM: finishing")
        assert end(run, signal.SIGTERM) == 1
        assert not any(map(is_alive, pids))


def test_a_thread_that_an_application_leaves_gets_graceful_timeout_and_no_more(tmp_path: Path) -> None:
    """Python waits for it at exit, for ever; nothing is served by then."""
    thread = "import threading\nthreading.Thread(target=threading.Event().wait, name='left').start()\n"
    (tmp_path / "workers_app.py").write_text(f"{thread}def app(environ, start_response): ...\n")
    with supervised(tmp_path, "--graceful-timeout", "0.1", "--timeout", "none") as run:
        assert end(run, signal.SIGTERM) == 0
        assert "worker 1 (pid " in run.log
        assert "Timeout (0:00:01)!\n" in run.log  # and where its threads were
        assert "has ended: exit code 1" in run.log


def test_a_worker_ends_as_it_should_where_the_system_has_no_thread_to_limit_that(tmp_path: Path) -> None:
    refuse = "def refuse(*_, **__):\n    raise RuntimeError('unable to start watchdog thread')\n"
    patch = f"import faulthandler\n{refuse}faulthandler.dump_traceback_later = refuse\n"
    (tmp_path / "workers_app.py").write_text(f"{patch}def app(environ, start_response): ...\n")
    with supervised(tmp_path) as run:
        assert end(run, signal.SIGTERM) == 0
        assert "has ended\n" in run.log
        assert "watchdog" not in run.log


def test_term_to_all_processes_cuts_nothing(site: Path) -> None:
    """systemd's KillMode=control-group: what a worker gets twice is not urgent, as its supervisor knows better."""
    with supervised(site) as run, held_request(run, site) as held:
        for pid in [*worker_pids(run), run.process.pid]:
            os.kill(pid, signal.SIGTERM)
        wait_log(run, "SIGTERM: finishing")
        assert held.let_go().startswith("one ")
        assert run.wait(30) == 0


def test_workers_do_not_outlive_a_killed_supervisor(site: Path) -> None:
    """kill -9: what is under way is finished, and nobody serves for ever."""
    with supervised(site, workers=2) as run, held_request(run, site) as held:
        pids = worker_pids(run)
        run.process.kill()
        wait_until(lambda: "the supervisor has gone: finishing what is under way" in run.log)
        assert held.let_go().startswith("one ")
        wait_until(lambda: not any(map(is_alive, pids)))


def test_a_worker_that_is_told_to_end_has_ended_and_not_died(two: Command) -> None:
    """By TERM to it alone, whether its successor serves by then or not: no error for who reads the log."""
    victim = worker_pids(two)[0]
    os.kill(victim, signal.SIGTERM)
    wait_log(two, f"(pid {victim}) has ended\n")
    assert f"(pid {victim}) asks for a successor: SIGTERM" in two.log
    assert f"(pid {victim}) died" not in two.log
    wait_count(two, 2)


def test_a_unix_socket_is_there_while_workers_come_and_go_and_gone_in_the_end(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with supervised(site, "-b", f"unix:{path}") as run:
        (old,) = worker_pids(run)
        with held_request(run, site) as held:
            os.kill(old, signal.SIGTERM)  # it finishes this, and has a successor before
            with socket.socket(socket.AF_UNIX) as other:
                other.settimeout(30)
                other.connect(str(path))
                other.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert other.recv(12) == b"HTTP/1.1 200"
            assert held.let_go() == f"one {old}"
        assert path.exists()
        assert end(run, signal.SIGTERM) == 0
        assert not path.exists()


def test_signals_while_the_first_workers_boot_are_obeyed(tmp_path: Path) -> None:
    (tmp_path / "slow_boot.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    with command("slow_boot:app", "-b", "127.0.0.1:0", cwd=tmp_path, workers=2, wait=False) as run:
        wait_log(run, "importing", 2)
        run.send_signal(signal.SIGHUP)  # waits for its turn, which does not come
        assert end(run, signal.SIGINT) == 0
        assert "Traceback" not in run.log


def test_each_worker_listens_for_itself_under_reuse_port(site: Path) -> None:
    """SO_REUSEPORT: the kernel spreads connections; a successor takes over the queue of the one it follows."""
    with supervised(site, "--reuse-port", workers=2) as run:
        pids = worker_pids(run)
        assert not socket_inodes(pids[0]) & socket_inodes(pids[1])
        assert {answering_pid(run) for _ in range(40)} == set(pids)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, pids)))
        assert len({answering_pid(run) for _ in range(20)} & set(pids)) == 0
        assert end(run, signal.SIGTERM) == 0


def test_under_reuse_port_nobody_waits_for_a_worker_that_has_not_loaded_the_application(tmp_path: Path) -> None:
    """Nor is reset by one that never will: TTIN with a slow import, and the successor of a killed worker."""
    app = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'ok']\n"
    (tmp_path / "site_app.py").write_text(app)

    def ask() -> None:
        with urllib.request.urlopen(run.url, timeout=5) as answer:
            assert answer.read() == b"ok"

    with command("site_app:app", "-b", "127.0.0.1:0", "--reuse-port", cwd=tmp_path, workers=1) as run:
        wait_until(lambda: len(ready_pids(run)) == 1)
        (tmp_path / "site_app.py").write_text(f"import time\ntime.sleep(2)\n{app}")
        run.send_signal(signal.SIGTTIN)
        asked = 0
        while len(ready_pids(run)) < 2:
            ask()
            asked += 1
        assert asked > 20  # none of them waited for the import
        for number in (2, 1):  # the first one's is there before any worker, so it is another matter
            (tmp_path / "site_app.py").write_text("raise RuntimeError('no database')\n")
            killed = int(re.findall(rf"worker {number} \(pid (\d+)\) is ready", run.log)[-1])
            os.kill(killed, signal.SIGKILL)
            wait_log(run, f"worker {number} cannot boot")
            for _ in range(40):
                ask()
            (tmp_path / "site_app.py").write_text(app)
            wait_until(lambda: len(ready_pids(run)) == 2)
        assert end(run, signal.SIGTERM) == 0


# -- those who hang ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_whose_loop_is_blocked_is_replaced_with_its_stacks_in_the_log(site: Path) -> None:
    with supervised(site, "--timeout", "2") as run:
        (pid,) = worker_pids(run)
        with socket.create_connection(("127.0.0.1", run.port), timeout=30) as client:
            client.sendall(b"GET /block?60 HTTP/1.0\r\n\r\n")
            wait_log(run, f"worker 1 (pid {pid}) gave no sign of life for 2 s (timeout): it is killed")
            wait_log(run, f"worker 1 (pid {pid}) died: signal SIGKILL")
        log = run.log
        assert 'workers_app.py", line' in log  # the application's thread
        assert "(most recent call first)" in log
        assert answering_pid(run) != pid
        assert end(run, signal.SIGTERM) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_worker_that_hangs_when_it_is_told_to_end_gets_graceful_timeout(number: int, tmp_path: Path) -> None:
    """And no more, however long `timeout` is."""
    write_app(tmp_path)
    app = tmp_path / "workers_app.py"
    app.write_text(app.read_text().replace("time.sleep, ", "lambda it: (open('stuck', 'w').close(), time.sleep(it)), "))
    with (
        supervised(tmp_path, "--timeout", "none", "--graceful-timeout", "0.2") as run,
        socket.create_connection(("127.0.0.1", run.port), timeout=30) as client,
    ):
        (pid,) = worker_pids(run)
        client.sendall(b"GET /block?60 HTTP/1.0\r\n\r\n")
        wait_until((tmp_path / "stuck").exists)
        run.send_signal(number)
        wait_log(run, f"worker 1 (pid {pid}) gave no sign of life for 3.2 s (graceful_timeout): it is killed")
        wait_until(lambda: not is_alive(pid))
        if number == signal.SIGHUP:
            assert answering_pid(run) != pid
            run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 0


@pytest.mark.slow
def test_requests_may_take_longer_than_timeout(site: Path) -> None:
    """PAINS 28: it is the event loop that has to live, not a request that has to be quick."""
    with supervised(site, "--timeout", "2") as run:
        (pid,) = worker_pids(run)
        assert ask(run, "/sleep?3") == f"one {pid}"
        assert end(run, signal.SIGTERM) == 0
