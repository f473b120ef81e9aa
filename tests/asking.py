"""Ask a WSGI app one thing through a real server, and see what came of it."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from answers import Answer, read_answer
from serving import Served, receive_all, serving

from trio_wsgi import RequestRecord

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], None]]
App = Callable[[Environ, StartResponse], Any]

PLAIN = [("Content-Type", "text/plain")]
KEPT = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"  # on a connection that stays
CLOSE = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"  # the last one on its connection


def request(
    method: str = "GET",
    target: str = "/",
    *headers: str,
    body: bytes = b"",
    chunked: bool = False,
    version: str = "1.1",
) -> bytes:
    """The bytes of a request that asks for the connection to be closed after it."""
    lines = [f"{method} {target} HTTP/{version}", "Host: test", "Connection: close", *headers]
    if chunked:
        lines.append("Transfer-Encoding: chunked")
        body = b"".join(b"%x\r\n%b\r\n" % (len(body[i : i + 7]), body[i : i + 7]) for i in range(0, len(body), 7))
        body += b"0\r\n\r\n"
    elif body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def hello(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """An app that says hello."""
    start_response("200 OK", PLAIN)
    return [b"hello"]


def greet(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """An app that says hello to the body of its request."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", PLAIN)
    return [b"hello ", body]


def tell(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """An app that answers with the strings of its environ, as JSON."""
    start_response("200 OK", PLAIN)
    return [json.dumps({key: value for key, value in environ.items() if isinstance(value, str)}).encode()]


@dataclass
class Asked:
    """What one request came to."""

    raw: bytes
    record: RequestRecord
    method: str

    @property
    def answer(self) -> Answer:
        """The whole answer; h11 raises where it is not whole."""
        return read_answer(self.raw, self.method)


async def ask(app: App, sent: bytes | None = None, **settings: Any) -> Asked:
    """Serve `app` for one request (GET / unless `sent` says otherwise) and read until the server closes."""
    sent = request() if sent is None else sent
    async with serving(app, **settings) as served:
        raw = await exchange_open(served, sent)
        return Asked(raw, await served.record(), sent.partition(b" ")[0].decode())


async def exchange_open(served: Served, sent: bytes, timeout: float = 10.0) -> bytes:
    """Send bytes and read until the server closes; the client's side stays open, so that reading too far hangs."""
    with trio.fail_after(timeout):
        async with await served.connect() as stream:
            with contextlib.suppress(trio.BrokenResourceError):  # it was answered before it was all sent
                await stream.send_all(sent)
            return await receive_all(stream)


def error_lines(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """What the error log says at `level` or above, with the text of exceptions."""
    return [
        record.getMessage() + (f" | {record.exc_info[1]!r}" if record.exc_info else "")
        for record in caplog.records
        if record.name == "trio_wsgi.error" and record.levelno >= level
    ]
