"""Bytes that a thread has read are handed over, where the event loop would wait for their file system to read them."""

from __future__ import annotations

import os
from collections import deque
from typing import IO

import pytest
import trio
from sendfile_disks import Keepless
from sendfile_wires import Pair, drain, queue, receive, tighten, whole
from trio.testing import wait_all_tasks_blocked
from waiting import until

from sendfile import FileSpan, FileTooShort, Part, Pump
from sendfile.parts import size

KIB = 1 << 10
SAID = os.urandom(3_000_017)


@pytest.fixture
def zeros(sparse: IO[bytes]) -> IO[bytes]:
    """As long as `SAID`."""
    sparse.truncate(len(SAID))
    return sparse


async def test_what_a_thread_has_read_is_sent(epoll: bool, pair: Pair, zeros: IO[bytes], nursery: trio.Nursery) -> None:
    """All of it, in order; the event loop reads nothing."""
    await nursery.start((pump := Pump(epoll=epoll, disk=Keepless(SAID))).run)
    parts = queue(b"head", FileSpan(zeros, 7, 2_000_000), FileSpan(zeros, 0, 5), b"tail")
    nursery.start_soon(lambda: pump.deliver(pair[0], parts, kernel=False))
    expected = b"head" + SAID[7:2_000_007] + SAID[:5] + b"tail"
    with trio.fail_after(10):
        assert await receive(pair[1], len(expected)) == expected


async def test_a_cancelled_delivery_leaves_what_was_not_sent(
    epoll: bool, pair: Pair, zeros: IO[bytes], nursery: trio.Nursery
) -> None:
    """What was handed over and the rest of the file. It is half a MiB at most, however much is to come."""
    await nursery.start((pump := Pump(epoll=epoll, disk=Keepless(SAID))).run)
    tighten(pair[0])
    parts = queue(whole(zeros))
    with trio.CancelScope() as scope:
        nursery.start_soon(cancel_when, scope, parts)
        await pump.deliver(pair[0], parts, kernel=False)
    first, rest = parts
    assert isinstance(first, memoryview)
    assert first.nbytes < 512 * KIB
    assert isinstance(rest, FileSpan)
    sent = len(SAID) - sum(map(size, parts))
    assert drain(pair[1]) == sent
    assert bytes(first) == SAID[sent : rest.offset]


async def cancel_when(scope: trio.CancelScope, parts: deque[Part]) -> None:
    """A piece of what was handed over has left."""
    await until(lambda: isinstance(parts[0], memoryview))
    await wait_all_tasks_blocked(0.01)
    scope.cancel()


async def test_a_file_that_ends_early(epoll: bool, pair: Pair, zeros: IO[bytes], nursery: trio.Nursery) -> None:
    """Is told apart from one that cannot be read; what came before has left."""
    await nursery.start((pump := Pump(epoll=epoll, disk=Keepless(SAID[:5000]))).run)
    with trio.fail_after(5), pytest.raises(FileTooShort) as caught:
        await pump.deliver(pair[0], queue(whole(zeros)), kernel=False)
    assert caught.value.span == FileSpan(zeros, 5000, len(SAID) - 5000)
    assert await receive(pair[1], 5000) == SAID[:5000]


async def test_what_was_fetched_for_the_kernel_does_not_speak_for_who_reads(
    epoll: bool, pair: Pair, zeros: IO[bytes], nursery: trio.Nursery
) -> None:
    """sendfile(2) finds it in the page cache. A read may go past that, or ask whether it is still true."""
    await nursery.start((pump := Pump(epoll=epoll, disk=Keepless(SAID))).run)
    span = FileSpan(zeros, 0, 50_000)
    with trio.fail_after(5):
        await pump.deliver(pair[0], queue(span))
        assert await receive(pair[1], 50_000) == bytes(50_000)
        assert pump.push_nowait(pair[0], queue(span), kernel=False) == 0
        await pump.deliver(pair[0], queue(span), kernel=False)
        assert await receive(pair[1], 50_000) == SAID[:50_000]


async def test_a_file_system_in_memory_is_read_where_it_is_sent(
    epoll: bool, pair: Pair, zeros: IO[bytes], nursery: trio.Nursery
) -> None:
    """tmpfs cannot tell, either, but keeps it all: once that is known, nothing waits for a thread."""
    await nursery.start((pump := Pump(epoll=epoll, disk=Keepless(SAID, in_memory=True))).run)
    nursery.start_soon(lambda: pump.deliver(pair[0], queue(whole(zeros)), kernel=False))
    with trio.fail_after(10):
        assert await receive(pair[1], len(SAID)) == bytes(len(SAID))
    await until(lambda: not pump.jobs())
    assert pump.push_nowait(pair[0], queue(FileSpan(zeros, 0, 5)), kernel=False) == 5
