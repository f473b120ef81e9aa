"""Children that an application forks, and that stay until their test has ended."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Children:
    """Those of this process."""

    def __init__(self) -> None:
        self._pids: list[int] = []
        self._reading, self._writing = os.pipe()

    def fork(self, look: Callable[[], object] = str) -> None:
        """Fork one, which tells what `look` gives there and then stays."""
        pid = os.fork()
        if pid == 0:
            try:
                os.write(self._writing, f"{look()}\n".encode())
                time.sleep(120)
            finally:
                os._exit(0)
        self._pids.append(pid)

    def fork_here(self) -> bool:
        """Fork one that goes on as this does; whether this is the child."""
        pid = os.fork()
        if pid:
            self._pids.append(pid)
        return pid == 0

    def code(self) -> int | None:
        """The exit code of the last one, which stays to be waited for; None while it lives."""
        found = os.waitid(os.P_PID, self._pids[-1], os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return None if found is None else found.si_status

    def live(self) -> bool:
        """Whether all that were forked, and there is one, are still there."""
        return bool(self._pids) and all(os.waitpid(pid, os.WNOHANG) == (0, 0) for pid in self._pids)

    def told(self) -> str:
        """A line that one of them has told."""
        assert select.select([self._reading], [], [], 60)[0], "no child says anything"
        return os.read(self._reading, 4096).decode().rstrip()

    def end(self) -> None:
        """End them."""
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(self._reading)
        os.close(self._writing)


@contextmanager
def open_children() -> Iterator[Children]:
    """Ended with the block."""
    children = Children()
    try:
        yield children
    finally:
        children.end()


def find_sockets(port: int) -> list[int]:
    """The descriptors of this process that are sockets with this port at our end."""
    found = []
    for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - numbers, not paths
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            continue
        name = sock.getsockname()
        sock.detach()
        if isinstance(name, tuple) and name[1] == port:
            found.append(fd)
    return found
