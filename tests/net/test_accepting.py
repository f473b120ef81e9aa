"""Rules of what accept(2), and the wait for a socket, fail with: that ends no server, and spins nowhere."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
from answers import read_answer
from asking import CLOSE, KEPT, hello
from riding import receive
from serving import Served, receive_all, serving


class Trouble:
    """What a function fails with, as often as it is to."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.error = 0
        self.left = 0

    def begin(self, error: int, times: int) -> None:
        """From now on."""
        self.error, self.left = error, times

    def call(self, *args: Any) -> Any:
        """Instead of the function."""
        if self.left > 0:
            self.left -= 1
            raise OSError(self.error, os.strerror(self.error))
        return self._function(*args)


@pytest.fixture
def accept(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    """Of every listener."""
    trouble = Trouble(socket.socket.accept)
    monkeypatch.setattr(socket.socket, "accept", lambda sock: trouble.call(sock))
    return trouble


def trouble_waits(monkeypatch: pytest.MonkeyPatch, listening: bool) -> Trouble:
    """Those for sockets that listen, or for others; as where epoll_ctl(2) fails."""
    wait = trio.lowlevel.wait_readable
    trouble = Trouble(wait)

    def is_meant(what: Any) -> bool:
        if not isinstance(what, socket.socket):
            return False
        return bool(what.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) == listening

    monkeypatch.setattr(trio.lowlevel, "wait_readable", lambda what: (trouble.call if is_meant(what) else wait)(what))
    return trouble


async def serves_everybody(served: Served, old: trio.SocketStream) -> None:
    """Whoever comes, and whoever was there before."""
    assert read_answer(await served.exchange(CLOSE)).body == b"hello"
    await old.send_all(KEPT)
    assert (await receive(old, 5)).endswith(b"hello")


@pytest.mark.parametrize(
    "error", [errno.EACCES, errno.ETIMEDOUT, errno.ECONNRESET, errno.EINVAL, errno.EIO, errno.ENOSYS]
)
@pytest.mark.parametrize("times", [1, 3])
async def test_no_error_of_accept_ends_the_server(error: int, times: int, accept: Trouble) -> None:
    """Nor a connection that is open: a security module, a driver and a sandbox all have errors of their own."""
    async with serving(hello) as served, await served.connect() as old:
        await served.wait_connections(1)
        accept.begin(error, times)
        await serves_everybody(served, old)


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENETDOWN, errno.EACCES])
async def test_an_error_that_lasts_is_told_and_not_spun_on(
    error: int, accept: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    """Though it be one that a connection may have of its own; once it is over, who has waited is served."""
    async with serving(hello) as served, await served.connect() as old:
        await served.wait_connections(1)
        accept.begin(error, 1_000_000)
        async with await served.connect() as waiting:
            await waiting.send_all(CLOSE)
            await trio.sleep(0.35)
            assert accept.left > 1_000_000 - 500  # it is tried some times a second
            assert caplog.text.count(f"cannot accept for now: {os.strerror(error)}") == 1
            accept.begin(0, 0)
            with trio.fail_after(10):
                assert (await receive(waiting, 5)).endswith(b"hello")
        await serves_everybody(served, old)


async def test_connections_that_were_lost_in_the_queue_are_passed_over(
    accept: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, and in silence: they are nobody's trouble."""
    async with serving(hello) as served, await served.connect() as old:
        await served.wait_connections(1)
        accept.begin(errno.ECONNABORTED, 5)
        await serves_everybody(served, old)
    assert "cannot accept" not in caplog.text


async def test_an_error_that_lasts_does_not_hold_up_the_end(accept: Trouble) -> None:
    """The last look into the queue comes to an end, too."""
    with trio.fail_after(10):
        async with serving(hello) as served:
            accept.begin(errno.EPERM, 1_000_000)
            async with await served.connect() as waiting:
                served.server.drain()
                await receive_all(waiting)  # until the listener is closed
    assert accept.left > 1_000_000 - 500


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.ENOMEM])
async def test_a_listener_that_cannot_be_waited_for_is_tried_again(
    error: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """fs.epoll.max_user_watches is reached (epoll_ctl(2))."""
    trouble_waits(monkeypatch, listening=True).begin(error, 1)
    async with serving(hello) as served, await served.connect() as old:
        await serves_everybody(served, old)
    assert f"cannot accept for now: {os.strerror(error)}" in caplog.text
    assert "ulimit" not in caplog.text  # which is no cure of that


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\n"])
async def test_a_client_that_cannot_be_waited_for_is_let_go(
    sent: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With one line in the log, and no traceback: it is no fault of ours, nor of anybody else's connection."""
    waits = trouble_waits(monkeypatch, listening=False)
    async with serving(hello) as served, await served.connect() as old:
        await old.send_all(KEPT)
        await receive(old, 5)
        async with await served.connect() as new:
            await served.wait_connections(2)
            waits.begin(errno.ENOSPC, 1)
            await new.send_all(sent or b"\r\n")
            with trio.fail_after(10):
                answer = await receive_all(new)
            assert answer.startswith(b"HTTP/1.1 503 ") if sent.startswith(b"POST") else not answer
        await serves_everybody(served, old)
    told = [line for line in caplog.records if line.levelname == "ERROR"]
    assert [line.exc_info for line in told] == [None]
    assert "fs.epoll.max_user_watches" in told[0].getMessage()  # and not that a device is full
