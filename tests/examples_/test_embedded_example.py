"""examples/embedded.py: a WSGI page, a TCP service and a background task live and end in one Trio program."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from socket import SHUT_WR, create_connection
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


def test_a_client_that_does_not_read_harms_nobody() -> None:
    """It may even speak while it is spoken to; it misses what there is no room for, and all others are served."""
    text = b"x" * 5_000_000
    with embedded() as (process, page, port), closing(create_connection(("127.0.0.1", port), timeout=10)) as deaf:
        deaf.sendall(b"one\n")
        assert deaf.recv(100) == b"one\n"
        said = [urlopen(page, data=text, timeout=10).read()]
        deaf.sendall(b"two\n")
        while said[-1] == b"said to 1 clients\n":
            assert len(said) < 50
            said.append(urlopen(page, data=text, timeout=10).read())
        assert said[-1] == b"said to 0 clients\n"
        with closing(create_connection(("127.0.0.1", port), timeout=10)) as client:
            client.sendall(b"three\n")
            assert client.recv(100) == b"three\n"
            assert urlopen(page, data=b"all hear", timeout=10).read() == b"said to 1 clients\n"
            assert client.recv(100) == b"all hear\n"
            client.sendall(b"four\n" * 20_000)
            client.shutdown(SHUT_WR)
            assert b"".join(iter(lambda: client.recv(100_000), b"")) == b"four\n" * 20_000
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
        assert (process.returncode, out, err) == (0, "", "")


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
