"""The application behind `make demo`: plain WSGI (PEP 3333) and the standard library, for any WSGI server.

Laws:

* A request path never becomes a file name: only the names that a listing of `DEMO_FILES` gives are served.
* A page is a function `(environ, start_response) -> iterable` in the table PAGES; nothing else is reachable.
* HEAD gets the head that GET would get: no file is opened for it, and the server leaves a page's body out.
"""

from __future__ import annotations

import hashlib
import html
import mimetypes
import os
import time
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from string import Template
from urllib.parse import quote
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.util import FileWrapper, application_uri

FILES = Path(os.environ.get("DEMO_FILES", "demo-files")).resolve()
PAGE = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
BLOCK = 64 * 1024  # bytes asked for at a time
TICKS = 20  # lines of a stream
TICK = 0.25  # seconds between two lines

Page = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Find the page for the path; refuse methods it does not have (405) and paths nobody has (404)."""
    path = environ.get("PATH_INFO", "") or "/"
    methods, page = PAGES.get(path, ("GET, HEAD", send_file if path.startswith("/files/") else not_found))
    if environ["REQUEST_METHOD"] not in methods.split(", "):
        return answer(start_response, f"Use one of: {methods}\n", status=405, extra=[("Allow", methods)])
    return page(environ, start_response)


def answer(
    start_response: StartResponse,
    text: str,
    *,
    status: int = 200,
    content_type: str = "text/plain; charset=utf-8",
    extra: Iterable[tuple[str, str]] = (),
) -> list[bytes]:
    """A whole answer in one block, its length known."""
    body = text.encode()
    headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), *extra]
    start_response(f"{status} {HTTPStatus(status).phrase}", headers)
    return [body]


def not_found(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, "There is no such page.\n", status=404)


def index(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    page = PAGE.substitute(
        files="\n".join(file_rows()) or "<tr><td>none yet: run <code>make demo</code></td></tr>",
        server=html.escape(environ.get("SERVER_SOFTWARE", "an unnamed server")),
        url=html.escape(application_uri(environ).rstrip("/")),
    )
    return answer(start_response, page, content_type="text/html; charset=utf-8")


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, "Hello from a WSGI application.\n")


def dump_environ(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    width = max(map(len, environ))
    return answer(start_response, "".join(f"{key:{width}}  {environ[key]!r}\n" for key in sorted(environ)))


def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """A generator: each block is sent before the next is asked for."""
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    yield from ticks()


def write(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The same lines through the callable that `start_response` returns."""
    send = start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    for line in ticks():
        send(line)
    return []


def ticks() -> Iterator[bytes]:
    began = time.monotonic()
    for number in range(1, TICKS + 1):
        yield f"line {number:2} of {TICKS}, made after {time.monotonic() - began:5.2f} s\n".encode()
        if number < TICKS:
            time.sleep(TICK)


def upload(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Read the body block by block, so that its size is bounded by patience and not by memory."""
    began, digest, size = time.monotonic(), hashlib.sha256(), 0
    for block in body_blocks(environ):
        digest.update(block)
        size += len(block)
    seconds = time.monotonic() - began
    return answer(
        start_response,
        f"size    {size:,} bytes\nsha256  {digest.hexdigest()}\n"
        f"type    {environ.get('CONTENT_TYPE') or 'not told'}\nread in {seconds:.3f} s\n",
    )


def body_blocks(environ: WSGIEnvironment) -> Iterator[bytes]:
    """The request's body. With `wsgi.input_terminated` it may come without a length (chunked)."""
    source, length = environ["wsgi.input"], environ.get("CONTENT_LENGTH")
    if not length and environ.get("wsgi.input_terminated"):
        while block := source.read(BLOCK):
            yield block
        return
    left = int(length or 0)
    while left and (block := source.read(min(BLOCK, left))):
        left -= len(block)
        yield block


def send_file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The large-file answer: open, say what it is, return it. The server closes it after the last byte."""
    name = environ["PATH_INFO"].removeprefix("/files/").encode("latin-1").decode("utf-8", "replace")
    path = next((path for path in sample_files() if path.name == name), None)
    if path is None:
        return not_found(environ, start_response)
    facts = path.stat()
    headers = [
        ("Content-Type", content_type(name)),
        ("Content-Length", str(facts.st_size)),
        ("Content-Disposition", content_disposition(name)),
        ("Last-Modified", formatdate(facts.st_mtime, usegmt=True)),
    ]
    start_response("200 OK", headers)
    if environ["REQUEST_METHOD"] == "HEAD":
        return []
    wrap = environ.get("wsgi.file_wrapper", FileWrapper)
    result: Iterable[bytes] = wrap(path.open("rb"), BLOCK)
    return result


def content_type(name: str) -> str:
    kind = mimetypes.guess_type(name)[0] or ("text/plain" if name == "SHA256SUMS" else "application/octet-stream")
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def content_disposition(name: str) -> str:
    """Texts are shown and the rest is saved, under its own name (RFC 6266 with the `filename*` of RFC 8187).

    The plain `filename` is for old clients: what ASCII or a quoted string cannot hold becomes an underscore.
    """
    kind = "inline" if content_type(name).startswith("text/") else "attachment"
    plain = "".join(char if " " <= char <= "~" and char not in '"\\%' else "_" for char in name)
    if plain == name:
        return f'{kind}; filename="{plain}"'
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def sample_files() -> list[Path]:
    return sorted(path for path in FILES.iterdir() if path.is_file()) if FILES.is_dir() else []


def file_rows() -> Iterator[str]:
    for path in sample_files():
        facts = path.stat()
        modified = time.strftime("%Y-%m-%d %H:%M", time.localtime(facts.st_mtime))
        yield (
            f'<tr><td><a href="files/{quote(path.name)}">{html.escape(path.name)}</a></td>'
            f'<td class="number">{human_size(facts.st_size)}</td><td class="number">{modified}</td></tr>'
        )


def human_size(size: int) -> str:
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.4g} {unit}"
        amount /= 1024
    return f"{amount:.4g} GiB"


PAGES: dict[str, tuple[str, Page]] = {  # path → methods, page
    "/": ("GET, HEAD", index),
    "/hello": ("GET, HEAD", hello),
    "/stream": ("GET", stream),
    "/write": ("GET", write),
    "/environ": ("GET, HEAD", dump_environ),
    "/upload": ("POST, PUT", upload),
}
