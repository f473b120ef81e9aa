"""Thousands of clients that read slowly, or idle, from one process.

Laws:
- Each reader gets its turn once a second and takes a second's worth of bytes, if they are there: a thousand times
  the same work a second for a thousand readers, whatever the server does.
- A reader is served once it has a byte of its response. They come at a pace, and at most `AHEAD` of them wait for
  theirs at a time: a server is asked by many readers and not flooded by connects.
- What is read is thrown away in the kernel. All stay connected until the driver has looked at the server.

Settings: port, target, count, rate (bytes a second; 0: read what comes at once, then idle), seconds, buffer (bytes of
receive buffer; 0: the kernel's choice), and optionally method, headers ("Name: value"), body_file.
"""

from __future__ import annotations

import select
import socket
import time
from typing import Any

from bench.clients.answer import SINK
from bench.clients.talk import format_request, read_settings, say_ready, say_result, wait_for_end, wait_for_go

IP_BIND_ADDRESS_NO_PORT = 24  # Linux: the port is chosen by connect(), which may take one that another server had
ARRIVALS = 1000  # connections a second: at 3000, uWSGI with offload threads drops half of them
BURST = 32  # connections at once, where we are late
AHEAD = 256  # readers that wait for their first byte
PATIENCE = 4.0  # seconds in which none of the waiting is served: the others will not be either
LONGEST = 20.0, 0.01  # seconds to be served: for all of them together, and for each one more
PER_ADDRESS = 10_000  # connections from one loopback address, well within the ports it has
SLICES = 20  # turns a second


class Readers:
    """The connections: those that wait for a first byte, and those that are served."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.port = int(settings["port"])
        self.buffer = int(settings.get("buffer", 0))
        self.rate = int(settings["rate"])
        self.request = format_request(settings)
        self.served: list[socket.socket] = []
        self.waiting: dict[int, socket.socket] = {}
        self.poll = select.epoll()
        self.counts: list[int] = []  # bytes read by each of the served; -1: its connection has ended
        self.opened = 0
        self.received = 0
        self.turn = int(time.monotonic() * SLICES)

    def open_one(self) -> None:
        sock = socket.socket()
        if self.buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.buffer)
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((f"127.0.0.{1 + self.opened // PER_ADDRESS}", 0))
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.port))
        sock.sendall(self.request)
        sock.setblocking(False)
        self.opened += 1
        self.waiting[sock.fileno()] = sock
        self.poll.register(sock.fileno(), select.EPOLLIN)

    def open_all(self, count: int) -> str:
        """Connect until all are served, or nobody is for too long; who is served reads on at the rate meanwhile.

        Returns:
            why not all were connected, or "".
        """
        began = last = time.monotonic()
        longest = LONGEST[0] + LONGEST[1] * count
        while len(self.served) < count:
            due = min(count, self.opened + BURST, int((time.monotonic() - began) * ARRIVALS) + 1)
            while self.opened < due and len(self.waiting) < AHEAD:
                try:
                    self.open_one()
                except OSError as error:
                    return f"connection {self.opened + 1:,} failed: {error.strerror or error}"
            for fd, _ in self.poll.poll(1 / ARRIVALS):
                sock = self.waiting.pop(fd)
                self.poll.unregister(fd)
                if not self.read(sock, 1000):
                    return f"connection {len(self.served) + 1:,} was closed without an answer"
                self.served.append(sock)
                self.counts.append(0)
                last = time.monotonic()
            self.take_turns()
            now = time.monotonic()
            if now - last > PATIENCE or now - began > longest:
                return f"{'no more' if now - last > PATIENCE else 'not all'} within {now - began:.0f} s"
        return ""

    def take_turns(self) -> None:
        """Let those read whose turn has come since the last call; whole seconds that we are late are left out."""
        now = time.monotonic() * SLICES
        self.turn = max(self.turn, int(now) - SLICES)
        while self.turn < now:
            for index in range(self.turn % SLICES, len(self.served), SLICES):
                if self.counts[index] >= 0:
                    before = self.received
                    alive = self.read(self.served[index], self.rate or len(SINK))
                    self.counts[index] = self.counts[index] + self.received - before if alive else -1
            self.turn += 1

    def read(self, sock: socket.socket, count: int) -> bool:
        """Read up to `count` bytes; False where the connection has ended."""
        try:
            got = sock.recv_into(SINK, count, socket.MSG_TRUNC)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.received += got
        return got > 0

    def run(self, until: float) -> None:
        """Read at the rate until then, counting from now on."""
        self.received = 0
        self.counts = [min(count, 0) for count in self.counts]
        while (now := time.monotonic()) < until:
            self.take_turns()
            time.sleep(max(0.0, min(self.turn / SLICES, until) - now))


def main() -> None:
    settings = read_settings()
    readers = Readers(settings)
    count, seconds = int(settings["count"]), float(settings["seconds"])
    failure = readers.open_all(count)
    say_ready(served=len(readers.served), asked=readers.opened, failure=failure)
    began, cpu = wait_for_go(), time.process_time()
    readers.run(began + seconds)
    wanted = readers.rate * max(0.0, seconds - 2) * 0.5
    say_result(
        received=readers.received,
        alive=sum(got >= 0 for got in readers.counts),
        moving=sum(got >= wanted for got in readers.counts),
        seconds=time.monotonic() - began,
        cpu=time.process_time() - cpu,
    )
    wait_for_end()


if __name__ == "__main__":
    main()
