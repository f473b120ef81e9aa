"""Rules of the process: what a signal ends and when, what it leaves behind, and with which code it exits."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import WITHOUT_TERMINAL, Command, command, with_constants
from waiting import wait_until

SIZE = 64 * 1024 * 1024

APP = """
import os, sys, threading, time
here = os.path.dirname(os.path.abspath(__file__))

class File:
    # no file of Python's own: its close() is the application's code
    def __init__(self):
        self.file = open(here + "/large", "rb")
        self.read, self.fileno = self.file.read, self.file.fileno
    def close(self):
        self.file.close()
        with open(here + "/closed", "a") as told:
            told.write("closed\\n")

def app(environ, start_response):
    path = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/file":
        return environ["wsgi.file_wrapper"](open(here + "/large", "rb"))
    if path == "/own-file":
        return environ["wsgi.file_wrapper"](File())
    if path == "/slow":
        time.sleep(float(environ["QUERY_STRING"]))
    if path == "/print":
        print("x" * 100_000)
    return [b"hello"]
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site_app.py").write_text(APP)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(SIZE)
    return tmp_path


@contextlib.contextmanager
def served(site: Path, *arguments: str, **environ: str) -> Iterator[Command]:
    with command("site_app:app", "-b", "127.0.0.1:0", "--access-logfile", "-", *arguments, cwd=site, **environ) as run:
        yield run


def ask(port: int, path: str, buffer: int | None = None) -> socket.socket:
    """A connection on which the request was sent."""
    client = socket.socket()
    if buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.settimeout(10)
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return client


def read_response(client: socket.socket) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(client)
    response.begin()
    return response


def read_all(client: socket.socket) -> int:
    """The bytes until the end, be it a reset."""
    count = 0
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(1 << 20):
            count += len(data)
    return count


def lines(run: Command, path: str) -> list[str]:
    return [line for line in run.log.splitlines() if f'"GET {path}' in line]


def outcomes(run: Command, path: str) -> list[str]:
    return re.findall(r"outcome=(\S+)", "\n".join(lines(run, path)))


# -- TERM ------------------------------------------------------------------------------------------------------------


def test_term_when_idle_exits_0_at_once(site: Path) -> None:
    with served(site) as run:
        started = time.monotonic()
        run.send_signal(signal.SIGTERM)
        assert run.wait() == 0
        assert time.monotonic() - started < 2
        assert "SIGTERM: finishing what is under way, for up to 30 s" in run.log
        assert run.log.rstrip().endswith("stopped")


def is_refused(port: int) -> bool:
    with socket.socket() as late:
        return late.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def test_term_closes_idle_connections_at_once_and_refuses_new_ones(site: Path) -> None:
    """PAINS 39: keep-alives neither block the end nor are they served on."""
    with served(site) as run, ask(run.port, "/") as idle, ask(run.port, "/slow?1") as busy:
        assert read_response(idle).read() == b"hello"
        wait_until(lambda: "/slow" not in run.log)
        time.sleep(0.1)
        run.send_signal(signal.SIGTERM)
        assert idle.recv(1) == b""
        wait_until(lambda: is_refused(run.port))  # the listener closes a moment after the idle connections
        response = read_response(busy)
        assert response.getheader("Connection") == "close"
        assert response.read() == b"hello"
        assert run.wait() == 0
        assert outcomes(run, "/slow") == ["finished"]


def test_term_lets_a_download_that_progresses_finish(site: Path) -> None:
    """PAINS, by experiment 3: most servers cut it."""
    with served(site) as run, ask(run.port, "/file", buffer=65536) as client:
        response = read_response(client)
        got = len(response.read(1 << 20))
        run.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert run.process.poll() is None
        got += len(response.read())
        assert got == SIZE
        assert run.wait() == 0
        assert outcomes(run, "/file") == ["finished"]


