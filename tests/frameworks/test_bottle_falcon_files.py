"""Bottle's static_file, Falcon's streams and static routes (PAINS 1, 3, 4: falcon#1991)."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bottle
import falcon
import pytest
from downloads import Client, Closes, make_file
from serving import serving

SIZE = 800_001


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    return make_file(tmp_path / "data.bin", SIZE)


def bottle_app(directory: Path, closes: Closes) -> Any:
    app = bottle.Bottle()

    def opened(position: int = 0) -> Any:
        file = closes.watch((directory / "data.bin").open("rb"))
        file.seek(position)
        return file

    @app.get("/static/<name>")  # type: ignore[untyped-decorator]
    def static(name: str) -> Any:
        return bottle.static_file(name, root=str(directory))

    @app.get("/file")  # type: ignore[untyped-decorator]
    def file() -> Any:
        return opened()

    @app.get("/seek/<position:int>")  # type: ignore[untyped-decorator]
    def after_seek(position: int) -> Any:
        return opened(position)

    @app.get("/length/<position:int>/<length:int>")  # type: ignore[untyped-decorator]
    def with_length(position: int, length: int) -> Any:
        bottle.response.content_length = length
        return opened(position)

    @app.get("/memory")  # type: ignore[untyped-decorator]
    def memory() -> Any:
        return io.BytesIO((directory / "data.bin").read_bytes())

    return app


def falcon_app(directory: Path, closes: Closes) -> Any:
    def opened(position: int = 0) -> Any:
        file = closes.watch((directory / "data.bin").open("rb"))
        file.seek(position)
        return file

    class File:
        def on_get(self, request: Any, response: Any, position: int = 0, length: int | None = None) -> None:
            if length is None:
                response.stream = opened(position)
            else:
                response.set_stream(opened(position), length)

        on_head = on_get

    class Memory:
        def on_get(self, request: Any, response: Any) -> None:
            response.stream = io.BytesIO((directory / "data.bin").read_bytes())

        on_head = on_get

    app = falcon.App()
    app.add_static_route("/static", directory)
    file = File()
    app.add_route("/file", file)
    app.add_route("/seek/{position:int}", file)
    app.add_route("/length/{position:int}/{length:int}", file)
    app.add_route("/memory", Memory())
    return app


CASES = {
    "/static/data.bin": (0, SIZE),
    "/file": (0, SIZE),
    "/seek/65537": (65_537, SIZE),
    f"/seek/{SIZE}": (SIZE, SIZE),
    "/length/100/77": (100, 177),
    "/length/5/0": (5, 5),
    "/memory": (0, SIZE),
}
APPS: dict[str, Callable[[Path, Closes], Any]] = {"bottle": bottle_app, "falcon": falcon_app}


@pytest.mark.parametrize("sendfile", [True, False], ids=["sendfile", "copied"])
@pytest.mark.parametrize("framework", APPS)
async def test_what_the_framework_means_is_what_arrives(
    tmp_path: Path, data: bytes, framework: str, sendfile: bool
) -> None:
    """The file's position and the framework's length count; one connection for all; every file is closed once."""
    closes = Closes()
    async with serving(APPS[framework](tmp_path, closes), sendfile=sendfile) as served:
        async with await served.connect() as stream:
            client = Client(stream)
            for url, (first, end) in CASES.items():
                reply = await client.ask(url)
                assert (reply.status, reply.whole, reply.body) == (200, True, data[first:end]), url
        assert len(closes) == sum(url.startswith(("/file", "/seek", "/length")) for url in CASES)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("framework", APPS)  # Falcon leaves a file that HEAD does not send to the garbage collector
async def test_head(tmp_path: Path, data: bytes, framework: str) -> None:
    """No body, and the next answer starts where it has to."""
    async with serving(APPS[framework](tmp_path, Closes())) as served, await served.connect() as stream:
        client = Client(stream)
        for url in CASES:
            reply = await client.ask(url, "HEAD")
            assert (reply.status, reply.body, reply.whole) == (200, b"", True), url
        assert (await client.ask("/length/100/77")).body == data[100:177]
    gc.collect()


@pytest.mark.parametrize("sendfile", [True, False], ids=["sendfile", "copied"])
@pytest.mark.parametrize("framework", APPS)
@pytest.mark.parametrize(
    ("spec", "first", "end"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=65536-131073", 65_536, 131_074),
        ("bytes=799999-", 799_999, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        ("bytes=0-99999999", 0, SIZE),
    ],
)
async def test_ranges_of_the_framework_itself(
    tmp_path: Path, data: bytes, framework: str, spec: str, first: int, end: int, sendfile: bool
) -> None:
    """PAINS 3, 4: the bytes are compared, not the headers. Both frameworks answer a Range themselves."""
    app = APPS[framework](tmp_path, Closes())
    async with serving(app, sendfile=sendfile, allow_ranges=False) as served, await served.connect() as stream:
        client = Client(stream)
        for _ in range(2):
            reply = await client.ask("/static/data.bin", headers=[("Range", spec)])
            assert (reply.status, reply.body) == (206, data[first:end])
            assert reply.headers[b"content-range"] == b"bytes %d-%d/%d" % (first, end - 1, SIZE)


@pytest.mark.parametrize("framework", APPS)
async def test_ranges_of_ours(tmp_path: Path, data: bytes, framework: str) -> None:
    """Where the framework has none of its own, a file it answers whole is ranged by us."""
    async with serving(APPS[framework](tmp_path, Closes())) as served, await served.connect() as stream:
        client = Client(stream)
        reply = await client.ask("/file", headers=[("Range", "bytes=7-700000")])
        assert (reply.status, reply.body) == (206, data[7:700_001])


@pytest.mark.parametrize("framework", APPS)
async def test_revalidation(tmp_path: Path, data: bytes, framework: str) -> None:
    """Last-Modified and ETag of the framework's own static files lead to a 304 without a body."""
    async with serving(APPS[framework](tmp_path, Closes())) as served, await served.connect() as stream:
        client = Client(stream)
        first = await client.ask("/static/data.bin")
        headers = [("If-Modified-Since", first.headers[b"last-modified"].decode())]
        reply = await client.ask("/static/data.bin", headers=headers)
        assert (reply.status, reply.body, reply.whole) == (304, b"", True)
        assert (await client.ask("/length/100/77")).body == data[100:177]
