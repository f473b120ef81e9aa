"""The write callable that buffers: nothing leaves before the app has returned, and nothing holds its thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
from answers import read_answer
from asking import CLOSE
from downloads import known_bytes
from producing import SMALL, app_of, ask, cut_up, write_all
from serving import receive_all, serving
from waiting import until

from trio_wsgi import Outcome


async def test_buffer_sends_nothing_before_the_app_returns() -> None:
    """Head and body leave together, with an exact Content-Length."""
    wrote, go_on = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", [])
        write(b"x" * 100_000)
        wrote.set()
        go_on.wait(10)
        return [b"!"]

    async with serving(app, write_policy="buffer") as served, await served.connect() as stream:
        await stream.send_all(CLOSE)
        await until(wrote.is_set)
        with trio.move_on_after(0.1) as silence:
            await stream.receive_some(1)
        assert silence.cancelled_caught
        go_on.set()
        with trio.fail_after(10):
            answer = read_answer(await receive_all(stream))
    assert answer.value("content-length") == "100001"


@pytest.mark.parametrize("memory", [0, 1, 65536, 10_000_000])
async def test_buffer_in_memory_and_on_disk(memory: int, tmp_path: Any) -> None:
    """The same bytes wherever the limit of memory lies; nothing is ever visible in temp_path."""
    data = known_bytes(2_000_000)

    def look(environ: dict[str, Any]) -> Any:
        assert list(tmp_path.iterdir()) == []
        return [b"!"]

    settings = {"write_policy": "buffer", "write_buffer_size": memory, "temp_path": str(tmp_path)}
    async with serving(app_of(data, returns=look), **settings) as served:
        assert read_answer(await ask(served, CLOSE)).body == data + b"!"
    assert list(tmp_path.iterdir()) == []


async def test_buffer_frees_the_thread(tmp_path: Any) -> None:
    """With one thread, another request is served while a slow client downloads what was buffered."""
    data = known_bytes(6_000_000)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", [])
        if environ["PATH_INFO"] == "/hello":
            return [b"hello"]
        write_all(environ, write, cut_up(data, 5))
        return []

    settings = {"write_policy": "buffer", "temp_path": str(tmp_path), "threads": 1}
    async with serving(app, **settings) as served, await served.connect(SMALL) as slow:
        await slow.send_all(CLOSE)
        with trio.fail_after(5):
            begin = await slow.receive_some(1)
            answer = read_answer(await ask(served, CLOSE.replace(b"/ ", b"/hello ")))
        assert answer.body == b"hello"
        assert len(served.records) == 1  # the slow one is not done
        with trio.fail_after(20):
            assert read_answer(begin + await receive_all(slow)).body == data


async def test_buffer_forgets_when_the_app_starts_anew() -> None:
    """PEP 3333, exc_info: nothing was sent yet, so the error page takes the place of the half page."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", [("Content-Length", "1000")])
        write(b"half a page")
        try:
            raise ValueError
        except ValueError:
            start_response("503 Later", [("Content-Length", "5")], sys.exc_info())
        return [b"sorry"]

    async with serving(app, write_policy="buffer") as served:
        answer = read_answer(await ask(served, CLOSE))
        assert (await served.record()).outcome is Outcome.FINISHED
    assert (answer.status, answer.body) == (503, b"sorry")


@pytest.mark.parametrize("swallow", [False, True])
@pytest.mark.parametrize("rest", ["nothing", "list", "generator"])
async def test_temp_limit_is_an_oserror_and_a_clean_500(swallow: bool, rest: str, tmp_path: Any, caplog: Any) -> None:
    """PAINS 24. Also when the app swallows it: what is buffered is not the whole. No file is left."""
    seen: list[OSError] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", [])
        for _ in range(50):
            try:
                write(bytes(10_000))
            except OSError as error:
                seen.append(error)
                if not swallow:
                    raise
        return {"nothing": [], "list": [b"tail"], "generator": (b for b in [b"tail"])}[rest]

    settings = {"write_buffer_size": 20_000, "temp_path": str(tmp_path), "temp_limit": 100_000}
    async with serving(app, write_policy="buffer", **settings) as served:
        assert read_answer(await ask(served, CLOSE)).status == 500
        assert (await served.record()).outcome is Outcome.APP_ERROR
        assert list(tmp_path.iterdir()) == []
    assert "temp_limit" in str(seen[0])
    assert "100000" in str(seen[0])
    assert len(seen) == (40 if swallow else 1)
    assert "temp_limit" in caplog.text


async def test_temp_path_that_is_not_there(tmp_path: Any) -> None:
    """An OSError in the app that names the directory, and a clean 500."""
    seen: list[OSError] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        try:
            start_response("200 OK", [])(bytes(100))
        except OSError as error:
            seen.append(error)
            raise
        return []

    settings = {"write_buffer_size": 10, "temp_path": str(tmp_path / "gone")}
    async with serving(app, write_policy="buffer", **settings) as served:
        assert read_answer(await ask(served, CLOSE)).status == 500
    assert "gone" in str(seen[0])
