"""A film that seeks: the page has a <video>, the application returns the whole file, and the server answers the ranges.

    python examples/video/make_film.py film.webm        # or take a film of yours
    FILM=film.webm trio-wsgi examples.video.app:app --access-logfile - \
        --access-logformat '%(s)s %(r)s Range: %({range}i)s sent=%(sent)s'

Open the page and click into the player's bar: each jump is a request `Range: bytes=N-` that is answered with 206.
Nothing here knows of ranges.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Iterable
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

FILM = Path(os.environ.get("FILM", "film.webm"))
PAGE = b"""\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>A film that seeks</title>
<link rel="icon" href="data:,">
<style>
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}
video{width:100%;background:#000}
</style>
<h1>A film that seeks</h1>
<video src="film" controls preload="metadata"></video>
<p>Click into the bar: the player asks for the bytes from there on, and the server sends them from the kernel.</p>
</html>
"""


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The page at ``/``, the film at ``/film``."""
    path = environ["PATH_INFO"]
    if path == "/film":
        file = FILM.open("rb")
        start_response("200 OK", [("Content-Type", mimetypes.guess_type(FILM.name)[0] or "video/mp4")])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
        return wrapped
    status, body = ("200 OK", PAGE) if path == "/" else ("404 Not Found", b"There is no such page.\n")
    start_response(status, [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
