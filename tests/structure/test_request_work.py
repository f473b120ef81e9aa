"""WSGI code that calls into Trio: within its request's scope, for its request, for the server; and what flows in.

What is started for a request is cancelled, and waited for, when the request has ended.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import httpx
import pytest
import trio
import trio.testing
from answers import read_answer
from asking import PLAIN, Environ, StartResponse, ask, error_lines, request
from serving import serving
from tools import require_tool

from trio_wsgi import Config, Outcome, RequestRecord, Server

pytestmark = pytest.mark.usefixtures("each_way")

LABEL: contextvars.ContextVar[str] = contextvars.ContextVar("label", default="none")


def answer(start_response: StartResponse, *blocks: str) -> list[bytes]:
    start_response("200 OK", PLAIN)
    return [block.encode() for block in blocks]


# -- from_thread -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["trio", "anyio"])
async def test_from_thread_runs_within_the_requests_scope(library: str) -> None:
    """What the app awaits ends with the request, here by app_timeout; and sees the app's context variables."""
    seen: list[str] = []

    async def wait() -> None:
        seen.append(LABEL.get())
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            seen.append("cancelled")
            raise

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        LABEL.set("of the app")
        run: Callable[..., Any] = trio.from_thread.run if library == "trio" else anyio.from_thread.run
        assert run(trio.sleep if library == "trio" else anyio.sleep, 0) is None
        run(wait)
        return answer(start_response, "never")

    asked = await ask(app, app_timeout=0.1)
    assert asked.record.outcome is Outcome.APP_TIMEOUT
    assert seen == ["of the app", "cancelled"]


async def test_concurrent_calls_of_one_request() -> None:
    """The use of it: one view asks several services at once, in one nursery of its own."""

    async def ask_all(clients: int) -> list[int]:
        got: list[int] = []
        turns = [trio.Event() for _ in range(clients + 1)]
        turns[0].set()

        async def one(number: int) -> None:
            await turns[number].wait()  # those that are started later end earlier
            got.append(number)
            turns[number + 1].set()

        async with trio.open_nursery() as nursery:
            for number in reversed(range(clients)):
                nursery.start_soon(one, number)
        return got

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        return answer(start_response, str(trio.from_thread.run(ask_all, 4)))

    assert (await ask(app)).answer.body == b"[0, 1, 2, 3]"


# -- trio_wsgi.nursery -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["answered", "failed", "timed out", "client gone", "shutdown"])
async def test_work_of_a_request_is_cancelled_and_awaited_when_it_ends(end: str) -> None:
    """However it ends: before its record is told, and with what `finally` does of the work."""
    told: list[str] = []
    working = threading.Event()

    async def work(label: str) -> None:
        told.append(f"{label} {LABEL.get()}")
        working.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)
            told.append("ended")

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        LABEL.set("of the app")
        environ["trio_wsgi.nursery"].start_soon(work, "began", name="the work")
        assert working.wait(5)
        if end == "failed":
            raise ValueError("the application's")
        if end != "answered":
            trio.from_thread.run(trio.sleep_forever)
        return answer(start_response, "done")

    recorded = trio.Event()

    def observe(record: RequestRecord) -> None:
        told.append(record.outcome.name)
        recorded.set()

    config = Config(bind=("127.0.0.1:0",), app_timeout=0.3 if end == "timed out" else 60.0)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(Server(app, config, observers=[observe]).serve)
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                await stream.send_all(request())
                await trio.to_thread.run_sync(working.wait, 5)
                if end == "client gone":
                    await trio.sleep(0.25)
                    await stream.aclose()
                if end != "shutdown":
                    await recorded.wait()
                nursery.cancel_scope.cancel()
    assert told[:2] == ["began of the app", "ended"] or end == "shutdown"
    assert told.count("ended") == 1
    outcomes = {"answered": "FINISHED", "failed": "APP_ERROR", "timed out": "APP_TIMEOUT", "client gone": "CLIENT_GONE"}
    assert outcomes.get(end, "SHUTDOWN") in told


async def test_work_of_a_request_runs_while_its_answer_is_sent() -> None:
    """It lives as long as the request, not as the call: the download that a task looks after is one of them."""
    told: list[str] = []

    async def look_after() -> None:
        try:
            while True:
                await trio.sleep(0.01)
                told.append("alive")
        finally:
            told.append("ended")

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["trio_wsgi.nursery"].start_soon(look_after)
        start_response("200 OK", [("Content-Length", "9000000")])
        return [b"x" * 9_000_000]

    with trio.fail_after(10):
        async with serving(app, threads=1) as served, await served.connect(receive_buffer=4096) as stream:
            await stream.send_all(request())
            await stream.receive_some(1000)
            before = len(told)
            await trio.sleep(0.2)
            assert "ended" not in told
            assert len(told) > before
            while await stream.receive_some(1_000_000):
                pass
            await served.record()
            assert told[-1] == "ended"


