"""Large answers of clients that read fast: they leave from the lane, as room comes, and the loop hears of them only
where somebody has to be looked after."""

from __future__ import annotations

import io
import os
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
import trio
from asking import KEPT, Environ, StartResponse
from filekinds import Noted
from riding import TRIES, ask_for, board, counting_steps, lane_of, receive, say
from serving import Served, receive_to_end, serving
from waiting import until

from trio_wsgi import Outcome
from trio_wsgi.net.lane import ROOM, Lane
from trio_wsgi.net.status import State

BIG = 15_000_000  # more than the two sockets of a connection hold; what is left of it is soon gone
LARGE = 1_000_000  # enough to tell how fast its client reads
SIZES = {"/big": BIG, "/large": LARGE}


class Files:
    """An application that answers "hello", or with so much of a file as a path stands for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened = 0
        self.known = len(Noted.closed_in)

    @property
    def closed(self) -> int:
        return len(Noted.closed_in) - self.known

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        size = SIZES.get(environ["PATH_INFO"])
        if size is None:
            return say(start_response, b"hello")
        start_response("200 OK", [("Content-Length", str(size))])
        self.opened += 1
        return environ["wsgi.file_wrapper"](Noted(io.FileIO(self.path)))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20) * 15)
    return Files(path)


async def board_fast(served: Served) -> trio.SocketStream:
    """A client that rides, and is known to read fast."""
    client = await board(served, 5)
    for path in ("/large", "/", "/"):
        await client.send_all(ask_for(path))
        await receive(client, SIZES.get(path, 5))
    return client


def wants_room(lane: Lane | None) -> bool:
    return lane is not None and any(ride.wants is ROOM for ride in list(lane.rides))


async def go_half_way(served: Served) -> trio.SocketStream:
    """A client that has asked for a big file and reads nothing, while the lane waits for room."""
    for _ in range(TRIES):
        client = await board_fast(served)
        await client.send_all(ask_for("/big"))
        with trio.move_on_after(0.1):
            await until(lambda: wants_room(lane_of(served)))
            return client
        await client.aclose()
    raise AssertionError("it never left from the lane")


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("static", [False, True])
async def test_large_answers_leave_without_the_loop(files: Files, static: bool) -> None:
    mounts = (f"/static={files.path.parent}",)
    path, size = ("/static/file", 15 << 20) if static else ("/big", BIG)
    async with serving(files, static=mounts) as served:
        for _ in range(TRIES):
            async with await board_fast(served) as client, counting_steps() as steps:
                await client.send_all(ask_for(path))
                body = (await receive(client, size)).partition(b"\r\n\r\n")[2]
                assert body == files.path.read_bytes()[:size]
                await client.send_all(KEPT)
                assert (await receive(client, 5)).endswith(b"hello")
                if steps.count == 0:
                    break
        else:
            raise AssertionError("the loop had a part in it, each time")
    assert files.opened == files.closed
    assert {record.outcome for record in served.records} == {Outcome.FINISHED}


async def test_who_reads_no_more_is_looked_after_by_the_loop(files: Files) -> None:
    """And has all of it when it reads on."""
    async with serving(files) as served, await go_half_way(served) as client:
        await until(lambda: not wants_room(lane_of(served)))
        assert State.SENDING in served.server.statistics().by_state
        body = (await receive(client, BIG)).partition(b"\r\n\r\n")[2]
        assert body == files.path.read_bytes()[:BIG]
        await client.send_all(KEPT)
        await receive(client, 5)


async def test_who_never_reads_again_has_stalled(files: Files) -> None:
    """PAINS: a client that stalls is cut after write_timeout, wherever its answer has begun to leave."""
    async with serving(files, write_timeout=0.5) as served, await go_half_way(served):
        await until(lambda: Outcome.WRITE_TIMEOUT in {record.outcome for record in served.records})
        assert files.opened == files.closed


async def test_who_takes_little_does_not_keep_the_lane(files: Files) -> None:
    async with serving(files) as served, await go_half_way(served) as client:
        received = 0
        while wants_room(lane_of(served)):
            received += len(await client.receive_some(20_000))
            await trio.sleep(0.01)
        while received <= BIG:  # a head, too
            received += len(await client.receive_some())


async def test_a_client_that_goes_half_way(files: Files) -> None:
    async with serving(files) as served, await go_half_way(served) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.aclose()
        await until(lambda: not served.server.statistics().connections)
        assert served.records[-1].outcome is Outcome.CLIENT_GONE
        assert files.opened == files.closed


async def test_a_server_that_is_cut_off_half_way(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """What the application opened is closed, and the record told."""
    async with serving(files) as served:
        client = await go_half_way(served)
    async with client:
        received, _ = await receive_to_end(client)
        assert len(received) < BIG
        assert served.records[-1].outcome is Outcome.SHUTDOWN
        assert 0 < served.records[-1].body_sent < BIG
        assert files.opened == files.closed
        assert "please report" not in caplog.text


async def test_a_server_that_drains_sends_all_of_it(files: Files) -> None:
    async with serving(files) as served, await go_half_way(served) as client:
        served.server.drain()
        received, how = await receive_to_end(client)
        assert received.endswith(files.path.read_bytes()[:BIG])
        assert how == "closed"


async def test_a_file_that_is_cut_meanwhile_ends_the_connection(files: Files) -> None:
    """PAINS: the client can tell that it has not all of it."""
    async with serving(files) as served, await go_half_way(served) as client:
        os.truncate(files.path, BIG // 2)
        received, _ = await receive_to_end(client)
        assert len(received) < BIG
        await client.aclose()
        await until(lambda: not served.server.statistics().connections)
        assert served.records[-1].outcome is not Outcome.FINISHED
        assert files.opened == files.closed


async def test_who_has_not_shown_that_it_reads_fast_has_little_sent_ahead(files: Files) -> None:
    """Nor has who asks ahead: the second request says nothing of how the answer to the first is read."""
    async with serving(files) as served, await board(served, 5) as client:
        await client.send_all(ask_for("/large") + ask_for("/big"))
        await until(lambda: served.server.statistics().by_state.get(State.SENDING))
        await trio.sleep(0.05)
        assert not wants_room(lane_of(served))


async def test_many_take_turns(files: Files) -> None:
    count = 20
    async with serving(files, threads=2) as served, trio.open_nursery() as nursery:

        async def fetch() -> None:
            async with await board_fast(served) as client:
                for _ in range(2):
                    await client.send_all(ask_for("/big"))
                    assert len(await receive(client, BIG)) > BIG

        for _ in range(count):
            nursery.start_soon(fetch)
    assert files.opened == files.closed == 3 * count
