"""Rules of children that the application forks: they are no servers, and signals end them."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Command, command
from waiting import wait_until

APP = """
import multiprocessing, os, signal, sys, time
fork = multiprocessing.get_context("fork")
signal.signal(signal.SIGUSR2, lambda *_: None)  # its own, as they are at import
daemons = []

def wait():
    time.sleep(60)

def caught():
    with open("/proc/self/status") as status:
        words = dict(line.split(":") for line in status)
    mask = int(words["SigCgt"], 16)
    names = "SIGTERM SIGINT SIGQUIT SIGHUP SIGUSR1 SIGUSR2 SIGPWR".split()
    print([name for name in names if mask >> (signal.Signals[name] - 1) & 1], signal.set_wakeup_fd(-1),
          signal.pthread_sigmask(signal.SIG_BLOCK, []), file=sys.stderr, flush=True)

at_import = fork.Process(target=caught)
at_import.start()
at_import.join()

def app(environ, start_response):
    path, told = environ["PATH_INFO"], ""
    if path == "/caught":
        child = fork.Process(target=caught)
        child.start()
        child.join()
    elif path == "/at-once":
        children = [fork.Process(target=wait) for _ in range(40)]
        for child in children:
            child.start()
            child.terminate()
        time.sleep(1)
        told = str({child.exitcode for child in children})
        for child in children:
            child.kill()
    elif path == "/daemon":
        daemons.append(fork.Process(target=wait, daemon=True))
        daemons[-1].start()
        told = str(daemons[-1].pid)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [told.encode()]
"""


@pytest.fixture(params=[0, 1], ids=["standalone", "worker"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Command]:
    (tmp_path / "forking.py").write_text(APP)
    words = ("-b", "127.0.0.1:0", "--graceful-timeout", "20", "forking:app")
    with command(*words, cwd=tmp_path, workers=request.param) as started:
        yield started


def get(run: Command, path: str) -> str:
    with urllib.request.urlopen(run.url + path, timeout=30) as response:
        return str(response.read().decode())


def test_a_child_has_no_handler_but_those_of_the_application(run: Command) -> None:
    """Nor our loop's descriptor to wake it, nor signals that are blocked; be it forked by a view or at import."""
    get(run, "/caught")
    wait_until(lambda: run.log.count("['") == 2)
    assert [line for line in run.log.splitlines() if line.startswith("['")] == ["['SIGUSR2'] -1 set()"] * 2


def test_a_child_that_is_told_to_end_as_soon_as_it_is_there_ends(run: Command) -> None:
    """No signal gets lost between the fork and its first line."""
    assert get(run, "/at-once") == f"{{{-signal.SIGTERM}}}"


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_daemon_of_multiprocessing_ends_with_the_server_and_at_once(run: Command) -> None:
    """It is ended by TERM when Python exits, and waited for; who heeds none holds up the end, and the port."""
    child = int(get(run, "/daemon"))
    try:
        assert is_running(child)
        started = time.monotonic()
        run.send_signal(signal.SIGTERM)
        assert run.wait() == 0
        assert time.monotonic() - started < 10
        assert not is_running(child)
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", run.port))
            again.listen()
    finally:
        if is_running(child):
            os.kill(child, signal.SIGKILL)
