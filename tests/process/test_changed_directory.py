"""Rules of paths in settings beneath an application that changes directory: they lead where they led before."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
from pathlib import Path

import pytest
from answers import Answer, read_answer
from asking import greet, request
from authority import open_authority
from serving import command, read_all, serving
from workers import wait_log

# Stands elsewhere once it is imported, as old applications like to.
WANDERS = """
import os
os.chdir("elsewhere")

def app(environ, start_response):
    if environ["PATH_INFO"] == "/accel":
        start_response("200 OK", [("X-Accel-Redirect", "/kept/a.txt")])
        return []
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % len(body)]
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An application, and a directory that it leaves for another with the same names in it."""
    for folder, content in ((tmp_path, "ours"), (tmp_path / "elsewhere", "another")):
        (folder / "files").mkdir(parents=True)
        (folder / "files" / "a.txt").write_text(content)
    (tmp_path / "temp").mkdir()
    (tmp_path / "wanders.py").write_text(WANDERS)
    return tmp_path


def ask(port: int, method: str, target: str, body: bytes = b"") -> Answer:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(request(method, target, body=body))
        return read_answer(read_all(client))


@pytest.mark.parametrize("workers", [0, 1])
def test_directories_stay_while_it_is_imported(workers: int, site: Path) -> None:
    """Those of mounts, also when they are made anew, and that of temporary files."""
    mounts = ("--static", "/s=files", "--accel", "/kept/=files")
    words = ("wanders:app", "-b", "127.0.0.1:0", *mounts, "--temp-path", "temp", "--body-buffer-size", "1k")
    with command(*words, cwd=site, workers=workers) as running:
        assert ask(running.port, "GET", "/s/a.txt").body == b"ours"
        assert ask(running.port, "GET", "/accel").body == b"ours"
        assert ask(running.port, "POST", "/", bytes(100_000)).body == b"100000"
        shutil.rmtree(site / "files")
        (site / "files").mkdir()
        (site / "files" / "a.txt").write_text("made anew")
        assert ask(running.port, "GET", "/s/a.txt").body == b"made anew"


def test_certificates_that_are_read_anew_are_those_of_the_same_place(site: Path) -> None:
    with open_authority() as authority:
        shutil.copy(authority.issue("old.test"), site / "c.pem")
        with command("wanders:app", "-b", "127.0.0.1:0", "--certfile", "c.pem", cwd=site) as running:
            shutil.copy(authority.issue("new.test"), site / "c.pem")
            running.send_signal(signal.SIGHUP)
            wait_log(running, "SIGHUP: ")
            assert ssl.get_server_certificate(("127.0.0.1", running.port)) in (site / "c.pem").read_text()


async def test_a_program_of_ones_own_may_change_directory_once_it_has_a_server(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site)
    async with serving(greet, static="/s=files", temp_path="temp", body_buffer_size=10) as served:
        monkeypatch.chdir(site / "elsewhere")
        assert read_answer(await served.exchange(request("POST", body=b"x" * 1000))).body == b"hello " + b"x" * 1000
        shutil.rmtree(site / "files")
        (site / "files").mkdir()
        (site / "files" / "a.txt").write_text("made anew")
        assert read_answer(await served.exchange(request(target="/s/a.txt"))).body == b"made anew"
