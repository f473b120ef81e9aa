"""What the kernel holds of a connection: little for who reads slowly, all it likes for who reads fast."""

from __future__ import annotations

import socket

import pytest
import trio
from sendfile_pumps import begin
from sendfile_wires import PLENTY, Pair, fill, queue, receive
from trio.testing import MockClock, wait_all_tasks_blocked

from sendfile import Pump
from sendfile.held import UNSENT, held_by_kernel


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
    assert received + len(await receive(far, len(PLENTY) - received)) == len(PLENTY)
    await outcome.wait_end()
    assert outcome.sent == len(PLENTY)


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
