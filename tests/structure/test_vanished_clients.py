"""A client that vanishes without a word, and whose system answers nothing any more, holds its thread no longer than one
that takes nothing (write_timeout); without that, the kernel tries for a quarter of an hour."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import trio
from asking import PLAIN, Environ, StartResponse, request
from faults import vanish
from serving import serving
from waiting import wait_until

from trio_wsgi import Outcome
from trio_wsgi.net.silence import begin_asking, silent_for
from trio_wsgi.net.watch import RIPE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whether a peer answers (TCP_INFO)")

PATIENCE = 1.5  # seconds of write_timeout
SOON = 20.0  # seconds within which it has to be noticed, on busy machines


class Events:
    """Waits for its client to go, by sending an event now and then, or by asking."""

    def __init__(self, sends: bool) -> None:
        self.sends = sends
        self.entered = threading.Event()
        self.raised: BaseException | None = None

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        return self.events(environ["trio_wsgi.cancelled"])

    def events(self, cancelled: Callable[[], bool]) -> Iterator[bytes]:
        self.entered.set()
        try:
            until = time.monotonic() + 2 * SOON
            while time.monotonic() < until:
                time.sleep(0.05)
                if self.sends:
                    yield b"event\n"
                else:
                    trio.from_thread.check_cancelled()
        except BaseException as exc:
            self.raised = exc
            raise


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("sends", [True, False], ids=["event stream", "long poll"])
async def test_a_client_that_vanishes_without_a_word_gives_its_thread_back(sends: bool) -> None:
    """However the application works for it: what it sends is not acknowledged, or the kernel asks (SO_KEEPALIVE)."""
    app = Events(sends)
    with trio.fail_after(SOON):
        async with serving(app, write_timeout=PATIENCE) as served:
            stream = await served.connect()
            await stream.send_all(request())
            await trio.to_thread.run_sync(app.entered.wait, 5)
            await trio.sleep(2 * RIPE + 0.05)
            vanish(stream)
            began = time.monotonic()
            record = await served.record()
            assert record.outcome is Outcome.CLIENT_GONE
            assert record.reason == "silent for 1.5 s while the application ran (write_timeout)"
            assert isinstance(app.raised, trio.Cancelled | GeneratorExit)
            assert time.monotonic() - began > PATIENCE / 2
            await stream.aclose()


def test_only_a_system_that_does_not_answer_is_silent() -> None:
    """A client that takes nothing, but is there, is not: TCP_USER_TIMEOUT would end it, and some that read slowly."""
    with socket.create_server(("127.0.0.1", 0)) as listener, closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        ours, _ = listener.accept()
        with closing(ours):
            ours.setblocking(False)
            begin_asking(ours, 1.0)
            with pytest.raises(BlockingIOError):
                while True:
                    ours.send(bytes(65536))
            began = time.monotonic()
            wait_until(lambda: time.monotonic() - began > 1.5 or silent_for(ours) >= 1)
            assert silent_for(ours) < 1
            vanish(client)
            wait_until(lambda: silent_for(ours) >= 1)


def test_who_is_no_tcp_client_is_never_silent() -> None:
    """The kernel at the other end of a unix socket is ours."""
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        begin_asking(ours, 0.001)
        assert silent_for(ours) == 0
