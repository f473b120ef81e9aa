"""A reserve of descriptors that new connections do not get.

Who is being served needs more of them than a socket: for files, temporary files, and whatever the application opens.

Laws:

* Descriptors are given lowest first (open(2)): the number of a socket that was just accepted tells how few are left.
* The limit is the present one (getrlimit(2), about a microsecond). Where nobody can tell it, there is no reserve.
"""

from __future__ import annotations

import math
import os
import socket

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_SHARE = 32  # of the limit; where that is next to nothing, _LEAST, but never more than a quarter
_LEAST, _MOST = 16, 256


class Reserve:
    """Tells when connections have come to the reserve, and when they have left it again."""

    def __init__(self) -> None:
        self.touched = False  # as was seen last

    def note(self, sock: socket.socket) -> None:
        """A socket was just accepted."""
        self.touched = sock.fileno() >= _find_first()

    def look(self, sock: socket.socket) -> None:
        """See which descriptor would be given now; `sock` is any one to copy."""
        try:
            fd = os.dup(sock.fileno())
        except OSError:
            self.touched = True
        else:
            os.close(fd)
            self.touched = fd >= _find_first()


def _find_first() -> float:
    """The first descriptor of the reserve; infinite where there is none."""
    if resource is None:
        return math.inf
    try:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except OSError:  # a sandbox forbids it
        return math.inf
    if limit == resource.RLIM_INFINITY:
        return math.inf
    return limit - min(max(_LEAST, min(_MOST, limit // _SHARE)), limit // 4)
