"""nginx and HAProxy as processes of a test, each with a configuration of the test's."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serving import read_all
from tools import require_tool

Configure = Callable[[list[int]], str]  # a configuration for these ports

_ATTEMPTS = 5  # somebody may take a port between our asking for it and the proxy's binding it
_PATIENCE = 60.0  # seconds for a proxy to listen


@dataclass
class RealProxy:
    """A proxy that runs.

    Args:
        ports: of 127.0.0.1, where it listens.
        log_path: of what it says on stdout and stderr.
    """

    process: subprocess.Popen[bytes]
    ports: list[int]
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")


@contextmanager
def open_nginx(folder: Path, configure: Configure, ports: int = 1) -> Iterator[RealProxy]:
    """Run nginx; `configure` gives the inside of its http block. One process, with our own rights."""

    def whole(chosen: list[int]) -> str:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "\n".join(f"{kind}_temp_path {folder}/nginx-{kind};" for kind in kinds)
        return f"""
            daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr warn;
            events {{ worker_connections 256; }}
            http {{ access_log off; {temporary}
            {configure(chosen)}
            }}
        """

    nginx = require_tool("nginx")
    with _open(folder, "nginx.conf", whole, ports, lambda path: [nginx, "-p", str(folder), "-c", path]) as proxy:
        yield proxy


@contextmanager
def open_haproxy(folder: Path, configure: Configure, ports: int = 1) -> Iterator[RealProxy]:
    """Run HAProxy; `configure` gives its whole configuration."""
    haproxy = require_tool("haproxy")
    with _open(folder, "haproxy.cfg", configure, ports, lambda path: [haproxy, "-db", "-f", path]) as proxy:
        yield proxy


def haproxy_checks(path: Path) -> dict[str, str]:
    """What HAProxy's health checks have found, by "backend/server": "L7OK" for a server that is well.

    Args:
        path: of its `stats socket`; as long as nobody answers there, nothing was found.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return {}
        sock.sendall(b"show stat\n")
        text = read_all(sock).decode()
    names, *rows = text.lstrip("# ").splitlines()
    stats = [dict(zip(names.split(","), row.split(","), strict=False)) for row in rows if row]
    return {f"{row['pxname']}/{row['svname']}": row["check_status"] for row in stats}


@contextmanager
def _open(
    folder: Path, name: str, configure: Configure, count: int, arguments: Callable[[str], list[str]]
) -> Iterator[RealProxy]:
    path, log_path = folder / name, folder / f"{name}.log"
    for attempt in range(_ATTEMPTS):
        ports = _free_ports(count)
        path.write_text(configure(ports))
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                arguments(str(path)), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        proxy = RealProxy(process, ports, log_path)
        try:
            if not _wait_listening(proxy):
                assert attempt + 1 < _ATTEMPTS, f"{name}: it did not start:\n{proxy.log}"
                continue
            yield proxy
            return
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


def _wait_listening(proxy: RealProxy) -> bool:
    """Until all its ports are open; False when it has ended instead, as when one of them was taken."""
    patience = time.monotonic() + _PATIENCE
    for port in proxy.ports:
        while True:
            if proxy.process.poll() is not None:
                return False
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
                break
            if time.monotonic() > patience:
                return False
            time.sleep(0.02)
    return proxy.process.poll() is None
