"""A request is freed when it ends: nothing of it is left for the garbage collector, whose turns keep everybody waiting.

A cycle of references would do no harm by itself; thousands of them a second are a pause of many milliseconds for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from asking import PLAIN, Environ, StartResponse
from collecting import collected
from riding import has_lane
from serving import Served, serving
from waiting import until

from trio_wsgi.net import lanes

pytestmark = pytest.mark.usefixtures("each_way")

SIZE = 300_000  # of the file, and of the larger answers: more than the kernel takes at once
REQUESTS = {
    "bytes": b"GET /bytes HTTP/1.1\r\nHost: a\r\n\r\n",
    "HEAD": b"HEAD /bytes HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/1.0": b"GET /bytes HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "blocks": b"GET /blocks HTTP/1.1\r\nHost: a\r\n\r\n",
    "write": b"GET /write HTTP/1.1\r\nHost: a\r\n\r\n",
    "file": b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n",
    "range": b"GET /file HTTP/1.1\r\nHost: a\r\nRange: bytes=5-99\r\n\r\n",
    "static mount": b"GET /static/file HTTP/1.1\r\nHost: a\r\n\r\n",
    "not modified": b"GET /tagged HTTP/1.1\r\nHost: a\r\nIf-None-Match: *\r\n\r\n",
    "upload": b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "upload, chunked": b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "error": b"GET /error HTTP/1.1\r\nHost: a\r\n\r\n",
}


class App:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        match environ["PATH_INFO"]:
            case "/blocks":
                start_response("200 OK", PLAIN)
                return self.blocks()
            case "/write":
                write = start_response("200 OK", PLAIN)
                write(b"x" * SIZE)
                return []
            case "/file":
                start_response("200 OK", PLAIN)
                return environ["wsgi.file_wrapper"](self.path.open("rb"))
            case "/tagged":
                start_response("200 OK", [*PLAIN, ("ETag", '"1"')])
                return [b"x"]
            case "/upload":
                body = environ["wsgi.input"].read()
                start_response("200 OK", PLAIN)
                return [body]
            case "/error":
                raise ValueError("the application's")
        start_response("200 OK", PLAIN)
        return [b"hello"]

    def blocks(self) -> Iterator[bytes]:
        for _ in range(3):
            yield b"x" * (SIZE // 3)


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("name", REQUESTS)
async def test_requests_and_their_connection_leave_nothing_for_the_collector(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does their lane."""
    monkeypatch.setattr(lanes, "SILENT_AFTER", 0.02)
    path = tmp_path / "file"
    path.write_bytes(b"x" * SIZE)
    async with serving(App(path), static=(f"/static={tmp_path}",)) as served:
        await ask(served, name)
        with collected() as found:
            await ask(served, name)
            await trio.testing.wait_all_tasks_blocked()
            served.records.clear()  # they hold environs
    assert not found


async def ask(served: Served, name: str) -> None:
    answer = await served.exchange(REQUESTS[name] * 5)
    assert answer.count(b"HTTP/1.1 ") == 5
    await until(lambda: not has_lane(served.server))