async def test_the_next_request_of_a_connection_has_a_nursery_of_its_own() -> None:
    kept: list[Any] = []
    failures: list[str] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        kept.append(environ["trio_wsgi.nursery"])
        try:
            kept[0].start_soon(trio.sleep_forever)
        except RuntimeError as exc:
            failures.append(str(exc))
        return answer(start_response, "done")

    one = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"
    with trio.fail_after(5):
        async with serving(app) as served:
            assert (await served.exchange(one + one + request())).count(b"done") == 3
    assert failures == ["the request has ended: nothing can be started for it any more"] * 2


# -- trio_wsgi.server_nursery ------------------------------------------------------------------------------------------


async def test_work_of_the_server_outlives_its_request_and_ends_with_the_server() -> None:
    """It may be started from the thread and from the loop, and sees connections end before it does."""
    told: list[str] = []

    async def work(label: str) -> None:
        try:
            await trio.lowlevel.checkpoint()
            told.append(f"{label} {LABEL.get()}")
            await trio.sleep_forever()
        finally:
            told.append("ended")

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        LABEL.set("of the app")
        nursery = environ["trio_wsgi.server_nursery"]
        nursery.start_soon(work, "thread")

        async def on_the_loop() -> None:
            nursery.start_soon(work, "loop")

        trio.from_thread.run(on_the_loop)
        return answer(start_response, "done")

    with trio.fail_after(5):
        async with serving(app) as served:
            await served.exchange(request())
            await served.record()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert sorted(told) == ["loop of the app", "thread of the app"]
            told.clear()
            served.server.drain()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert told == ["ended", "ended"]


async def group() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail, SystemExit(3))
        nursery.start_soon(trio.sleep_forever)


async def fail(exc: BaseException) -> None:
    await trio.lowlevel.checkpoint()
    raise exc


async def cancelled_for_others() -> BaseException:
    """What others get of a computation that they share with one who was cancelled."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as exc:
            return exc
    raise AssertionError("nobody was cancelled")


async def share() -> None:
    raise await cancelled_for_others()


async def share_in_group() -> None:
    raise BaseExceptionGroup("several", [await cancelled_for_others(), await cancelled_for_others()])


async def nest() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await trio.sleep_forever()


async def share_at_last() -> None:
    error = await cancelled_for_others()
    try:
        await trio.sleep_forever()
    finally:
        raise error


@pytest.mark.parametrize("task", [nest, share_at_last], ids=["in a group", "with another's"])
async def test_a_task_is_cancelled_in_silence_however_it_ends(task: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Trio's nurseries raise a group then, and an outcome may be shared with others; nothing has failed."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        for which in ("nursery", "server_nursery"):
            environ[f"trio_wsgi.{which}"].start_soon(task)
        trio.from_thread.run(trio.sleep, 0.01)
        return answer(start_response, "done")

    assert (await ask(app)).answer.body == b"done"
    assert error_lines(caplog) == []


@pytest.mark.parametrize("which", ["nursery", "server_nursery"])
@pytest.mark.parametrize(
    "failing",
    [
        lambda: fail(ValueError("the application's")),
        lambda: fail(SystemExit(3)),
        lambda: fail(GeneratorExit()),
        lambda: fail(ExceptionGroup("several", [ValueError(), OSError()])),
        group,
        share,
        share_in_group,
    ],
    ids=["error", "SystemExit", "GeneratorExit", "group", "SystemExit in a group", "Cancelled", "Cancelled in a group"],
)
async def test_a_failure_in_either_is_logged_and_takes_nothing_down(
    which: str, failing: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def bystander() -> None:
        await trio.sleep_forever()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ[f"trio_wsgi.{which}"].start_soon(bystander)
        environ[f"trio_wsgi.{which}"].start_soon(failing)
        trio.from_thread.run(trio.sleep, 0.02)
        return answer(start_response, "served")

    with trio.fail_after(5):
        async with serving(app) as served:
            for count in (1, 2):
                assert (await served.exchange(request())).endswith(b"served")
                assert (await served.record(count)).outcome is Outcome.FINISHED
    lines = error_lines(caplog)
    owner = "the request" if which == "nursery" else "the server"
    assert len(lines) == 2
    assert all(line.startswith(f"a task that the application started for {owner} failed | ") for line in lines)


@pytest.mark.parametrize("which", ["nursery", "server_nursery"])
async def test_what_is_no_asynchronous_function_is_refused_where_it_is_started(
    which: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As by Trio's own nurseries: a line in the log would not tell who has started it."""
    refused: list[str] = []

    async def takes_one(value: object) -> None:
        raise AssertionError

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        for work in ((threading.get_ident,), (5,), (takes_one,), (takes_one, 1, 2)):
            with pytest.raises(TypeError) as caught:
                environ[f"trio_wsgi.{which}"].start_soon(*work)
            refused.append(str(caught.value))
        return answer(start_response, "done")

    assert (await ask(app)).answer.body == b"done"
    assert "an asynchronous function is to be started, not <built-in function get_ident>" in refused[0]
    assert len(refused) == 4
    assert error_lines(caplog) == []


