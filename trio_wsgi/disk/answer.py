"""What a thread hands over to be sent, and how an opened file becomes one: what the rules decide, as spans.

Laws:

* `rules.fileanswer` decides, here only offsets become spans; every file is answered here, whoever opened it.
* A file's own validators are those of the very bytes that are sent: a part of a file is not the file.
* A file that was deleted is not closed on the event loop, where it is large: the close gives its blocks back, 0.2 s for
  a gigabyte when measured (unlink(2)). That may happen while it is sent, so it is looked at when it is to be closed.
* Nor is one of a file system that may keep close(2) waiting (`filesystem.is_local`), be it small.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from sendfile import FileSpan, Part
from trio_wsgi.disk.filesystem import has_lost_name
from trio_wsgi.rules.conditional import Validators, make_etag
from trio_wsgi.rules.fileanswer import FileOptions, decide_file_answer
from trio_wsgi.rules.head import RequestHead
from trio_wsgi.rules.headers import Head

_LARGE = 4 << 20  # bytes, freed in less than a millisecond; what leaves at once is smaller


def nothing() -> None:
    """There is nothing to be closed."""


@dataclass(slots=True)
class Answer:
    """What is left to send: the last thing that a thread returns.

    Whoever takes it sends `parts` and then calls `close` once, whether they could be sent or not; in an application
    thread, best in `thread`, unless `close_at_once`.
    """

    head: Head | None  # None when it was sent already
    parts: list[Part] = field(default_factory=list)
    length: int | None = None  # of the whole body, for the head; None: it has none, or the head says it
    missing: int = 0  # bytes that Content-Length promises and that are not there
    close: Callable[[], object] = nothing
    limit_rate: int | None = None  # bytes per second; 0 for no limit, None for the configured one
    quick: bool = True  # close() waits for nothing but, maybe, for the file system, or the blocks of `large`
    device: int = 0  # st_dev of that file system, if it may keep close() waiting
    large: FileSpan | None = None  # of a file that it closes
    thread: int = 0  # where the app has opened what it closes, by threading.get_ident()

    @property
    def close_at_once(self) -> bool:
        """Whether close() cannot block, as far as that is known now."""
        return self.quick and not self.device and (self.large is None or not _is_deleted(self.large))

    def hold(self, span: FileSpan, status: os.stat_result, local: bool) -> None:
        """Its close() is to close the file of `span`, too, which is `filesystem.is_local` or is not."""
        if not local:
            self.device = status.st_dev
        if status.st_size >= _LARGE:
            self.large = span


def _is_deleted(span: FileSpan) -> bool:
    """Whether a file has lost its name, maybe one of several."""
    with suppress(OSError, ValueError):  # closed already, by the app
        return has_lost_name(span.file.fileno())
    return False


def say(request: RequestHead, status: int, reason: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    """A short answer of the server's own, in plain text."""
    body = b"%d %b\n" % (status, reason)
    common = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"Content-Length", b"%d" % len(body))]
    return Answer(Head(status, reason, [*headers, *common]), [] if request.method == b"HEAD" else [body])


def answer_file(
    request: RequestHead,
    head: Head,
    span: FileSpan,
    status: os.stat_result,
    local: bool,
    options: FileOptions,
    variant: bytes = b"",
) -> Answer:
    """Answer `request` with a file: preconditions, ranges, or all of it.

    Args:
        head: as the app, or the mount, would have it for the whole span.
        status: of the file, from fstat(2).
        local: see `filesystem.is_local`.
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
        Validators(make_etag(status.st_size, status.st_mtime_ns, variant), int(status.st_mtime)),
        options,
        boundary=_make_boundary,
        reason=head.reason,
        now=int(time.time()),
    )
    parts: list[Part] = [
        part if isinstance(part, bytes) else FileSpan(span.file, span.offset + part[0], part[1])
        for part in answer.parts
    ]
    made = Answer(Head(answer.status, answer.reason, answer.headers), parts, missing=answer.missing)
    made.hold(span, status, local)
    return made


def _make_boundary() -> bytes:
    return secrets.token_hex(16).encode("ascii")
