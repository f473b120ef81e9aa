"""Rules of what a program hands to a server: it is used, or refused at once with what to do instead."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import math
import pickle
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
import trio
from waiting import until

import trio_wsgi
from trio_wsgi import AppLoadError, Config, ConfigError, RequestRecord, Server
from trio_wsgi.config import SETTINGS
from trio_wsgi.setting import Reach

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
ANYWHERE = ("127.0.0.1:0",)

# For each setting that a server in a program has no use for: something that is asked of it.
ASKED: dict[str, Any] = {
    "workers": 4,
    "timeout": 60,
    "boot_timeout": 9,
    "max_requests": 9,
    "max_requests_jitter": 9,
    "max_rss": 1 << 30,
    "cpu_affinity": "auto",
    "pid": "server.pid",
    "user": "nobody",
    "group": "nogroup",
    "umask": "027",
    "reload": True,
    "reload_extra_file": ("*.html",),
    "script_reloading": True,
    "reload_mechanism": "process",
    "env": (("A", "b"),),
    "chdir": "/",
    "pythonpath": "/",
    "access_logfile": "-",
    "error_logfile": "error.log",
    "log_level": "debug",
}


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"hello multiprocess={environ['wsgi.multiprocess']}".encode()]


@asynccontextmanager
async def asked_five_times(server: Server) -> AsyncIterator[trio.SocketStream]:
    """The server runs until the block ends; the client's connection goes on."""
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(server.serve)
        async with await trio.open_tcp_stream(address.host, address.port) as client:
            for _ in range(5):
                await client.send_all(REQUEST)
                assert await client.receive_some()
            yield client
        nursery.cancel_scope.cancel()


@pytest.fixture
def guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A middleware that lets nobody in, and one that wraps nothing, by name."""
    (tmp_path / "handed_guard.py").write_text(
        "def deny(app):\n"
        "    def denied(environ, start_response):\n"
        "        start_response('403 Forbidden', [])\n"
        "        return [b'no']\n"
        "    return denied\n"
        "def broken(app): return None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "handed_guard"


# -- settings ----------------------------------------------------------------------------------------------------------


def test_a_setting_without_effect_is_refused_with_what_to_do() -> None:
    """By `Server` all that a process or a supervisor does, by `run` what a supervisor or an import does."""
    assert list(ASKED) == [name for name, setting in SETTINGS.items() if setting.reach > Reach.SERVER]
    for name, value in ASKED.items():
        told = rf"^{name}: .* has no effect on .*\(.+\)$"
        with pytest.raises(ConfigError, match=told):
            Server(hello, Config(**{name: value}))
        if SETTINGS[name].reach > Reach.PROCESS:
            with pytest.raises(ConfigError, match=told):
                trio_wsgi.run(hello, bind=ANYWHERE, **{name: value})


def test_a_setting_that_asks_for_nothing_is_taken() -> None:
    """A program may share its settings with the command."""
    Server(hello, Config(workers=0, max_requests=0, pid=None, user=None, env={}, reload=False))  # type: ignore[arg-type]


def test_what_the_process_has_done_is_left_out_for_its_server() -> None:
    """The command's own servers get the same settings without what the process around them sees to."""
    config = Config(**ASKED, middleware=("a:b",), threads=3)
    assert config.for_server() == Config(threads=3)
    Server(hello, config.for_server())


@pytest.mark.parametrize("way", ["Server", "serve"])
async def test_middleware_is_wrapped_around_the_application(way: str, guard: str) -> None:
    """An access control that is named and absent would be worse than none."""
    config = Config(bind=ANYWHERE, middleware=(f"{guard}:deny",))
    async with trio.open_nursery() as nursery:
        start: Any = Server(hello, config).serve if way == "Server" else trio_wsgi.serve
        (address,) = await nursery.start(start, *([] if way == "Server" else [hello, config]))
        async with await trio.open_tcp_stream(address.host, address.port) as client:
            await client.send_all(REQUEST)
            assert (await client.receive_some()).startswith(b"HTTP/1.1 403 ")
        nursery.cancel_scope.cancel()


def test_middleware_that_cannot_be_is_told_when_the_server_is_made(guard: str) -> None:
    with pytest.raises(AppLoadError, match="what it returned is a NoneType"):
        Server(hello, Config(middleware=(f"{guard}:broken",)))
    with pytest.raises(AppLoadError, match="no module 'handed_nowhere'"):
        Server(hello, Config(middleware=("handed_nowhere:deny",)))


