"""One response as it arrives at a socket: its head, and a count of its body, thrown away in the kernel.

Laws:
- A body of known length is never copied to us: recv(MSG_TRUNC) drops it in the kernel (TCP on Linux).
- What breaks framing raises `Broken` with the reason, in words for the report.

Spec: RFC 9112; tcp(7), MSG_TRUNC
"""

from __future__ import annotations

import re
import socket
import ssl

HEAD_STEP = 4096  # bytes to look at for a head: little of the body is copied with it
LONGEST_HEAD = 1 << 16  # bytes
SINK = bytearray(1 << 22)  # where discarded bytes do not go: its pages are touched by TLS and chunks only
CHUNK_STEP = 1 << 18
BODILESS = (204, 304)  # statuses of answers that end with their head
BLOCKED = (BlockingIOError, ssl.SSLWantReadError)


class Broken(Exception):
    """The response is not what was promised; the text says why."""


class Answer:
    """A response that is being read; a new one for each request.

    Args:
        tls: whether the socket is an SSLSocket, which has no MSG_TRUNC.
    """

    __slots__ = ("_chunk_left", "_chunked", "_head", "_left", "_tls", "closes", "done", "length", "status")

    def __init__(self, tls: bool = False) -> None:
        self.status = 0  # 0: the head is not complete
        self.length = 0  # bytes of the body so far
        self.closes = False  # whether the server ends the connection after it
        self.done = False
        self._tls = tls
        self._head = b""
        self._left = -1  # bytes of the body that are missing; -1: the connection's end tells
        self._chunked = False
        self._chunk_left = 0  # of the present chunk, with its CRLF

    @property
    def begun(self) -> bool:
        """Whether any byte of it has arrived."""
        return bool(self.status or self._head)

    def receive(self, sock: socket.socket) -> bool:
        """Read once from a non-blocking socket.

        Returns:
            False where it had nothing.

        Raises:
            Broken: it ended early, or is not HTTP.
        """
        try:
            if not self.status:
                self._receive_head(sock)
            elif self._chunked:
                self._receive_chunks(sock)
            else:
                self._receive_body(sock)
        except BLOCKED:
            return False
        except ConnectionError as error:
            raise Broken(f"connection broken after {self.length} bytes: {error.strerror}") from error
        return True

    def _receive_head(self, sock: socket.socket) -> None:
        data = sock.recv(HEAD_STEP)
        if not data:
            raise Broken("connection closed in the head" if self._head else "connection closed without an answer")
        self._head += data
        match, head, rest = self._find_final_head()
        if match is None:
            return
        self.status = int(match[2])
        self._take_head(head, is_1_0=match[1] == b"0")
        self._head = b""
        if self._chunked:
            self._walk(rest)
        else:
            self._count(len(rest))

    def _find_final_head(self) -> tuple[re.Match[bytes] | None, bytes, bytes]:
        """The status line, head and rest of what has arrived, interim responses left out; None while it is not all."""
        while True:
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                if len(self._head) > LONGEST_HEAD:
                    raise Broken("head without an end")
                return None, b"", b""
            match = re.match(rb"HTTP/1\.([01]) (\d\d\d)", head)
            if match is None:
                raise Broken(f"not a response: {head[:40]!r}")
            if not match[2].startswith(b"1"):
                return match, head, rest
            self._head = rest

    def _take_head(self, head: bytes, is_1_0: bool) -> None:
        lines = head.lower().split(b"\r\n")[1:]
        fields = {name.strip(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        connection = fields.get(b"connection", b"")
        self.closes = b"close" in connection or (is_1_0 and b"keep-alive" not in connection)
        self._chunked = b"chunked" in fields.get(b"transfer-encoding", b"")
        if self.status in BODILESS:
            self._chunked, self._left = False, 0
        elif not self._chunked and b"content-length" in fields:
            self._left = int(fields[b"content-length"])
        self.closes |= self._left < 0 and not self._chunked

    def _receive_body(self, sock: socket.socket) -> None:
        wanted = len(SINK) if self._left < 0 else min(self._left, len(SINK))
        count = sock.recv_into(SINK, wanted, 0 if self._tls else socket.MSG_TRUNC)
        if count:
            self._count(count)
        elif self._left < 0:
            self.done = True
        else:
            raise Broken(f"body ended {self._left} bytes early, after {self.length}")

    def _count(self, count: int) -> None:
        self.length += count
        if self._left >= 0:
            self._left -= count
            if self._left < 0:
                raise Broken("bytes after the end of the body")
            self.done = not self._left

    def _receive_chunks(self, sock: socket.socket) -> None:
        data = sock.recv(CHUNK_STEP)
        if not data:
            raise Broken(f"chunked body without an end, after {self.length} bytes")
        self._walk(self._head + data)

    def _walk(self, data: bytes) -> None:
        position, end = 0, len(data)
        self._head = b""  # now: the part of a chunk's first line that has arrived
        while position < end:
            if self._chunk_left:
                step = min(self._chunk_left, end - position)
                position += step
                self._chunk_left -= step
                continue
            eol = data.find(b"\r\n", position)
            if eol < 0:
                break
            size = int(data[position:eol].partition(b";")[0], 16)
            if size == 0:
                if end < eol + 4:
                    break
                if end > eol + 4 or data[eol:] != b"\r\n\r\n":
                    raise Broken("bytes after the last chunk")
                self.done = True
                return
            self.length += size
            self._chunk_left = size + 2
            position = eol + 2
        self._head = data[position:]
