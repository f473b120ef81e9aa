"""What a thread hands over to be sent, and how an opened file becomes one: what the rules decide, as spans.

Laws:

* `rules.fileanswer` decides, here only offsets become spans; every file is answered here, whoever opened it.
* A file's own validators are those of the very bytes that are sent: a part of a file is not the file.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass, field

from sendfile import FileSpan, Part
from trio_wsgi.disk.closing import Closing
from trio_wsgi.rules.conditional import Validators, make_etag
from trio_wsgi.rules.fileanswer import FileOptions, decide_file_answer
from trio_wsgi.rules.head import RequestHead
from trio_wsgi.rules.headers import Head, HeaderPairs
from trio_wsgi.rules.reasons import REASONS


@dataclass(slots=True)
class Answer:
    """What is left to send: the last thing that a thread returns.

    Whoever takes it sends `parts` and then sees to `closing`, whether they could be sent or not.
    """

    head: Head | None  # None when it was sent already
    parts: list[Part] = field(default_factory=list)
    length: int | None = None  # of the whole body, for the head; None: it has none, or the head says it
    missing: int = 0  # bytes that Content-Length promises and that are not there
    closing: Closing | None = None
    limit_rate: int | None = None  # bytes per second; 0 for no limit, None for the configured one


def say(request: RequestHead, status: int, headers: HeaderPairs = (), text: bytes = b"") -> Answer:
    """A short answer of the server's own, in plain text: `text`, or what the status means.

    Args:
        status: one that has a body, and a reason in `rules.reasons`.
    """
    reason = REASONS[status]
    body = text or b"%d %b\n" % (status, reason)
    common = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"Content-Length", b"%d" % len(body))]
    return Answer(Head(status, reason, [*headers, *common]), [] if request.method == b"HEAD" else [body])


def answer_file(
    request: RequestHead,
    head: Head,
    span: FileSpan,
    status: os.stat_result,
    options: FileOptions,
    variant: bytes = b"",
) -> Answer:
    """Answer `request` with a file: preconditions, ranges, or all of it. To close it is the caller's affair.

    Args:
        head: as the app, or the mount, would have it for the whole span.
        status: of the file, from fstat(2).
        variant: tells representations of one file apart in the entity tag.
    """
    if span.offset or span.count != status.st_size:
        variant = b"%b%d-%d" % (variant, span.offset, span.count)
    answer = decide_file_answer(
        request.method,
        request.headers,
        head,
        span.count,
        Validators(make_etag(status.st_size, status.st_mtime_ns, variant), second_of(status)),
        options,
        boundary=_make_boundary,
        now=int(time.time()),
    )
    parts: list[Part] = [
        part if isinstance(part, bytes) else FileSpan(span.file, span.offset + part[0], part[1])
        for part in answer.parts
    ]
    return Answer(answer.head, parts, missing=answer.missing)


def second_of(status: os.stat_result) -> int:
    """The second in which a file was changed, since 1970. `st_mtime` is a float, which may be rounded to the next."""
    return status.st_mtime_ns // 10**9


def _make_boundary() -> bytes:
    return secrets.token_hex(16).encode("ascii")
