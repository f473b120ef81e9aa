"""Flask's send_file and send_from_directory, Werkzeug's wrap_file (PAINS 1, 3, 11, 20, 21)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import flask
import httpx
import pytest
from answers import read_answer
from downloads import Client, Closes, make_file
from serving import serving
from waiting import until
from werkzeug.wrappers import Request, Response
from werkzeug.wsgi import wrap_file

SIZE = 900_001
GET = b"GET %b HTTP/1.1\r\nHost: t\r\nConnection: close\r\n%b\r\n"


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    return make_file(tmp_path / "data.bin", SIZE)


@pytest.fixture
def closes() -> Closes:
    return Closes()


@pytest.fixture
def app(tmp_path: Path, data: bytes, closes: Closes) -> flask.Flask:
    app = flask.Flask(__name__)
    path = tmp_path / "data.bin"

    def opened(position: int = 0) -> Any:
        file = closes.watch(path.open("rb"))
        file.seek(position)
        return file

    @app.get("/path")
    def by_path() -> Any:
        return flask.send_file(path)

    @app.get("/directory/<path:name>")
    def from_directory(name: str) -> Any:
        return flask.send_from_directory(tmp_path, name, as_attachment=True)

    @app.get("/unconditional")
    def unconditional() -> Any:
        return flask.send_file(path, conditional=False, etag=False)

    @app.get("/file")
    def by_file() -> Any:
        return flask.send_file(opened(), "application/octet-stream")

    @app.get("/seek/<int:position>")
    def after_seek(position: int) -> Any:
        return flask.send_file(opened(position), "application/octet-stream")

    @app.get("/length/<int:position>/<int:length>")
    def with_length(position: int, length: int) -> Any:
        response = flask.send_file(opened(position), "application/octet-stream")
        response.content_length = length
        return response

    @app.get("/memory")
    def from_memory() -> Any:
        return flask.send_file(io.BytesIO(data), "application/octet-stream")

    @app.get("/on_close")
    def with_callback() -> Any:
        response = flask.send_file(path)
        response.call_on_close(lambda: closes.times.append(0.0))
        return response

    return app


CASES = {
    "/path": (0, SIZE),
    "/directory/data.bin": (0, SIZE),
    "/unconditional": (0, SIZE),
    "/file": (0, SIZE),
    "/seek/65537": (65_537, SIZE),
    f"/seek/{SIZE}": (SIZE, SIZE),
    "/length/100/77": (100, 177),
    "/length/5/0": (5, 5),
    "/memory": (0, SIZE),
}


@pytest.mark.parametrize("sendfile", [True, False], ids=["sendfile", "copied"])
async def test_what_flask_means_is_what_arrives(app: flask.Flask, data: bytes, closes: Closes, sendfile: bool) -> None:
    """PAINS 1, 21: the file's position and Flask's length count; one connection for all of it."""
    async with serving(app, sendfile=sendfile) as served, await served.connect() as stream:
        client = Client(stream)
        for url, (first, end) in CASES.items():
            reply = await client.ask(url)
            assert (reply.status, reply.whole, reply.body) == (200, True, data[first:end]), url
            head = await client.ask(url, "HEAD")
            assert (head.status, head.body) == (200, b""), url
            assert head.headers.get(b"content-length", b"0") in (reply.headers[b"content-length"], b"0"), url
    opened = 2 * sum(url.startswith(("/file", "/seek", "/length")) for url in CASES)
    assert len(closes) == opened


RANGES: dict[str, tuple[int, int]] = {
    "bytes=0-9": (0, 10),
    "bytes=65536-131073": (65_536, 131_074),
    "bytes=899999-": (899_999, SIZE),
    "bytes=-1": (SIZE - 1, SIZE),
    "bytes=0-99999999": (0, SIZE),
}


@pytest.mark.parametrize("sendfile", [True, False], ids=["sendfile", "copied"])
@pytest.mark.parametrize("url", ["/path", "/directory/data.bin", "/unconditional", "/memory"])
async def test_ranges(app: flask.Flask, data: bytes, url: str, sendfile: bool) -> None:
    """PAINS 3: the bytes of the range, whether Werkzeug cuts it or we do."""
    async with serving(app, sendfile=sendfile) as served, await served.connect() as stream:
        client = Client(stream)
        for spec, (first, end) in RANGES.items():
            reply = await client.ask(url, headers=[("Range", spec)])
            if url == "/memory" and reply.status == 200:
                assert reply.body == data
                continue
            assert (reply.status, reply.body) == (206, data[first:end]), spec
            assert reply.headers[b"content-range"] == b"bytes %d-%d/%d" % (first, end - 1, SIZE)
        gone = await client.ask(url, headers=[("Range", f"bytes={SIZE}-")])
        assert gone.status in ((200, 416) if url == "/memory" else (416,))
        assert (await client.ask("/length/100/77")).body == data[100:177]


async def test_revalidation_and_if_range(app: flask.Flask, data: bytes) -> None:
    """Flask's ETag is its own; a stale If-Range gives the whole file."""
    async with serving(app) as served, httpx.AsyncClient(base_url=served.url) as client:
        etag = (await client.get("/path")).headers["etag"]
        again = await client.get("/path", headers={"If-None-Match": etag})
        assert (again.status_code, again.content) == (304, b"")
        part = await client.get("/path", headers={"Range": "bytes=7-8", "If-Range": etag})
        assert (part.status_code, part.content) == (206, data[7:9])
        whole = await client.get("/path", headers={"Range": "bytes=7-8", "If-Range": '"stale"'})
        assert (whole.status_code, whole.content) == (200, data)


