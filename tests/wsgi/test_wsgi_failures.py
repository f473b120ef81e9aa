"""When the app fails: a 500 while nothing was sent, else a cut that every client can tell; never the server's end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import h11
import pytest
import trio
from answers import read_answers
from asking import PLAIN, Environ, StartResponse, ask, error_lines, request
from serving import Served, receive_to_end, serving

from trio_wsgi import Outcome

pytestmark = pytest.mark.usefixtures("each_way")


class Unprintable(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


FAULTS = [
    pytest.param(lambda: ValueError("one\ntwo"), id="an error of two lines"),
    pytest.param(lambda: ValueError(), id="an error without a text"),
    pytest.param(lambda: ValueError("\ud800 %s {}"), id="an error with a surrogate"),
    pytest.param(lambda: Unprintable(), id="an error that cannot be printed"),
    pytest.param(lambda: OSError(5, "Input/output error"), id="OSError"),
    pytest.param(lambda: ConnectionResetError("a database's"), id="a connection of the app's own"),
    pytest.param(lambda: BlockingIOError("an app's own"), id="BlockingIOError"),
    pytest.param(lambda: StopIteration(), id="StopIteration"),
    pytest.param(lambda: SystemExit(3), id="SystemExit"),
    pytest.param(lambda: KeyboardInterrupt(), id="KeyboardInterrupt"),
    pytest.param(lambda: GeneratorExit(), id="GeneratorExit"),
    pytest.param(lambda: RecursionError("deep"), id="RecursionError"),
    pytest.param(lambda: MemoryError(), id="MemoryError"),
    pytest.param(lambda: trio.WouldBlock(), id="trio.WouldBlock"),
    pytest.param(lambda: BaseExceptionGroup("g", [KeyboardInterrupt()]), id="BaseExceptionGroup"),
]


class Failing:
    """An iterable whose step `number` fails."""

    def __init__(self, fault: BaseException, blocks: list[bytes]) -> None:
        self.fault = fault
        self.blocks = blocks

    def __iter__(self) -> Failing:
        return self

    def __next__(self) -> bytes:
        if not self.blocks:
            raise self.fault
        return self.blocks.pop(0)


def failing_app(fault: BaseException, where: str) -> Any:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        if environ["PATH_INFO"] == "/next":
            start_response("200 OK", PLAIN)
            return [b"alive"]
        if where == "before":
            raise fault
        headers = [*PLAIN, ("Content-Length", "1000")] if where == "with length" else list(PLAIN)
        write = start_response("200 OK", headers)
        if where == "called":
            raise fault
        if where == "written":
            write(b"some")
            raise fault
        return Failing(fault, [b"", b""] if where == "empty" else [b"some"])

    return app


NEXT = request("GET", "/next")


@pytest.mark.parametrize("make", FAULTS)
@pytest.mark.parametrize("where", ["before", "called", "empty"])
async def test_before_the_head_has_left_it_is_500_on_a_connection_that_goes_on(
    make: Callable[[], BaseException], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """PAINS (WSGI layers): SystemExit and its like end the server elsewhere, or leave the client without an answer."""
    fault = make()
    if isinstance(fault, StopIteration) and where == "empty":
        return  # that is how an iterator ends
    async with serving(failing_app(fault, where)) as served:
        raw = await served.exchange(request().replace(b"Connection: close\r\n", b"") + NEXT)
        await served.record(2)
        record = served.records[0]
    failed, after = read_answers(raw, ["GET", "GET"])
    assert (failed.status, failed.value("content-type")) == (500, "text/plain; charset=utf-8")
    assert b"Traceback" not in failed.body and b"two" not in failed.body
    assert after.body == b"alive"
    assert record.outcome is Outcome.APP_ERROR
    assert type(fault).__name__ in record.reason and "\n" not in record.reason
    (logged,) = [entry for entry in caplog.records if entry.name == "trio_wsgi.error"]
    assert logged.exc_info is not None and logged.exc_info[1] is fault  # with the app's own traceback


SEEN: ContextVar[BaseException | None] = ContextVar("SEEN", default=None)


class Reporter(logging.Handler):
    """As those of error trackers: reports an error, unless the middleware has, and has noted it in the context."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.reported: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not SEEN.get():
            self.reported.append(record.getMessage())