def test_term_cuts_what_is_left_after_graceful_timeout_and_logs_it(site: Path) -> None:
    with served(site, "--graceful-timeout", "0.3") as run, ask(run.port, "/own-file", buffer=4096) as client:
        client.recv(100)
        started = time.monotonic()
        run.send_signal(signal.SIGTERM)
        assert run.wait() == 0
        assert 0.3 <= time.monotonic() - started < 3
        assert read_all(client) < SIZE
        assert outcomes(run, "/own-file") == ["shutdown"]
        assert (site / "closed").read_text() == "closed\n"
        assert "please report" not in run.log


# -- INT and QUIT ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_int_and_quit_cut_at_once_and_close_what_the_app_has_opened(site: Path, number: signal.Signals) -> None:
    """gunicorn's quick signals."""
    with served(site) as run, ask(run.port, "/own-file", buffer=4096) as client:
        client.recv(100)
        started = time.monotonic()
        run.send_signal(number)
        assert run.wait() == 0
        assert time.monotonic() - started < 2
        assert read_all(client) < SIZE
        assert outcomes(run, "/own-file") == ["shutdown"]
        assert (site / "closed").read_text() == "closed\n"
        assert f"{number.name}: stopping" in run.log
        assert "Traceback" not in run.log


def test_a_second_signal_ends_the_process_at_once(site: Path) -> None:
    path = site / "socket"
    with served(site, "-b", f"unix:{path}") as run, ask(run.port, "/slow?60"):
        time.sleep(0.2)
        run.send_signal(signal.SIGTERM)
        wait_until(lambda: "SIGTERM: finishing" in run.log)
        started = time.monotonic()
        run.send_signal(signal.SIGTERM)
        assert run.wait() == 1
        assert time.monotonic() - started < 2
        assert "SIGTERM: stopping at once" in run.log
        assert not path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_thread_that_ignores_its_end_does_not_keep_the_process(site: Path, number: signal.Signals) -> None:
    path = site / "socket"
    words = ("site_app:app", "-b", "127.0.0.1:0", "-b", f"unix:{path}", "--graceful-timeout", "0.1")
    program = with_constants(net_pool_LOST_AFTER=0.2, process_serving_LOST_THREADS_TIMEOUT=0.5)
    with command(*words, cwd=site, program=program) as run, ask(run.port, "/slow?60"):
        time.sleep(0.2)
        run.send_signal(number)
        assert run.wait() == 0
        assert "application threads did not stop within 0.5 s of being cancelled: leaving them" in run.log
        assert not path.exists()


# -- signals at the wrong moment ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize(("check", "code"), [([], 0), (["--check-config"], 1)], ids=["serving", "checking"])
def test_a_signal_while_the_application_is_imported_ends_the_import(
    tmp_path: Path, number: signal.Signals, check: list[str], code: int
) -> None:
    """Also one that swallows exceptions; and in a container, where process 1 ignores what it does not handle.

    What was being checked is not found right then.
    """
    (tmp_path / "slow_import.py").write_text(
        "import sys, time\n"
        "print('importing', flush=True)\n"
        "try:\n    time.sleep(60)\n"
        "except Exception:\n    pass\n"
        "print('imported', flush=True)\n"
        "app = None\n"
    )
    with command("slow_import:app", "-b", "127.0.0.1:0", *check, cwd=tmp_path, wait=False) as run:
        wait_until(lambda: "importing" in run.log)
        run.send_signal(number)
        assert run.wait() == code
        assert f"{number.name}: stopped before the application was loaded" in run.log
        assert "imported" not in run.log
        assert "Traceback" not in run.log


def test_rotation_while_the_application_is_imported_does_not_kill(tmp_path: Path) -> None:
    (tmp_path / "usr1_import.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGUSR1)\ndef app(environ, start_response): ...\n"
    )
    with command("usr1_import:app", "-b", "127.0.0.1:0", cwd=tmp_path) as run:
        wait_until(lambda: "SIGUSR1: reopening the log files" in run.log)


