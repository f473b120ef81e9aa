"""Downloads from one host to another: over a link with packets of its own size, which the loopback device has not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from downloads import MIB, make_sparse
from serving import command
from tools import require_tool

SERVER, CLIENT = "192.0.2.1", "192.0.2.2"  # RFC 5737
SIZE = 200 * MIB + 12_345
MARK = b"the last bytes of it"
APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return environ["wsgi.file_wrapper"](open("large", "rb"))
"""
SERVE = """
import ctypes, os, runpy, sys
assert ctypes.CDLL(None).setns(os.open(f"/proc/{sys.argv.pop(1)}/ns/net", os.O_RDONLY), 0) == 0
runpy.run_module("trio_wsgi", run_name="__main__", alter_sys=True)
"""


@contextmanager
def host() -> Iterator[int]:
    """A network of its own (network_namespaces(7)); gives the process that keeps it."""
    keeper = subprocess.Popen(
        [require_tool("unshare"), "--net", "sh", "-c", "echo made; cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with keeper:  # closes its standard input, which ends it
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"made\n"
        yield keeper.pid


def inside(pid: int, *words: str) -> bytes:
    """What a command says in the network of that host."""
    done = subprocess.run(
        [require_tool("nsenter"), f"--net=/proc/{pid}/ns/net", *words], capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def two_hosts() -> Iterator[tuple[int, int]]:
    """A server's and a client's, with a cable (veth(4)) between them that carries one packet at a time."""
    ip = require_tool("ip")
    with host() as server, host() as client:
        inside(server, ip, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(client))
        for pid, address in ((server, SERVER), (client, CLIENT)):
            inside(pid, ip, "address", "add", f"{address}/30", "dev", "cable")
            inside(pid, ip, "link", "set", "cable", "gso_max_segs", "1", "up")
        yield server, client


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes networks")
@pytest.mark.parametrize("options", [(), ("--no-sendfile",)], ids=["sendfile", "copied"])
def test_a_large_file_arrives_whole_at_another_host(options: tuple[str, ...], tmp_path: Path) -> None:
    """PAINS 8 (gunicorn#1736, Debian 894512): whole over loopback, cut between hosts."""
    (tmp_path / "large_app.py").write_text(APP)
    make_sparse(tmp_path / "large", SIZE, {SIZE - len(MARK): MARK})
    with two_hosts() as (server, client):
        program = ("-c", SERVE, str(server))
        with command("large_app:app", "-b", f"{SERVER}:0", *options, cwd=tmp_path, program=program) as running:
            curl = [require_tool("curl"), "-sS", running.url]
            got = inside(client, *curl, "-o", "/dev/null", "-w", "%{http_code} %{size_download}")
            assert got.decode() == f"200 {SIZE}"
            assert inside(client, *curl, "-r", f"-{len(MARK)}") == MARK