@pytest.mark.parametrize("where", ["before", "iterated"])
async def test_the_error_is_logged_in_the_context_in_which_the_app_has_failed(where: str) -> None:
    """Else error trackers, which see it in a middleware first, report it a second time when it is logged."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        fault = ValueError("noted")
        try:
            yield from failing_app(fault, where)(environ, start_response)
        except ValueError as exc:
            assert SEEN.get() is None  # nothing of another request
            SEEN.set(exc)
            raise

    reporter = Reporter()
    log = logging.getLogger("trio_wsgi.error")
    log.addHandler(reporter)
    try:
        async with serving(app) as served:
            for _ in range(3):
                await served.exchange(request().replace(b"Connection: close\r\n", b"") * 2)
    finally:
        log.removeHandler(reporter)
    assert reporter.reported == []
    assert {record.outcome for record in served.records} == {Outcome.APP_ERROR}


@pytest.mark.parametrize("make", [FAULTS[0], FAULTS[8], FAULTS[10]])
@pytest.mark.parametrize("where", ["written", "iterated", "with length"])
async def test_after_the_head_has_left_an_h11_client_can_tell(
    make: Callable[[], BaseException], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """PAINS: a clean terminator after a failure makes half a file a whole one (granian)."""
    async with serving(failing_app(make(), where)) as served:
        raw = await served.exchange(request().replace(b"Connection: close\r\n", b"") + NEXT)
        record = await served.record()
        assert (await served.exchange(NEXT)).endswith(b"alive")
    with pytest.raises(h11.RemoteProtocolError):
        read_answers(raw, ["GET"])
    assert b"some" in raw and b"alive" not in raw
    assert not raw.endswith(b"0\r\n\r\n")
    assert (record.outcome, record.status) == (Outcome.APP_ERROR, 200)
    assert len(error_lines(caplog)) == 1


@pytest.mark.parametrize("where", ["written", "iterated", "with length"])
async def test_after_the_head_has_left_an_http10_client_can_tell(where: str) -> None:
    """Where only the end of the connection ends a body, a cut is a reset."""
    async with serving(failing_app(ValueError("x"), where)) as served, await served.connect() as stream:
        await stream.send_all(request(version="1.0"))
        received = b""
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            while chunk := await stream.receive_some():
                received += chunk
            if where == "with length":
                assert len(received.partition(b"\r\n\r\n")[2]) < 1000
                raise trio.BrokenResourceError  # the length tells


async def test_a_cut_costs_a_slow_client_nothing_of_what_was_sent_before() -> None:
    """RFC 9112 §9.6: to close while the client sends would reset the connection, and destroy what it has not read."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        whole = environ["PATH_INFO"] == "/whole"
        start_response("200 OK", [("Content-Length", "200000" if whole else "10")])
        yield bytes(200_000) if whole else b"ab"
        if not whole:
            raise ValueError("too late for a 500")

    async with serving(app) as served, await served.connect(4096) as stream:
        await stream.send_all(b"".join(b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in (b"whole", b"fails")))
        assert (await served.record(2)).outcome is Outcome.APP_ERROR
        await stream.send_all(b"GET /more HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(5):
            received, _ = await receive_to_end(stream)
    assert received.endswith(b"ab")
    assert len(received) > 200_000


@pytest.mark.parametrize("make", FAULTS)
async def test_tracebacks_are_shown_only_to_those_who_ask_for_them(make: Callable[[], BaseException]) -> None:
    fault = make()
    asked = await ask(failing_app(fault, "before"), expose_tracebacks=True)
    body = asked.answer.body.decode()
    assert asked.answer.status == 500
    assert "Traceback (most recent call last)" in body and "test_wsgi_failures.py" in body
    assert type(fault).__name__ in body


async def test_the_500_page_has_no_body_for_head() -> None:
    asked = await ask(failing_app(ValueError("x"), "before"), request("HEAD"))
    assert (asked.answer.status, asked.answer.body) == (500, b"")


async def test_an_app_that_fails_without_reading_its_body_ends_that_connection_cleanly() -> None:
    asked = await ask(failing_app(ValueError("x"), "before"), request("POST", body=b"x" * 300_000), body_buffer_size=10)
    assert asked.answer.status == 500
    asked = await ask(
        failing_app(ValueError("x"), "before"), request("POST", body=b"x" * 300_000), request_buffering=False
    )
    assert asked.answer.status == 500 and asked.answer.closes


async def test_a_failure_costs_no_thread() -> None:
    app = failing_app(SystemExit(1), "before")
    async with serving(app, threads=1) as served:
        for _ in range(5):
            assert await served.exchange(request())
        with trio.fail_after(5):
            assert (await served.exchange(NEXT)).endswith(b"alive")


async def exchange_and_go(served: Served, sent: bytes) -> None:
    async with await served.connect() as stream:
        await stream.send_all(sent)


async def test_an_app_that_swallows_the_clients_leaving_gets_it_again_and_ends_as_client_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures: list[OSError] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        write = start_response("200 OK", PLAIN)
        while len(failures) < 3:
            try:
                write(bytes(100_000))
            except OSError as exc:
                failures.append(exc)
        return iter([b"as if nothing had happened"])

    async with serving(app) as served:
        await exchange_and_go(served, request())
        record = await served.record()
    assert record.outcome is Outcome.CLIENT_GONE
    assert len(failures) == 3
    assert error_lines(caplog) == []