def test_a_dump_that_fails_ends_nothing(tmp_path: Path) -> None:
    """It is asked for when something is wrong already."""
    (tmp_path / "dumped.py").write_text(
        "import trio_wsgi\n"
        "trio_wsgi.Server.statistics = lambda server: 1 / 0\n"
        "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'served']\n"
    )
    with command("dumped:app", "-b", "127.0.0.1:0", cwd=tmp_path) as run:
        run.send_signal(signal.SIGPWR)
        wait_until(lambda: "SIGPWR: what connections and threads are at cannot be told" in run.log)
        assert "ZeroDivisionError" in run.log
        assert urllib.request.urlopen(run.url, timeout=10).read() == b"served"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_between_import_and_loop_is_obeyed(tmp_path: Path, number: signal.Signals) -> None:
    """The app's own thread sends it at the moment that the main thread leaves the import."""
    (tmp_path / "early.py").write_text(
        "import os, signal, sys, threading\n"
        "def app(environ, start_response): ...\n"
        "def send():\n"
        "    import trio_wsgi.process.serving as serving\n"
        "    tuned = serving.tuned_process\n"
        f"    def and_signal():\n        os.kill(os.getpid(), {int(number)}); return tuned()\n"
        "    serving.tuned_process = and_signal\n"
        "send()\n"
    )
    with command("early:app", "-b", "127.0.0.1:0", cwd=tmp_path, wait=False) as run:
        assert run.wait() == 0
        assert f"{number.name}: " in run.log
        assert "Traceback" not in run.log


@pytest.mark.slow
def test_term_at_any_moment_of_the_start_is_a_clean_end(site: Path) -> None:
    """Before Python has come to us it ends by the signal; from then on with 0. Never with a traceback."""
    for step in range(12):
        with command("site_app:app", "-b", "127.0.0.1:0", cwd=site, wait=False) as run:
            time.sleep(step * 0.08)
            run.send_signal(signal.SIGTERM)
            assert run.wait() in (0, -signal.SIGTERM)
            assert "Traceback" not in run.log


# -- logs --------------------------------------------------------------------------------------------------------------


def test_usr1_reopens_the_logs_after_rotation(site: Path) -> None:
    access, errors = site / "access.log", site / "error.log"
    with command("site_app:app", "-b", f"unix:{site}/s", "--access-logfile", str(access), "--error-logfile",
                 str(errors), cwd=site, wait=False) as run:  # fmt: skip
        wait_until(lambda: errors.exists() and "listening" in errors.read_text())
        access.rename(site / "access.1")
        errors.rename(site / "error.1")
        run.send_signal(signal.SIGUSR1)
        wait_until(lambda: access.exists() and errors.exists())
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{site}/s")
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert b"hello" in client.recv(9999)
        wait_until(lambda: "GET / HTTP/1.0" in access.read_text())
        run.send_signal(signal.SIGTERM)
        assert run.wait() == 0
        assert "SIGUSR1: reopening the log files" in errors.read_text()
        assert "stopped" in errors.read_text()


def test_a_standard_output_that_nobody_reads_stops_nothing(site: Path) -> None:
    """The pipe is full: requests go on, and so does the end."""
    run = subprocess.Popen(
        [sys.executable, "-m", "trio_wsgi", "site_app:app", "-b", f"unix:{site}/s", "--access-logfile", "-",
         "--error-logfile", str(site / "errors")],
        stdout=subprocess.PIPE, cwd=site, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent)},
    )  # fmt: skip
    try:
        wait_until(lambda: (site / "errors").exists() and "listening" in (site / "errors").read_text())
        request = b"GET /?" + b"x" * 4000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(f"{site}/s")
            for _ in range(100):
                client.sendall(request)
                assert read_response(client).read() == b"hello"
        started = time.monotonic()
        run.send_signal(signal.SIGTERM)
        assert run.wait(10) == 0
        assert time.monotonic() - started < 3
    finally:
        run.kill()
        run.wait()
        assert run.stdout is not None
        run.stdout.close()


