"""Werkzeug's iterators around a file: the span found in one is what iterating it would give, or there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import flask
import pytest
from downloads import known_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from mounted import ask
from serving import serving
from spans import both
from werkzeug.wsgi import ClosingIterator, _RangeWrapper

from trio_wsgi.wsgi.filewrapper import FileWrapper
from trio_wsgi.wsgi.unwrap import find_file

SIZE = 1000
DATA = known_bytes(SIZE)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("unwrap") / "f"
    path.write_bytes(DATA)
    return path


def opened(path: Path, position: int, block_size: int) -> FileWrapper:
    file = path.open("rb")
    file.seek(position)
    wrapper = FileWrapper(file, block_size)
    wrapper.iterated_by_server = True
    return wrapper


@given(
    start=st.integers(0, SIZE + 50),
    count=st.none() | st.integers(0, SIZE + 50),
    position=st.integers(0, SIZE + 5),
    block_size=st.sampled_from([1, 7, 100, 1000, 4096]),
    around=st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_a_range_wrapper_is_what_it_gives(
    path: Path, start: int, count: int | None, position: int, block_size: int, around: bool
) -> None:
    """Wherever the file stands, and with callbacks around it or not."""

    def make() -> Any:
        wrapper = _RangeWrapper(opened(path, position, block_size), start, count)
        return ClosingIterator(wrapper, []) if around else wrapper

    spanned, iterated = both(make)
    assert spanned == iterated == DATA[start : None if count is None else start + count]


@pytest.mark.parametrize("taken", [0, 1, 3, 9, 11])
def test_a_closing_iterator_that_was_begun(path: Path, taken: int) -> None:
    """A middleware peeked at the first blocks: what is left is what is sent."""

    def make() -> Any:
        result = ClosingIterator(opened(path, 0, 100), [])
        for _ in range(taken):
            next(result, None)
        return result

    spanned, iterated = both(make)
    assert spanned == iterated == DATA[taken * 100 :]


def test_a_range_wrapper_that_was_begun_is_iterated(path: Path) -> None:
    """How far it is cannot be told for certain."""

    def make() -> Any:
        result = _RangeWrapper(opened(path, 0, 100), 50, 500)
        next(result)
        return result

    assert both(make) == (None, DATA[150:550])


class Upper(FileWrapper):
    def __next__(self) -> bytes:
        return super().__next__().upper()


class Squeezed(_RangeWrapper):
    def __next__(self) -> bytes:
        return super().__next__()[:1]


class NotThatRangeWrapper:
    """A later version, which has other attributes."""

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"its bytes"])

    def close(self) -> None: ...


NotThatRangeWrapper.__module__, NotThatRangeWrapper.__qualname__ = "werkzeug.wsgi", "_RangeWrapper"


@pytest.mark.parametrize(
    "make",
    [
        lambda path: Upper(path.open("rb")),
        lambda path: _RangeWrapper(Upper(path.open("rb")), 5, 10),
        lambda path: Squeezed(FileWrapper(path.open("rb")), 5, 10),
        lambda path: ClosingIterator(iter([b"a", b"b"]), []),
        lambda path: ClosingIterator(Upper(path.open("rb")), []),
        lambda path: _RangeWrapper(iter([b"a", b"b"]), 1, 1),
        lambda path: NotThatRangeWrapper(),
    ],
)
def test_what_is_not_certain_is_iterated(path: Path, make: Callable[[Path], Any]) -> None:
    """By its exact type, or not at all; nothing raises."""
    with closing(make(path)) as result:
        assert find_file(result) is None


async def test_callbacks_run_once_and_after_the_last_byte(path: Path) -> None:
    """The outermost object is closed: Werkzeug's callbacks run when the file has left."""
    ended: list[str] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [("Content-Length", "10")])
        wrapper = _RangeWrapper(environ["wsgi.file_wrapper"](path.open("rb")), 20, 10)
        return ClosingIterator(wrapper, [lambda: ended.append("first"), lambda: ended.append("second")])

    async with serving(app) as served:
        answer = await ask(served)
        assert (answer.status, answer.body) == (200, DATA[20:30])
    assert ended == ["first", "second"]


async def test_flask_with_x_sendfile(path: Path) -> None:
    """USE_X_SENDFILE: Flask names the file itself, and we send it with ranges."""
    app = flask.Flask(__name__)
    app.use_x_sendfile = True
    app.add_url_rule(
        "/", "f", lambda: flask.send_file(path, mimetype="text/x-mine", download_name="x.bin", as_attachment=True)
    )
    async with serving(app, accel=(f"/p/={path.parent}",)) as served:
        whole = await ask(served)
        assert (whole.status, whole.body) == (200, DATA)
        assert whole.value("content-type").startswith("text/x-mine")
        assert whole.value("content-disposition") == "attachment; filename=x.bin"
        part = await ask(served, "/", "Range: bytes=-10", f"If-Range: {whole.value('etag')}")
        assert (part.status, part.body) == (206, DATA[-10:])
        fresh = await ask(served, "/", f"If-None-Match: {whole.value('etag')}")
        assert fresh.status == 304
