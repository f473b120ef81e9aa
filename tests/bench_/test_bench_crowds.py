"""Crowds: how many connections there can be, and who of them was answered (issue 6)."""

from __future__ import annotations

import re
import shutil
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import bout, contestants, driver
from bench.client import open_client
from bench.driver import Ground, Turn
from bench.roster import Present
from bench.samples import Samples
from bench.scenarios import BY_NAME, slow
from bench.server import Setting, open_server


def test_a_crowd_of_nobody_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few descriptors a crowd is smaller, and told so; with too few it has no figures at all."""
    monkeypatch.setattr(slow, "read_limit", lambda: 1024)
    assert (slow.count_possible(files=True), slow.count_possible(files=False)) == (200, 500)
    assert slow.tell_smaller_crowds([BY_NAME["small-8"], BY_NAME["slow-100"]]) == ""
    assert "at most 200 readers, 500 idle" in slow.tell_smaller_crowds([BY_NAME["slow-1000"]])
    monkeypatch.setattr(slow, "read_limit", lambda: 256)
    ground = Ground(sys.executable, "bench.app:app", 8, Samples(tmp_path), None)
    turn = Turn(BY_NAME["idle-100"], Present(contestants.BY_NAME["trio-wsgi"], "1"), False, 1)
    finding = driver.run_bout(turn, ground, 0.2)
    assert finding.figures == {}
    assert finding.failure == "not tried: 256 descriptors are too few for a crowd; raise `ulimit -n`"


@pytest.mark.parametrize("name", ["trio-wsgi", "cheroot"])
def test_a_contestant_keeps_as_many_connections_as_a_scenario_opens(name: str, tmp_path: Path) -> None:
    """Its limit of connections is out of the way, as `contestants.py` promises: cheroot's own is ten."""
    pytest.importorskip(name.replace("-", "_"))
    setting = Setting(sys.executable, "", "bench.app:app", tmp_path)
    with open_server(contestants.BY_NAME[name], setting) as server, ExitStack() as stack:
        for _ in range(64):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            sock.sendall(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b"Hello, world!"):
                answer += sock.recv(4096)
            assert b"connection: close" not in answer.lower()


PARTIAL = """
import itertools, socket, sys, threading, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=100)
numbers = itertools.count()

def serve(sock):
    number = -1
    while data := sock.recv(65536):
        number = next(numbers) if number < 0 and b"close" not in data else number
        if 4 <= number < 64:
            time.sleep(1000)
        sock.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 13\\r\\n\\r\\nHello, world!")

while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


@pytest.mark.parametrize("wrk", [True, False], ids=["wrk", "own"])
def test_who_answers_a_few_of_its_connections_and_no_others_fails(
    wrk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each thread keeps one connection, the rest waits in vain: times of the answered would look splendid."""
    if not wrk:
        monkeypatch.setattr(bout.shutil, "which", lambda _: None)
    elif shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")
    (tmp_path / "partial.py").write_text(PARTIAL)
    row = contestants.Contestant("partial", f"{{python}} {tmp_path}/partial.py {{port}}")
    ground = Ground(sys.executable, "", 8, Samples(tmp_path), None)
    finding = driver.run_bout(Turn(BY_NAME["small-64"], Present(row, "1"), False, 2), ground, 1.0)
    assert finding.figures == {}
    assert re.fullmatch(r"(about )?[56]\d of 64 connections had no answer in 1 s", finding.failure), finding.failure


ENDER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=100)
while True:
    with listener.accept()[0] as sock:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
"""


def test_a_connection_whose_place_another_takes_has_been_answered(tmp_path: Path) -> None:
    """As with servers that end each connection after one answer: the last ones of the window wait, and not in vain."""
    (tmp_path / "ender.py").write_text(ENDER)
    row = contestants.Contestant("ender", f"{{python}} {tmp_path}/ender.py {{port}}")
    with open_server(row, Setting(sys.executable, "", "", tmp_path)) as server:
        settings = {"port": server.port, "targets": ["/"], "connections": 8, "seconds": 0.7}
        with open_client("load", [], settings) as client:
            client.wait_ready()
            client.go()
            assert client.wait_result()["requests"] > 8


@pytest.mark.parametrize(("size", "seconds"), [(13, r"1\.0"), (17_000, r"\d\.\d"), (400_000, "")])
def test_readers_who_have_read_to_the_end_are_no_slow_ones(
    size: int, seconds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their connections wait for nothing, so the good client's times beside them would look splendid."""
    monkeypatch.setattr(slow, "LEAST_SECONDS", 1.0)
    ground = Ground(
        sys.executable, "bench.app:app", 8, Samples(tmp_path), None, (f"/stream?total={size}&block=9999", "")
    )
    turn = Turn(BY_NAME["own-app-slow-1000"], Present(contestants.BY_NAME["trio-wsgi"], "1"), False, 1)
    finding = driver.run_bout(turn, ground, 0.5)
    said = f"not tried: at 16,384 bytes/s, the {size:,} bytes of the answer do not last for {seconds} s; "
    assert re.fullmatch(rf"{said}name a --target with [\d,]+ bytes or more" if seconds else "", finding.failure)
    assert finding.figures.get("moving", 0) == (0 if seconds else 1000)


def test_throughput_counts_bodies_and_not_heads(tmp_path: Path) -> None:
    """Also by wrk, which counts both: who writes long heads would be ahead."""
    ground = Ground(sys.executable, "bench.app:app", 8, Samples(tmp_path), None, ("/hello", ""))
    turn = Turn(BY_NAME["own-app-8"], Present(contestants.BY_NAME["trio-wsgi"], "1"), False, 1)
    figures = driver.run_bout(turn, ground, 0.5).figures
    assert figures["throughput"] == pytest.approx(figures["requests_per_second"] * len("Hello, world!"))
