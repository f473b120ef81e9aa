"""What an application thread needs of the wire, as interfaces; `net` implements them.

Laws:

* Their methods are called in the application's thread while it owns the wire, and may block it.
* Bytes are given over in order and exactly once: after an `OSError` the connection is over.
"""

from __future__ import annotations

from typing import Protocol

from trio_wsgi.disk.answer import Answer
from trio_wsgi.rules.headers import Head


class Inlet(Protocol):
    """The request's body, for a thread that reads it while it arrives.

    Attributes:
        loop_thread: the identifier of the event loop's thread, where nobody may wait for more.
    """

    loop_thread: int

    def receive_into(self, buffer: memoryview) -> int:
        """Fill a buffer, which is not empty, with the next bytes of the body; returns how many, 0 at its end.

        Raises:
            ClientGone: the body did not arrive whole; every later call raises it again.
            ClientError: its framing is wrong, or it is larger than the limit.
        """


class Outlet(Protocol):
    """The response's way out, for a thread that produces it bit by bit.

    Attributes:
        loop_thread: the identifier of the event loop's thread, where nobody may wait for the client.
    """

    loop_thread: int

    def start(self, head: Head, limit_rate: int | None = None) -> None:
        """Take the head, which leaves with the first bytes that are taken after it; until then it may be replaced.

        Args:
            limit_rate: bytes per second; 0 for no limit, None for the configured one.
        """

    def send(self, data: bytes) -> None:
        """Return when the kernel has taken all of `data`.

        Raises:
            ClientGone: nobody is there to take it any more (`ClientStalled`: nobody took a byte for `write_timeout`).
        """

    def offer(self, data: bytes) -> None:
        """Take all of `data` without waiting; what the kernel does not take now is sent by the event loop.

        Raises:
            BlockingIOError: nothing of it was taken (`characters_written` is 0); try again after `wait_writable`.
            ClientGone: as for `send`.
        """

    def push(self, data: bytes) -> None:
        """Take `data` and send it while the app goes on; waits while more than `output_buffering` bytes are unsent.

        Raises:
            ClientGone: as for `send`.
        """

    def leave(self, answer: Answer) -> bool:
        """The response ends with this: send what the kernel takes of it now; whether that is all. Raises nothing."""

    def wait_writable(self, timeout: float | None) -> bool:
        """Wait until `offer` will take a block; False when `timeout` seconds passed first (None: no limit).

        Raises:
            ClientGone: as for `send`.
        """
