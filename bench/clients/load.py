"""The closed-loop client: N connections, each asks again as soon as it has its answer, from one epoll.

Laws:
- What is timed is a whole exchange: from the first byte of the request to the last one of the response.
- Bytes of an exchange that the end of the window cuts are counted, its time is not. The window is as long as it was
  told to be, or, where requests are what counts (`whole`), as the first whole exchange takes.
- A kept-alive connection that ends before any byte of an answer is no failure: the request is made again, and
  counted. Any other failure ends it, unless it is told to count them (`tolerate`), as for restarts.

Settings: port, targets (paths, in turn), connections, seconds, and optionally method, headers ("Name: value", of all
requests), fields (header lines, one for each target), body (bytes to upload with each request) or body_file (the file
that is uploaded), status, length (of each answer's body), whole (True), tls, tolerate, evict (files, one for each
target, dropped from the page cache before it is asked for).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.clients.answer import BLOCKED, Answer, Broken
from bench.clients.talk import format_head, read_body, read_settings, say_ready, say_result, wait_for_go
from bench.figures import percentile

BODY_BLOCK = 1 << 20
PATIENCE = 20.0  # seconds without any event
IN_VAIN = 0.5  # of the window: nobody has heard anything for so long at its end, though it has waited
AT_LEAST = 0.75  # seconds of that: part of the shortest window there is
UNHEARD = 0.75  # of the connections: so many wait for a first byte at the end of the window, while others are answered
WRITE_BLOCKED = (BlockingIOError, ssl.SSLWantWriteError)


@dataclass(frozen=True)
class Order:
    """What to ask for."""

    request: bytes
    evict: str = ""  # file to drop from the page cache before


@dataclass
class Tally:
    """What has happened in the window."""

    requests: int = 0
    received: int = 0  # bytes of response bodies
    sent: int = 0  # bytes of request bodies
    times: list[float] = field(default_factory=list)  # seconds, one for each whole exchange
    failures: Counter[str] = field(default_factory=Counter)
    retried: int = 0  # a kept-alive connection that was closed before any byte of the answer

    def count_exchanges(self, body: int, length: int | None) -> float:
        """How many exchanges the window held, those that its ends cut by the part of them that was in it."""
        if body:
            return self.sent / body
        return self.received / length if length else self.requests


class Loader:
    """The connections and what they do."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.address = ("127.0.0.1", int(settings["port"]))
        body = read_body(settings)
        self.given = bool(body)  # the body is somebody's own, and not a mebibyte again and again
        self.body = len(body) or int(settings.get("body", 0))
        self.status = int(settings.get("status", 200))
        self.length = settings.get("length")
        self.whole = bool(settings.get("whole", True))
        self.tolerate = bool(settings.get("tolerate"))
        self.tls = open_tls() if settings.get("tls") else None
        self.source = open_body(body or b"\x5a" * min(self.body, BODY_BLOCK)) if self.body else -1
        self.orders = build_orders(settings, self.body)
        self.connections = int(settings["connections"])
        self.poll = select.epoll()
        self.exchanges: dict[int, Exchange] = {}
        self.tally = Tally()

    def connect(self, orders: Iterator[Order]) -> Exchange:
        """Open one more connection, for these requests; TLS is spoken once it begins."""
        sock = socket.create_connection(self.address, timeout=PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        if self.tls is not None:
            sock = self.tls.wrap_socket(sock, server_hostname="localhost", do_handshake_on_connect=False)
        self.poll.register(sock.fileno(), select.EPOLLIN)
        exchange = self.exchanges[sock.fileno()] = Exchange(self, sock, orders)
        return exchange

    def connect_all(self) -> None:
        """Each connection has its own of the targets, as far as they go round: no two ask for one file at a time."""
        for number in range(self.connections):
            mine = self.orders[number % len(self.orders) :: self.connections]
            self.connect(itertools.cycle(mine))

    def run(self, until: float) -> None:
        heard = began = time.monotonic()
        for exchange in list(self.exchanges.values()):
            self.attempt(exchange, exchange.begin)
        while (left := until - time.monotonic()) > 0 or (self.whole and not self.tally.requests):
            events = self.poll.poll(min(PATIENCE, left) if left > 0 else PATIENCE)
            if not events and (left <= 0 or left > PATIENCE):
                raise Broken(f"no byte within {PATIENCE:.0f} s")
            heard = time.monotonic() if events else heard
            for fd, event in events:
                exchange = self.exchanges[fd]
                self.attempt(exchange, exchange.upload if event & select.EPOLLOUT else exchange.read)
        silence = time.monotonic() - heard
        if silence > max(AT_LEAST, IN_VAIN * (until - began)):
            raise Broken(f"no byte for the last {silence:.1f} s")
        if self.whole:
            self.check_everybody_was_answered(until - began)
        for exchange in self.exchanges.values():
            self.tally.received += exchange.answer.length if exchange.began else 0

    def check_everybody_was_answered(self, window: float) -> None:
        """Raises Broken where most connections had no byte in the whole window, while others were answered."""
        unheard = sum(not (each.heard or each.answer.begun or each.left) for each in self.exchanges.values())
        if window > AT_LEAST / 2 and unheard > UNHEARD * self.connections:
            raise Broken(f"{unheard} of {self.connections} connections had no answer in {window:.0f} s")

    def attempt(self, exchange: Exchange, step: Callable[[], None]) -> None:
        """Take a step of an exchange; where it breaks, a new connection takes the place of the old one, or we end."""
        try:
            step()
        except (Broken, OSError) as error:
            broken = error if isinstance(error, Broken) else Broken(f"connection broken: {error.strerror}")
            if exchange.answered and not exchange.answer.begun:
                self.tally.retried += 1  # the server closed it between two requests: any client asks again
            elif self.tolerate:
                self.tally.failures[str(broken)] += 1
            else:
                raise broken from None
            self.replace(exchange)

    def replace(self, exchange: Exchange) -> None:
        """Close a connection and ask on a new one; where failures are tolerated, try until there is a server."""
        del self.exchanges[exchange.sock.fileno()]
        exchange.sock.close()  # which takes it out of the epoll as well
        while True:
            try:
                fresh = self.connect(exchange.orders)
                break
            except OSError as error:
                reason = f"cannot connect: {error.strerror}"
                if not self.tolerate:
                    raise Broken(reason) from None
                self.tally.failures[reason] += 1
                time.sleep(0.05)
        fresh.heard = exchange.heard
        self.attempt(fresh, fresh.begin)


class Exchange:
    """One connection and its present request."""

    __slots__ = ("answer", "answered", "began", "heard", "left", "loader", "orders", "shaking", "sock")

    def __init__(self, loader: Loader, sock: socket.socket, orders: Iterator[Order]) -> None:
        self.loader = loader
        self.sock = sock
        self.orders = orders
        self.shaking = loader.tls is not None  # the handshake is not over
        self.answer = Answer(loader.tls is not None)
        self.answered = 0  # exchanges on this connection
        self.heard = False  # whether there was any, on it or on one whose place it has taken
        self.began = 0.0  # 0: nothing is under way
        self.left = 0  # bytes of the body still to send

    def begin(self) -> None:
        """The handshake, as far as it goes without waiting; then the first request."""
        if isinstance(self.sock, ssl.SSLSocket) and self.shaking:
            try:
                self.sock.do_handshake()
            except BLOCKED:
                return
            self.shaking = False
        self.ask()

    def ask(self) -> None:
        order = next(self.orders)
        if order.evict:
            evict(order.evict)
        self.answer = Answer(self.loader.tls is not None)
        self.began = time.monotonic()
        self.sock.send(order.request)
        self.left = self.loader.body
        if self.left:
            self.upload()

    def upload(self) -> None:
        """Send of the body what the kernel takes."""
        with contextlib.suppress(*WRITE_BLOCKED):
            while self.left:
                at = self.loader.body - self.left if self.loader.given else 0
                count = os.sendfile(self.sock.fileno(), self.loader.source, at, min(self.left, BODY_BLOCK))
                self.left -= count
                self.loader.tally.sent += count
        wanted = select.EPOLLIN | (select.EPOLLOUT if self.left else 0)
        self.loader.poll.modify(self.sock.fileno(), wanted)

    def read(self) -> None:
        """Receive what is there, and ask again where that was the end."""
        if self.shaking:
            self.begin()
            return
        while self.answer.receive(self.sock):
            if self.answer.done:
                self.finish()
                return
            if self.loader.tls is None:
                return  # epoll tells again; a TLS socket may hold what epoll does not see

    def finish(self) -> None:
        loader, answer = self.loader, self.answer
        if answer.status != loader.status:
            raise Broken(f"status {answer.status} instead of {loader.status}")
        if loader.length is not None and answer.length != loader.length:
            raise Broken(f"{answer.length} bytes instead of {loader.length}")
        loader.tally.requests += 1
        loader.tally.received += answer.length
        loader.tally.times.append(time.monotonic() - self.began)
        self.answered += 1
        self.heard = True
        self.began = 0.0
        if answer.closes:
            loader.replace(self)
        else:
            self.ask()


def build_orders(settings: dict[str, Any], body: int) -> list[Order]:
    targets = settings["targets"]
    fields = settings.get("fields") or [""] * len(targets)
    evicted = settings.get("evict") or [""] * len(targets)
    return [
        Order(format_head(settings, target, body) + f"{field}\r\n".encode(), file)
        for target, field, file in zip(targets, fields, evicted, strict=True)
    ]


def open_body(data: bytes) -> int:
    """A file in memory with what is uploaded, so that it leaves by sendfile and costs us little."""
    file = os.memfd_create("bench-body")
    with open(file, "wb", closefd=False) as writer:
        writer.write(data)
    return file


def open_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def evict(path: str) -> None:
    """Drop a file from the page cache.

    Raises:
        Broken: it stays there, as files of a tmpfs do.

    Spec: posix_fadvise(2), preadv2(2)
    """
    file = os.open(path, os.O_RDONLY)
    try:
        for _ in range(20):  # pages that are on their way through a socket stay until they have left it
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            try:
                os.preadv(file, [bytearray(1)], 0, os.RWF_NOWAIT)
            except BlockingIOError:
                return
            time.sleep(0.005)
        raise Broken("the file stays in the page cache: keep the samples on a disk (--files)")
    finally:
        os.close(file)


def main() -> None:
    settings = read_settings()
    loader = Loader(settings)
    failure = ""
    loader.connect_all()
    say_ready()
    began, cpu = wait_for_go(), time.process_time()
    try:
        loader.run(began + float(settings["seconds"]))
    except Broken as broken:
        failure = str(broken)
    seconds = time.monotonic() - began
    tally = loader.tally
    say_result(
        failure=failure,
        seconds=seconds,
        cpu=time.process_time() - cpu,
        requests=tally.requests,
        exchanges=tally.count_exchanges(0 if loader.given else loader.body, loader.length),
        received=tally.received,
        sent=tally.sent,
        p50=percentile(tally.times, 50),
        p99=percentile(tally.times, 99),
        longest=max(tally.times, default=None),
        failures=dict(tally.failures),
        retried=tally.retried,
    )


if __name__ == "__main__":
    main()
