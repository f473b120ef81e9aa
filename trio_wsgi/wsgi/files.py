"""From an opened file to an answer: what the rules decide, as spans.

Laws:

* `rules.fileanswer` decides, here only offsets become spans; every file is answered here, whoever opened it.
* A file's own validators are those of the very bytes that are sent: a part of a file is not the file.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from sendfile import FileSpan, Part
from trio_wsgi.rules.conditional import Validators, make_etag
from trio_wsgi.rules.fileanswer import FileOptions, decide_file_answer
from trio_wsgi.rules.head import RequestHead
from trio_wsgi.rules.headers import body_allowed, get_all
from trio_wsgi.wsgi.filewrapper import FileStatus
from trio_wsgi.wsgi.ports import Head


@dataclass(slots=True)
class FileHead:
    """The head for a file, and the spans that follow it.

    Args:
        missing: bytes that the head promises and the file does not have.
    """

    head: Head
    parts: list[Part]
    missing: int


def answer_file(
    request: RequestHead, head: Head, span: FileSpan, status: FileStatus, options: FileOptions, variant: bytes = b""
) -> FileHead:
    """Answer `request` with a file: preconditions, ranges, or all of it.

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
        head.status,
        head.headers,
        span.count,
        Validators(make_etag(status.st_ino, status.st_size, status.st_mtime_ns, variant), int(status.st_mtime)),
        options,
        boundary=secrets.token_hex(16).encode("ascii"),
        reason=head.reason,
        now=int(time.time()),
    )
    parts: list[Part] = [
        part if isinstance(part, bytes) else FileSpan(span.file, span.offset + part[0], part[1])
        for part in answer.parts
    ]
    missing = 0
    if body_allowed(request.method, answer.status):
        promised = get_all(answer.headers, b"content-length")
        missing = int(promised[0]) - answer.length if promised else 0
    return FileHead(Head(answer.status, answer.reason, answer.headers), parts, missing)
