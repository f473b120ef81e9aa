"""A server inside somebody's Trio program: an application with a state for every moment, and what is left of it all."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from opened import list_descriptors

SIZE = 20_000_000
REQUEST = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"


class Site:
    """An application with a state for every moment at which it may be cancelled."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "large"
        with self.path.open("wb") as file:
            file.truncate(SIZE)
        self.opened: list[Any] = []
        self.closed = 0
        self.entered = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.entered.set()
        path = environ["PATH_INFO"]
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        if path == "/file":
            file = self.path.open("rb")
            self.opened.append(file)
            return environ["wsgi.file_wrapper"](file)
        if path == "/own-file":
            return environ["wsgi.file_wrapper"](_OwnFile(self))
        if path == "/write":
            write(b"x" * SIZE)
        if path == "/wait":
            trio.from_thread.run(trio.sleep_forever)
        if path == "/sleep":
            time.sleep(0.3)
        if path == "/read":
            environ["wsgi.input"].read()
        return [b"hello"]


class _OwnFile:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.file = site.path.open("rb")
        site.opened.append(self.file)
        self.read, self.fileno = self.file.read, self.file.fileno

    def close(self) -> None:
        self.site.closed += 1
        self.file.close()


@contextlib.asynccontextmanager
async def nothing_left(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """No task, descriptor or busy thread is left by what runs inside, and nothing asks to be reported."""
    await trio.to_thread.run_sync(lambda: None)  # Trio's own first thread
    tasks, before = trio.lowlevel.current_statistics().tasks_living, list_descriptors()
    yield
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    after = list_descriptors()
    assert len(after) == len(before), after ^ before
    assert not [thread.name for thread in threading.enumerate() if thread.name == "trio-wsgi app"]
    assert "please report" not in caplog.text
    gc.collect()
