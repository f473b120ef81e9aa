"""A server to test against: inside the test's own Trio loop, or as the command that a user types."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from waiting import until

import trio_wsgi
from trio_wsgi import Config, RequestRecord, Server

DEFAULTS: dict[str, Any] = {"http": "h11"}
"""Settings of `serving` where a test says nothing; the tests of the wire are run with both engines (`each_engine`)."""


@dataclass
class Served:
    """A running server: where it is and what it has recorded."""

    server: Server
    host: str
    port: int
    records: list[RequestRecord] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.server.config.scheme}://{self.host}:{self.port}"

    async def connect(self, receive_buffer: int | None = None) -> trio.SocketStream:
        """A raw TCP connection; a small `receive_buffer` (bytes) makes the server feel a slow reader soon."""
        sock = trio.socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect((self.host, self.port))
        return trio.SocketStream(sock)

    async def exchange(self, request: bytes, timeout: float = 10.0) -> bytes:
        """Send bytes, end the sending side, and read all that comes until the server closes."""
        with trio.fail_after(timeout):
            async with await self.connect() as stream:
                with contextlib.suppress(trio.BrokenResourceError):  # it was answered before it was all sent
                    await stream.send_all(request)
                    await stream.send_eof()
                return await receive_all(stream)

    async def record(self, count: int = 1) -> RequestRecord:
        """The newest record, once there are `count` of them."""
        await until(lambda: len(self.records) >= count)
        return self.records[-1]

    async def wait_connections(self, count: int, timeout: float = 10.0) -> None:
        """Until the server has so many."""
        await until(lambda: len(self.server.statistics().connections) == count, timeout)


async def receive_to_end(stream: trio.abc.ReceiveStream) -> tuple[bytes, str]:
    """All bytes until the server ends the connection, and how: "closed" in order, or "cut".

    A cut is a reset, and over TLS an end without close_notify.
    """
    received = bytearray()
    try:
        async for chunk in stream:
            received += chunk
    except trio.BrokenResourceError:
        return bytes(received), "cut"
    return bytes(received), "closed"


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    """All bytes until the server ends the connection; a cut ends it, too."""
    received, _ = await receive_to_end(stream)
    return received


def read_all(sock: socket.socket) -> bytes:
    """All bytes until the server ends the connection, by a client that waits for them."""
    return b"".join(iter(lambda: sock.recv(1 << 20), b""))


@asynccontextmanager
async def serving(app: Callable[..., Any], **settings: Any) -> AsyncIterator[Served]:
    """Serve `app` on a free port of 127.0.0.1 until the block ends; `settings` are those of Config."""
    records: list[RequestRecord] = []
    settings = DEFAULTS | settings
    settings.setdefault("bind", ("127.0.0.1:0",))
    settings.setdefault("half_close", "serve")  # `exchange` ends its sending side and is to be answered
    server = Server(app, Config(**settings), observers=(records.append,))
    async with trio.open_nursery() as nursery:
        (address, *_) = await nursery.start(server.serve)
        yield Served(server, address.host, address.port, records)
        nursery.cancel_scope.cancel()


@dataclass
class Command:
    """The command `trio-wsgi` as a process."""

    process: subprocess.Popen[bytes]
    log_path: Path
    url: str = ""

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def resident(self) -> int:
        """Bytes in memory (proc(5), VmRSS)."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 15.0) -> int:
        """The exit code."""
        return self.process.wait(timeout)


def clean_environment() -> dict[str, str]:
    """Ours without any setting; what is tested is this checkout, wherever the process changes to."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("TRIO_WSGI_", "PORT"))}
    root = str(Path(trio_wsgi.__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


WITHOUT_TERMINAL = (
    "-c",
    "import os, runpy; os.setsid(); runpy.run_module('trio_wsgi', run_name='__main__', alter_sys=True)",
)
"""For `command`: a program that runs it in a session of its own, as under systemd."""


def with_constants(**constants: float) -> tuple[str, str]:
    """For `command`: a program in which constants of trio_wsgi have other values, so that no test waits for them.

    Args:
        constants: by folder, module and name, such as `net_pool_LOST_AFTER`; workers have their own, which stay.
    """
    lines = ["import runpy"]
    for key, value in constants.items():
        folder, module, name = key.split("_", 2)
        lines.append(f"import trio_wsgi.{folder}.{module}\ntrio_wsgi.{folder}.{module}.{name} = {value}")
    lines.append("runpy.run_module('trio_wsgi', run_name='__main__', alter_sys=True)")
    return "-c", "\n".join(lines)


@contextmanager
def command(
    *arguments: str,
    cwd: str | Path | None = None,
    wait: bool = True,
    workers: int = 0,
    program: Sequence[str] = ("-m", "trio_wsgi"),
    **environ: str,
) -> Iterator[Command]:
    """Run `python -m trio_wsgi ARGUMENTS` with output in one log; killed, by its pid, when the block ends.

    Args:
        wait: until it listens.
        workers: 0 serves in the process itself, whose descriptors and memory the test may then look at.
        program: what Python runs instead, such as a framework's own command.
        environ: set for it; a PYTHONPATH comes behind this checkout.
    """
    log = tempfile.NamedTemporaryFile(prefix="trio-wsgi-test-", suffix=".log", delete=False)  # noqa: SIM115
    environment = clean_environment() | {"TRIO_WSGI_WORKERS": str(workers)}
    if path := environ.pop("PYTHONPATH", ""):
        environment["PYTHONPATH"] += os.pathsep + path
    with log:
        process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=environment | environ,
        )
    running = Command(process, Path(log.name))
    try:
        if wait:
            running.url = _wait_listening(running)
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        running.log_path.unlink()


def _wait_listening(running: Command, timeout: float = 60.0) -> str:
    patience = time.monotonic() + timeout
    while time.monotonic() < patience:
        if found := re.search(r"listening at (\S+?)[, ]", running.log):
            return found[1]
        if running.process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"the server did not start; it said:\n{running.log}")
