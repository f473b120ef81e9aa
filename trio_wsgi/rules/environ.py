"""The environ: a request as PEP 3333 shows it to an application.

Laws:

* Every key and every CGI value is a native str that holds latin-1 characters only: bytes, one character each.
* A client can set nothing but what is its own: HTTP_* of names without an underscore (a dashed name and its
  underscored double would share a key), never HTTP_PROXY (CVE-2016-5385). The operator wins over all.
* What is said of a client by others (X-Forwarded-*, Forwarded) is there only where proxies of ours say it.
* The scheme is the listener's, or what proxies of ours say. What an absolute-form target claims is not believed: https
  over plain HTTP is refused, unless a proxy of ours sends it (RFC 9110 §7.4).
* The body is told as it will be read: de-chunked, it has a length and no transfer coding (RFC 9112 §7.1.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

from trio_wsgi.errors import ClientError
from trio_wsgi.rules.forwarded import ENVIRON_KEYS, Forwarding, apply_forwarded
from trio_wsgi.rules.head import RequestHead

# Names that have a key of their own, or none.
_KEYS = {b"content-type": "CONTENT_TYPE", b"content-length": "", b"proxy": ""}
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Site:
    """What is the same for all requests of one listener.

    Args:
        server_name: SERVER_NAME, for requests without a Host.
        server_port: SERVER_PORT.
        script_name: the URL prefix the app lives under; "" for none. Slashes at its end do not count.
        scheme: "http" or "https".
        software: SERVER_SOFTWARE.
        multithread, multiprocess: PEP 3333's flags.
        pass_authorization: whether the app sees the Authorization header.
        extra: what the operator adds (``--var``); wins over everything.
    """

    server_name: str
    server_port: str
    script_name: str
    scheme: str
    software: str
    multithread: bool
    multiprocess: bool
    pass_authorization: bool
    extra: Mapping[str, str]
    base: Mapping[str, Any] = field(init=False, repr=False, compare=False)  # the environ of every request

    def __post_init__(self) -> None:
        prefix = self.script_name.strip("/")
        base: dict[str, Any] = {
            "SCRIPT_NAME": wsgi_str("/" + prefix) if prefix else "",
            "SERVER_NAME": wsgi_str(self.server_name),
            "SERVER_PORT": wsgi_str(str(self.server_port)),
            "SERVER_SOFTWARE": wsgi_str(self.software),
            "REMOTE_ADDR": "",
            "REMOTE_PORT": "",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": self.scheme,
            "wsgi.multithread": self.multithread,
            "wsgi.multiprocess": self.multiprocess,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
        }
        if self.scheme == "https":
            base["HTTPS"] = "on"
        object.__setattr__(self, "base", base)
        extra = {wsgi_str(key): wsgi_str(value) for key, value in self.extra.items()}
        object.__setattr__(self, "extra", extra)


def wsgi_str(text: str) -> str:
    """The operator's text as PEP 3333 ("Unicode Issues") wants it: its UTF-8 bytes, one character each."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("latin-1")


def check_scheme(site: Site, head: RequestHead, forwarding: Forwarding | None) -> None:
    """Refuse an https target that came without TLS; whoever serves the request, an app or we, is not to see it.

    Args:
        forwarding: as for `build_environ`.

    Raises:
        ClientError: 421.

    Spec: RFC 9110 §7.4, §15.5.20.
    """
    if head.scheme == b"https" and site.scheme != "https" and forwarding is None:
        raise ClientError(421, "an https target over plain HTTP (RFC 9110 §7.4)")


