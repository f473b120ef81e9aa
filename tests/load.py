"""Clients that never stop asking, and count what a person would call an outage."""

from __future__ import annotations

import hashlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CHUNK = 64 * 1024
PAUSE = 0.005  # seconds; what is shown is not how much the server takes, and workers are to boot meanwhile


@dataclass
class Load:
    """What became of all requests so far. Each list is written by whoever it belongs to, and read at the end."""

    port: int
    failures: list[str] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)  # by kind of client
    retries: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def count(self, kind: str) -> None:
        self.answers[kind] = self.answers.get(kind, 0) + 1

    # -- kinds of clients: each runs in a thread of its own until the load is over ------------------------------------

    def ask_once_each(self) -> None:
        """A connection for each request."""
        while not self._over.is_set():
            try:
                with self._connect() as client:
                    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    read_answer(client)
                self.count("one-shot")
            except OSError as error:
                self.failures.append(f"one-shot: {error!r}")
            time.sleep(PAUSE)

    def ask_again(self) -> None:
        """One connection for as long as the server keeps it."""
        client: socket.socket | None = None
        fresh = True
        while not self._over.is_set():
            if client is None:
                client, fresh = self._connect(), True
            try:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                closes = read_answer(client)
                self.count("keep-alive")
            except NothingCame:  # RFC 9112, section 9.3.1: such a connection may be tried again
                closes = True
                self.retries += 1
                if fresh:
                    self.failures.append("keep-alive: a new connection was closed without an answer")
            except OSError as error:
                closes = True
                self.failures.append(f"keep-alive: {error!r}")
            fresh = False
            if closes:
                client.close()
                client = None
            time.sleep(PAUSE)
        if client is not None:
            client.close()

    def download(self, digest: str, rate: int) -> None:
        """The file, at some bytes per second, again and again; each whole and unharmed."""
        while not self._over.is_set():
            try:
                with self._connect(receive_buffer=32 * 1024) as client:
                    client.sendall(b"GET /file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    got = read_slowly(client, rate)
                if got == digest:
                    self.count("download")
                else:
                    self.failures.append("download: other bytes than those of the file")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"download: {error!r}")

    def _connect(self, receive_buffer: int | None = None) -> socket.socket:
        client = socket.socket()
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(60)
        try:
            client.connect(("127.0.0.1", self.port))
        except OSError:
            client.close()
            raise
        return client


class NothingCame(OSError):
    """The connection ended before a byte of the answer."""


def read_answer(client: socket.socket) -> bool:
    """Read one answer that is whole and 200; whether the connection ends with it.

    Raises:
        NothingCame: see there.
        OSError: it was cut, or is another.
    """
    received = b""
    while b"\r\n\r\n" not in received:
        try:
            data = client.recv(CHUNK)
        except ConnectionResetError:
            data = b""
        if not data:
            raise OSError(f"cut after {received!r}") if received else NothingCame()
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise OSError(f"another answer: {head!r}")
    (length,) = (
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    )
    while len(body) < length:
        data = client.recv(CHUNK)
        if not data:
            raise OSError(f"cut after {len(body)} of {length} bytes")
        body += data
    return b"\r\nconnection: close" in head.lower()


def read_slowly(client: socket.socket, rate: int) -> str:
    """The SHA-256 of a body, read at so many bytes per second.

    Raises:
        http.client.HTTPException: it was cut.
    """
    response = http.client.HTTPResponse(client)
    response.begin()
    started, got, digest = time.monotonic(), 0, hashlib.sha256()
    while data := response.read(CHUNK):
        got += len(data)
        digest.update(data)
        time.sleep(max(0.0, started + got / rate - time.monotonic()))
    if got != int(response.headers["Content-Length"]):
        raise http.client.IncompleteRead(b"")
    return digest.hexdigest()


@contextmanager
def under_load(port: int, *clients: Callable[[Load], None]) -> Iterator[Load]:
    """Have these clients, each in a thread, ask for as long as the block runs; what was begun is awaited."""
    load, shed = Load(port), connections_shed()
    threads = [threading.Thread(target=client, args=(load,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load._over.set()
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads), "a client hangs"
        if load.failures and connections_shed() > shed:
            pytest.skip(
                "the kernel ran out of memory for TCP, and reset connections of its own accord (tcp(7), tcp_mem)"
            )
        assert not load.failures, f"{len(load.failures)} failures, the first: {load.failures[0]}"


def connections_shed() -> int:
    """How many connections this host's kernel has given up for lack of memory: not what is tested here."""
    names, values = (line.split() for line in Path("/proc/net/netstat").read_text().splitlines()[:2])
    return int(dict(zip(names, values, strict=True)).get("TCPAbortOnMemory", "0"))
