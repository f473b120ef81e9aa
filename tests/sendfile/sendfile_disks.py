"""Disks whose answers the tests of `sendfile` give, and what to wait for meanwhile."""

from __future__ import annotations

import threading
import time

import trio

from sendfile.disk import Disk


class SlowDisk(Disk):
    """Nothing is in memory but what was fetched; a fetch ends when the test says so."""

    def __init__(self, free: bool = False) -> None:
        self.fetched: list[tuple[int, int]] = []
        self.gate = threading.Semaphore(10**9 if free else 0)
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.error: OSError | None = None
        self.copies: list[int] = []
        self.asked: list[int] = []

    def probe(self, fd: int, offset: int) -> bool | None:
        return any(first <= offset < end for first, end in self.fetched)

    def fetch(self, fd: int, offset: int, count: int, kernel: bool = True) -> None:
        with self.lock:
            self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.asked.append(offset)
        self.copies.append(fd)
        assert self.gate.acquire(timeout=30)
        with self.lock:
            self.at_once -= 1
        if self.error is not None:
            raise self.error
        super().fetch(fd, offset, count, kernel)
        self.fetched.append((offset, offset + count))


class Untold(SlowDisk):
    """A file system that cannot tell what is in memory."""

    def probe(self, fd: int, offset: int) -> bool | None:
        return None


class Keepless(Disk):
    """A file system that cannot tell what is in memory, and keeps nothing: a thread that reads is given the bytes of
    ``said``. Whoever reads the file itself, as the event loop would, finds what the test has put there instead."""

    def __init__(self, said: bytes, in_memory: bool = False) -> None:
        self.said = said
        self.in_memory = in_memory

    def is_in_memory(self, fd: int) -> bool:
        return self.in_memory

    def probe(self, fd: int, offset: int) -> bool | None:
        return None

    def read(self, fd: int, offset: int, count: int) -> bytes:
        return self.said[offset : offset + count]


def no_thread(*_: object) -> None:
    """In place of `trio.lowlevel.start_thread_soon`, where none can be had."""
    raise RuntimeError("can't start new thread")


async def until_fetching(disk: SlowDisk, count: int = 1) -> None:
    """Whoever moves Trio's clock."""
    patience = time.monotonic() + 10
    while len(disk.copies) < count:
        assert time.monotonic() < patience, "the disk was not asked"
        await trio.lowlevel.checkpoint()
