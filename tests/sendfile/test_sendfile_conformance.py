"""One suite for every way to deliver: send_all and both pumps, kernel and copy path, AF_UNIX and TCP."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import deque
from collections.abc import Callable
from typing import IO

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sendfile_pumps import Ways, running
from sendfile_wires import CONNECTIONS, PLENTY, Pair, content, drain, fill, receive, reset, tighten, unix_pairs, whole

from sendfile import FileSpan, FileTooShort, Part, Parts, Pump


async def test_all_arrives_once_and_in_order(ways: Ways, kernel: bool, pair: Pair, noise: IO[bytes]) -> None:
    near, far = pair
    tighten(near)
    parts: deque[Part] = deque(
        [
            b"head",
            b"",
            FileSpan(noise, 13, 400_009),
            FileSpan(noise, 0, 0),
            bytearray(b"tail"),
            FileSpan(noise, 7, 1),
        ]
    )
    expected = b"".join(map(content, parts))
    steps: list[int] = []
    got = b""

    async def read() -> None:
        nonlocal got
        got = await receive(far, len(expected), 7919)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        result = await ways.deliver(near, parts, kernel=kernel, progress=steps.append)
    assert got == expected
    assert not parts
    assert sum(steps) == len(expected)
    assert result in (len(expected), None)
    assert drain(far) == 0


async def test_what_fits_returns_after_one_checkpoint(ways: Ways, kernel: bool, pair: Pair, noise: IO[bytes]) -> None:
    near, far = pair
    with trio.testing.assert_checkpoints():
        await ways.deliver(near, deque([b"head", FileSpan(noise, 0, 100)]), kernel=kernel)
    assert len(far.recv(999)) == 104
    with trio.testing.assert_checkpoints():
        await ways.deliver(near, deque(), kernel=kernel)


async def test_cancelled_before_it_began_nothing_is_sent(ways: Ways, pair: Pair) -> None:
    parts: deque[Part] = deque([b"x"])
    with trio.CancelScope() as scope:
        scope.cancel()
        await ways.deliver(pair[0], parts)
    assert scope.cancelled_caught
    assert list(parts) == [b"x"]
    assert drain(pair[1]) == 0


async def test_a_file_that_ended_early(ways: Ways, kernel: bool, pair: Pair, sparse: IO[bytes]) -> None:
    near, far = pair
    tighten(near)
    sparse.truncate(200_000)
    parts: deque[Part] = deque([whole(sparse), b"never"])
    async with trio.open_nursery() as nursery:

        async def shrink_and_read() -> None:
            await trio.testing.wait_all_tasks_blocked()
            sparse.truncate(100_000)
            await receive(far, 100_000)

        nursery.start_soon(shrink_and_read)
        with pytest.raises(FileTooShort) as caught:
            await ways.deliver(near, parts, kernel=kernel)
    assert caught.value.missing == 100_000
    assert list(parts) == [FileSpan(sparse, 100_000, 100_000), b"never"]


@pytest.mark.parametrize("leave", [reset, socket.socket.close])
async def test_a_peer_that_leaves_while_we_wait(
    leave: object, ways: Ways, kernel: bool, pair: Pair, noise: IO[bytes]
) -> None:
    near, far = pair
    fill(near)
    parts: deque[Part] = deque([whole(noise)])
    async with trio.open_nursery() as nursery:

        async def go() -> None:
            await trio.testing.wait_all_tasks_blocked()
            assert callable(leave)
            leave(far)

        nursery.start_soon(go)
        with pytest.raises(ConnectionError):
            await ways.deliver(near, parts, kernel=kernel)
    sent = len(whole(noise)) - sum(map(len, parts))  # over TCP a late acknowledgement may have made room for some
    assert list(parts) == [whole(noise).advance(sent)]


async def test_a_peer_that_left_before(ways: Ways, kernel: bool, pair: Pair, noise: IO[bytes]) -> None:
    near, far = pair
    reset(far)
    with pytest.raises(ConnectionError):
        for _ in range(2):
            await ways.deliver(near, deque([whole(noise)]), kernel=kernel)


@pytest.mark.parametrize("kind", [deque, list])
async def test_cancelled_half_way_the_rest_can_be_sent_later(
    ways: Ways, kernel: bool, pair: Pair, noise: IO[bytes], kind: Callable[[list[Part]], Parts]
) -> None:
    """Deque or list: what was passed holds what has not been sent, and sending that repeats no byte."""
    near, far = pair
    tighten(near)
    total = 300_007
    parts = kind([b"head", FileSpan(noise, 0, total - 8), b"tail"])
    expected = b"".join(map(content, parts))
    sent = 0
    got = b""

    def count(n: int) -> None:
        nonlocal sent
        sent += n

    for _ in range(20):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def cancel_later(scope: trio.CancelScope = scope) -> None:
                    nonlocal got
                    await trio.testing.wait_all_tasks_blocked()
                    got += await receive(far, 5_003)
                    scope.cancel()

                nursery.start_soon(cancel_later)
                await ways.deliver(near, parts, kernel=kernel, progress=count)
        assert scope.cancelled_caught
        assert sent + sum(map(len, parts)) == total
        assert ways.pump.jobs() == []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ways.deliver, near, parts)
        got += await receive(far, total - len(got))
    assert got == expected


async def test_what_is_appended_meanwhile_goes_out_too(ways: Ways, kernel: bool, pair: Pair, noise: IO[bytes]) -> None:
    near, far = pair
    parts: deque[Part] = deque([PLENTY])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ways.deliver, near, parts)
        await trio.testing.wait_all_tasks_blocked()
        parts.append(FileSpan(noise, 0, 50))
        parts.append(b"last")
        got = await receive(far, len(PLENTY) + 54, 1 << 20)
    assert got[len(PLENTY) :] == content(FileSpan(noise, 0, 50)) + b"last"


@pytest.mark.parametrize("full", [False, True], ids=["sent at once", "sent by the pump"])
async def test_what_is_appended_as_it_is_about_to_return_goes_out_too(ways: Ways, full: bool) -> None:
    """Between its last step and its caller's next one other tasks may run; they cannot know that it is over.

    Which of two tasks comes first is left to chance, hence many times; no kind of socket has a say in it.
    """
    with unix_pairs(1) as [(near, far)]:
        for _ in range(30):
            parts: deque[Part] = deque([b"x"])
            sent = trio.Event()
            expected = (fill(near) if full else 0) + 1

            async def append(sent: trio.Event = sent, parts: deque[Part] = parts) -> None:
                await sent.wait()
                parts.append(b"late")

            async def deliver(sent: trio.Event = sent, parts: deque[Part] = parts) -> None:
                await ways.deliver(near, parts, progress=lambda _: sent.set())
                assert not parts

            async with trio.open_nursery() as nursery:
                nursery.start_soon(append)
                nursery.start_soon(deliver)
                await receive(far, expected)
            if not parts:
                assert await receive(far, 4) == b"late"


@pytest.mark.parametrize("error", [LookupError, SystemExit, asyncio.CancelledError])
async def test_an_error_of_progress_is_the_callers(ways: Ways, pair: Pair, error: type[BaseException]) -> None:
    """Of whatever kind; whoever else delivers hears nothing of it."""
    near, far = pair
    filled = fill(near)
    parts: deque[Part] = deque([b"x"])

    def progress(n: int) -> None:
        raise error(n)

    async with trio.open_nursery() as nursery:

        async def read() -> None:
            await trio.testing.wait_all_tasks_blocked()
            await receive(far, filled)

        nursery.start_soon(read)
        with pytest.raises(error):
            await ways.deliver(near, parts, progress=progress)
    assert not parts, "the kernel has it, whatever the callback made of it"
    await ways.deliver(near, deque([b"y"]))


async def test_trio_sockets(ways: Ways, kernel: bool, pair: Pair, noise: IO[bytes]) -> None:
    near, far = pair
    sock = trio.socket.from_stdlib_socket(near)
    got = b""

    async def read() -> None:
        nonlocal got
        got = await receive(far, 4 + 2_000_000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await ways.deliver(sock, deque([b"head", FileSpan(noise, 0, 2_000_000)]), kernel=kernel)  # type: ignore[arg-type]
    assert got == b"head" + content(FileSpan(noise, 0, 2_000_000))


pieces = st.one_of(
    st.binary(max_size=3000),
    st.binary(max_size=3000).map(bytearray),
    st.binary(max_size=3000).map(lambda data: memoryview(data)),
    st.tuples(st.integers(0, 2_900_000), st.one_of(st.integers(0, 100), st.integers(0, 70_000))),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    given_pieces=st.lists(pieces, max_size=90),
    chunks=st.lists(st.integers(1, 50_000), min_size=1, max_size=5),
    kind=st.sampled_from(sorted(CONNECTIONS)),
    way=st.sampled_from(["epoll", "loop", "send_all"]),
    by_kernel=st.booleans(),
    tiny=st.booleans(),
)
def test_any_parts_to_any_reader(
    noise: IO[bytes],
    given_pieces: list[object],
    chunks: list[int],
    kind: str,
    way: str,
    by_kernel: bool,
    tiny: bool,
) -> None:
    parts: deque[Part] = deque(
        FileSpan(noise, *piece) if isinstance(piece, tuple) else piece  # type: ignore[misc]
        for piece in given_pieces
    )
    expected = b"".join(map(content, parts))

    async def exchange() -> bytes:
        near, far = CONNECTIONS[kind]()
        if tiny:
            tighten(near)
        got = bytearray()
        with near, far:
            async with running(Pump(epoll=way == "epoll")) as pump, trio.open_nursery() as nursery:

                async def send() -> None:
                    await Ways(way, pump).deliver(near, parts, kernel=by_kernel)
                    near.shutdown(socket.SHUT_WR)

                nursery.start_soon(send)
                for size in itertools.cycle(chunks):
                    piece = await receive(far, size, size)
                    got += piece
                    if len(piece) < size:
                        break
        return bytes(got)

    assert trio.run(exchange) == expected
