"""Sockets closed under their deliveries, and numbers that are somebody else's by then: no byte goes astray."""

from __future__ import annotations

import errno
import math
import os
import select
from collections import deque
from typing import IO

import pytest
import trio
from sendfile_pumps import begin, let_pass, running
from sendfile_wires import PLENTY, Pair, content, drain, fill, queue, receive, unix_pair
from trio.testing import MockClock, wait_all_tasks_blocked
from waiting import until

from sendfile import FileSpan, Part, Pump


async def test_a_descriptor_used_again_after_a_cancellation(
    pump: Pump, noise: IO[bytes], nursery: trio.Nursery
) -> None:
    """Cancel, close, open: the new socket has the old number, and gets its own bytes only."""
    for _ in range(50):
        near, far = unix_pair()
        number = near.fileno()
        with near, far:
            filled = fill(near)
            old: deque[Part] = queue(b"old" * 1000)
            first = begin(nursery, pump, near, old)
            await wait_all_tasks_blocked()
            await receive(far, filled)  # it is reported writable now, and cancelled in the same turn
            first.scope.cancel()
        again, peer = unix_pair()
        assert again.fileno() == number
        with again, peer:
            second = begin(nursery, pump, again, queue(b"new", FileSpan(noise, 0, 20)))
            assert await receive(peer, 23) == b"new" + content(FileSpan(noise, 0, 20))
            await second.wait_end()
            assert drain(peer) == 0
        assert first.scope.cancelled_caught
        assert list(old) == [b"old" * 1000]


async def test_a_descriptor_closed_and_used_again_under_a_delivery(nursery: trio.Nursery) -> None:
    """Closing a socket in delivery is a mistake; its bytes still go to nobody who has the number next."""
    near, far = unix_pair()
    fill(near)
    async with running(Pump(epoll=True)) as pump:
        first = begin(nursery, pump, near, queue(b"old"))
        await wait_all_tasks_blocked()
        number = near.fileno()
        near.close()
        again, peer = unix_pair()
        with again, peer, far:
            assert again.fileno() == number
            filled = fill(again)
            second = begin(nursery, pump, again, queue(b"new"))
            assert (await receive(peer, filled + 3))[filled:] == b"new"
            await second.wait_end()
    assert isinstance(first.error, trio.ClosedResourceError)
    assert second.sent == 3


async def test_a_copy_of_a_closed_descriptor_does_not_keep_the_pump_busy(nursery: trio.Nursery) -> None:
    """epoll(7), Q6: a closed descriptor is reported as long as a copy of it is open."""
    near, far = unix_pair()
    filled = fill(near)
    async with running(Pump(epoll=True)) as pump:
        outcome = begin(nursery, pump, near, queue(b"old"))
        await wait_all_tasks_blocked()
        with near.dup(), far:
            near.close()
            await receive(far, filled)
            with trio.fail_after(5):
                await wait_all_tasks_blocked(0.01)  # which a pump that spins would not let pass
            assert drain(far) == 0
    assert isinstance(outcome.error, trio.ClosedResourceError)


def no_descriptor(*_: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_where_no_descriptor_is_left_a_stale_epoll_has_to_do(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """Somebody else may be faster to take the last one. Deliveries go on; once there is one the pump comes to rest."""
    (near, far), (other, reader) = unix_pair(), unix_pair()
    filled, before = fill(near), fill(other)
    async with running(Pump(epoll=True)) as pump:
        lost = begin(nursery, pump, near, queue(b"lost"))
        begin(nursery, pump, other, queue(b"arrives"))
        await wait_all_tasks_blocked()
        with near.dup(), far, other, reader, monkeypatch.context() as poor, trio.fail_after(10):
            poor.setattr(select, "epoll", no_descriptor)
            near.close()
            await receive(far, filled)  # reported from now on, under a number that is closed
            await until(lambda: len(pump.jobs()) == 1)
            assert (await receive(reader, before + 7))[before:] == b"arrives"
            poor.undo()
            await wait_all_tasks_blocked(0.01)  # which a pump that spins would not let pass
    assert isinstance(lost.error, trio.ClosedResourceError)


async def test_numbers_closed_behind_their_sockets_end_their_own_deliveries(nursery: trio.Nursery) -> None:
    """As os.closerange() does it: the objects know nothing of it, and a new epoll refuses the number."""
    pairs = [unix_pair() for _ in range(3)]
    filled = [fill(near) for near, _ in pairs]
    copies = [near.dup() for near, _ in pairs]
    async with running(Pump(epoll=True)) as pump:
        lost = [begin(nursery, pump, near, queue(b"lost")) for near, _ in pairs[:2]]
        begin(nursery, pump, pairs[2][0], queue(b"arrives"))
        await wait_all_tasks_blocked()
        for near, _ in pairs[:2]:
            os.close(near.fileno())
        await receive(pairs[0][1], filled[0])  # one is reported, and the epoll made anew, without both
        with trio.fail_after(5):
            await until(lambda: len(pump.jobs()) == 1)
            assert (await receive(pairs[2][1], filled[2] + 7))[filled[2] :] == b"arrives"
    assert [getattr(outcome.error, "errno", None) for outcome in lost] == [errno.EBADF] * 2
    for near, _ in pairs[:2]:
        near.detach()
    for end in (*(end for pair in pairs for end in pair), *copies):
        end.close()


async def test_a_socket_whose_object_raises_once_it_is_closed(nursery: trio.Nursery) -> None:
    """A SocketIO does; it is closed like any other, for whoever has its number next as well."""
    near, far = unix_pair()
    fill(near)
    raw = near.makefile("rwb", buffering=0)
    number = near.fileno()
    async with running(Pump(epoll=True)) as pump:
        lost = begin(nursery, pump, raw, queue(b"lost"))
        await wait_all_tasks_blocked()
        near.close()
        raw.close()
        far.close()
        again, reader = unix_pair()
        assert again.fileno() == number
        with again, reader:
            await pump.deliver(again, queue(b"arrives"))
            assert reader.recv(100) == b"arrives"
    await lost.wait_end()
    assert isinstance(lost.error, trio.ClosedResourceError)


@pytest.mark.parametrize("idle", [math.inf, 2.0], ids=["for ever", "stalls"])
@pytest.mark.parametrize("trio_socket", [False, True], ids=["stdlib", "trio"])
async def test_a_socket_closed_under_its_delivery_is_noticed(
    pump: Pump, pair: Pair, trio_socket: bool, idle: float, mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Within five seconds, and as what it is: no epoll tells of it, and it is no stall of the peer."""
    sock = trio.socket.from_stdlib_socket(pair[0]) if trio_socket else pair[0]
    outcome = begin(nursery, pump, sock, queue(PLENTY), idle_timeout=idle)
    await wait_all_tasks_blocked()
    sock.close()
    for _ in range(6):
        await let_pass(mock_clock, 1)
    assert isinstance(outcome.error, trio.ClosedResourceError)
