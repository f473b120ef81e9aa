"""Crowds: how many connections there can be, and who of them was answered (issue 6)."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import contestants, driver
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
