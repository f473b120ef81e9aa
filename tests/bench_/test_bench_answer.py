"""What the bench's clients take for an answer: framing of RFC 9112 section 6, whole and byte by byte, over TCP."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from bench.clients.answer import Answer, Broken


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our socket, non-blocking, and the server's: TCP, as MSG_TRUNC means something else elsewhere."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def read(ours: socket.socket, theirs: socket.socket, data: bytes, *, step: int = 0, end: bool = False) -> Answer:
    """Send `data` in pieces of `step`, then end the connection if `end`, and read until the answer is done."""
    answer = Answer()
    for piece in [data[at : at + step] for at in range(0, len(data), step)] if step else [data]:
        theirs.sendall(piece)
        while not answer.done and select.select([ours], [], [], 0)[0]:
            answer.receive(ours)
    if end:
        theirs.close()
    while not answer.done:
        assert select.select([ours], [], [], 10)[0], "more was expected"
        answer.receive(ours)
    return answer


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize(
    ("data", "length", "closes", "end"),
    [
        (HEAD + b"Content-Length: 5\r\n\r\nhello", 5, False, False),
        (HEAD + b"content-length: 0\r\nConnection: close\r\n\r\n", 0, True, False),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\n", 6, False, False),
        (HEAD + b"\r\nuntil the end", 13, True, True),
        (b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n", 0, False, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 2, True, False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok", 2, False, False),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + HEAD + b"Content-Length: 2\r\n\r\nok", 2, False, False),
    ],
)
def test_an_answer_is_read_to_its_end(
    pair: tuple[socket.socket, socket.socket], data: bytes, length: int, closes: bool, end: bool, step: int
) -> None:
    answer = read(*pair, data, step=step, end=end)
    status = 204 if b" 204 " in data else 200
    assert (answer.done, answer.status, answer.length, answer.closes) == (True, status, length, closes)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "closed without an answer"),
        (b"HTTP/1.1 200 OK\r\nConte", "closed in the head"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not a response"),
        (HEAD + b"Content-Length: 10\r\n\r\nhello", "ended 5 bytes early"),
        (HEAD + b"Content-Length: 5\r\n\r\nhello!", "bytes after the end"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "without an end"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nmore", "bytes after the last chunk"),
    ],
)
def test_what_breaks_framing_is_told(pair: tuple[socket.socket, socket.socket], data: bytes, reason: str) -> None:
    with pytest.raises(Broken, match=reason):
        read(*pair, data, end=True)


def test_large_bodies_are_dropped_in_the_kernel(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    theirs.setblocking(False)
    body = memoryview(b"x" * 3_000_000)
    theirs.sendall(HEAD + b"Content-Length: 3000000\r\n\r\n")
    answer = Answer()
    while not answer.done:
        readable, writable, _ = select.select([ours], [theirs] if body else [], [], 10)
        if writable:
            body = body[theirs.send(body) :]
        if readable:
            answer.receive(ours)
    assert answer.length == 3_000_000
