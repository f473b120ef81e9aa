"""From the path of a URL to the names to open under a mount's root, one by one.

Laws:

* A client's path is taken apart while it is still percent-encoded, and each segment is decoded once: an encoded
  slash can not become a separator (RFC 3986, sections 2.2 and 3.3). An application's is decoded as a whole.
* No name that is given out is empty, ``.`` or ``..``, or has a slash or a NUL in it; nor a backslash, where a
  client asks. So a walk that opens each name relative to the directory before it leaves the root only by a symlink.
* Below a mount, `.` and `..` are what they are in a URL, encoded or not (RFC 3986, section 6.2.2.3): gone before
  anything is opened, a `..` with the name before it, whatever that is on the disk. One that leads above the mount is
  refused.
* Names are bytes, as the file system has them. Nothing else is normalised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote_from_bytes, unquote_to_bytes

_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_FORBIDDEN = re.compile(rb"[/\\\x00]")
_DOTS = (b".", b"..")
_WELL_KNOWN = b".well-known"  # RFC 8615: made to be served, dot or not


@dataclass(frozen=True, slots=True)
class MountPath:
    """A path that lies under a mount.

    Args:
        names: to open one after the other from the mount's root; empty for the root itself. Empty when
            refused too.
        directory: the path ended in a slash or a dot segment: only a directory may answer.
        refused: why there can be nothing of this name, for the log; "" when there may be. Answer 404 and do
            not ask the application: the path is the mount's.
    """

    names: tuple[bytes, ...] = ()
    directory: bool = False
    refused: str = ""


def split_mount(path: bytes, prefix: bytes) -> MountPath | None:
    """Split a request's path at a mount.

    Args:
        path: the path of the request target, percent-encoded, without the query.
        prefix: where the mount stands, percent-encoded, such as ``/static`` or ``/``; a slash at its end is
            the same.

    Returns:
        None when the path is not under the mount: someone else's. Slashes that follow each other count as
        one, as in nginx. The mount itself without a slash (``/static``) is a `MountPath` without names that
        is no directory yet: redirect it. Names that begin with a dot are refused, but for ``.well-known``. What
        is refused stays so where a ``..`` takes it back.
    """
    if not path.startswith(b"/"):
        return None
    raw = [segment for segment in path.split(b"/") if segment]
    wanted = _decode_prefix(prefix)
    if [_decode(segment) for segment in raw[: len(wanted)]] != wanted:
        return None
    names: list[bytes] = []
    name = b""
    for segment in raw[len(wanted) :]:
        name = _decode(segment)
        if name == b"..":
            if not names:
                return MountPath(refused="dot segment above the mount")
            names.pop()
        elif name != b".":
            refused = "broken percent-encoding" if _BROKEN_ESCAPE.search(segment) else refuse_name(name)
            if refused:
                return MountPath(refused=refused)
            names.append(name)
    return MountPath(tuple(names), path.endswith(b"/") or name in _DOTS)


def split_internal(value: bytes, prefix: bytes) -> MountPath | None:
    """Split an application's X-Accel-Redirect at an internal path, as nginx reads it.

    It is decoded once, as a whole, since some applications quote it whole; what is no escape stands for itself.
    Segments that are empty or ``.`` are nothing, and names may have dots and backslashes as they like.

    Args:
        value: of the header, percent-encoded, maybe with a query, which is dropped.
        prefix: percent-encoded.

    Returns:
        None when it is not under the prefix. Refused where there is a ``..`` or a NUL.
    """
    path = _decode(value.partition(b"?")[0])
    segments = [segment for segment in path.split(b"/") if segment not in (b"", b".")]
    wanted = _decode_prefix(prefix)
    if not path.startswith(b"/") or segments[: len(wanted)] != wanted:
        return None
    if b".." in segments or b"\x00" in path:
        return MountPath(refused="dot segments or NUL")
    return MountPath(tuple(segments[len(wanted) :]), path.endswith((b"/", b"/.")))


def split_prefix(prefix: bytes) -> tuple[bytes, ...]:
    """The segments of a mount's URL, as those that a client's path begins with are compared to them.

    Args:
        prefix: percent-encoded; slashes that follow each other, and at the end, count for nothing.
    """
    return tuple(unquote_to_bytes(segment) for segment in prefix.split(b"/") if segment)


@lru_cache(maxsize=64)
def _decode_prefix(prefix: bytes) -> list[bytes]:
    return list(split_prefix(prefix))


def _decode(segment: bytes) -> bytes:
    return unquote_to_bytes(segment) if b"%" in segment else segment


def refuse_name(name: bytes) -> str:
    """Return why there can be nothing of this name under a mount; "" when there may be.

    Args:
        name: decoded; not empty, ``.`` or ``..``.
    """
    if _FORBIDDEN.search(name):
        return "slash, backslash or NUL in a name"
    if name.startswith(b".") and name != _WELL_KNOWN:
        return "hidden name"
    return ""


def directory_location(path: bytes, query: bytes | None = None) -> bytes:
    """Return the Location that sends a client from a directory's name to the same with a slash at its end.

    Slashes that follow each other are made one, because ``//host/`` at the beginning would lead to another
    host, dot segments are taken out, and what may not stand in a URI is encoded.

    Args:
        path: the path of the request target, percent-encoded.
        query: what followed the question mark, or None.
    """
    segments: list[bytes] = []
    for part in path.split(b"/"):
        name = _decode(part)
        if name == b"..":
            del segments[-1:]
        elif name not in (b"", b"."):
            segments.append(quote_from_bytes(part, "%:@!$&'()*+,;=~").encode())
    location = b"/" + b"".join(segment + b"/" for segment in segments)
    if query is None:
        return location
    return location + b"?" + quote_from_bytes(query, "%/?:@!$&'()*+,;=~[]").encode()


def encode_name(name: bytes) -> bytes:
    """Return a file's name as a segment of a URL: `split_mount` gives these bytes back."""
    return quote_from_bytes(name, "").encode()
