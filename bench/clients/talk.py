"""The client's half of the talk with the driver: settings in, "ready", "go", result out.

Laws:
- One JSON object a line, on stdin and stdout.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from typing import Any


def read_settings() -> dict[str, Any]:
    """What the driver wants: the JSON object that is the only argument."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    return settings


def format_head(method: str, target: str, headers: Iterable[str] = ()) -> bytes:
    """A request's head without its end: what `headers` ("Name: value") say, and Host where they do not."""
    lines = [f"{method} {target} HTTP/1.1", *headers]
    if not any(line.lower().startswith("host:") for line in lines):
        lines.append("Host: localhost")
    return "".join(line + "\r\n" for line in lines).encode("latin-1")


def say_ready(**facts: object) -> None:
    print(json.dumps({"ready": facts}), flush=True)


def wait_for_go() -> float:
    """Wait for the driver's word.

    Returns:
        the time on the monotonic clock.
    """
    if not sys.stdin.readline():
        sys.exit("the driver has gone")
    return time.monotonic()


def say_result(**facts: object) -> None:
    print(json.dumps({"result": facts}), flush=True)


def wait_for_end() -> None:
    """Keep what is open until the driver ends us."""
    sys.stdin.read()
