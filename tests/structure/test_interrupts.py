"""Ctrl-C in a program that serves: it ends by KeyboardInterrupt, wherever in our code the signal arrives.

Trio raises it in whatever runs on the loop, unless that is protected (trio.lowlevel.enable_ki_protection). After half a
step of ours a thread that nobody wakes any more would keep the program for ever.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from serving import clean_environment

import trio_wsgi

PROGRAM = """
import faulthandler, signal, sys
import trio, trio_wsgi

faulthandler.dump_traceback_later(40, exit=True)  # where it would hang
WATCHED = sys.argv[1:]

class Hooked(list):
    def close(self):
        pass

async def asked_to_run():
    await trio.sleep(0.02)
    return "done"

def asked_to_call():
    return "done"

def app(environ, start_response):
    if environ["PATH_INFO"] == "/waits":
        trio.from_thread.run(asked_to_run)
        trio.from_thread.run_sync(asked_to_call)
    elif environ["PATH_INFO"] == "/works":
        environ["trio_wsgi.nursery"].start_soon(trio.sleep, 0)
    elif environ["PATH_INFO"] == "/reads":
        environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Length", "5")])
    return Hooked([b"hello"]) if environ["PATH_INFO"] == "/hooked" else [b"hello"]

async def ask(address):
    async with await trio.open_tcp_stream(address.host, address.port) as stream:
        for path in (b"/", b"/waits", b"/hooked", b"/works", b"/reads", b"/listed/", b"/"):
            body = b"Expect: 100-continue\\r\\nContent-Length: 5\\r\\n" if path == b"/reads" else b""
            await stream.send_all(b"GET " + path + b" HTTP/1.1\\r\\nHost: x\\r\\n" + body + b"\\r\\n")
            if body:
                await stream.receive_some()
                await stream.send_all(b"12345")
            received = b""
            while not received.rstrip().endswith((b"hello", b"</html>")):
                try:
                    received += await stream.receive_some() or await trio.sleep_forever()
                except trio.BrokenResourceError:  # cut, as the server ends: so does this
                    await trio.sleep_forever()

async def serve_and_ask(at):
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(
            trio_wsgi.serve, app, trio_wsgi.Config(
                bind=["127.0.0.1:0"], http="h11", app_timeout=30, static=["/listed=."], static_listing=True
            )
        )
        def in_function(frame, event, arg):
            if frame.f_code.co_qualname in WATCHED:
                return in_line(frame, event, arg)
        def in_line(frame, event, arg):
            place = frame.f_code.co_qualname, frame.f_lineno
            if event == "line":
                seen[place] = None
                if place == at:
                    sys.settrace(None)
                    signal.raise_signal(signal.SIGINT)
            return in_line
        sys.settrace(in_function)
        try:
            async with trio.open_nursery() as clients:
                for _ in range(3):
                    clients.start_soon(ask, address)
        finally:
            sys.settrace(None)
        nursery.cancel_scope.cancel()

seen = {}
trio.run(serve_and_ask, None)
for place in list(seen):
    try:
        trio.run(serve_and_ask, place)
        print("nothing", *place)
    except* KeyboardInterrupt:
        print("interrupted", *place)
"""
WATCHED = [
    "ThreadPool._give",
    "ThreadPool._begin",
    "ThreadPool._report",
    "ThreadPool._hand_out",
    "ThreadPool._oversee",
    "AppClock.begin",
    "AppClock._run",
    "Connection._next_request",
    "Account.tell",
    "close_logging",
    "Work._start",
    "AppThread._wait_on_loop",
    "asked_to_run",
    "asked_to_call",
]


def test_an_interrupt_ends_the_program_wherever_it_arrives(tmp_path: Path) -> None:
    """At each line of what keeps account of threads, deadlines and requests, and of what an app asks of the loop."""
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "program.py", *WATCHED],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=90,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(lines) > 30
    # A place that is not passed every time is no failure; one where the interrupt was swallowed would be passed.
    assert sum(line.startswith("interrupted") for line in lines) > 0.8 * len(lines), lines


async def strike() -> None:
    """What is asked of the loop, just when Ctrl-C comes."""
    raise KeyboardInterrupt


async def strike_task() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(strike)


def struck() -> None:
    trio.from_thread.run(strike)


def struck_in_nursery() -> None:
    trio.from_thread.run(strike_task)


def struck_and_wrapped() -> None:
    try:
        trio.from_thread.run(strike)
    except BaseException as exc:
        raise RuntimeError("the framework's") from exc


class Closed:
    def __init__(self, close: Callable[[], None]) -> None:
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        yield b"hello"


@pytest.mark.parametrize("ask", [struck, struck_in_nursery, struck_and_wrapped])
@pytest.mark.parametrize("where", ["called", "closed"])
def test_an_interrupt_of_what_the_app_asks_of_the_loop_is_the_programs(ask: Callable[[], None], where: str) -> None:
    """However it comes back to the application's thread: alone, in a nursery's group, or as another error's cause."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        if where == "called":
            ask()
        return Closed(ask)

    async def serve_one() -> None:
        async with trio.open_nursery() as nursery:
            config = trio_wsgi.Config(bind=("127.0.0.1:0",))
            (address,) = await nursery.start(trio_wsgi.serve, app, config)
            async with await trio.open_tcp_stream(address.host, address.port or 0) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                with trio.move_on_after(5):
                    await stream.receive_some()
                    await trio.sleep_forever()
            nursery.cancel_scope.cancel()

    with pytest.raises(BaseExceptionGroup) as ended:
        trio.run(serve_one)
    (interrupt,) = ended.value.exceptions  # the group is that of the program's own nursery
    assert type(interrupt) is KeyboardInterrupt


class Interrupting:
    """The status of a task that is interrupted as soon as it has started."""

    def started(self, value: object = None) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("way", ["serve", "Server.serve"])
def test_a_program_that_only_serves_ends_by_an_interrupt_in_no_group(way: str) -> None:
    """Each nursery of ours would put it into another group: a dozen, of which Python does not even print the last."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return []

    config = trio_wsgi.Config(bind=("127.0.0.1:0",))
    serve = partial(trio_wsgi.serve, app, config) if way == "serve" else trio_wsgi.Server(app, config).serve
    with pytest.raises(KeyboardInterrupt) as ended:
        trio.run(partial(serve, task_status=Interrupting()))
    assert ended.value.__context__ is None
    assert "_serve" in [frame.name for frame in ended.traceback]
