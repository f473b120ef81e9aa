"""Rules of the times in a record: they begin with the first byte of the request, however its head arrives."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from asking import KEPT
from authority import connect_tls, shared_authority
from riding import App, ask_for, board, receive
from serving import Served, serving
from waiting import until

from trio_wsgi import Outcome, RequestRecord
from trio_wsgi.net.status import State

PAUSE = 0.2  # seconds between two parts of a head
HALF = len(KEPT) // 2

Client = trio.abc.HalfCloseableStream | trio.SSLStream[trio.SocketStream]


def nap(environ: object) -> bytes:
    time.sleep(PAUSE)
    return b"hello"


@asynccontextmanager
async def connected(way: str) -> AsyncIterator[tuple[Served, Client]]:
    """A server, and a client: one that is new ("fresh"), has had an answer ("kept"), rides in the lane, or uses TLS."""
    settings = {"certfile": (shared_authority()[1],)} if way == "tls" else {}
    async with serving(App(nap=nap), **settings) as served:
        if way == "riding":
            client: Client = await board(served, 5)
        else:
            client = await (connect_tls(served.port) if way == "tls" else served.connect())
        async with client:
            if way == "kept":
                await client.send_all(KEPT)
                await receive(client, 5)
                await served.record()
            yield served, client


async def arrives(served: Served, part: bytes, client: Client) -> None:
    """Send a part of a head; it has come, and the server waits for the rest."""
    await client.send_all(part)
    await until(lambda: [each.state for each in served.server.statistics().connections] == [State.READING_HEAD])


async def next_record(served: Served, known: int) -> RequestRecord:
    await served.record(known + 1)
    return served.records[known]


@pytest.mark.parametrize("way", ["fresh", "kept", "riding", "tls"])
async def test_a_head_in_parts_counts_from_its_first_byte(way: str) -> None:
    """As nginx's $request_time: who is slow to ask is seen to be slow."""
    async with connected(way) as (served, client):
        known, before = len(served.records), time.time()
        await arrives(served, KEPT[:HALF], client)
        after = time.time()
        await trio.sleep(PAUSE)
        await client.send_all(KEPT[HALF:])
        await receive(client, 5)
        record = await next_record(served, known)
    assert before <= record.started <= after
    assert record.duration >= PAUSE


async def test_the_next_request_has_times_of_its_own() -> None:
    async with connected("fresh") as (served, client):
        await arrives(served, KEPT[:HALF], client)
        await client.send_all(KEPT[HALF:])
        await receive(client, 5)
        before = time.time()
        await client.send_all(KEPT)
        await receive(client, 5)
        record = await next_record(served, 1)
    assert record.started >= before


async def test_a_head_that_never_ends_counts_from_its_first_byte() -> None:
    async with serving(App(), header_timeout=PAUSE) as served, await served.connect() as client:
        await client.send_all(KEPT[:HALF])
        await receive(client, 0)
        record = await served.record()
    assert record.outcome is Outcome.HEADER_TIMEOUT
    assert record.duration >= PAUSE


@pytest.mark.parametrize("parts", [[b"\r\n"], [b"\r", b"\n"]], ids=["whole", "in parts"])
async def test_empty_lines_before_a_request_are_none_of_it(parts: list[bytes]) -> None:
    async with connected("fresh") as (served, client):
        for part in parts:
            await client.send_all(part)
            await trio.sleep(PAUSE / 4)  # in which the loop has seen to what came
        before = time.time()
        await client.send_all(KEPT)
        await receive(client, 5)
        record = await served.record()
    assert record.started >= before


@pytest.mark.parametrize("ahead", [KEPT, KEPT[:HALF]], ids=["whole", "a part"])
async def test_what_is_asked_ahead_begins_when_its_turn_has_come(ahead: bytes) -> None:
    """Else it would count the time that the answers before it took."""
    async with connected("fresh") as (served, client):
        await client.send_all(ask_for("/nap") + ahead)
        first = await next_record(served, 0)
        await client.send_all(KEPT[len(ahead) :])
        second = await next_record(served, 1)
    assert second.started >= first.started + PAUSE / 2
