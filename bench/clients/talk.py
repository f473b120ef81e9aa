"""The client's half of the talk with the driver: settings in, "ready", "go", result out.

Laws:
- One JSON object a line, on stdin and stdout.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from bench.asking import choose_method


def read_settings() -> dict[str, Any]:
    """What the driver wants: the JSON object that is the only argument."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    return settings


def format_head(settings: dict[str, Any], target: str, length: int) -> bytes:
    """A request's head without its end: what the headers in `settings` say, and Host where they do not.

    Args:
        settings: of them method ("": POST with a body, else GET) and headers ("Name: value"), both optional.
        length: bytes of the body.
    """
    method = choose_method(settings.get("method", ""), bool(length))
    lines = [f"{method} {target} HTTP/1.1", *settings.get("headers", ())]
    if not any(line.lower().startswith("host:") for line in lines):
        lines.append("Host: localhost")
    if length or method != "GET":
        lines.append(f"Content-Length: {length}")
    return "".join(line + "\r\n" for line in lines).encode("latin-1")


def read_body(settings: dict[str, Any]) -> bytes:
    """What is in the file `body_file`; nothing where none is named."""
    name = settings.get("body_file")
    return Path(name).read_bytes() if name else b""


def format_request(settings: dict[str, Any]) -> bytes:
    """The whole request for `target`, its body included."""
    body = read_body(settings)
    return format_head(settings, settings["target"], len(body)) + b"\r\n" + body


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