@pytest.mark.parametrize("several", [False, True])
async def test_wsgi_multiprocess_is_what_the_program_says(several: bool) -> None:
    """Only the program knows whether others of it serve the same application (PEP 3333)."""
    async with trio.open_nursery() as nursery:
        server = Server(hello, Config(bind=ANYWHERE), processes=1 + several)
        (address,) = await nursery.start(server.serve)
        async with await trio.open_tcp_stream(address.host, address.port) as client:
            await client.send_all(REQUEST)
            assert f"multiprocess={several}".encode() in await client.receive_some()
        nursery.cancel_scope.cancel()


def test_a_process_that_serves_is_one_at_least() -> None:
    with pytest.raises(ValueError, match="processes must be 1 or more, as this one is among them, not 0"):
        Server(hello, processes=0)


# -- arguments ---------------------------------------------------------------------------------------------------------


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize(
    ("app", "told"),
    [
        (5, "5 is a int, and cannot be called"),
        (lambda: hello, "takes no environ and start_response, .*if it is a factory, hand over what it returns"),
        (asgi, "is asynchronous, as ASGI applications are"),
    ],
)
async def test_what_is_no_application_is_refused_before_it_is_served(app: Any, told: str) -> None:
    """By all that take an application, as by the command: not by a 500 for each request."""
    with pytest.raises(TypeError, match=told):
        Server(app)
    with trio.fail_after(5), pytest.raises(TypeError, match=told):
        await trio_wsgi.serve(app, Config(bind=ANYWHERE))
    with pytest.raises(TypeError, match=told):
        trio_wsgi.run(app)


async def observe_later(record: RequestRecord) -> None: ...


class ObservesLater:
    async def __call__(self, record: RequestRecord) -> None: ...


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Server(hello, {"bind": ANYWHERE}), "handed over as trio_wsgi.Config(...), not as this: {'bind'"),  # type: ignore[arg-type]
        (lambda: Server(hello, observers=[3]), "observers are a list of functions of one record, not [3]"),  # type: ignore[list-item]
        (lambda: Server(hello, observers=print), "observers are a list of functions"),  # type: ignore[arg-type]
        (lambda: Server(hello, observers=[observe_later]), "is asynchronous, and observers are called"),
        (lambda: Server(hello, observers=[ObservesLater()]), "is asynchronous, and observers are called"),
    ],
)
def test_a_wrong_argument_is_a_type_error_that_says_what_is_taken(make: Callable[[], Server], told: str) -> None:
    with pytest.raises(TypeError, match=re.escape(told)):
        make()


@pytest.mark.parametrize("listeners", [None, 3, "fd://3", [3]])
async def test_listeners_are_a_list_of_sockets(listeners: Any) -> None:
    refused = pytest.raises(TypeError, match="listeners are a list of listening sockets, not ")
    with socket.create_server(("127.0.0.1", 0)) as sock, trio.fail_after(5), refused:
        await trio_wsgi.serve(hello, listeners=sock if listeners is None else listeners)


async def test_no_listeners_are_no_place_to_serve() -> None:
    """A list of sockets that came out empty: `serve` would return at once, as if it had been stopped."""
    with trio.fail_after(5), pytest.raises(ValueError, match="listeners is empty"):
        await trio_wsgi.serve(hello, listeners=[])


