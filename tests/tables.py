"""Tables of rules, as parameters of a test."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def ruled(rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    """The rows of a table, each of which begins with the name of its rule."""
    return [pytest.param(*row[1:], id=row[0]) for row in rows]
