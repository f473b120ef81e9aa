"""Rules of recycling (issue 5): when a worker asks for a successor, and that nobody under way pays (PAINS 38)."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from answers import read_answer
from downloads import blocking_client, make_file
from serving import Command, command
from waiting import wait_until
from workers import supervised, wait_log

from trio_wsgi import Config, Outcome, RequestRecord, Server, run
from trio_wsgi.errors import ConfigError
from trio_wsgi.process import recycling
from trio_wsgi.process.recycling import Recycling, check_replaceable, resident_memory

RECORD = RequestRecord("127.0.0.1", 1, "GET", "/", "HTTP/1.1", 200, Outcome.FINISHED)


@asynccontextmanager
async def waiting(recycled: Recycling) -> AsyncIterator[list[str]]:
    """The reasons for which it asks, while the block runs."""
    reasons: list[str] = []

    async def wait() -> None:
        reasons.append(await recycled.wait_due())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        yield reasons
        nursery.cancel_scope.cancel()


async def test_it_asks_once_after_so_many_requests() -> None:
    recycled = Recycling(max_requests=3, jitter=0, max_rss=0)
    async with waiting(recycled) as reasons:
        for _ in range(2):
            recycled(RECORD)
        await trio.testing.wait_all_tasks_blocked()
        assert reasons == []
        for _ in range(5):
            recycled(RECORD)
        recycled.ask("something else")
        await trio.testing.wait_all_tasks_blocked()
        assert reasons == ["max_requests: 3 requests"]


def test_jitter_spreads_workers_over_its_whole_width() -> None:
    limits = set()
    for _ in range(300):
        recycled = Recycling(max_requests=10, jitter=4, max_rss=0)
        count = 0
        while not recycled._due.is_set():
            recycled(RECORD)
            count += 1
        limits.add(count)
    assert limits == {10, 11, 12, 13, 14}
    assert statistics.mean(limits) == 12


async def test_without_limits_it_never_asks() -> None:
    recycled = Recycling(max_requests=0, jitter=100, max_rss=0)
    async with waiting(recycled) as reasons:
        for _ in range(1000):
            recycled(RECORD)
        await trio.testing.wait_all_tasks_blocked()
        assert reasons == []


async def test_it_asks_when_memory_grows_beyond_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recycling, "LOOK", 0.01)
    size = resident_memory()
    assert size is not None
    recycled = Recycling(0, 0, max_rss=size + (64 << 20))
    async with waiting(recycled) as reasons:
        await trio.sleep(0.1)
        assert reasons == []
        ballast = b"x" * (128 << 20)
        with trio.fail_after(10):
            while not reasons:  # noqa: ASYNC110
                await trio.sleep(0.01)
        del ballast
    assert re.fullmatch(r"max_rss: \d+ MiB of memory, more than \d+ MiB", reasons[0])
    assert recycled.worn


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (512, "512 B: .*60 s \\(write --max-rss 512m, if MiB are meant\\)"),
        (1 << 20, "1.0 MiB: .*60 s \\(set it higher\\)"),
    ],
)
async def test_who_is_too_large_as_it_begins_says_so_and_stays_for_a_while(
    limit: int, told: str, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """A successor would be no smaller. `--max-rss 512` is a slip of the hand: uWSGI counts in MiB."""
    recycled = Recycling(0, 0, max_rss=limit)
    async with waiting(recycled) as reasons:
        await trio.sleep(59)
        assert reasons == []
        (said,) = caplog.messages
        assert re.match(rf"max_rss: \d+ MiB of memory at its start, more than {told}", said)
        await trio.sleep(2)
        assert len(reasons) == 1
    assert len(caplog.messages) == 1


async def test_a_reason_of_others_is_no_wear() -> None:
    """A script that has changed, or TERM: a successor need not wait, however young the worker is."""
    recycled = Recycling(1, 0, max_rss=0)
    recycled.ask("script_reloading")
    recycled(RECORD)
    assert not recycled.worn


async def test_where_memory_is_not_told_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(recycling, "_STATM", tmp_path / "none")
    recycled = Recycling(0, 0, max_rss=1)
    async with waiting(recycled) as reasons:
        await trio.testing.wait_all_tasks_blocked()
        assert reasons == []
    assert "max_rss: this system does not tell" in caplog.text


async def test_what_is_counted_is_every_request_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one connection; refused ones count as well. No response announces the close: the drain does that."""

    def app(environ, start_response):  # type: ignore[no-untyped-def]
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    recycled = Recycling(max_requests=4, jitter=0, max_rss=0)
    records: list[RequestRecord] = []
    server = Server(app, Config(bind=("127.0.0.1:0",)), observers=(records.append, recycled))
    async with waiting(recycled) as reasons, trio.open_nursery() as nursery:
        (address,) = await nursery.start(server.serve)
        async with await trio.open_tcp_stream(address.host, address.port) as stream:
            for number in range(6):
                assert len(reasons) == (number > 3)
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                received = b""
                with trio.fail_after(10):
                    while not received.endswith(b"ok"):
                        received += await stream.receive_some()
                    while len(records) == number:  # noqa: ASYNC110 - the record follows the answer, in a thread's time
                        await trio.sleep(0.001)
                assert not read_answer(received).closes
                await trio.testing.wait_all_tasks_blocked()
        assert reasons == ["max_requests: 4 requests"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("setting", "settings"),
    [
        ("max_requests", {"max_requests": 5}),
        ("max_rss", {"max_rss": "1g"}),
        ("reload", {"reload": True}),
        ("reload_mechanism", {"script_reloading": True, "reload_mechanism": "process"}),
    ],
)
def test_without_a_supervisor_they_are_refused(setting: str, settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"^{setting}: there is no supervisor here .*\(give --workers 1 or more\)"):
        check_replaceable(Config(workers=0, **settings))  # type: ignore[arg-type]


