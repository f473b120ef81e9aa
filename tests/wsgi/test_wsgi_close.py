"""`close()` of what the app returned: exactly once, on every path (PEP 3333, "Specification Details"; PAINS 36)."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from asking import PLAIN, App, Environ, StartResponse, ask, error_lines, request
from serving import receive_all, serving

from trio_wsgi import Outcome

pytestmark = pytest.mark.usefixtures("each_way")

BIG = bytes(256 * 1024)  # a block that small socket buffers do not take


class Counted:
    """An iterable that counts how often it was closed."""

    def __init__(self, blocks: Callable[[], Iterator[Any]], close: Callable[[], None] = lambda: None) -> None:
        self.blocks = blocks
        self.closed = 0
        self._close = close

    def __iter__(self) -> Iterator[Any]:
        return self.blocks()

    def close(self) -> None:
        self.closed += 1
        self._close()


class CountedList(list[bytes]):
    """A list that counts it, too."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


def returning(result: object, headers: list[tuple[str, str]] = PLAIN, start: bool = True) -> App:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        if start:
            start_response("200 OK", headers)
        return result

    return app


def raising(exc: BaseException) -> Iterator[bytes]:
    yield b"some"
    raise exc


def length(number: int) -> list[tuple[str, str]]:
    return [*PLAIN, ("Content-Length", str(number))]


# the app's iterable, its headers, the request, how it ends
ENDS: list[Any] = [
    pytest.param(lambda: iter([b"one", b"two"]), PLAIN, "GET", Outcome.FINISHED, id="success"),
    pytest.param(lambda: iter([]), PLAIN, "GET", Outcome.FINISHED, id="nothing"),
    pytest.param(lambda: iter([b"one", b"two"]), PLAIN, "HEAD", Outcome.FINISHED, id="HEAD"),
    pytest.param(lambda: raising(KeyError("x")), PLAIN, "GET", Outcome.APP_ERROR, id="error in iteration"),
    pytest.param(lambda: raising(SystemExit(3)), PLAIN, "GET", Outcome.APP_ERROR, id="SystemExit in iteration"),
    pytest.param(lambda: raising(GeneratorExit()), PLAIN, "GET", Outcome.APP_ERROR, id="GeneratorExit in iteration"),
    pytest.param(lambda: iter(["text"]), PLAIN, "GET", Outcome.APP_ERROR, id="no bytes"),
    pytest.param(lambda: iter([b"too long"] * 3), length(3), "GET", Outcome.FINISHED, id="overrun"),
    pytest.param(lambda: iter([b"short"]), length(99), "GET", Outcome.APP_ERROR, id="too short"),
    pytest.param(lambda: 1 / 0, PLAIN, "GET", Outcome.APP_ERROR, id="error in iter()"),
]


@pytest.mark.parametrize(("blocks", "headers", "method", "outcome"), ENDS)
@pytest.mark.parametrize("output_buffering", [0, 1000])
async def test_closed_once_when_the_app_ends_it(
    blocks: Any, headers: list[tuple[str, str]], method: str, outcome: Outcome, output_buffering: int
) -> None:
    body = Counted(blocks)
    asked = await ask(returning(body, headers), request(method), output_buffering=output_buffering)
    assert asked.record.outcome is outcome
    assert body.closed == 1


async def test_closed_once_without_start_response() -> None:
    body = Counted(lambda: iter([b"x"]))
    await ask(returning(body, start=False))
    assert body.closed == 1


async def test_a_list_that_has_a_close() -> None:
    body = CountedList([b"one", b"two"])
    assert (await ask(returning(body))).answer.body == b"onetwo"
    assert body.closed == 1


