"""Ctrl-C in a program that serves: it ends by KeyboardInterrupt, wherever in our code the signal arrives.

Trio raises it in whatever runs on the loop, unless that is protected (trio.lowlevel.enable_ki_protection). After half a
step of ours a thread that nobody wakes any more would keep the program for ever.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serving import clean_environment

PROGRAM = """
import faulthandler, signal, sys
import trio, trio_wsgi

faulthandler.dump_traceback_later(40, exit=True)  # where it would hang
WATCHED = sys.argv[1:]

class Hooked(list):
    def close(self):
        pass

def app(environ, start_response):
    if environ["PATH_INFO"] == "/waits":
        trio.from_thread.run(trio.sleep, 0.02)
    start_response("200 OK", [("Content-Length", "5")])
    return Hooked([b"hello"]) if environ["PATH_INFO"] == "/hooked" else [b"hello"]

async def ask(address):
    async with await trio.open_tcp_stream(address.host, address.port) as stream:
        for path in (b"/", b"/waits", b"/hooked", b"/listed/", b"/"):
            await stream.send_all(b"GET " + path + b" HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
            received = b""
            while not received.rstrip().endswith((b"hello", b"</html>")):
                received += await stream.receive_some()

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
    "ThreadPool.oversee",
    "AppClock.begin",
    "AppClock._run",
    "Connection._next_request",
    "Exchange._emit",
    "close_logging",
]


def test_an_interrupt_ends_the_program_wherever_it_arrives(tmp_path: Path) -> None:
    """At each line of what keeps account of threads, deadlines and requests."""
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
