"""205 Reset Content: whatever the app gives for a body, an empty one leaves, of known length (RFC 9110 §15.3.6)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from answers import read_answers
from asking import PLAIN, Environ, StartResponse
from serving import serving

from trio_wsgi import Outcome

pytestmark = pytest.mark.usefixtures("each_engine", "each_way")

RESET = "205 Reset Content"
KINDS = ["list", "generator", "write", "file", "named file", "nothing"]


class Counted:
    """A body in two blocks that counts how often it is closed."""

    def __init__(self) -> None:
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        yield from (b"never ", b"sent")

    def close(self) -> None:
        self.closed += 1


class CountedFile(io.FileIO):
    """A file that counts how often it is closed while it is open."""

    count = 0

    def close(self) -> None:
        self.count += not self.closed
        super().close()


class Resetting:
    """Answers 205, with a body of one kind; "/next" is answered as ever."""

    def __init__(self, kind: str, path: Path, headers: list[tuple[str, str]]) -> None:
        self.kind = kind
        self.path = path
        self.headers = headers
        self.given: list[Counted | CountedFile] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        if environ["PATH_INFO"] == "/next":
            start_response("200 OK", PLAIN)
            return [b"next"]
        named = [("X-Accel-Redirect", f"/named/{self.path.name}")] if self.kind == "named file" else []
        write = start_response(RESET, [*PLAIN, *self.headers, *named])
        if self.kind == "write":
            write(b"never ")
            write(b"sent")
        if self.kind == "file":
            file = CountedFile(self.path)
            self.given.append(file)
            return environ["wsgi.file_wrapper"](file)
        if self.kind == "generator":
            body = Counted()
            self.given.append(body)
            return body
        return [b"never ", b"sent"] if self.kind == "list" else []

    @property
    def closed(self) -> list[int]:
        """How often each of what was given has been closed."""
        return [given.count if isinstance(given, CountedFile) else given.closed for given in self.given]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"never sent")
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("length", [None, "99"])
async def test_no_content_leaves(kind: str, method: str, version: str, length: str | None, path: Path) -> None:
    """A client that has read an empty body of known length goes on with its connection; the body is closed once."""
    app = Resetting(kind, path, [] if length is None else [("Content-Length", length)])
    asked = f"{method} %s HTTP/{version}\r\nHost: test\r\nContent-Length: 0\r\nConnection: %s\r\n\r\n"
    raw = (asked % ("/", "keep-alive") * 2 + asked % ("/next", "close")).encode()
    async with serving(app, accel=(f"/named={path.parent}",)) as served:
        answers = read_answers(await served.exchange(raw), [method] * 3)
        await served.record(3)
    assert [(answer.status, answer.closes) for answer in answers] == [(205, False), (205, False), (200, True)]
    for answer in answers[:2]:
        assert (answer.body, answer.value("content-length"), answer.values("transfer-encoding")) == (b"", "0", [])
    assert app.closed == ([1, 1] if kind in ("generator", "file") else [])
    assert [(record.outcome, record.body_sent) for record in served.records[:2]] == [(Outcome.FINISHED, 0)] * 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings",
    [{"write_policy": "buffer"}, {"write_policy": "raise"}, {"output_buffering": 1000},
     {"optimize_send_headers": True}, {"sendfile": False}, {"limit_rate": 1000}],
    ids=str,
)  # fmt: skip
async def test_whatever_the_way_out(kind: str, settings: dict[str, Any], path: Path) -> None:
    """Neither what is buffered, nor what leaves otherwise than by itself."""
    app = Resetting(kind, path, [])
    asked = b"GET %b HTTP/1.1\r\nHost: test\r\n\r\n"
    async with serving(app, accel=(f"/named={path.parent}",), **settings) as served:
        answers = read_answers(await served.exchange(asked % b"/" + asked % b"/next"), ["GET"] * 2)
        await served.record(2)
    assert [(answer.status, answer.body) for answer in answers] == [(205, b""), (200, b"next")]
    assert answers[0].value("content-length") == "0"
    assert app.closed == ([1] if kind in ("generator", "file") else [])
