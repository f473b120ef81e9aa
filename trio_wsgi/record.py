"""The facts of one finished request, handed once to every observer (access log, metrics, tests)."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


class Outcome(enum.Enum):
    """How a request ended, in the word the access log prints."""

    FINISHED = "finished"  # the whole response was accepted by the kernel
    CLIENT_GONE = "client-gone"  # closed or reset by the peer before the end
    REFUSED = "refused"  # the request broke a rule or a limit: answered with a 4xx/5xx of ours
    APP_ERROR = "app-error"  # the app failed: 500 or a cut
    APP_TIMEOUT = "app-timeout"  # the app took too long: 504 or a cut
    HEADER_TIMEOUT = "header-timeout"
    BODY_TIMEOUT = "body-timeout"
    WRITE_TIMEOUT = "write-timeout"
    TOO_SLOW = "too-slow"  # took less than min_send_rate
    SHUTDOWN = "shutdown"  # cut by the server's own end
    FILE_TOO_SHORT = "file-too-short"  # the file shrank while it was sent: cut
    SERVER_ERROR = "server-error"  # our own bug, or the machine's disk failed: a 5xx or a cut


class SeenEnviron(Mapping[str, Any]):
    """The environ of a request that has ended, to be read.

    It holds what cannot be copied, such as `wsgi.input`. So a copy of it is itself, be it as a part of
    `dataclasses.asdict(record)`; and what is pickled is what is plain: texts and numbers.

    Args:
        environ: as the application left it.
    """

    __slots__ = ("_environ",)

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._environ = environ

    def __repr__(self) -> str:
        return f"SeenEnviron({self._environ!r})"

    def __getitem__(self, name: str) -> Any:
        return self._environ[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._environ)

    def __len__(self) -> int:
        return len(self._environ)

    def __copy__(self) -> SeenEnviron:
        return self

    def __deepcopy__(self, _: object) -> SeenEnviron:
        return self

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        plain = {name: value for name, value in self.items() if type(value) in _PLAIN}
        return type(self), (plain,)


_PLAIN = frozenset({str, bytes, int, float, bool})
NO_ENVIRON = SeenEnviron({})


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """Times are seconds, sizes are bytes; header names are lower-case bytes."""

    peer: str  # address of the client, as the application sees it; "" on a unix socket, or when proxies hide it
    peer_port: int  # 0 when it is not known
    method: str
    target: str  # the request target as received, latin-1
    version: str  # "HTTP/1.1"
    status: int  # 0 when no head was sent
    outcome: Outcome
    reason: str = ""  # one line why, when the outcome is not FINISHED
    body_sent: int = 0  # bytes of body, without framing, that the kernel took
    body_promised: int | None = None  # what Content-Length promised; None when not known ahead
    started: float = 0.0  # UNIX time of the first byte of the request; of one asked ahead, when its turn has come
    duration: float = 0.0  # from that byte to the end of the response
    request_headers: tuple[tuple[bytes, bytes], ...] = ()
    response_headers: tuple[tuple[bytes, bytes], ...] = ()
    environ: Mapping[str, Any] = field(default_factory=dict)  # for %({var}e)s; empty when no environ was built
    health: bool = False  # asked at health_path, and answered by the server itself
