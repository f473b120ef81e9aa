"""Cancel at every step: a Trio instrument that cancels something when the loop has run its k-th step.

A step is one task running from one checkpoint to the next. What a test does for itself is not counted: only the tasks
that are children of a nursery of the one that is cancelled, however deep.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import trio
from authority import shared_authority
from serving import receive_all


class CancelsAtStep(trio.abc.Instrument):
    """Calls `cancel` before the step number `at` of the tasks below `root`; arm it when the steps shall count.

    Args:
        cancel: what is done then, such as `scope.cancel`.
        root: the task whose descendants are counted.
        at: 1 for the first step; 0 for never, to count them.
    """

    def __init__(self, cancel: Callable[[], object], root: trio.lowlevel.Task, at: int) -> None:
        self._cancel = cancel
        self._root = root
        self._at = at
        self.armed = False
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """trio.abc.Instrument: a task is about to run."""
        if self.armed and self._is_below(task):
            self.steps += 1
            if self.steps == self._at:
                self._cancel()

    def _is_below(self, task: trio.lowlevel.Task) -> bool:
        above: trio.lowlevel.Task | None = task
        while above is not None:
            if above is self._root:
                return True
            above = None if above.parent_nursery is None else above.parent_nursery.parent_task
        return False


async def ask_in_pieces(port: int, pieces: Sequence[bytes], instrument: CancelsAtStep, tls: bool = False) -> bytes:
    """Ask with the instrument armed, and read what comes, whatever becomes of the connection."""
    sock = trio.socket.socket()
    sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 8192)
    await sock.connect(("127.0.0.1", port))
    instrument.armed = True
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = trio.SocketStream(sock)
    if tls:
        context = shared_authority()[0].client_context()
        stream = trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)
    async with stream as client:
        with contextlib.suppress(trio.BrokenResourceError):
            for data in pieces:
                await client.send_all(data)
                await trio.sleep(0.001)
        return await receive_all(client)