async def test_a_tail_range_is_sought_and_not_read(tmp_path: Path) -> None:
    """PAINS 11 (waitress#359): Werkzeug reaches the tail of a file by seek(), not by reading gigabytes."""
    read = 0

    class Counting(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal read
            block = super().read(-1 if size is None else size) or b""
            read += len(block)
            return block

    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 32)

    @Request.application
    def app(request: Request) -> Response:
        body = wrap_file(request.environ, Counting(tmp_path / "huge"))
        response = Response(body, direct_passthrough=True)
        response.last_modified = None
        return response.make_conditional(request, accept_ranges=True, complete_length=1 << 32)

    async with serving(app) as served:
        answer = read_answer(await served.exchange(GET % (b"/", b"Range: bytes=-10\r\n")))
    assert (answer.status, answer.body) == (206, bytes(10))
    assert read < 1 << 20


async def test_werkzeug_wrap_file(tmp_path: Path, data: bytes, closes: Closes) -> None:
    """wrap_file uses our wrapper, and closing the response closes the file once."""

    @Request.application
    def app(request: Request) -> Response:
        file = closes.watch((tmp_path / "data.bin").open("rb"))
        wrapper = wrap_file(request.environ, file, 1000)
        assert type(wrapper) is request.environ["wsgi.file_wrapper"]
        return Response(wrapper, direct_passthrough=request.path == "/direct")

    async with serving(app) as served:
        for number, path in enumerate((b"/direct", b"/iterated"), 1):
            assert read_answer(await served.exchange(GET % (path, b""))).body == data
            await closes.wait(number)
            assert len(closes) == number


async def test_callbacks_of_the_response_run(app: flask.Flask, closes: Closes, data: bytes) -> None:
    """call_on_close: after the answer, also where the file went by the kernel, and also for HEAD.

    With direct_passthrough Werkzeug hands out the bare iterable, and by its design runs no callbacks.
    """
    async with serving(app) as served:
        assert read_answer(await served.exchange(GET % (b"/on_close", b""))).body == data
        head = (GET % (b"/on_close", b"")).replace(b"GET", b"HEAD")
        assert read_answer(await served.exchange(head), "HEAD").body == b""
        await until(lambda: closes.times)


@pytest.mark.parametrize(
    ("spec", "status", "first", "end"),
    [
        ("", 200, 0, SIZE),
        ("Range: bytes=700-799\r\n", 206, 700, 800),
        ("Range: bytes=-5\r\n", 206, SIZE - 5, SIZE),
        ('Range: bytes=700-799\r\nIf-Range: "another"\r\n', 200, 0, SIZE),
    ],
)
async def test_use_x_sendfile(
    app: flask.Flask, tmp_path: Path, data: bytes, spec: str, status: int, first: int, end: int
) -> None:
    """Flask answers a Range by its head alone, then, and leaves the bytes to the server."""
    app.config["USE_X_SENDFILE"] = True
    async with serving(app, accel=(f"/private/={tmp_path}",)) as served:
        answer = read_answer(await served.exchange(GET % (b"/path", spec.encode())))
    assert (answer.status, answer.body == data[first:end]) == (status, True)
    assert answer.values("x-sendfile") == []
    assert answer.values("content-length") == [str(end - first)]
    assert answer.values("content-range") == ([f"bytes {first}-{end - 1}/{SIZE}"] if status == 206 else [])