def build_environ(
    site: Site,
    head: RequestHead,
    *,
    peer: tuple[str, int] | None,
    body_length: int | None,
    forwarding: Forwarding | None = None,
    variables: Mapping[str, Any] = _NOTHING,
    dropped: Callable[[tuple[str, int] | None, bytes], object] | None = None,
) -> dict[str, Any]:
    """Make the environ of one request; the caller adds wsgi.input, wsgi.errors and wsgi.file_wrapper.

    ``OPTIONS *`` has an empty PATH_INFO, because a PATH_INFO has to begin with a slash; REQUEST_URI tells.

    Args:
        peer: the client's address and port; None on a unix socket.
        body_length: bytes the app will read, if that is known; else the request's own Content-Length counts.
        forwarding: how to read what the peer says of its clients; None where it is not to be believed.
        variables: what the connection adds for all of its requests.
        dropped: called with `peer` and the name of each header that tells of clients and is not believed.

    Returns:
        a dict of its own for every call.

    Raises:
        ClientError: 404 for a path outside of the site's prefix, 400 for a NUL in it, or for what a proxy of ours says
            and nobody can read.

    Spec: PEP 3333, "environ Variables"; RFC 3875 §4.1.
    """
    environ = dict(site.base)
    target = head.target.decode("latin-1")
    environ["REQUEST_METHOD"] = head.method.decode("latin-1")
    environ["REQUEST_URI"] = target
    environ["RAW_URI"] = target
    environ["QUERY_STRING"] = head.query.decode("latin-1")
    environ["SERVER_PROTOCOL"] = "HTTP/" + head.version.decode("latin-1")
    environ["PATH_INFO"] = _path_info(head.path, environ["SCRIPT_NAME"])
    if peer is not None:
        environ["REMOTE_ADDR"] = wsgi_str(peer[0])
        environ["REMOTE_PORT"] = str(peer[1])
    if variables:
        environ.update(variables)
    length = head.content_length if body_length is None else body_length
    if length is not None:
        environ["CONTENT_LENGTH"] = str(length)
    key_of = _unforwarded_key if forwarding is None else _environ_key
    for name, value in head.headers:
        key = key_of(name)
        if not key:
            if dropped is not None and forwarding is None and _tells_of_clients(name):
                dropped(peer, name)
            continue
        text = value.decode("latin-1")
        if key in environ:
            text = environ[key] + ("; " if key == "HTTP_COOKIE" else ",") + text
        environ[key] = text
    if not head.authority:
        environ.pop("HTTP_HOST", None)  # so that SERVER_NAME counts (RFC 9112 §3.3)
    elif head.scheme is not None:
        environ["HTTP_HOST"] = head.authority.decode("latin-1")
    if head.chunked and body_length is not None:
        environ.pop("HTTP_TRANSFER_ENCODING", None)
    if not site.pass_authorization:
        environ.pop("HTTP_AUTHORIZATION", None)
    if forwarding is not None and not environ.keys().isdisjoint(ENVIRON_KEYS):
        apply_forwarded(environ, head.headers, forwarding)
    if site.extra:
        environ.update(site.extra)
    return environ


@lru_cache(maxsize=512)
def _environ_key(name: bytes) -> str:
    """The key of a header, "" if it has none."""
    known = _KEYS.get(name)
    if known is not None:
        return known
    if b"_" in name:
        return ""
    return "HTTP_" + name.upper().replace(b"-", b"_").decode("latin-1")


@lru_cache(maxsize=512)
def _unforwarded_key(name: bytes) -> str:
    """The same for a peer that is no proxy of ours: what only a proxy may say has no key."""
    return "" if _tells_of_clients(name) else _environ_key(name)


def _tells_of_clients(name: bytes) -> bool:
    return name == b"forwarded" or name.startswith(b"x-forwarded-")


def _path_info(path: bytes, prefix: str) -> str:
    """What of a path the app sees: decoded, below the prefix."""
    if path == b"*":
        return ""
    if b"%" in path:
        path = unquote_to_bytes(path)
        if b"\0" in path:
            raise ClientError(400, "NUL in the path")
    text = path.decode("latin-1")
    if not prefix:
        return text
    rest = text[len(prefix) :]
    if not text.startswith(prefix) or (rest and not rest.startswith("/")):
        raise ClientError(404, f"path is not below {prefix}")
    return rest
