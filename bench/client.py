"""A client of clients/ as a process: the driver's half of the talk.

Laws:
- A client lives as long as the block of `open_client`; nothing is left running.
- Every wait has a deadline; a client that says nothing in time is a `Failed`.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
Facts = dict[str, Any]


class Failed(Exception):
    """The contestant failed the scenario, and how: the text is for the report."""


@dataclass(slots=True)
class Client:
    """A running client."""

    process: subprocess.Popen[bytes]
    name: str
    patience: float = 60.0  # seconds for what it says
    _said: bytes = field(default=b"", repr=False)

    def wait_ready(self, patience: float | None = None) -> Facts:
        """What it says once it is connected."""
        facts: Facts = self._hear(patience or self.patience)["ready"]
        return facts

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def wait_result(self, patience: float | None = None) -> Facts:
        """What it has measured.

        Raises:
            Failed: it says that the server failed.
        """
        facts: Facts = self._hear(patience or self.patience)["result"]
        if facts.get("failure"):
            raise Failed(facts["failure"])
        return facts

    def _hear(self, patience: float) -> Facts:
        """The next line it says."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + patience
        while b"\n" not in self._said:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Failed(f"timeout: the client {self.name} was not done within {patience:.0f} s")
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                raise Failed(f"the client {self.name} ended: {self._last_words()}")
            self._said += piece
        line, _, self._said = self._said.partition(b"\n")
        facts: Facts = json.loads(line)
        return facts

    def _last_words(self) -> str:
        assert self.process.stderr is not None
        lines = self.process.stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self.process.wait()}"


@contextmanager
def open_client(name: str, prefix: list[str], settings: Facts) -> Iterator[Client]:
    """Run bench.clients.NAME while the block runs.

    Args:
        prefix: a command to run it under (taskset), or nothing.
        settings: told in the docstring of each client.
    """
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", f"bench.clients.{name}", json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    with process:
        try:
            yield Client(process, name)
        finally:
            process.kill()
