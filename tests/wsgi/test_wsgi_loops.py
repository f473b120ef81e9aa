"""Applications whose code runs on an event loop: one of their own, in their thread, or the server's.

What the environ offers waits for the server's loop. On a loop of the application's own, that one waits as well, as it
does for any blocking call; on the server's nobody may.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import pytest
import trio
from answers import read_answer
from asking import PLAIN, Environ, StartResponse, ask, error_lines, request
from producing import SMALL, write_all
from producing import ask as ask_slowly
from serving import receive_all, serving
from waiting import until

from trio_wsgi import Outcome
from trio_wsgi.errors import AppError, ClientGone

pytestmark = pytest.mark.usefixtures("each_way")

BLOCKS = [bytes([letter]) * 400_000 for letter in b"ABCDEFGHIJKLMNOPQRST"]
Label = contextvars.ContextVar[str]("Label")


# -- one of the application's own --------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["block", "raise"])
async def test_write_on_the_applications_own_loop(policy: str) -> None:
    """By a client that does not take it all at once: whole, and in order."""

    async def view(environ: Environ, write: Any) -> None:
        for block in BLOCKS:
            await trio.lowlevel.checkpoint()
            write_all(environ, write, [block])

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        trio.run(view, environ, start_response("200 OK", PLAIN))
        return []

    async with serving(app, write_policy=policy) as served:
        received = await ask_slowly(served, request(), SMALL)
    assert read_answer(received).body == b"".join(BLOCKS)


@pytest.mark.parametrize("headers", [(), ("Expect: 100-continue",)], ids=["streamed", "expecting"])
async def test_a_body_is_read_on_the_applications_own_loop(headers: tuple[str]) -> None:
    async def view(environ: Environ) -> bytes:
        body: bytes = environ["wsgi.input"].read()
        return body

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        body = trio.run(view, environ)
        start_response("200 OK", PLAIN)
        return [body]

    async with serving(app, request_buffering=False) as served, await served.connect() as stream:
        with trio.fail_after(10):
            await stream.send_all(request("POST", "/", *headers, "Content-Length: 6") + b"123")
            await trio.sleep(0.05)  # for a thread that waits on the loop
            await stream.send_all(b"456")
            assert (await receive_all(stream)).endswith(b"123456")


async def test_work_and_deadlines_from_the_applications_own_loop(caplog: pytest.LogCaptureFixture) -> None:
    """What is started runs on the server's loop, in the application's context; a refusal comes back as it is."""
    seen: list[tuple[object, str]] = []
    kept: list[Any] = []

    async def work() -> None:
        seen.append((trio.lowlevel.current_trio_token(), Label.get()))

    async def view(environ: Environ) -> None:
        Label.set("of the view")
        environ["trio_wsgi.set_app_timeout"](60)
        for which in ("nursery", "server_nursery"):
            environ[f"trio_wsgi.{which}"].start_soon(work)
            if kept:
                with pytest.raises(RuntimeError, match="the request has ended"):
                    kept[0].start_soon(work)
        kept.append(environ["trio_wsgi.nursery"])

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        trio.run(view, environ)
        trio.from_thread.run(trio.testing.wait_all_tasks_blocked)
        start_response("200 OK", PLAIN)
        return [b"done"]

    async with serving(app) as served:
        for _ in range(2):
            assert (await served.exchange(request())).endswith(b"done")
    assert seen == [(trio.lowlevel.current_trio_token(), "of the view")] * 4
    assert error_lines(caplog) == []


async def test_a_client_that_leaves_ends_the_wait_of_the_applications_own_loop() -> None:
    """`write()` raises there what it raises everywhere."""
    failures: list[BaseException] = []

    async def view(write: Any) -> None:
        try:
            for _ in range(100):
                write(bytes(1_000_000))
        except OSError as exc:
            failures.append(exc)

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        trio.run(view, start_response("200 OK", PLAIN))
        return []

    async with serving(app) as served:
        with trio.fail_after(10):
            async with await served.connect(SMALL) as stream:
                await stream.send_all(request())
                await until(lambda: any(each.transfer for each in served.server.statistics().connections))
            record = await served.record()
    assert record.outcome is Outcome.CLIENT_GONE
    assert [type(failure) for failure in failures] == [ClientGone]


# -- the server's ------------------------------------------------------------------------------------------------------


def _write(environ: Environ, write: Any) -> None:
    write(b"page")


def _hint(environ: Environ, write: Any) -> None:
    environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload")])


def _wait(environ: Environ, write: Any) -> None:
    environ["trio_wsgi.wait_writable"](1)


VERBS = {"write()": _write, "early_hints": _hint, "wait_writable": _wait}


@pytest.mark.parametrize("policy", ["block", "raise", "buffer"])
@pytest.mark.parametrize("verb", VERBS)
async def test_what_waits_for_the_client_is_refused_on_the_servers_loop(verb: str, policy: str) -> None:
    """At once, not only where the kernel is full, with what to do instead; nothing has been sent or decided then."""

    async def on_the_loop(environ: Environ, write: Any) -> None:
        with pytest.raises(AppError, match=rf"{verb}.* was called on the server's event loop.*trio\.to_thread"):
            VERBS[verb](environ, write)

    def app(environ: Environ, start_response: Callable[..., Any]) -> list[bytes]:
        write = start_response("200 OK", PLAIN)
        trio.from_thread.run(on_the_loop, environ, write)
        try:
            raise ValueError("another answer can still be given")
        except ValueError as exc:
            write = start_response("404 Not Found", PLAIN, (ValueError, exc, exc.__traceback__))
        write(b"none")
        return []

    answer = (await ask(app, write_policy=policy)).answer
    assert (answer.interim, answer.status, answer.body) == ([], 404, b"none")


async def test_a_failed_write_on_the_servers_loop_is_an_error_of_the_application() -> None:
    """Who does not catch it answers 500."""

    async def on_the_loop(write: Any) -> None:
        write(b"page")

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        trio.from_thread.run(on_the_loop, start_response("200 OK", PLAIN))
        return []

    asked = await ask(app)
    assert (asked.answer.status, asked.record.outcome) == (500, Outcome.APP_ERROR)


async def test_a_body_that_arrives_is_not_read_on_the_servers_loop() -> None:
    """What was read ahead of it is not lost: a thread reads on where the last one ended."""
    lines: list[bytes] = []

    async def on_the_loop(environ: Environ) -> None:
        for read in (environ["wsgi.input"].read, environ["wsgi.input"].readline):
            with pytest.raises(AppError, match=r"wsgi\.input\.read\(\) was called on the server's event loop"):
                read()
        lines.append(await trio.to_thread.run_sync(environ["wsgi.input"].readline))

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        lines.append(environ["wsgi.input"].readline())
        trio.from_thread.run(on_the_loop, environ)
        lines.append(environ["wsgi.input"].read())
        start_response("200 OK", PLAIN)
        return [b"read"]

    await ask(app, request("POST", "/", body=b"one\ntwo\nthree\n"), request_buffering=False)
    assert lines == [b"one\n", b"two\n", b"three\n"]


async def test_the_servers_loop_has_threads_write() -> None:
    """What the refusal says to do; and what need not wait is done on the loop itself."""
    done = trio.Event()

    async def work() -> None:
        done.set()

    async def on_the_loop(environ: Environ, write: Any) -> None:
        environ["trio_wsgi.set_app_timeout"](60)
        environ["trio_wsgi.nursery"].start_soon(work)
        await done.wait()
        for block in BLOCKS:
            await trio.to_thread.run_sync(write, block)

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        trio.from_thread.run(on_the_loop, environ, start_response("200 OK", PLAIN))
        return []

    async with serving(app) as served:
        received = await ask_slowly(served, request(), SMALL)
    assert read_answer(received).body == b"".join(BLOCKS)
