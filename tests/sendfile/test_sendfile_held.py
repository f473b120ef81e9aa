"""What the kernel holds of a connection: little for who reads slowly, all it likes for who reads fast, who has it in
large packets (tcp(7), TCP_CORK)."""

from __future__ import annotations

import socket
from typing import IO

import pytest
import trio
from sendfile_peers import ONE_VERSION, Peers
from sendfile_pumps import begin
from sendfile_wires import PLENTY, Pair, fill, queue, receive, whole
from trio.testing import MockClock, wait_all_tasks_blocked

from sendfile import Pump, Rate
from sendfile.held import UNSENT, held_by_kernel


def is_corked(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK))


async def test_the_kernel_takes_little_ahead_for_who_reads_slowly(
    pump: Pump, tcp: Pair, mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    near, far = tcp
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    parts = queue(PLENTY)
    outcome = begin(nursery, pump, near, parts)
    await wait_all_tasks_blocked()
    assert not outcome.ended
    assert held_by_kernel(near) < 3 * UNSENT, "of megabytes that its buffer may grow to"
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT
    mock_clock.jump(1)  # that its next bytes take
    before = len(parts[0])
    while len(parts[0]) == before:
        await receive(far, UNSENT // 2)
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT
    assert not is_corked(near), "the odd end of a step may be all for a while"
    outcome.scope.cancel()
    await wait_all_tasks_blocked()
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 0, "what comes next is not bounded"


async def test_the_kernel_takes_all_it_likes_for_who_reads_fast(pump: Pump, tcp: Pair, nursery: trio.Nursery) -> None:
    near, far = tcp
    outcome = begin(nursery, pump, near, queue(PLENTY))
    await wait_all_tasks_blocked()
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT
    received = 0
    while near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT):
        received += len(await receive(far, 1 << 20))
        assert received <= len(PLENTY) // 2
        await trio.lowlevel.checkpoint()
    assert not outcome.ended
    assert is_corked(near)
    assert received + len(await receive(far, len(PLENTY) - received)) == len(PLENTY)
    await outcome.wait_end()
    assert outcome.sent == len(PLENTY)
    assert not is_corked(near), "nothing is to follow"


@ONE_VERSION
async def test_records_share_packets_for_who_reads_fast(peers: Peers, pump: Pump, nursery: trio.Nursery) -> None:
    outcome = begin(nursery, pump, peers.near, queue(PLENTY), sender=peers.sender)
    await wait_all_tasks_blocked()
    assert not is_corked(peers.near)
    received = 0
    while not is_corked(peers.near):
        received += len(await peers.receive(1 << 16))
        assert received <= len(PLENTY) // 2
        await trio.lowlevel.checkpoint()
    assert received + len(await peers.receive(len(PLENTY) - received)) == len(PLENTY)
    await outcome.wait_end()
    assert not is_corked(peers.near), "nothing is to follow"


async def test_who_becomes_slow_has_the_end_of_each_step_at_once(
    epoll: bool, tcp: Pair, sparse: IO[bytes], mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    near, far = tcp
    sparse.truncate(1 << 30)
    await nursery.start((pump := Pump(epoll=epoll, senders=0)).run)  # a thread would go by a clock of its own
    outcome = begin(nursery, pump, near, queue(whole(sparse)))
    for seconds, corked in ((0, True), (5, False)):  # since the kernel was full
        while is_corked(near) is not corked:
            await wait_all_tasks_blocked()
            mock_clock.jump(seconds)
            await receive(far, 1 << 20)
            assert not outcome.ended


@pytest.mark.parametrize("corked", [False, True])
async def test_packets_are_given_back_as_they_came(
    pump: Pump, tcp: Pair, sparse: IO[bytes], nursery: trio.Nursery, corked: bool
) -> None:
    """Who has corked the socket himself sends more, and uncorks it then."""
    near, far = tcp
    sparse.truncate(1 << 30)
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, corked)
    outcome = begin(nursery, pump, near, queue(whole(sparse)))
    await wait_all_tasks_blocked()
    while near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT):  # up to the first that is taken fast
        await receive(far, 1 << 20)
        await trio.lowlevel.checkpoint()
    assert is_corked(near)
    outcome.scope.cancel()
    await outcome.wait_end()
    assert is_corked(near) is corked


async def test_who_is_limited_has_each_piece_at_once(pump: Pump, tcp: Pair, nursery: trio.Nursery) -> None:
    """However fast the pieces are taken: between two of them is a pause."""
    near, far = tcp
    corked: list[bool] = []

    def look(sent: int) -> None:
        corked.append(is_corked(near))

    outcome = begin(nursery, pump, near, queue(PLENTY), rate=Rate(400 << 20), progress=look)
    assert len(await receive(far, len(PLENTY))) == len(PLENTY)
    await outcome.wait_end()
    assert not any(corked)


@pytest.mark.parametrize("before", [16_384, 1 << 20])
async def test_a_socket_is_given_back_as_it_came(pump: Pump, tcp: Pair, nursery: trio.Nursery, before: int) -> None:
    """Who has set how much the kernel takes ahead finds that again; and never more is taken than he wanted."""
    near, _ = tcp
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, before)
    outcome = begin(nursery, pump, near, queue(PLENTY))
    await wait_all_tasks_blocked()
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == min(before, UNSENT)
    outcome.scope.cancel()
    await outcome.wait_end()
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == before


@pytest.mark.parametrize("trio_socket", [False, True], ids=["stdlib", "trio"])
async def test_the_kernel_holds_nothing_of_a_closed_socket(trio_socket: bool, pair: Pair) -> None:
    """Whoever looks at many, as a drain does, may come after a connection has closed."""
    sock = trio.socket.from_stdlib_socket(pair[0]) if trio_socket else pair[0]
    fill(pair[0])
    assert held_by_kernel(sock) > 0
    sock.close()
    assert held_by_kernel(sock) == 0