@pytest.mark.parametrize("fault", [ValueError("close"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()], ids=repr)
async def test_a_close_that_raises_is_logged_and_the_response_is_whole(
    fault: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise fault

    body = Counted(lambda: iter([b"whole"]), fail)
    asked = await ask(returning(body))
    assert asked.answer.body == b"whole"
    assert asked.record.outcome is Outcome.FINISHED
    (line,) = error_lines(caplog)
    assert "close()" in line and repr(fault) in line


@pytest.mark.parametrize("fault", [ValueError("close"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("kind", [io.BytesIO, io.FileIO])
async def test_a_file_whose_close_raises_ends_no_server(
    kind: type[Any], fault: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    closed = []

    class Failing(kind):  # type: ignore[misc]
        def close(self) -> None:
            super().close()
            if not closed:
                closed.append(1)
                raise fault

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", PLAIN)
        if environ["PATH_INFO"] == "/next":
            return [b"next"]
        return environ["wsgi.file_wrapper"](Failing(b"file" if kind is io.BytesIO else __file__))

    async with serving(app) as served:
        assert b"file" in await served.exchange(request())
        assert (await served.exchange(request("GET", "/next"))).endswith(b"next")
    assert closed == [1]
    (line,) = error_lines(caplog)
    assert repr(fault) in line


def endless() -> Iterator[bytes]:
    while True:
        yield BIG


@pytest.mark.parametrize("output_buffering", [0, 1000_000])
async def test_closed_once_when_the_client_has_gone(output_buffering: int) -> None:
    body = Counted(endless)
    async with serving(returning(body), output_buffering=output_buffering) as served:
        async with await served.connect() as stream:
            await stream.send_all(request())
            await stream.receive_some(1000)
        record = await served.record()
    assert record.outcome is Outcome.CLIENT_GONE
    assert body.closed == 1


@pytest.mark.parametrize("output_buffering", [0, 1000_000])
async def test_closed_once_when_the_client_stalls(output_buffering: int) -> None:
    body = Counted(endless)
    async with (
        serving(returning(body), write_timeout=0.2, output_buffering=output_buffering) as served,
        await served.connect(receive_buffer=4096) as stream,
    ):
        await stream.send_all(request())
        record = await served.record()
    assert record.outcome is Outcome.WRITE_TIMEOUT
    assert body.closed == 1


@pytest.mark.parametrize("output_buffering", [0, 1000_000])
async def test_closed_once_when_the_server_is_cancelled(output_buffering: int) -> None:
    body = Counted(endless)
    async with serving(returning(body), output_buffering=output_buffering) as served:
        stream = await served.connect(receive_buffer=4096)
        await stream.send_all(request())
        await stream.receive_some(1000)
        await trio.sleep(0.05)  # it is blocked in a send now, or about to be
    await stream.aclose()
    assert served.records[-1].outcome is Outcome.SHUTDOWN
    assert body.closed == 1


@pytest.mark.parametrize("end", ["success", "HEAD", "gone", "stalled", "cancelled", "too short"])
@pytest.mark.parametrize("kernel", [True, False], ids=["spanned", "iterated"])
async def test_a_file_is_closed_once_on_every_path(end: str, kernel: bool, tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(bytes(20_000_000 if end in {"gone", "stalled", "cancelled"} else 1000))
    closed = 0

    class File(io.FileIO):
        def close(self) -> None:
            nonlocal closed
            closed += not self.closed
            super().close()

    class NotPlain(File):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(-1 if size is None else size) or b""

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", length(2000) if end == "too short" else PLAIN)
        return environ["wsgi.file_wrapper"]((File if kernel else NotPlain)(path))

    async with serving(app, write_timeout=0.2 if end == "stalled" else 60) as served:
        stream = await served.connect(receive_buffer=4096)
        await stream.send_all(request("HEAD" if end == "HEAD" else "GET"))
        if end in {"success", "HEAD", "too short"}:
            await receive_all(stream)
        elif end in {"gone", "cancelled"}:
            await stream.receive_some(1000)
        if end == "gone":
            await stream.aclose()
        if end != "cancelled":
            await served.record()
    await stream.aclose()
    assert closed == 1


async def test_the_iterable_of_one_request_is_closed_before_the_next_request_of_its_connection_begins() -> None:
    """PAINS 17: uWSGI closes a file while the next request runs."""
    order: list[str] = []

    def app(environ: Environ, start_response: StartResponse) -> Counted:
        name = environ["PATH_INFO"]
        order.append(f"call {name}")
        start_response("200 OK", PLAIN)
        return Counted(lambda: iter([b"x"]), lambda: order.append(f"close {name}"))

    one = request("GET", "/1").replace(b"Connection: close\r\n", b"")
    async with serving(app, threads=4) as served:
        await served.exchange(one + request("GET", "/2"))
    assert order == ["call /1", "close /1", "call /2", "close /2"]


async def test_what_close_says_to_the_server_comes_too_late_to_change_the_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Counted:
        write = start_response("200 OK", PLAIN)

        def late() -> None:
            write(b"late")

        return Counted(lambda: iter([b""]), late)

    asked = await ask(app)
    assert asked.answer.body == b""
    (line,) = error_lines(caplog)
    assert "after the application had returned" in line


async def test_close_runs_in_an_application_thread() -> None:
    names = []

    class File(io.BytesIO):
        def close(self) -> None:
            if not self.closed:
                names.append(threading.current_thread() is threading.main_thread())
            super().close()

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", PLAIN)
        return environ["wsgi.file_wrapper"](File(b"x"))

    await ask(app)
    assert names == [False]
