"""Pyramid's FileResponse: WebOb answers a Range by itself, and the bytes still leave from the file's own place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from answers import read_answer
from asking import request
from downloads import known_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import FileResponse
from serving import serving
from spans import both
from webob.response import AppIterRange

from trio_wsgi.wsgi.filewrapper import FileWrapper

SIZE = 100_000
DATA = known_bytes(SIZE)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyramid") / "film.bin"
    path.write_bytes(DATA)
    return path


@given(
    start=st.integers(0, SIZE + 50),
    length=st.none() | st.integers(0, SIZE + 50),
    position=st.integers(0, SIZE + 5),
    block_size=st.sampled_from([4096, 30_000, 262_144]),
)
@settings(deadline=None, max_examples=100)
def test_a_range_of_webob_is_what_it_gives(
    path: Path, start: int, length: int | None, position: int, block_size: int
) -> None:
    """Wherever the file stands: the range counts from there."""

    def make() -> Any:
        file = path.open("rb")
        file.seek(position)
        wrapper = FileWrapper(file, block_size)
        wrapper.iterated_by_server = True
        return AppIterRange(wrapper, start, None if length is None else start + length)

    spanned, iterated = both(make)
    assert spanned == DATA[position:][start : None if length is None else start + length]
    assert spanned == iterated


def test_a_range_that_was_begun_is_iterated(path: Path) -> None:
    """A middleware has taken the first block: what is left is what is sent."""

    def make() -> Any:
        wrapper = FileWrapper(path.open("rb"), 100)
        wrapper.iterated_by_server = True
        result = AppIterRange(wrapper, 50, 1000)
        next(result)
        return result

    spanned, iterated = both(make)
    assert spanned is None
    assert iterated == DATA[100:1000]


@pytest.fixture(scope="module")
def app(path: Path) -> Iterator[Any]:
    def film(request: Request) -> FileResponse:
        return FileResponse(path, request=request)

    with Configurator() as config:
        config.add_route("film", "/film")
        config.add_view(film, route_name="film")
        return config.make_wsgi_app()


@pytest.mark.parametrize(
    ("spec", "status", "wanted"),
    [
        (None, 200, DATA),
        ("bytes=0-9", 206, DATA[:10]),
        ("bytes=60000-69999", 206, DATA[60_000:70_000]),
        ("bytes=-7", 206, DATA[-7:]),
        (f"bytes={SIZE}-", 416, None),
    ],
)
async def test_a_file_response(
    app: Any, spec: str | None, status: int, wanted: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """PAINS 3, 11, 12: the right bytes, nothing before them is read, and no line that the kernel's path is lost."""
    headers = [] if spec is None else [f"Range: {spec}"]
    async with serving(app) as served:
        answer = read_answer(await served.exchange(request("GET", "/film", *headers)))
        head = read_answer(await served.exchange(request("HEAD", "/film")), "HEAD")
    assert answer.status == status
    assert wanted is None or answer.body == wanted
    assert (head.status, head.body) == (200, b"")
    assert "read through Python" not in caplog.text
