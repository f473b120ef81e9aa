"""examples/embedded.py: a WSGI page, a TCP service and a background task live and end in one Trio program."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from socket import create_connection
from urllib.request import urlopen

import trio_wsgi

ROOT = Path(trio_wsgi.__file__).parent.parent


@contextmanager
def embedded() -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    process = subprocess.Popen(
        [sys.executable, "examples/embedded.py", "0", "0"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = re.fullmatch(r"page at (\S+/), echo at port (\d+)\n", process.stdout.readline())
        assert found
        yield process, found[1], int(found[2])
    finally:
        process.kill()
        process.communicate()


def test_the_page_shows_both_services_and_speaks_to_the_clients_of_the_other() -> None:
    with embedded() as (process, page, port):
        with closing(create_connection(("127.0.0.1", port), timeout=10)) as client:
            client.sendall(b"one\ntwo\n")
            assert client.recv(100) == b"one\ntwo\n"
            shown = urlopen(page, timeout=10).read().decode()
            assert "echo: 1 clients, 2 lines," in shown
            assert "server serving; 1 connections: 1 app running" in shown
            assert re.search(r"- 127\.0\.0\.1:\d+ app running in thread \d+: GET /, ", shown)
            assert urlopen(page, data=b"all hear", timeout=10).read() == b"said to 1 clients\n"
            assert client.recv(100) == b"all hear\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
        assert (process.returncode, out, err) == (0, "", "")