def test_a_standard_output_whose_reader_has_gone_stops_nothing(site: Path) -> None:
    """SIGPIPE is no death."""
    reading, writing = os.pipe()
    run = subprocess.Popen(
        [sys.executable, "-m", "trio_wsgi", "site_app:app", "-b", f"unix:{site}/s", "--access-logfile", "-",
         "--error-logfile", str(site / "errors")],
        stdout=writing, cwd=site, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent)},
    )  # fmt: skip
    os.close(writing)
    os.close(reading)
    try:
        wait_until(lambda: (site / "errors").exists() and "listening" in (site / "errors").read_text())
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{site}/s")
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert b"hello" in client.recv(9999)
        run.send_signal(signal.SIGTERM)
        assert run.wait(10) == 0
    finally:
        run.kill()
        run.wait()


def test_an_upgrade_without_a_supervisor_is_refused(site: Path) -> None:
    with served(site) as run:
        run.send_signal(signal.SIGUSR2)
        wait_until(lambda: "SIGUSR2: nothing changes: a process without a supervisor cannot be upgraded" in run.log)
        with ask(run.port, "/") as client:
            assert read_response(client).read() == b"hello"


def test_signals_for_a_supervisor_stop_nobody_without_one(site: Path) -> None:
    """TTIN and TTOU: their default is to stop the process, which TERM would not end then."""
    with command("site_app:app", "-b", "127.0.0.1:0", cwd=site, program=WITHOUT_TERMINAL) as run:
        for number in (signal.SIGTTIN, signal.SIGTTOU):
            run.send_signal(number)
        with ask(run.port, "/") as client:
            assert read_response(client).read() == b"hello"


def test_an_application_may_have_the_signal_that_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "takes.py").write_text(
        "import signal\n"
        "signal.signal(signal.SIGUSR2, lambda *_: print('its own', flush=True))\n"
        "def app(environ, start_response): ...\n"
    )
    with command("takes:app", "-b", "127.0.0.1:0", cwd=tmp_path) as run:
        run.send_signal(signal.SIGUSR2)
        wait_until(lambda: "its own" in run.log)
        assert "nothing changes" not in run.log


def test_handlers_that_an_import_sets_for_the_servers_signals_are_replaced(tmp_path: Path) -> None:
    """docs/migrating.md: with them, gunicorn's workers no longer end when they are told to."""
    (tmp_path / "takes.py").write_text(
        "import atexit, signal\n"
        "for name in 'TERM INT QUIT HUP USR1 PWR ALRM WINCH'.split():\n"
        "    signal.signal(getattr(signal, 'SIG' + name), lambda n, _: print('its own', n, flush=True))\n"
        "atexit.register(print, 'at exit', flush=True)\n"
        "def app(environ, start_response): ...\n"
    )
    with command("takes:app", "-b", "127.0.0.1:0", cwd=tmp_path) as run:
        for number in (signal.SIGALRM, signal.SIGHUP, signal.SIGUSR1, signal.SIGPWR, signal.SIGTERM):
            run.send_signal(number)
        assert run.wait() == 0
        assert f"its own {signal.SIGALRM:d}\n" in run.log and run.log.count("its own") == 1
        assert "at exit" in run.log


def test_sigpipe_sent_to_the_process_is_ignored(site: Path) -> None:
    with served(site) as run:
        run.send_signal(signal.SIGPIPE)
        with ask(run.port, "/") as client:
            assert read_response(client).read() == b"hello"


# -- limits ------------------------------------------------------------------------------------------------------------


def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one(site: Path) -> None:
    """getrlimit(2), as seen in /proc/PID/limits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        with served(site) as run:
            limits = Path(f"/proc/{run.process.pid}/limits").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    found = re.search(r"Max open files\s+(\S+)\s+(\S+)", limits)
    assert found is not None
    assert found[1] == found[2]
