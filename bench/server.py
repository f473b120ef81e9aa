"""A contestant as a running server: its command filled in, started, waited for, ended with all its processes.

Laws:
- A server lives as long as the block of `open_server`; its session is killed at the end, whatever it did.
- It runs in the working directory of the bench, where the user's application may have files, and has the user's
  environment but for what servers take for settings.
- It is ready when it has answered; a server that does not within `PATIENCE` has failed, with its last words.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.client import ROOT, Failed
from bench.contestants import VARIABLES, Contestant
from bench.proc import find_tree

PATIENCE = 30.0  # seconds to start
FAREWELL = 5.0  # seconds to end after TERM
LOG_PAUSE = 0.1  # seconds between two looks at a log, which servers write after they have answered
IMPORT_PATIENCE = 60.0  # seconds for the import of a user's application, when we look whether it is there
IMPORT_APP = (
    "import sys, importlib; sys.stdout = sys.stderr; module, _, name = sys.argv[1].partition(':');"
    "callable(getattr(importlib.import_module(module), name)) or sys.exit('no callable')"
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a server is started with, beyond its row in the table."""

    python: str  # interpreter of the servers written in Python
    program: str  # path of the contestant's program, where it has one
    app: str  # MODULE:APP
    files: Path
    prefix: tuple[str, ...] = ()  # a command to run it under (taskset)
    threads: int = 8
    static: bool = False
    certificate: tuple[Path, Path] | None = None  # speak TLS with it


@dataclass(frozen=True, slots=True)
class Server:
    """A running contestant."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def last_words(self) -> str:
        return self.last_line() or "it said nothing"

    def last_line(self, since: int = 0, patience: float = 0.0) -> str:
        """Of what it has said, from that byte of its log on; "" where that is nothing, after so many seconds."""
        deadline = time.monotonic() + patience
        while True:
            text = self.log.read_bytes()[since:].decode(errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if lines or time.monotonic() >= deadline:
                return lines[-1][:200] if lines else ""
            time.sleep(LOG_PAUSE)

    def wait_silent(self) -> int:
        """Wait until it says nothing more of what it has answered; gives the bytes of its log."""
        before, size = -1, self.log.stat().st_size
        while size != before:
            time.sleep(LOG_PAUSE)
            before, size = size, self.log.stat().st_size
        return size

    def check_alive(self) -> None:
        """Raises Failed where the server has died."""
        code = self.process.poll()
        if code is not None:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise Failed(f"died: {how}; {self.last_words()}")


@contextmanager
def open_server(contestant: Contestant, setting: Setting) -> Iterator[Server]:
    """Run a contestant while the block runs.

    Raises:
        Failed: it did not start.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        port = find_free_port()
        log = stack.enter_context((folder / "log").open("wb"))
        command = [*setting.prefix, *build_command(contestant, setting, port, folder)]
        process = stack.enter_context(open_process(command, log, BENCH_FILES=str(setting.files)))
        server = Server(process, port, folder / "log")
        wait_until_ready(server, tls=setting.certificate is not None)
        yield server


@contextmanager
def open_process(command: Sequence[str], log: IO[bytes], **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own while the block runs; what it says goes to `log`."""
    with contextlib.ExitStack() as stack:
        with delay_interrupts():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=build_environment() | variables,
            )
            stack.callback(end, process)
        yield process


@contextmanager
def delay_interrupts() -> Iterator[None]:
    """What interrupts us within the block (Ctrl-C, TERM, a closed terminal) does so at its end."""
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handlers = {number: handler for number, handler in before.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda one, _: came.append(one))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for one in came[:1]:
            signal.raise_signal(one)


def build_command(contestant: Contestant, setting: Setting, port: int, folder: Path) -> list[str]:
    """The command line, and the configuration file in `folder` where the contestant has one."""
    cert, key = setting.certificate or ("", "")
    words: dict[str, object] = {
        "python": setting.python,
        "program": setting.program,
        "port": port,
        "app": setting.app,
        "threads": setting.threads,
        "files": setting.files,
        "folder": folder,
        "config": folder / "config",
        "cert": cert,
        "key": key,
    }
    listen, static = contestant.tls if setting.certificate else contestant.listen, contestant.static * setting.static
    if contestant.config:
        (folder / "config").write_text(contestant.config.format(**words, listen=listen.format(**words)))
    quoted = {name: shlex.quote(str(word)) for name, word in words.items()}  # paths may have spaces
    return shlex.split(
        contestant.command.format(**quoted, listen=listen.format(**quoted), static=static.format(**quoted))
    )


def build_environment() -> dict[str, str]:
    """What servers run in: the user's environment, without what would set them otherwise than their row does."""
    withheld = list_withheld()
    kept = {name: value for name, value in os.environ.items() if name not in withheld}
    return kept | {"PYTHONPATH": build_path()}


def list_withheld() -> list[str]:
    """The variables of ours that are a setting to some server, by name."""
    return [name for name in os.environ if any(fnmatch.fnmatchcase(name, pattern) for pattern in VARIABLES)]


def build_path() -> str:
    """Where servers look for modules first: the bench's own, the user's in the working directory and on PYTHONPATH."""
    folders = [str(ROOT), str(Path.cwd()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return os.pathsep.join(dict.fromkeys(filter(None, folders)))


def check_app(python: str, app: str) -> None:
    """Import an application as servers will.

    Raises:
        ValueError: it cannot be imported, or is none, and why.
    """
    if not re.fullmatch(r"[\w.]+:\w+", app):
        raise ValueError(
            f"--app {app}: write MODULE:APP; what a call makes has no name until a module says app = call()"
        )
    with tempfile.TemporaryFile() as log, open_process([python, "-c", IMPORT_APP, app], log) as process:
        try:
            code = process.wait(IMPORT_PATIENCE)
        except subprocess.TimeoutExpired:
            raise ValueError(f"--app {app}: its import is not over after {IMPORT_PATIENCE:.0f} s") from None
        log.seek(0)
        said = log.read().decode(errors="replace").strip().splitlines()
    if code:
        reason = said[-1] if said else f"exit code {code}"
        raise ValueError(f"--app {app}: {reason}; modules are looked for in {build_path()}")


def find_free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def find_program(name: str) -> str | None:
    """Its path; /usr/sbin, where nginx lives, included."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]))


def wait_until_ready(server: Server, tls: bool) -> None:
    """Wait until it answers /hello; with TLS until it listens, and a moment, since our clients check the rest."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise Failed(f"did not start: {server.last_words()}")
        left = deadline - time.monotonic()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=left) as sock:
            if tls:
                return
            sock.sendall(b"GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if sock.recv(12).startswith(b"HTTP/1."):
                return
        time.sleep(0.05)
    raise Failed(f"did not answer within {PATIENCE:.0f} s: {server.last_words()}")


def end(process: subprocess.Popen[bytes]) -> None:
    """TERM, and KILL to those of its processes that remain; at once where we are interrupted meanwhile."""
    tree = find_tree(process.pid)
    try:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(FAREWELL)
    finally:
        for pid in {*tree, *find_tree(process.pid)} - {process.pid}:
            if is_in_session(pid, process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()


def is_in_session(pid: int, session: int) -> bool:
    """Whether a process is one of ours still, and no other that has got its number."""
    try:
        return os.getsid(pid) == session
    except ProcessLookupError:
        return False
