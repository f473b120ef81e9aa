"""What tests of connections share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from riding import Gate


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.go_on.set()
