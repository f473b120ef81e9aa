"""A mount beside an application, asked over the wire; which of its files were opened."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from answers import Answer, read_answer
from asking import request
from serving import Served, serving

from trio_wsgi.disk.root import AtHand, Directory, NotAtHand, OpenedFile, Root

STYLE = b"body { color: black }\n" * 100
SIBLINGS = {"br": b"brotli, let us say " * 9, "zstd": b"zstd, let us say " * 8, "gzip": gzip.compress(STYLE)}
SUFFIX = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"the app"]


async def ask(served: Served, target: str = "/", *headers: str, method: str = "GET") -> Answer:
    return read_answer(await served.exchange(request(method, target, *headers)), method)


def have_nothing_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is opened has to be waited for, as on a disk that was never read."""

    def would_block(at_hand: AtHand, names: Any) -> OpenedFile | Directory:
        raise NotAtHand

    monkeypatch.setattr(AtHand, "open", would_block)


def noting_opened(monkeypatch: pytest.MonkeyPatch, where: type[Root | AtHand]) -> list[OpenedFile]:
    """The files that are opened from now on, one way."""
    opened: list[OpenedFile] = []
    real: Any = where.open

    def note(root: Root | AtHand, names: Any) -> OpenedFile | Directory:
        found: OpenedFile | Directory = real(root, names)
        if isinstance(found, OpenedFile):
            opened.append(found)
        return found

    monkeypatch.setattr(where, "open", note)
    return opened


async def see_all_closed(folder: Path, said: str, opened: list[OpenedFile]) -> None:
    """A file and its siblings, asked for twice."""
    async with serving(app, static=(f"/s={folder}",)) as served:
        for method in ("GET", "HEAD"):
            await ask(served, "/s/style.css", said, method=method)
        await served.record(2)
    assert len(opened) == 8
    assert all(found.file.closed for found in opened)