def test_an_application_that_is_handed_over_cannot_be_followed() -> None:
    with pytest.raises(ConfigError, match=r"script_reloading: .* handed over .it has no name: use the command"):
        run(lambda environ, start_response: [], script_reloading=True)


def test_what_asks_for_nothing_needs_no_supervisor() -> None:
    check_replaceable(Config(max_requests_jitter=5, reload_mechanism="process", script_reloading=False))
    check_replaceable(Config(script_reloading=True, workers=0))


# -- the command -------------------------------------------------------------------------------------------------------

APP = """
import os
kept = []

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Pid", str(os.getpid()))])
    if environ["PATH_INFO"] == "/file":
        return environ["wsgi.file_wrapper"](open("large", "rb"))
    if environ["PATH_INFO"] == "/grow":
        kept.append(b"x" * (256 << 20))
    return [str(os.getpid()).encode()]
"""


def asking(run: Command, text: str) -> list[str]:
    return re.findall(rf"\(pid (\d+)\) asks for a successor: {text}", run.log)


class KeepAlive:
    """A client that keeps its connection for as long as the server does, and then takes another."""

    def __init__(self, run: Command) -> None:
        self._run = run
        self._connection: http.client.HTTPConnection | None = None
        self.closes = 0  # announced with a response

    def ask(self) -> str:
        for _ in range(3):
            if self._connection is None:
                self._connection = http.client.HTTPConnection("127.0.0.1", self._run.port, timeout=30)
            try:
                self._connection.request("GET", "/")
                response = self._connection.getresponse()
                body = response.read().decode()
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                # closed while it was idle: RFC 9112 section 9.3.1 lets a client ask again
                self.close()
                continue
            if response.will_close:
                self.closes += 1
                self.close()
            return body
        raise AssertionError("closed three times in a row")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


@pytest.mark.slow
def test_recycling_cuts_nobody_and_says_nothing_before_the_drain(tmp_path: Path) -> None:
    """A download that is under way outlives its worker's time; requests are answered throughout (PAINS 38)."""
    (tmp_path / "workers_app.py").write_text(APP)
    data = make_file(tmp_path / "large", 16 << 20)
    arguments = ["--max-requests", "30", "--graceful-timeout", "1", "--drain-max", "1"]
    with (
        supervised(tmp_path, *arguments) as run,
        blocking_client(run.port, receive_buffer=65536) as download,
        contextlib.closing(KeepAlive(run)) as client,
    ):
        download.sendall(b"GET /file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = download.recv(65536)
        first = client.ask()
        assert f"X-Pid: {first}\r\n".encode() in received
        while client.ask() == first:  # ever quicker than a successor boots
            if client.closes:
                wait_log(run, f"(pid {first}) asks for a successor: max_requests: 30 requests")
                wait_log(run, " is ready", 2)
        assert len(asking(run, "max_requests: 30 requests")) == 1

        wait_until(lambda: client.ask() not in {first, *asking(run, "")})  # the next one has had its time, too
        with contextlib.suppress(TimeoutError):  # long after graceful_timeout and drain_max
            download.settimeout(3)
            while len(received) < (4 << 20):
                received += download.recv(4096)
        assert f"(pid {first}) has ended" not in run.log
        download.settimeout(30)
        while more := download.recv(1 << 20):
            received += more
        assert received.partition(b"\r\n\r\n")[2] == data
        wait_log(run, f"(pid {first}) has ended")
        assert asking(run, "").count(first) == 1


@pytest.mark.slow
def test_a_worker_that_has_grown_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "workers_app.py").write_text(APP)
    with supervised(tmp_path, "--max-rss", "200m") as run, contextlib.closing(KeepAlive(run)) as client:
        first = client.ask()
        with socket.create_connection(("127.0.0.1", run.port), timeout=30) as grower:
            grower.sendall(b"GET /grow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while grower.recv(65536):
                pass
        wait_until(lambda: client.ask() != first)
        wait_log(run, f"(pid {first}) has ended")
        assert re.search(
            rf"\(pid {first}\) asks for a successor: max_rss: \d+ MiB of memory, more than 200 MiB\n", run.log
        )
        assert client.ask() not in asking(run, "")


@pytest.mark.parametrize("words", [[], ["--check-config"]])
def test_the_command_without_workers_says_what_is_missing(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "workers_app.py").write_text(APP)
    with command("workers_app:app", "--max-requests", "5", *words, cwd=tmp_path, wait=False) as run:
        assert run.wait(30) == 1
        assert run.log == (
            "trio-wsgi: error: max_requests: there is no supervisor here that could replace this process "
            "(give --workers 1 or more)\n"
        )
