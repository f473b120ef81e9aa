"""The good client: a small request at fixed times on one kept-alive connection, and how long each answer takes.

Laws:
- The clock of a request starts when it should have been sent, so a server that stalls is charged for all requests
  that came due meanwhile, and not for one.
- A connection that the server closes after an answer is opened anew, within the time of the next request.

Settings: port, target, interval (seconds), seconds, patience (seconds for one answer), and optionally method, headers
("Name: value"), body_file, status.
"""

from __future__ import annotations

import select
import socket
import time
from typing import Any

from bench.clients.answer import Answer, Broken
from bench.clients.talk import format_request, read_settings, say_ready, say_result, wait_for_go
from bench.figures import percentile


class Probe:
    """One connection, reopened when it was closed."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.address = ("127.0.0.1", int(settings["port"]))
        self.patience = float(settings["patience"])
        self.request = format_request(settings)
        self.status = int(settings.get("status", 200))
        self.sock: socket.socket | None = None

    def ask(self) -> None:
        """One exchange; once more where a kept-alive connection turns out to have ended, as any client does it.

        Raises:
            Broken: no good answer within the patience.
        """
        deadline = time.monotonic() + self.patience
        answer = Answer()
        try:
            if self.sock is not None:
                try:
                    self.exchange(self.sock, answer, deadline)
                    return
                except (Broken, OSError):
                    if answer.begun or time.monotonic() >= deadline:
                        raise
                    self.sock.close()
            self.sock = socket.create_connection(self.address, timeout=self.patience)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.setblocking(False)
            self.exchange(self.sock, Answer(), deadline)
        except OSError as error:
            raise Broken(f"the good client: {error.strerror or error}") from error

    def exchange(self, sock: socket.socket, answer: Answer, deadline: float) -> None:
        unsent = memoryview(self.request)
        while unsent := unsent[sock.send(unsent) :]:
            self.wait(deadline, [], [sock])
        while not answer.done:
            if not answer.receive(sock):
                self.wait(deadline, [sock], [])
        if answer.status != self.status:
            raise Broken(f"the good client got status {answer.status}")
        if answer.closes:
            sock.close()
            self.sock = None

    def wait(self, deadline: float, readable: list[socket.socket], writable: list[socket.socket]) -> None:
        """Until one of the sockets is what it is to be.

        Raises:
            Broken: none is by then.
        """
        left = deadline - time.monotonic()
        if left <= 0 or not any(select.select(readable, writable, [], left)):
            raise Broken(f"the good client had no answer within {self.patience:.0f} s")


def ask_in_time(probe: Probe, began: float, seconds: float, interval: float, times: list[float]) -> None:
    """Ask each `interval` seconds, adding the seconds each answer took to `times`."""
    for number in range(round(seconds / interval)):
        due = began + number * interval
        time.sleep(max(0.0, due - time.monotonic()))
        probe.ask()
        times.append(time.monotonic() - due)


def main() -> None:
    settings = read_settings()
    interval, seconds = float(settings["interval"]), float(settings["seconds"])
    probe = Probe(settings)
    times: list[float] = []
    failure = ""
    try:
        probe.ask()
    except Broken as broken:
        failure = str(broken)
    say_ready(failure=failure)
    began = wait_for_go()
    if not failure:
        try:
            ask_in_time(probe, began, seconds, interval, times)
        except Broken as broken:
            failure = str(broken)
    say_result(
        failure=failure,
        requests=len(times),
        p50=percentile(times, 50),
        p99=percentile(times, 99),
        longest=max(times, default=None),
    )


if __name__ == "__main__":
    main()
