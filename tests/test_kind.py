"""Rules of kinds: what is shown reads back, and what cannot be read says so."""

from __future__ import annotations

import math

from hypothesis import example, given
from hypothesis import strategies as st

from trio_wsgi.kind import KINDS, parse_seconds, parse_size, show_seconds, show_size


@given(st.integers(min_value=0, max_value=1 << 60))
def test_shown_size_reads_back(size: int) -> None:
    assert parse_size(show_size(size)) == size


@given(st.floats(min_value=0.001, max_value=1e9) | st.just(math.inf))
def test_shown_duration_reads_back(seconds: float) -> None:
    assert parse_seconds(show_seconds(seconds)) == seconds


@given(st.text())
@example("1\N{LATIN SMALL LETTER LONG S}")
@example("1\N{KELVIN SIGN}")
def test_reading_numbers_ends_in_a_value_or_a_value_error(text: str) -> None:
    for parse in (parse_size, parse_seconds, KINDS["int"].parse):
        try:
            parse(text)
        except ValueError:
            continue
