"""A supervisor under test: its workers, what they answer, and what is logged of them."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import Command, command, read_all
from waiting import wait_until

APP = """
import os, time

def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/sleep":
        time.sleep(float(query))
    if path == "/hold":  # for as long as the file is there
        open(query, "w").close()
        while os.path.exists(query):
            time.sleep(0.01)
    if path == "/block":  # the event loop
        import trio
        trio.from_thread.run_sync(time.sleep, float(query))
    return [f"{VERSION} {os.getpid()}".encode()]
"""


def write_app(folder: Path, version: str = "one", name: str = "workers_app") -> None:
    """An application that answers with its version and the id of its process; /sleep?SECONDS, /hold?FILE,
    /block?SECONDS."""
    (folder / f"{name}.py").write_text(f"VERSION = {version!r}\n{APP}")


@contextmanager
def supervised(folder: Path, *arguments: str, workers: int = 1, **options: Any) -> Iterator[Command]:
    """Serve what `write_app` has written by workers; all of them are gone afterwards. `options` are `command`'s."""
    with command("workers_app:app", "-b", "127.0.0.1:0", *arguments, cwd=folder, workers=workers, **options) as run:
        seen: set[int] = set()
        try:
            yield run
        except BaseException:
            print(run.log)  # pytest shows it with the failure
            raise
        finally:
            seen.update(worker_pids(run))
            run.process.kill()
            run.process.wait()
            wait_until(lambda: not any(map(is_alive, seen)))  # their channel has ended


def is_alive(pid: int) -> bool:
    """Whether a process is there, and not merely not collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def worker_pids(run: Command) -> list[int]:
    """The processes that the supervisor has now."""
    pid = run.process.pid
    with contextlib.suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def ready_pids(run: Command) -> set[int]:
    """The workers that have booted, and are there."""
    return set(map(int, re.findall(r"\(pid (\d+)\) is ready", run.log))) & set(worker_pids(run))


def wait_log(run: Command, text: str, count: int = 1, timeout: float = 30.0) -> None:
    """Until the log says it so often."""
    patience = time.monotonic() + timeout
    while run.log.count(text) < count:
        assert time.monotonic() < patience, f"the log does not say {text!r} {count} times:\n{run.log}"
        assert run.process.poll() is None or run.log.count(text) >= count, f"it ended:\n{run.log}"
        time.sleep(0.02)


def ask(run: Command, path: str = "/", timeout: float = 30.0) -> str:
    """The body of an answer on a connection of its own."""
    with socket.create_connection(("127.0.0.1", run.port), timeout=timeout) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        received = read_all(client)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), received
    return body.decode()


@dataclass
class Held:
    """A request that is under way until we let it go."""

    client: socket.socket
    file: Path

    def let_go(self) -> str:
        """The body of its answer, which comes from now on."""
        self.file.unlink()
        received = read_all(self.client)
        assert received.startswith(b"HTTP/1.1 200 "), received
        return received.partition(b"\r\n\r\n")[2].decode()


@contextmanager
def held_request(run: Command, folder: Path) -> Iterator[Held]:
    """A request in a thread of the application."""
    file = folder / f"held-{os.getpid()}-{time.monotonic_ns()}"
    with socket.create_connection(("127.0.0.1", run.port), timeout=60) as client:
        client.sendall(b"GET /hold?%b HTTP/1.0\r\n\r\n" % os.fsencode(file))
        wait_until(file.exists)
        yield Held(client, file)
        file.unlink(missing_ok=True)


def answering_pid(run: Command) -> int:
    """The process that answers."""
    return int(ask(run).split()[1])


def end(run: Command, number: int) -> int:
    """Send a signal and return the exit code."""
    os.kill(run.process.pid, number)
    return run.wait(30)
