"""Rules of recycling (issue 5): when a worker asks for a successor, and that nobody under way pays (PAINS 38)."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from answers import read_answer

from trio_wsgi import Config, Outcome, RequestRecord, Server
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
    assert reasons[0].startswith("max_rss: ")
    assert reasons[0].endswith(f" MiB of memory, more than {(size >> 20) + 64}")


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
    server = Server(app, Config(bind=("127.0.0.1:0",)), observers=(recycled,))
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
        check_replaceable(Config(**settings))  # type: ignore[arg-type]


def test_what_asks_for_nothing_needs_no_supervisor() -> None:
    check_replaceable(Config(max_requests_jitter=5, reload_mechanism="process", script_reloading=False))
    check_replaceable(Config(script_reloading=True, workers=0))
