"""Where the system starts no more threads (RLIMIT_NPROC, a limit of pids): who wanted one is told, and nobody ends."""

from __future__ import annotations

import errno
import threading

import pytest
import trio
from asking import PLAIN, Environ, StartResponse
from authority import shared_authority
from serving import serving

from trio_wsgi import ConfigError, Outcome
from trio_wsgi.net.inthread import run_in_thread, run_in_thread_at_last


def raise_runtime_error() -> None:
    raise RuntimeError("its own")


async def test_what_is_called_has_errors_of_its_own() -> None:
    assert await run_in_thread(threading.get_ident) != threading.get_ident()
    with pytest.raises(RuntimeError, match="its own"):
        await run_in_thread(raise_runtime_error)


@pytest.mark.usefixtures("no_thread")
async def test_a_lack_of_threads_is_one_of_the_systems_errors() -> None:
    with pytest.raises(OSError, match="no thread can be started") as raised:
        await run_in_thread(threading.get_ident)
    assert raised.value.errno == errno.EAGAIN


async def test_what_may_wait_is_done_once_there_is_a_thread(
    no_thread: None, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    found: list[int] = []

    async def find() -> None:
        found.append(await run_in_thread_at_last(threading.get_ident))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(find)
        await trio.sleep(60)
        assert not found
        monkeypatch.undo()
    assert found
    with pytest.raises(RuntimeError, match="its own"):
        await run_in_thread_at_last(raise_runtime_error)


def size(environ: Environ, start_response: StartResponse) -> list[bytes]:
    body = b"%d" % len(environ["wsgi.input"].read())
    start_response("200 OK", PLAIN)
    return [body]


async def test_an_upload_that_cannot_be_kept_is_503(request: pytest.FixtureRequest) -> None:
    """And nobody is told to make room on a disk that has it."""
    upload = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3000000\r\n\r\n" + bytes(3_000_000)
    async with serving(size) as served:
        assert (await served.exchange(upload)).endswith(b"3000000")
        request.getfixturevalue("no_thread")
        assert b"503 Service Unavailable" in await served.exchange(upload)
        record = await served.record(2)
    assert record.outcome is Outcome.SERVER_ERROR
    assert record.reason.startswith("a request's body cannot be kept: no thread can be started; raise the limit of th")


async def test_certificates_stay_as_they_were(request: pytest.FixtureRequest) -> None:
    async with serving(size, certfile=(shared_authority()[1],)) as served:
        request.getfixturevalue("no_thread")
        with pytest.raises(ConfigError, match="certfile: cannot be read now: no thread can be started"):
            await served.server.reload_certificates()
