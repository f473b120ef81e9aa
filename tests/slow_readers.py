"""Many slow downloads from one process: `python slow_readers.py PORT COUNT TARGET BYTES_PER_SECOND`.

Prints "ready" once every reader has its first bytes, reads on at that rate until its stdin ends, then prints how many
of them are still connected and how many bytes all of them have read.
"""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import sys
import time

TURN = 0.1  # seconds


def open_reader(port: int, target: str) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.connect(("127.0.0.1", port))
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
    sock.setblocking(False)
    return sock


def main() -> None:
    port, count, target, rate = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    readers = {open_reader(port, target) for _ in range(count)}
    waiting = set(readers)
    total = 0
    while waiting:
        for sock in select_readable(waiting):
            total += len(sock.recv(1000))
            waiting.discard(sock)
    print("ready", flush=True)
    piece = max(1, int(rate * TURN))
    while not select.select([sys.stdin], [], [], 0)[0]:
        started = time.monotonic()
        for sock in list(readers) if rate else ():
            with contextlib.suppress(BlockingIOError):
                try:
                    data = sock.recv(piece)
                except ConnectionError:
                    data = b""
                total += len(data)
                if not data:
                    readers.discard(sock)
        time.sleep(max(0, TURN - (time.monotonic() - started)))
    print(len(readers), total, flush=True)


def select_readable(socks: set[socket.socket]) -> list[socket.socket]:
    poll = select.poll()
    by_fd = {sock.fileno(): sock for sock in socks}
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    return [by_fd[fd] for fd, _ in poll.poll(20_000)]


if __name__ == "__main__":
    main()
