"""Rules of children that the application forks: they are no servers, hold no socket of ours, and signals end them."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from realproxies import open_nginx
from serving import WITHOUT_TERMINAL, Command, command
from waiting import wait_until
from workers import is_alive

APP = """
import multiprocessing, os, signal, subprocess, sys, time
fork = multiprocessing.get_context("fork")
signal.signal(signal.SIGUSR2, lambda *_: None)  # its own, as they are at import
daemons = []

def wait():
    time.sleep(60)

def caught():
    with open("/proc/self/status") as status:
        words = dict(line.split(":") for line in status)
    mask = int(words["SigCgt"], 16)
    names = "SIGTERM SIGINT SIGQUIT SIGHUP SIGUSR1 SIGUSR2 SIGPWR SIGTTIN SIGTTOU".split()
    print([name for name in names if mask >> (signal.Signals[name] - 1) & 1], signal.set_wakeup_fd(-1),
          signal.pthread_sigmask(signal.SIG_BLOCK, []), file=sys.stderr, flush=True)

at_import = fork.Process(target=caught)
at_import.start()
at_import.join()

def stay():
    if (pid := os.fork()) == 0:
        wait()
        os._exit(0)
    return pid

if "STAYS" in os.environ:
    staying = stay()
if "LEAVES" in os.environ:
    if os.fork() == 0:
        sys.exit()
    os.wait()

def app(environ, start_response):
    path, told = environ["PATH_INFO"], ""
    if path == "/caught":
        child = fork.Process(target=caught)
        child.start()
        child.join()
    elif path == "/ignored":
        told = subprocess.check_output(["grep", "SigIgn", "/proc/self/status"], text=True)
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
    elif path == "/stay":
        told = str(stay())
    elif path == "/staying":
        told = str(staying)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (block for block in [told.encode()])  # of no known length: the connection ends it in HTTP/1.0
"""


@contextmanager
def serving_app(folder: Path, address: str, workers: int, *words: str, **environ: str) -> Iterator[Command]:
    (folder / "forking.py").write_text(APP)
    words = ("-b", address, "--graceful-timeout", "20", *words, "forking:app")
    with command(*words, cwd=folder, workers=workers, **environ) as started:
        yield started


@pytest.fixture(params=[0, 1], ids=["standalone", "worker"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Command]:
    with serving_app(tmp_path, "127.0.0.1:0", request.param) as started:
        yield started


def get(run: Command, path: str) -> str:
    with urllib.request.urlopen(run.url + path, timeout=30) as response:
        return str(response.read().decode())


def test_a_child_has_no_handler_but_those_of_the_application(run: Command) -> None:
    """Nor our loop's descriptor to wake it, nor signals that are blocked; be it forked by a view or at import."""
    get(run, "/caught")
    wait_until(lambda: run.log.count("['") == 2)
    assert [line for line in run.log.splitlines() if line.startswith("['")] == ["['SIGUSR2'] -1 set()"] * 2


@pytest.mark.parametrize("workers", [0, 1], ids=["standalone", "worker"])
def test_a_program_does_not_ignore_job_control(workers: int, tmp_path: Path) -> None:
    """Where the server has no terminal, one of the application's does not inherit that TTIN and TTOU stop nobody: as a
    shell at a terminal that was made for it."""
    (tmp_path / "forking.py").write_text(APP)
    words = ("-b", "127.0.0.1:0", "forking:app")
    with command(*words, cwd=tmp_path, workers=workers, program=WITHOUT_TERMINAL) as run:
        ignored = int(get(run, "/ignored").split()[1], 16)
    assert [each for each in (signal.SIGTTIN, signal.SIGTTOU) if ignored >> (each - 1) & 1] == []


def test_a_child_that_is_told_to_end_as_soon_as_it_is_there_ends(run: Command) -> None:
    """No signal gets lost between the fork and its first line."""
    assert get(run, "/at-once") == f"{{{-signal.SIGTERM}}}"


def test_a_daemon_of_multiprocessing_ends_with_the_server_and_at_once(run: Command) -> None:
    """It is ended by TERM when Python exits, and waited for; who heeds none holds up the end, and the port."""
    child = int(get(run, "/daemon"))
    try:
        assert is_alive(child)
        started = time.monotonic()
        run.send_signal(signal.SIGTERM)
        assert run.wait() == 0
        assert time.monotonic() - started < 10
        assert not is_alive(child)
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", run.port))
            again.listen()
    finally:
        if is_alive(child):
            os.kill(child, signal.SIGKILL)


@contextmanager
def staying(child: int) -> Iterator[None]:
    """A child that is there all the time, and ended afterwards."""
    try:
        yield
        assert is_alive(child)
    finally:
        if is_alive(child):
            os.kill(child, signal.SIGKILL)


def test_nginx_gets_the_end_of_an_answer(run: Command, tmp_path: Path) -> None:
    """It asks in HTTP/1.0, and passes on what it has when the connection ends: not only with a child of the view's."""
    with open_nginx(
        tmp_path, lambda ports: f"server {{ listen 127.0.0.1:{ports[0]}; location / {{ proxy_pass {run.url}; }} }}"
    ) as nginx:
        url = f"http://127.0.0.1:{nginx.ports[0]}/stay"
        with urllib.request.urlopen(url, timeout=30) as response, staying(int(response.read())):
            pass


@pytest.mark.parametrize("workers", [0, 1], ids=["standalone", "worker"])
def test_the_address_is_free_when_the_server_has_ended(workers: int, tmp_path: Path) -> None:
    """Though children of the import and of a view live on: nobody waits in a queue that is not looked at."""
    with (
        serving_app(tmp_path, "127.0.0.1:0", workers, STAYS="1") as run,
        staying(int(get(run, "/staying"))),
        staying(int(get(run, "/stay"))),
    ):
        run.send_signal(signal.SIGTERM)
        assert run.wait() == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", run.port))


@pytest.mark.parametrize("workers", [0, 1], ids=["standalone", "worker"])
def test_a_child_that_leaves_takes_no_file_of_ours_along(workers: int, tmp_path: Path) -> None:
    """It goes out through all that the server has begun: the socket's file, the pid file and the channel to the
    supervisor are its parent's."""
    path = tmp_path / "socket"
    with serving_app(tmp_path, f"unix:{path}", workers, "--pid", str(tmp_path / "pid"), LEAVES="1"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        assert (tmp_path / "pid").exists()
