"""The least that a server on Trio and h11 can do for a small request: wait, receive, parse, answer, send.

    python -m bench.reference.trio_h11_loop PORT inline|thread

`inline` answers on the loop, `thread` hands each request to one thread and waits for it, as whoever runs applications
that may block has to. No WSGI, no limit, no deadline, no log; a head is believed to arrive in one piece. It is a
yardstick for the price of Trio and h11 themselves, and no server.
"""

from __future__ import annotations

import queue
import socket
import sys
import threading

import h11
import outcome
import trio

BODY = b"Hello, world!"
RESPONSE = h11.Response(
    status_code=200,
    reason=b"OK",
    headers=[(b"Content-Type", b"text/plain"), (b"Content-Length", b"%d" % len(BODY)), (b"Server", b"yardstick")],
)


class Thread:
    """One thread that makes the answers."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[trio.lowlevel.Task] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        threading.Thread(target=self._loop, daemon=True).start()

    def _loop(self) -> None:
        while True:
            self._token.run_sync_soon(trio.lowlevel.reschedule, self._inbox.get(), outcome.Value(BODY))

    async def answer(self) -> bytes:
        self._inbox.put(trio.lowlevel.current_task())
        body: bytes = await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
        return body


async def serve_connection(sock: socket.socket, thread: Thread | None) -> None:
    connection = h11.Connection(h11.SERVER)
    with sock:
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                data = sock.recv(65536)
            except OSError:
                return
            if not data:
                return
            connection.receive_data(data)
            connection.next_event()
            connection.next_event()
            body = BODY if thread is None else await thread.answer()
            events = (RESPONSE, h11.Data(data=body), h11.EndOfMessage())
            try:
                sock.send(b"".join(connection.send(event) or b"" for event in events))
            except OSError:
                return
            if connection.our_state is not h11.DONE:  # the client wants it closed
                return
            connection.start_next_cycle()


async def main(port: int, way: str) -> None:
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    thread = Thread() if way == "thread" else None
    async with trio.open_nursery() as nursery:
        while True:
            await trio.lowlevel.wait_readable(listener)
            sock, _ = listener.accept()
            sock.setblocking(False)
            nursery.start_soon(serve_connection, sock, thread)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), sys.argv[2])
