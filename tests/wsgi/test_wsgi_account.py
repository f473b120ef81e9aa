"""The account of a response's bytes, for every way to produce them, against a model of six lines (PEP 3333)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from asking import Environ, StartResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sendfile import FileSpan
from trio_wsgi.disk.answer import Answer
from trio_wsgi.rules.head import parse_request
from trio_wsgi.rules.headers import Head
from trio_wsgi.wsgi.call import call_app
from trio_wsgi.wsgi.policies import Buffering
from trio_wsgi.wsgi.response import AnswerOptions, Response


class Collecting:
    """A way out that keeps what is sent, and refuses an offer whenever `refusals` says so (`wsgi.ports.Outlet`)."""

    loop_thread = 0

    def __init__(self, refusals: list[bool]) -> None:
        self.heads: list[Head] = []
        self.pending: Head | None = None
        self.body = b""
        self._refusals = refusals

    def start(self, head: Head, limit_rate: int | None = None) -> None:
        self.pending = head

    def send(self, data: bytes) -> None:
        if self.pending is not None:
            self.heads.append(self.pending)
            self.pending = None
        self.body += data

    push = send

    def offer(self, data: bytes) -> None:
        if self._refusals and self._refusals.pop():
            raise BlockingIOError("not now")
        self.send(data)

    def leave(self, answer: Answer) -> bool:
        return False

    def wait_writable(self, timeout: float | None) -> bool:
        return True


blocks = st.lists(st.binary(max_size=5), max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(
    written=blocks,
    returned=blocks,
    promised=st.none() | st.integers(0, 30),
    method=st.sampled_from([b"GET", b"HEAD"]),
    status=st.sampled_from(["200 OK", "204 No Content", "304 Not Modified"]),
    policy=st.sampled_from(["block", "raise", "buffer"]),
    refusals=st.lists(st.booleans(), max_size=8),
    as_list=st.booleans(),
    replaced=st.booleans(),
    memory=st.sampled_from([0, 3, 1000]),
    ahead=st.sampled_from([0, 10]),
)
def test_what_leaves_is_what_was_given_up_to_content_length(
    written: list[bytes],
    returned: list[bytes],
    promised: int | None,
    method: bytes,
    status: str,
    policy: str,
    refusals: list[bool],
    as_list: bool,
    replaced: bool,
    memory: int,
    ahead: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.clear()
    outlet = Collecting(refusals)
    request = parse_request(method, b"/", [(b"host", b"test")], b"1.1")
    buffering = Buffering(write_policy=policy, write_buffer_size=memory, output_buffering=ahead)
    response = Response(request, {}, outlet, buffering, AnswerOptions())
    headers = [] if promised is None else [("Content-Length", str(promised))]

    def produce(start_response: StartResponse) -> Iterator[bytes]:
        if replaced:  # an answer that was given up before anything of it was sent
            start_response("500 Oops", [("Content-Length", "2"), ("X-Old", "1")])(b"")
            start_response(status, headers, (ValueError, ValueError(), None))
        write = response.write if replaced else start_response(status, headers)
        for block in written:
            while True:
                try:
                    write(block)
                except BlockingIOError:
                    continue  # refused whole: trying again is safe
                break
        yield from returned

    def app(environ: Environ, start_response: StartResponse) -> Any:
        produced = produce(start_response)
        return list(produced) if as_list else produced

    answer = call_app(app, {}, response)
    rest = b"".join(
        _read(part.file, part.offset, part.count) if isinstance(part, FileSpan) else bytes(part)
        for part in answer.parts
    )
    heads = outlet.heads + ([answer.head] if answer.head is not None else [])
    if answer.closing is not None:
        answer.closing.close()

    given_in_all = b"".join(written + returned)
    has_body = method == b"GET" and status.startswith("200")
    counted = given_in_all if promised is None else given_in_all[:promised]
    assert outlet.body + rest == (counted if has_body else b"")
    assert answer.missing == (0 if promised is None or not has_body else promised - len(counted))
    (head,) = heads  # exactly one, whatever was replaced or refused
    assert (head.status, [name for name, _ in head.headers]) == (int(status[:3]), [b"Content-Length"] * len(headers))
    warned = [entry for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert len(warned) == (promised is not None and len(given_in_all) > promised)
    if has_body and answer.head is not None:
        assert answer.length == (promised if promised is not None else len(given_in_all))


def _read(file: Any, offset: int, count: int) -> bytes:
    file.seek(offset)
    data: bytes = file.read(count)
    return data
