"""What tests of connections share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from authority import Authority, open_authority
from embedded import Site
from standing import Gate


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For a unix socket: sun_path holds 107 characters (unix(7))."""
    return tmp_path_factory.mktemp("s") / "socket"


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    """One of the module's own, whose folder it may fill."""
    with open_authority() as opened:
        yield opened


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)
