"""Directories to mount."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mounted import SIBLINGS, STYLE, SUFFIX

from trio_wsgi.disk.root import AtHand, Directory, NotAtHand, OpenedFile


@pytest.fixture
def site(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "bare").mkdir()
    (root / "index.html").write_bytes(b"<p>index")
    (root / "deep" / "index.html").write_bytes(b"<p>deep")
    (root / "style.css").write_bytes(STYLE)
    (root / ".hidden").write_bytes(b"not to be seen")
    return root


@pytest.fixture
def packed(site: Path) -> Path:
    for coding, data in SIBLINGS.items():
        (site / f"style.css{SUFFIX[coding]}").write_bytes(data)
    return site


@pytest.fixture
def nothing_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is opened has to be waited for."""

    def would_block(at_hand: AtHand, names: Any) -> OpenedFile | Directory:
        raise NotAtHand

    monkeypatch.setattr(AtHand, "open", would_block)