async def test_context_variables_flow_from_who_serves_through_the_app_into_its_work() -> None:
    seen: list[str] = []

    async def work() -> None:
        seen.append(LABEL.get())

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append(LABEL.get())
        LABEL.set(environ["PATH_INFO"])
        environ["trio_wsgi.server_nursery"].start_soon(work)
        trio.from_thread.run(trio.testing.wait_all_tasks_blocked)
        return answer(start_response, "done")

    LABEL.set("of the program")
    async with serving(app) as served:
        for path in ("/a", "/b"):
            await served.exchange(request("GET", path))
    assert seen == ["of the program", "/a", "of the program", "/b"]


# -- early hints -------------------------------------------------------------------------------------------------------


def hinting(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """gunicorn's signature: a list of pairs, as often as there is something to say, before start_response."""
    environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload; as=style")])
    environ["wsgi.early_hints"]([("Link", "</a.js>; rel=preload"), ("Link", "</b.js>; rel=preload")])
    return answer(start_response, "page")


async def test_early_hints_are_interim_responses() -> None:
    """PAINS 45 (gunicorn#2654; RFC 8297 §2): 103 before the final response, which stays what it is."""
    asked = await ask(hinting)
    assert (asked.answer.interim, asked.answer.status, asked.answer.body) == ([103, 103], 200, b"page")
    assert asked.raw.count(b"</b.js>; rel=preload\r\n") == 1
    assert asked.raw.startswith(b"HTTP/1.1 103 ")
    assert asked.record.status == 200


async def test_early_hints_are_not_for_http_1_0() -> None:
    """RFC 9110 §15.2: no 1xx to an HTTP/1.0 client."""
    asked = await ask(hinting, request(version="1.0"))
    assert asked.answer.interim == []
    assert asked.answer.body == b"page"


async def test_early_hints_have_no_framing() -> None:
    """RFC 9110 §8.6: no Content-Length in a 1xx; who passes all headers on means those of the page."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.early_hints"]([("Link", "</a.css>"), ("Content-Length", "4")])
        return answer(start_response, "page")

    interim, _, rest = (await ask(app)).raw.partition(b"\r\n\r\n")
    assert interim == b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>"
    assert rest.endswith(b"page")


async def test_early_hints_that_come_too_late_change_nothing() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", PLAIN)(b"page")
        environ["wsgi.early_hints"]([("Link", "</late.css>")])
        return []

    asked = await ask(app)
    assert (asked.answer.interim, asked.answer.body) == ([], b"page")


@pytest.mark.parametrize("headers", [[("Link", "a\r\nSet-Cookie: b")], [("Li nk", "a")], [("Link", 3)]])
async def test_early_hints_are_checked_like_headers(headers: Any) -> None:
    """PAINS: a line break in a value is an error of the application's, never a header of its own."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.early_hints"](headers)
        return answer(start_response, "page")

    asked = await ask(app)
    assert read_answer(asked.raw).status == 500
    assert b"Set-Cookie" not in asked.raw


async def test_httpx_takes_the_hints_and_returns_the_page() -> None:
    async with serving(hinting) as served, httpx.AsyncClient(timeout=5) as client:
        for _ in range(2):  # the connection is kept
            response = await client.get(served.url)
            assert (response.status_code, response.text) == (200, "page")
    assert len({record.peer_port for record in served.records}) == 1


async def test_curl_shows_the_hints_before_the_page() -> None:
    async with serving(hinting) as served:
        done = await trio.run_process(
            [require_tool("curl"), "-s", "-i", "--max-time", "5", served.url], capture_stdout=True
        )
    heads = done.stdout.split(b"\r\n\r\n")
    assert [head.split()[1] for head in heads[:3]] == [b"103", b"103", b"200"]
    assert heads[3] == b"page"
