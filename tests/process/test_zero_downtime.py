"""Zero downtime, shown: short requests and long downloads over everything that replaces workers (issue 5).

Not one request fails and not one download is cut. What a client may do is what RFC 9110, section 9.2.2, lets it: ask
again where a connection that was used before ended without a byte of the answer.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import os
import signal
import socket
from pathlib import Path

import pytest
from downloads import make_file
from load import Load, under_load
from serving import Command
from waiting import wait_until
from workers import supervised, wait_log, worker_pids

MIB = 1 << 20
SIZE = 8 * MIB

SITE = """
import os, time

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/file":
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return environ["wsgi.file_wrapper"](open("large", "rb"))
    if path == "/who":  # says who answers, and takes its time
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "20")])
        return slowly(environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [VERSION.encode()]

def slowly(seconds):
    yield f"{os.getpid():>10}".encode()
    time.sleep(float(seconds))
    yield b" " * 10
"""


def write_site(folder: Path, version: str) -> None:
    assert len(version) == 3
    (folder / "workers_app.py").write_text(f"VERSION = {version!r}\n{SITE}")


def replace_all(run: Command, number: signal.Signals) -> None:
    """HUP or USR2: wait until all workers are new, but for those that still finish something."""
    before = run.log.count("listening at ")
    run.send_signal(number)
    wait_log(run, "listening at ", before + 1, timeout=60)


def ready(run: Command) -> int:
    return run.log.count(") is ready")


@pytest.mark.slow
def test_reload_upgrade_growth_and_shrinkage_lose_nothing(tmp_path: Path) -> None:
    digest = hashlib.sha256(make_file(tmp_path / "large", SIZE)).hexdigest()
    write_site(tmp_path, "one")
    clients = [
        *[Load.ask_once_each] * 2,
        *[Load.ask_again] * 3,
        *[functools.partial(Load.download, digest=digest, rate=rate * MIB) for rate in (1, 2, 4)],
    ]
    with supervised(tmp_path, "--graceful-timeout", "2", workers=2) as run:
        with under_load(run.port, *clients) as load:
            wait_until(lambda: all(load.answers.get(kind) for kind in ("one-shot", "keep-alive", "download")))
            write_site(tmp_path, "two")
            replace_all(run, signal.SIGHUP)
            replace_all(run, signal.SIGUSR2)
            before = ready(run)
            run.send_signal(signal.SIGTTIN)
            wait_until(lambda: ready(run) > before)
            run.send_signal(signal.SIGTTOU)
            wait_log(run, "SIGTTOU: workers: 2, were 3")
            run.send_signal(signal.SIGTTOU)
            wait_log(run, "SIGTTOU: workers: 1, were 2")
            write_site(tmp_path, "six")
            replace_all(run, signal.SIGHUP)
        assert not load.failures
        assert load.answers["download"] >= 3
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == 0
    print(f"{load.answers}, {load.retries} retries")


@pytest.mark.slow
def test_recycling_loses_nothing(tmp_path: Path) -> None:
    """PAINS 38: also where a worker is replaced all the time, and downloads outlast those who serve them."""
    digest = hashlib.sha256(make_file(tmp_path / "large", SIZE)).hexdigest()
    write_site(tmp_path, "one")
    clients = [
        Load.ask_once_each,
        *[Load.ask_again] * 2,
        *[functools.partial(Load.download, digest=digest, rate=rate * MIB) for rate in (1, 2)],
    ]
    arguments = [
        "--max-requests",
        "300",
        "--max-requests-jitter",
        "50",
        "--graceful-timeout",
        "0.5",
        "--drain-max",
        "1",
    ]
    with supervised(tmp_path, *arguments, workers=2) as run:
        with under_load(run.port, *clients) as load:
            wait_until(lambda: run.log.count("asks for a successor") >= 4, timeout=90)
            wait_until(lambda: ready(run) >= 6, timeout=90)
        assert not load.failures
        assert load.answers["download"] >= 2
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == 0
    print(f"{load.answers}, {load.retries} retries")


@pytest.mark.slow
def test_a_killed_worker_takes_only_its_own_requests_with_it(tmp_path: Path) -> None:
    """kill -9. Who is in the queue, or with another worker, is answered; nobody is refused."""
    write_site(tmp_path, "one")
    with supervised(tmp_path, "--threads", "50", workers=3) as run:
        asked: list[tuple[int, http.client.HTTPResponse]] = []
        while len({pid for pid, _ in asked}) < 2 or len(asked) < 6:  # until two workers have some of them
            response = open_response(ask_who(run, 4))
            asked.append((int(response.read(10)), response))
            assert len(asked) < 100
        victim = asked[0][0]
        os.kill(victim, signal.SIGKILL)
        late = [ask_who(run, 0) for _ in range(12)]  # while its place is empty
        for pid, response in asked:
            assert read_rest(response) == (0 if pid == victim else 10)
        for client in late:
            assert read_rest(open_response(client)) == 20
        wait_until(lambda: len(worker_pids(run)) == 3)
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == 0


def ask_who(run: Command, seconds: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", run.port), timeout=60)
    client.sendall(b"GET /who?%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % seconds)
    return client


def open_response(client: socket.socket) -> http.client.HTTPResponse:
    """The answer once its head is there; it alone holds the connection open."""
    with client:
        response = http.client.HTTPResponse(client)
    response.begin()
    assert response.status == 200
    return response


def read_rest(response: http.client.HTTPResponse) -> int:
    """How many bytes come until its end, or until it is cut."""
    with response:
        try:
            return len(response.read())
        except http.client.IncompleteRead as cut:
            return len(cut.partial)
        except ConnectionResetError:
            return 0
