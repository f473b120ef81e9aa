"""A real browser to look at pages with: headless Chromium, driven over its DevTools pipe (no driver, no websocket).

`with browser() as page: page.open(url); page.run("document.title")`. What the page complained of (its console, blocked
by its Content-Security-Policy, failed to load) is in `page.complaints`.
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools import require_tool

PATIENCE = 60  # seconds for one answer: a busy machine starts a browser slowly
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps"),
    *("--no-pings", "--mute-audio", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe"),
    "--autoplay-policy=no-user-gesture-required",
)
# Chromium reads commands from descriptor 3 and writes to 4.
_EXEC = (
    "import os, sys; r, w = map(int, sys.argv[1:3]); os.dup2(r, 3); os.dup2(w, 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Page:
    """One tab.

    Args:
        commands, events: our ends of the pipe.
    """

    def __init__(self, commands: int, events: int) -> None:
        self._commands = commands
        self._events = events
        self._buffer = b""
        self._number = 0
        self._session = ""
        self.complaints: list[str] = []

    def attach(self) -> None:
        """Make the tab."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Go to a page and wait until it has loaded."""
        self.call("Page.navigate", url=url)
        self._wait_for("Page.loadEventFired")

    def follow(self, selector: str) -> None:
        """Click on a link and wait until what is behind it has loaded."""
        self.run(f"document.querySelector({json.dumps(selector)}).click()")
        self._wait_for("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def look(self, width: int = 1000, height: int = 700, scheme: str = "light") -> None:
        """Set the window's size (CSS pixels) and what `prefers-color-scheme` says."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def photograph(self, path: Path) -> None:
        """Write what is seen as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        patience = time.monotonic() + PATIENCE
        while (answer := self._receive(patience)).get("id") != self._number:
            pass
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def _wait_for(self, event: str) -> None:
        patience = time.monotonic() + PATIENCE
        while self._receive(patience).get("method") != event:
            pass

    def _receive(self, patience: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._events], [], [], max(0, patience - time.monotonic()))
            assert ready, "the browser says nothing"
            data = os.read(self._events, 1 << 20)
            assert data, "the browser is gone"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        params = message.get("params", {})
        if message.get("method") == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"]["text"])
        return message


@contextmanager
def browser() -> Iterator[Page]:
    """Start Chromium; killed, by its pid, when the block ends."""
    program = require_tool("chromium")
    from_us, commands = os.pipe()
    events, to_us = os.pipe()
    with tempfile.TemporaryDirectory(prefix="trio-wsgi-chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [sys.executable, "-c", _EXEC, str(from_us), str(to_us), program, *_FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(from_us, to_us),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us)
        os.close(to_us)
        try:
            page = Page(commands, events)
            page.attach()
            yield page
        finally:
            os.close(commands)  # the end of the pipe ends it
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(events)
