"""Where a worker writes what its threads are at, and its supervisor reads it: a pipe of its own.

Laws:

* faulthandler writes, at any moment, in a signal handler: what the descriptor does not take is lost. So this one waits,
  and holds more than nearly all threads have to tell, for a supervisor that is stopped or becomes another program.
* What is written is text in many small pieces, without an end of its own: it has ended when it has been quiet.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

import trio

QUIET = 1.0  # seconds without a word, after which there are no more of them
LONGEST = 1 << 20  # bytes: what the pipe holds, and what is waited for at most
_CHUNK = 65536  # bytes


class Stacks:
    """The end that is read.

    Args:
        fd: of it, non-blocking; closed by us.

    Raises:
        OSError: it is not open.
    """

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._fd = fd
        self._written = bytearray()

    def fileno(self) -> int:
        """The descriptor's number; -1 when closed."""
        return self._fd

    def close(self) -> None:
        """Read no more. May be called again."""
        fd = self.detach()
        if fd >= 0:
            os.close(fd)

    def detach(self) -> int:
        """Let go of the descriptor, which stays open; its number."""
        fd, self._fd = self._fd, -1
        return fd

    async def wait_written(self) -> None:
        """Wait until something is written, and then until that has ended; for ever if nobody is left who writes.

        Cancellation: nothing is lost.
        """
        await self._receive()
        quiet = False
        while not quiet and len(self._written) < LONGEST:
            with trio.move_on_after(QUIET) as pause:
                await self._receive()
            quiet = pause.cancelled_caught

    def take(self) -> str:
        """What has been written so far, but for empty lines; each word is given once."""
        with contextlib.suppress(BlockingIOError):
            while self._receive_nowait():
                pass
        lines = self._written.decode(errors="replace").splitlines()
        self._written.clear()
        return "\n".join(filter(None, lines))

    async def _receive(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            with contextlib.suppress(BlockingIOError):
                if self._receive_nowait():
                    return
                await trio.sleep_forever()

    def _receive_nowait(self) -> bool:
        """Whether anybody is left who writes; a BlockingIOError where nothing is written."""
        data = os.read(self._fd, _CHUNK)
        self._written += data
        return bool(data)


def open_stacks() -> tuple[Stacks, int]:
    """The end that is read, and the other, for a worker; the caller closes that once the worker has been started."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    with contextlib.suppress(AttributeError, OSError):  # no Linux, or this user has so many already
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, LONGEST)
    return Stacks(ours), theirs
