"""A fuzzer with one invariant: whatever bytes arrive, every answer is a whole one or a 4xx/5xx or an end, in time;
the log never says that the server failed; and the next client is served.

`TRIO_WSGI_FUZZ=20000 pytest tests/net/test_http_fuzz.py` looks longer; a failure names its seed.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterable
from typing import Any

import h11
import pytest
import trio
import trio.lowlevel
from answers import read_answer
from serving import receive_all, serving

pytestmark = pytest.mark.usefixtures("each_engine")

SEEDS = [
    b"GET /a?b=c HTTP/1.1\r\nHost: test\r\nAccept: */*\r\nCookie: a=b\r\n\r\n",
    b"HEAD http://test:80/ HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, x\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n\r\nhello world",
    b"POST /p HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
    b"PUT /p HTTP/1.1\r\nHost: [::1]:8\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    b"OPTIONS * HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n",
]
SPICE = [b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"%00", b"-1", b"9" * 30, b"\xff\xfe", b"*", b"#"]
SPICE += [
    b"Host: x\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"HTTP/9.9",
    b"HEAD ",
    b"0\r\n\r\n",
]
SPICE += [b"HEAD ", b"Expect: 100-continue\r\n", b"x" * 9000, b"X: y\r\n" * 120, b"http://u@h", b"Range: bytes=0-\r\n"]


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] != "/a":
        environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [b"ok"] if len(environ["PATH_INFO"]) % 2 else iter([b"o", b"k"])


def mutate(rng: random.Random) -> bytes:
    """Requests one after the other, some of them damaged."""
    raw = bytearray(b"".join(rng.choices(SEEDS, k=rng.randint(1, 3))))
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        at, length = rng.randrange(len(raw) + 1), rng.choice((0, 0, 1, 3, 20))
        raw[at : at + length] = rng.choice((b"", rng.choice(SPICE), rng.randbytes(rng.randint(1, 8))))
    return bytes(raw[: rng.randrange(len(raw) + 1)] if rng.random() < 0.3 else raw)


def check(raw: bytes) -> None:
    """Answers are whole, of the statuses there may be, and none follows one that announced the end."""
    while raw:
        client = h11.Connection(h11.CLIENT)  # an answer to HEAD has no body: told by where the next one begins
        head, _, rest = raw.partition(b"\r\n\r\n")
        client.send(h11.Request(method="HEAD", target="/", headers=[("Host", "test")]))
        client.receive_data(head + b"\r\n\r\n")
        event = client.next_event()
        if type(event) is h11.InformationalResponse:
            raw = rest
            continue
        assert type(event) is h11.Response, event
        assert event.status_code == 200 or 400 <= event.status_code < 600, event
        headers = dict(event.headers)
        body = b"ok" if b"transfer-encoding" not in headers else b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
        if event.status_code != 200:
            body = rest[: int(headers[b"content-length"])]
            assert event.status_code == 500 or headers[b"connection"] == b"close"
        raw = rest[len(body) :] if rest.startswith(body) else rest
        assert not raw or raw.startswith(b"HTTP/1.1 "), raw
        assert not raw or headers.get(b"connection") != b"close", raw


@pytest.mark.parametrize("buffering", [True, False], ids=["buffered", "streamed"])
async def test_garbage_and_truncation(buffering: bool, caplog: pytest.LogCaptureFixture) -> None:
    """PAINS 35 (hypercorn#225, #177): one bad request ended the whole server."""
    caplog.set_level(logging.WARNING, "trio_wsgi.error")
    deadlines = dict.fromkeys(("header_timeout", "body_timeout", "keep_alive", "linger_timeout"), 0.2)
    async with serving(echo, request_buffering=buffering, limit_request_body=10_000, **deadlines) as served:
        for seed in range(int(os.environ.get("TRIO_WSGI_FUZZ", "400"))):
            rng = random.Random(seed)
            raw = mutate(rng)
            try:
                with trio.fail_after(5):
                    async with await served.connect() as stream:
                        await _send(stream, raw, rng)
                        check(await receive_all(stream))
                    if seed % 50 == 49:
                        assert read_answer(await served.exchange(SEEDS[0])).body == b"ok"
                assert not caplog.records, caplog.text
            except BaseException as exc:
                last = [(record.outcome.value, record.reason) for record in served.records[-3:]]
                exc.add_note(f"seed {seed}: {raw!r}; {last}")
                raise


async def _send(stream: trio.SocketStream, raw: bytes, rng: random.Random) -> None:
    try:
        cut = rng.randrange(len(raw) + 1)
        await stream.send_all(raw[:cut])
        await trio.lowlevel.checkpoint()
        await stream.send_all(raw[cut:])
        if rng.random() < 0.97:  # else a deadline has to end it
            await stream.send_eof()
    except trio.BrokenResourceError:
        pass  # it has had enough
