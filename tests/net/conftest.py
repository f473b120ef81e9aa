"""What tests of connections share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from authority import Authority, open_authority
from riding import Gate


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.go_on.set()


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    """One of the module's own, whose folder it may fill."""
    with open_authority() as opened:
        yield opened
