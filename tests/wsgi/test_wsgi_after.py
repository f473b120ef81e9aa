"""What an application does in `close()`, once its answer has left: nobody waits for it, and nothing cuts it short.

PEP 3333 has `close()` called "upon completion of the current request"; gunicorn's `post_request` hooks move there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from asking import PLAIN, App, Environ, StartResponse, error_lines, request
from serving import receive_all, receive_to_end, serving

from trio_wsgi import Outcome, State
from trio_wsgi.net.watch import RIPE

pytestmark = pytest.mark.usefixtures("each_way")

CHUNKED = b"5\r\nwhole\r\n0\r\n\r\n"
KEPT = request().replace(b"Connection: close\r\n", b"")


async def receive_until(stream: trio.abc.ReceiveStream, end: bytes) -> None:
    """What comes, up to `end`."""
    received = b""
    with trio.fail_after(4):
        while not received.endswith(end):
            more = await stream.receive_some()
            assert more, f"ended after {received!r}"
            received += more


class Hooked:
    """A body of one block with something to be done after it."""

    def __init__(self, hook: Any) -> None:
        self.close = hook

    def __iter__(self) -> Iterator[bytes]:
        yield b"whole"


class OfKnownLength(Hooked):
    def __len__(self) -> int:
        return 1


class HookedList(list[bytes]):
    def __init__(self, hook: Any) -> None:
        super().__init__([b"whole"])
        self.close = hook


def hooked(kind: Any, hook: Any, headers: list[tuple[str, str]] = PLAIN) -> App:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", headers)
        return [b"quick"] if environ["PATH_INFO"] == "/quick" else kind(hook)

    return app


@pytest.mark.parametrize(("kind", "end"), [(Hooked, CHUNKED), (OfKnownLength, b"whole"), (HookedList, b"whole")])
async def test_the_answer_is_whole_before_close_is_called(kind: Any, end: bytes) -> None:
    """To its last byte, the end of its chunks included; and the connection goes on afterwards."""
    received = threading.Event()
    waited: list[bool] = []
    async with serving(hooked(kind, lambda: waited.append(received.wait(5)))) as served:
        async with await served.connect() as stream:
            await stream.send_all(KEPT)
            await receive_until(stream, end)
            received.set()
            await stream.send_all(request("GET", "/quick"))
            assert (await receive_all(stream)).endswith(b"quick")
        assert (await served.record(2)).outcome is Outcome.FINISHED
    assert waited == [True]


async def test_who_has_the_whole_answer_and_leaves_is_not_gone(caplog: pytest.LogCaptureFixture) -> None:
    """Nor is what the application still does for it cancelled."""
    left = threading.Event()
    asked: list[str] = []

    def hook() -> None:
        left.wait(5)
        time.sleep(3 * RIPE)
        trio.from_thread.check_cancelled()
        trio.from_thread.run_sync(asked.append, "done")

    async with serving(hooked(Hooked, hook), half_close="abort") as served:
        stream = await served.connect()
        await stream.send_all(KEPT)
        await receive_until(stream, CHUNKED)
        await stream.aclose()
        left.set()
        assert (await served.record()).outcome is Outcome.FINISHED
    assert asked == ["done"]
    assert error_lines(caplog) == []


async def test_where_a_close_is_that_takes_long_can_be_seen() -> None:
    """By `Server.statistics`: the answer has left, and the application still runs."""
    seen, go_on = threading.Event(), threading.Event()

    def stand_still() -> None:
        seen.set()
        go_on.wait(5)

    async with serving(hooked(Hooked, stand_still)) as served, await served.connect() as stream:
        await stream.send_all(KEPT)
        await receive_until(stream, CHUNKED)
        await trio.to_thread.run_sync(seen.wait, 5)
        (status,) = served.server.statistics().connections
        go_on.set()
    assert status.state is State.RUNNING
    assert "stand_still" in status.stack


async def test_close_is_not_of_the_time_that_an_answer_may_take() -> None:
    """app_timeout; the client that keeps its connection is served again."""
    async with serving(hooked(Hooked, lambda: time.sleep(0.5)), app_timeout=0.2) as served:
        async with await served.connect() as stream:
            await stream.send_all(KEPT)
            await receive_until(stream, CHUNKED)
            await stream.send_all(request("GET", "/quick"))
            assert (await receive_all(stream)).endswith(b"quick")
        await served.record(2)
    assert [record.outcome for record in served.records] == [Outcome.FINISHED] * 2


async def test_what_comes_after_the_last_block_is_the_applications_own_affair(tmp_path: Path) -> None:
    """A client that knows the length has it all then; on a unix socket even an empty send(2) fails once it has gone."""
    path = tmp_path / "s"
    last = threading.Event()

    class Blocks:
        def __iter__(self) -> Iterator[bytes]:
            yield b"whole"
            last.wait(5)
            time.sleep(3 * RIPE)
            trio.from_thread.check_cancelled()

    def app(environ: Environ, start_response: StartResponse) -> Blocks:
        start_response("200 OK", [*PLAIN, ("Content-Length", "5")])
        return Blocks()

    async with serving(app, bind=(f"unix:{path}",), half_close="abort") as served:
        async with await trio.open_unix_socket(str(path)) as stream:
            await stream.send_all(KEPT)
            await receive_until(stream, b"whole")
        last.set()
        assert (await served.record()).outcome is Outcome.FINISHED


class Standing(Hooked):
    """Its close() waits until it is cancelled."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        super().__init__(self.stand)

    def stand(self) -> None:
        self.entered.set()
        trio.from_thread.run(trio.sleep_forever)

    async def until_entered(self) -> None:
        with trio.fail_after(5):
            await trio.to_thread.run_sync(self.entered.wait)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_answer_that_is_whole_is_not_cut_by_the_end_of_the_server(version: str) -> None:
    """RFC 9112 §6.3: where the end of the connection is that of the body, a reset says that something is missing."""
    body = Standing()
    async with serving(hooked(lambda _: body, None)) as served:
        stream = await served.connect()
        await stream.send_all(request(version=version))
        await body.until_entered()
    async with stream:
        received, end = await receive_to_end(stream)
    assert received.endswith(b"whole" if version == "1.0" else CHUNKED)
    assert end == "closed"
    assert [record.outcome for record in served.records] == [Outcome.FINISHED]


@pytest.mark.parametrize("named", [True, False], ids=["named file", "spooled"])
async def test_what_an_answer_holds_is_closed_when_close_is_cancelled(named: bool, tmp_path: Path) -> None:
    """By us, not by the garbage collector, which would warn."""
    (tmp_path / "f").write_bytes(b"whole")
    body = Standing()

    def app(environ: Environ, start_response: StartResponse) -> Standing:
        write = start_response("200 OK", [("X-Accel-Redirect", "/named/f")] if named else [])
        write(b"x" * 200_000)
        return body

    settings = {"write_policy": "buffer", "write_buffer_size": 1000, "temp_path": str(tmp_path)}
    async with serving(app, accel=(f"/named={tmp_path}",), **settings) as served:
        stream = await served.connect()
        await stream.send_all(request())
        await body.until_entered()
    await stream.aclose()
