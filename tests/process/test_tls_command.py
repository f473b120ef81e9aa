"""HTTPS by the command: what --check-config says, HUP with new certificates and broken ones, memory (issue 5)."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from authority import open_authority, shared_authority
from serving import Command, clean_environment, command

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    if environ["PATH_INFO"] == "/file":
        return environ["wsgi.file_wrapper"](open("large", "rb"))
    return [environ["wsgi.url_scheme"].encode()]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tls_app.py").write_text(APP)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 30)
    return tmp_path


def connect(port: int, context: ssl.SSLContext, name: str = "localhost", **options: int) -> ssl.SSLSocket:
    sock = socket.socket()
    try:
        sock.settimeout(20)
        if "receive_buffer" in options:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["receive_buffer"])
        sock.connect(("127.0.0.1", port))
        return context.wrap_socket(sock, server_hostname=name)
    except BaseException:
        sock.close()
        raise


def names_shown(port: int, context: ssl.SSLContext) -> set[str]:
    """Those in the certificate that a client gets."""
    context.check_hostname = False
    with connect(port, context) as sock:
        certificate = sock.getpeercert()
        assert certificate is not None
        return {str(value) for _, value in certificate["subjectAltName"]}


def wait_for(running: Command, pattern: str) -> None:
    patience = time.monotonic() + 20
    while not re.search(pattern, running.log):
        assert time.monotonic() < patience, running.log
        time.sleep(0.02)


# -- what is said of it ------------------------------------------------------------------------------------------------


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trio_wsgi", "--check-config", *arguments],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=60,
        check=False,
    )


def test_check_config_loads_the_certificates(folder: Path) -> None:
    certfile = shared_authority()[1]
    said = check("--certfile", certfile)
    assert said.returncode == 0, said.stderr
    assert "listen at: https://127.0.0.1:8000" in said.stdout
    assert f"certificates: {certfile}" in said.stdout
    expected = "kernel TLS: " if hasattr(ssl, "OP_ENABLE_KTLS") else "kernel TLS: not in this Python (3.12 has it)"
    assert expected in said.stdout
    said = check("--certfile", certfile, "--keyfile", "/none.key")
    assert said.returncode == 1
    assert "keyfile: '/none.key': No such file or directory" in said.stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_used_ends_the_start(workers: int, folder: Path) -> None:
    options = ("tls_app:app", "-b", "127.0.0.1:0", "--certfile", "/none.pem")
    with command(*options, cwd=folder, wait=False, workers=workers) as running:
        assert running.wait() == 1
        assert "certfile: '/none.pem': No such file or directory" in running.log


# -- HUP ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_hup_takes_a_new_certificate_and_refuses_a_broken_one(workers: int, folder: Path) -> None:
    with open_authority() as authority:
        certfile = authority.issue("old.test")
        context = authority.client_context()
        options = ("tls_app:app", "-b", "127.0.0.1:0", "--certfile", certfile)
        with command(*options, cwd=folder, workers=workers) as running:
            assert running.url.startswith("https://127.0.0.1:")
            assert names_shown(running.port, context) == {"old.test"}
            with contextlib.closing(connect(running.port, context)) as before:
                shutil.copy(authority.issue("new.test"), certfile)
                running.send_signal(signal.SIGHUP)
                patience = time.monotonic() + 30
                while names_shown(running.port, context) != {"new.test"}:
                    assert time.monotonic() < patience, running.log
                    time.sleep(0.05)
                if not workers:  # else its worker drains, and idle connections with it
                    before.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
                    assert before.recv(1000).endswith(b"https")
            Path(certfile).write_text("broken")
            running.send_signal(signal.SIGHUP)
            wait_for(running, "holds no certificate")
            assert names_shown(running.port, context) == {"new.test"}
            running.send_signal(signal.SIGTERM)
            assert running.wait() == 0


# -- memory ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stalled_downloads(running: Command, count: int) -> Iterator[None]:
    """Clients that have asked for the file and read no further than its head."""
    context = shared_authority()[0].client_context()
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(contextlib.closing(connect(running.port, context, receive_buffer=8192)))
            sock.sendall(b"GET /file HTTP/1.1\r\nHost: t\r\n\r\n")
            sock.recv(1)
        yield


@pytest.mark.slow
def test_stalled_downloads_cost_little(folder: Path) -> None:
    """Issue 5: flat memory. OpenSSL's state of a connection and one record, whatever is left of the file."""
    options = ("tls_app:app", "-b", "127.0.0.1:0", "--certfile", shared_authority()[1], "--threads", "1")
    with command(*options, cwd=folder) as running:
        with stalled_downloads(running, 10):
            time.sleep(0.2)
        before = running.resident
        with stalled_downloads(running, 100):
            time.sleep(0.5)
            each = (running.resident - before) / 100
            logging.getLogger(__name__).info("%.0f bytes for each", each)
        assert each < 100_000  # 39,000 when this was written
