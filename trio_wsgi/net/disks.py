"""Threads that wait for file systems, so that nobody else does.

Laws:

* Each file system has its own, so that one that hangs (NFS, FUSE) holds up no other; nor does an application.
* They open the files of mounts, and close what a file system may keep from being closed.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import trio

from trio_wsgi.net.pool import ThreadPool
from trio_wsgi.net.running import hosting

DISK_THREADS = 4  # of one file system
_DEVICES_MAX = 64  # that have threads of their own; what comes after them shares those of one more


class Disks:
    """The threads of each file system, which are started when they are needed; made by `open_disks`.

    Args:
        slots: hosts the threads.
        queue_size: calls that may wait, for each file system.
    """

    def __init__(self, slots: trio.Nursery, queue_size: int) -> None:
        self._slots = slots
        self._queue_size = queue_size
        self._by_device: dict[int, ThreadPool] = {}

    def __repr__(self) -> str:
        return f"<Disks {list(self._by_device)}>"

    def of(self, device: int) -> ThreadPool:
        """The threads of a file system, by its st_dev."""
        if device not in self._by_device and len(self._by_device) >= _DEVICES_MAX:
            device = 0
        threads = self._by_device.get(device)
        if threads is None:
            threads = self._by_device[device] = ThreadPool(self._slots, DISK_THREADS, self._queue_size, "disk")
        return threads

    def close(self) -> None:
        """Let every thread end when it has nothing left to do."""
        for threads in self._by_device.values():
            threads.close()

    def forget(self) -> None:
        """The last thread has ended."""
        for threads in self._by_device.values():
            threads.forget()


def open_disks(queue_size: int) -> AbstractAsyncContextManager[Disks]:
    """The `Disks` of a server; leaving it waits until every thread has come back."""
    return hosting(lambda slots: Disks(slots, queue_size))
