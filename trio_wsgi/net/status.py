"""What the server is doing, as values: for operators, for the drain, for whoever embeds it.

Law: a snapshot is immutable and holds no part of the server; taking one costs a look at each connection, and nothing
before.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trio_wsgi.net.pool import ThreadCounts


class State(enum.Enum):
    """What a connection is doing."""

    HANDSHAKE = "shaking hands"
    IDLE = "idle"
    READING_HEAD = "reading head"
    READING_BODY = "reading body"
    OPENING = "opening a file"
    QUEUED = "queued for a thread"
    RUNNING = "app running"
    SENDING = "sending"
    LINGERING = "lingering"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Transfer:
    """A response on its way to its client.

    Args:
        done: bytes of body that the kernel took.
        total: bytes of body in all; None when that is not known.
        rate: bytes per second, smoothed over some seconds.
        stalled_for: seconds since the kernel last took any.
    """

    done: int
    total: int | None
    rate: float
    stalled_for: float

    def __str__(self) -> str:
        share = f"{self.done / self.total:.0%} of {self.total}" if self.total else f"{self.done}"
        stalled = f", stalled for {self.stalled_for:.0f} s" if self.stalled_for > 1 else ""
        return f"{share} bytes at {self.rate / 1e6:.3g} MB/s{stalled}"


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """One connection.

    Args:
        peer: address and port; "unix" for a unix socket.
        request: method and target; "" between requests.
        seconds: since the request began; 0 between requests.
        transfer: the response, while the loop sends it; the app may be waiting for that.
        thread: the app's, while it runs; the number that the system has for it (gettid(2)).
        stack: of the app's thread, while it runs.
    """

    peer: str
    state: State
    request: str = ""
    seconds: float = 0.0
    transfer: Transfer | None = None
    thread: int = 0
    stack: str = ""

    def __str__(self) -> str:
        said = [f"{self.peer} {self.state.value}" + (f" in thread {self.thread}" if self.thread else "")]
        if self.transfer is not None:
            said.append(str(self.transfer))
        if self.request:
            said.append(f"{self.request}, {self.seconds:.1f} s")
        return ": ".join(said)


@dataclass(frozen=True, slots=True)
class Statistics:
    """The server at one moment."""

    draining: bool
    threads: ThreadCounts
    connections: tuple[ConnectionStatus, ...]
    lost_stacks: tuple[str, ...] = ()  # of the threads that ignore their cancellation

    @property
    def by_state(self) -> Mapping[State, int]:
        """How many connections are in which state; states without any are absent."""
        return Counter(connection.state for connection in self.connections)

    @property
    def transfers(self) -> Sequence[Transfer]:
        """The responses that are being sent."""
        return [connection.transfer for connection in self.connections if connection.transfer is not None]

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {state.value}" for state, count in self.by_state.items()) or "none"
        threads = self.threads
        lines = [
            f"server {'draining' if self.draining else 'serving'}; {len(self.connections)} connections: {counts}",
            f"threads: {threads.busy} busy, {threads.idle} idle, {threads.lost} lost; {threads.queued} requests queued",
        ]
        for connection in self.connections:
            lines.append(f"- {connection}")
            lines += [f"    {line}" for line in connection.stack.splitlines()]
        for stack in self.lost_stacks:
            lines.append("- a lost thread")
            lines += [f"    {line}" for line in stack.splitlines()]
        return "\n".join(lines)
