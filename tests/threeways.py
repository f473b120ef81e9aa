"""The same directory served in the three ways in which a file can leave: an app's file_wrapper, X-Accel, a mount."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from serving import serving

WAYS = ("wrapped", "named", "static")


def three_ways(directory: Path, content_type: str = "application/octet-stream") -> Callable[..., Any]:
    """An app that answers `/wrapped/NAME` with `wsgi.file_wrapper` and `/named/NAME` by naming it to the server."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        _, way, name = environ["PATH_INFO"].encode("latin-1").decode().split("/", 2)
        if way == "wrapped":
            start_response("200 OK", [("Content-Type", content_type)])
            return environ["wsgi.file_wrapper"]((directory / name).open("rb"))
        start_response("200 OK", [("Content-Type", content_type), ("X-Accel-Redirect", f"/protected/{quote(name)}")])
        return [b"the app's own body"]

    return app


def three_settings(directory: Path) -> dict[str, Any]:
    """The settings that the app, and the mount beside it at `/static`, need."""
    return {"static": (f"/static={directory}",), "accel": (f"/protected/={directory}",)}


def serving_three(directory: Path, **settings: Any) -> Any:
    """A server of `three_ways`, as `serving.serving`."""
    return serving(three_ways(directory), **three_settings(directory), **settings)