async def test_a_listener_of_tls_is_refused() -> None:
    """What comes there would be answered in the clear."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    refused = pytest.raises(TypeError, match="would be served without TLS: hand over a plain socket, and name certfile")
    with (
        socket.create_server(("127.0.0.1", 0)) as sock,
        context.wrap_socket(sock, server_side=True) as listener,
        trio.fail_after(5),
        refused,
    ):
        await trio_wsgi.serve(hello, listeners=[listener])


async def test_a_script_runs_in_its_main_thread() -> None:
    """Where alone Python lets signals be waited for: what to do elsewhere is said."""
    told = r"in the main thread of the main interpreter; elsewhere: trio\.run\(trio_wsgi\.serve"
    with pytest.raises(RuntimeError, match=told):
        await trio.to_thread.run_sync(trio_wsgi.run, hello)


@pytest.mark.usefixtures("each_way")
async def test_an_observer_may_raise_anything(caplog: pytest.LogCaptureFixture) -> None:
    """SystemExit, or what pytest.fail() raises: the next request is served, and the other observers are told."""
    told: list[int] = []

    def leave(record: RequestRecord) -> None:
        raise SystemExit(1)

    server = Server(hello, Config(bind=ANYWHERE), observers=[leave, lambda record: told.append(record.status)])
    async with asked_five_times(server):
        await until(lambda: len(told) == 5)
    assert told == [200] * 5
    assert [line.message for line in caplog.records if "observer" in line.message] == [
        "an observer of finished requests failed"
    ] * 5


@pytest.mark.usefixtures("each_way")
async def test_an_observer_sees_the_context_variables_of_the_program() -> None:
    """Of whoever serves, on each way: tracing keeps its spans there."""
    told: list[str] = []
    variable: ContextVar[str] = ContextVar("variable", default="not the program's")
    variable.set("the program's")
    server = Server(hello, Config(bind=ANYWHERE), observers=[lambda record: told.append(variable.get())])
    async with asked_five_times(server):
        await until(lambda: len(told) == 5)
    assert told == ["the program's"] * 5


@pytest.mark.usefixtures("each_way")
async def test_a_record_can_be_told_as_a_dict_copied_and_sent_to_another_process() -> None:
    """Though its environ holds what cannot be, such as wsgi.input: that stays as it is, or behind."""
    told: list[RequestRecord] = []
    server = Server(hello, Config(bind=ANYWHERE), observers=[told.append])
    async with asked_five_times(server) as client:
        await client.send_all(b"GET / HTTP/1.1\r\nno field\r\n\r\n")
        assert await client.receive_some()
        await until(lambda: len(told) == 6)
    for record in told:
        assert dataclasses.asdict(record)["environ"] is record.environ
        assert copy.deepcopy(record) == record
        elsewhere = pickle.loads(pickle.dumps(record))
        assert elsewhere == dataclasses.replace(record, environ=elsewhere.environ)
        assert elsewhere.environ.get("PATH_INFO") == record.environ.get("PATH_INFO")
    assert told[0].environ["PATH_INFO"] == "/" and "wsgi.input" in told[0].environ
    assert "wsgi.input" not in pickle.loads(pickle.dumps(told[0])).environ


async def test_a_listener_may_be_a_socket_of_trios_and_an_observer_may_return_something() -> None:
    """For type checkers, too, which read this file."""
    told: list[RequestRecord] = []

    def count(record: RequestRecord) -> int:
        told.append(record)
        return len(told)

    observer: trio_wsgi.Observer = count
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, trio.open_nursery() as nursery:
        server = Server(hello, observers=[observer])
        (address,) = await nursery.start(server.serve, [listener.socket])
        statistics: trio_wsgi.Statistics = server.statistics()
        assert statistics.connections == ()
        async with await trio.open_tcp_stream(address.host, address.port) as client:
            await client.send_all(REQUEST)
            await client.receive_some()
        nursery.cancel_scope.cancel()
    assert [record.status for record in told] == [200]


@pytest.mark.parametrize("name", ["graceful_timeout", "drain_max"])
@pytest.mark.parametrize(
    ("seconds", "error"), [("5", TypeError), (True, TypeError), (math.nan, ValueError), (-1, ValueError)]
)
def test_a_drain_takes_seconds(name: str, seconds: Any, error: type[Exception]) -> None:
    """It is refused where it is asked for, not in the task that serves; nothing has begun by then."""
    server = Server(hello)
    with pytest.raises(error, match=rf"^{name} is "):
        server.drain(**{name: seconds})
    assert repr(server) == "<Server not started, 0 connections>"


def test_another_event_loop_is_told_that_trio_is_needed() -> None:
    with pytest.raises(RuntimeError, match=r"serves on Trio's event loop"):
        asyncio.run(trio_wsgi.serve(hello, Config(bind=ANYWHERE)))


# -- what it says of itself --------------------------------------------------------------------------------------------


def test_a_server_can_be_shown_at_any_time() -> None:
    """Before, while and after it serves, inside the event loop and outside of it."""
    server = Server(hello, Config(bind=ANYWHERE))
    assert repr(server) == "<Server not started, 0 connections>"

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(server.serve)
            assert repr(server) == "<Server serving, 0 connections>"
            async with await trio.open_tcp_stream(address.host, address.port) as client:
                await client.send_all(b"GET / HT")
                await until(lambda: "1 connections" in repr(server))
                server.drain(graceful_timeout=0.05)
                assert repr(server) == "<Server draining, 1 connections>"

    trio.run(main)
    assert repr(server) == "<Server ended, 0 connections>"


async def test_a_server_that_was_drained_beforehand_says_so() -> None:
    server = Server(hello, Config(bind=ANYWHERE))
    server.drain()
    assert "draining" in repr(server)
    with trio.fail_after(5):
        await server.serve()
    assert "ended" in repr(server)
    server.drain()
    assert "ended" in repr(server)
