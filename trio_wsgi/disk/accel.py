"""X-Accel-Redirect and X-Sendfile: the application names a file, and we send it.

Laws:

* Only files below a directory that the operator mapped are sent; any other name is the application's error, never a
  leak.
* The headers that carry the name stay inside, whatever comes of it. That is where directories are mapped; without any
  they are headers like others, perhaps meant for a proxy before us.
* The app's other headers are kept, but those that describe a body that is not sent. Its validators and its coding are
  such under X-Accel-Redirect, as in nginx: a middleware made them of that body. Under X-Sendfile they are of the file:
  Flask sets them so.
* What is asked of nginx by X-Accel-* stays inside, too, whether or not we do it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from trio_wsgi.disk.root import Absent, OpenedFile, Root, find_again_if_renewed
from trio_wsgi.errors import AppError
from trio_wsgi.rules.headers import Head, Headers
from trio_wsgi.rules.mediatypes import guess_type
from trio_wsgi.rules.paths import MountPath, split_internal

RATE_MAX = 2**63 - 1  # bytes per second; far beyond it there is no float

_REDIRECT = b"x-accel-redirect"
_SENDFILE = b"x-sendfile"
_LIMIT_RATE = b"x-accel-limit-rate"
_BUFFERING = b"x-accel-buffering"
_DIGITS_MAX = 19  # of RATE_MAX
_OURS = {_REDIRECT, _SENDFILE, _LIMIT_RATE, _BUFFERING, b"x-accel-expires", b"x-accel-charset"}
_OF_THE_BODY = {b"content-length", b"content-md5", b"content-digest", b"content-range"}
_NOT_OF_THE_FILE = {
    _REDIRECT: _OF_THE_BODY | {b"content-encoding", b"etag", b"last-modified"},
    _SENDFILE: _OF_THE_BODY,
}


class NamedFile(NamedTuple):
    """A file as the app names it; as text, how the log has it.

    Args:
        header: that names it, in lower case.
        value: for X-Accel-Redirect an internal path (percent-encoded, as in nginx), for X-Sendfile the absolute name of
            a file, as it is or percent-encoded as a whole.
    """

    header: bytes
    value: bytes

    def __str__(self) -> str:
        return f"{self.header.decode()}: {self.value.decode('latin-1')!r}"


@dataclass(frozen=True, slots=True)
class AccelOrder:
    """What the app asked of the server by its headers.

    Args:
        head: without those headers.
        file: that is sent in place of a body; None when the app sends one of its own.
        limit_rate: bytes per second; None when it said nothing, 0 for no limit.
        buffering: whether the server may let the response run ahead of the client; None when it said nothing.
    """

    head: Head
    file: NamedFile | None = None
    limit_rate: int | None = None
    buffering: bool | None = None


def read_order(head: Head) -> AccelOrder:
    """Take the orders out of an app's head. A file is sent in place of a 200, or of a 206 that is one range of it.

    Such a 206 is Flask's under USE_X_SENDFILE: it answers the Range by its head and leaves the body to the server,
    which answers the Range once more, from the file.
    """
    said = {name.lower(): value for name, value in head.headers if name.lower() in _OURS}
    if not said:
        return AccelOrder(head)
    named = [NamedFile(name, said[name]) for name in (_REDIRECT, _SENDFILE) if name in said]
    is_range = head.status == 206 and any(name.lower() == b"content-range" for name, _ in head.headers)
    file = named[0] if named and (head.status == 200 or is_range) else None
    dropped = _OURS | (_NOT_OF_THE_FILE[file.header] if file else set())
    headers: Headers = [item for item in head.headers if item[0].lower() not in dropped]
    rate = said.get(_LIMIT_RATE, b"")
    buffering = said.get(_BUFFERING, b"").lower()
    return AccelOrder(
        head=Head(200, b"OK", headers) if file and is_range else Head(head.status, head.reason, headers),
        file=file,
        limit_rate=0 if rate == b"off" else _read_rate(rate),
        buffering={b"yes": True, b"no": False}.get(buffering),
    )


def _read_rate(value: bytes) -> int | None:
    """Bytes per second; None for what is no rate, which says nothing, as in nginx."""
    rate = int(value) if value.isdigit() and len(value) <= _DIGITS_MAX else None
    return rate if rate is None or rate <= RATE_MAX else None


class AccelMap:
    """The directories that an app may name files in.

    Args:
        roots: each with the internal path it is known by, percent-encoded, such as ``/protected``.
    """

    def __init__(self, roots: Sequence[tuple[bytes, Root]]) -> None:
        self._roots = tuple(roots)

    def open(self, named: NamedFile) -> tuple[OpenedFile, bytes] | None:
        """Open the file that an app named, and guess its type; None when it is not there. Blocks on the disk.

        Raises:
            AppError: it is not below a directory that the operator mapped.
            PermissionError: the server may not read it.
            OSError: descriptors ran out, or the disk failed.
        """
        header, value = named
        for prefix, root in self._roots:
            path = split_internal(value, prefix) if header == _REDIRECT else _below_directory(value, root)
            if path is not None:
                opened = None if path.refused else _open_file(root, path)
                return None if opened is None else (opened, guess_type(path.names[-1]))
        raise AppError(f"{named} is not below a directory given by --accel: nothing is sent")


def _open_file(root: Root, path: MountPath) -> OpenedFile | None:
    try:
        opened = find_again_if_renewed(root, partial(root.open, path.names))
    except Absent:
        return None
    if not isinstance(opened, OpenedFile):
        return None
    if path.directory:  # a file's name with a slash at its end
        opened.file.close()
        return None
    return opened


def _below_directory(value: bytes, root: Root) -> MountPath | None:
    name = value if value.startswith(b"/") else unquote_to_bytes(value)
    for base in (os.fsencode(root.path), os.fsencode(root.real_path)):  # an app may know it by either
        base = base.rstrip(b"/") + b"/"
        if name.startswith(base) and b"\x00" not in name:
            names = tuple(part for part in name[len(base) :].split(b"/") if part)
            return None if b".." in names or b"." in names else MountPath(names, name.endswith(b"/"))
    return None
