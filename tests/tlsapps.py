"""Applications that are served with TLS, and the settings to serve them so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from asking import PLAIN, Environ, StartResponse
from authority import shared_authority
from downloads import MIB

LARGE = os.urandom(MIB) * 8  # twice what the kernel keeps for a connection of a small receiver (tcp(7), tcp_wmem)
TLS = {"certfile": (shared_authority()[1],), "threads": 2}


def large(environ: Environ, start_response: StartResponse) -> Any:
    """Answers with `LARGE` in the way that the path names, or with a word."""
    match environ["PATH_INFO"]:
        case "/blocks":
            start_response("200 OK", [("Content-Length", str(len(LARGE)))])
            return (LARGE[at : at + 65536] for at in range(0, len(LARGE), 65536))
        case "/write":
            write = start_response("200 OK", [("Content-Length", str(len(LARGE)))])
            for at in range(0, len(LARGE), MIB):
                write(LARGE[at : at + MIB])
            return []
        case "/hello":
            start_response("200 OK", PLAIN)
            return [b"hello"]
    start_response("200 OK", [("Content-Length", str(len(LARGE)))])
    return [LARGE]


class LargeFile:
    """An app that answers with `LARGE` as a file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "large"
        self._path.write_bytes(LARGE)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](self._path.open("rb"))
