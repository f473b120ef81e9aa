"""Rules of lists of CPUs: which texts are one, and what they mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsgi.cpulist import parse_cpus, show_cpus


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0", (0,)),
        ("0,2-3", (0, 2, 3)),
        ("3,1,2", (3, 1, 2)),  # the operator's order
        ("1,1-2,2", (1, 2)),
        ("7-7", (7,)),
    ],
)
def test_a_list_of_cpus(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpus(text) == cpus


def test_a_range_that_runs_backwards_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'5-2' runs backwards; write 2-5"):
        parse_cpus("0,5-2")


@pytest.mark.parametrize("text", ["0-99999999", "65536", "0,9" + "9" * 5000, "9" * 5000 + "-1"])
def test_numbers_beyond_all_kernels_are_refused_before_anything_is_made_of_them(text: str) -> None:
    """Such as a range with a digit too many, which would take the memory of as many numbers."""
    with pytest.raises(ValueError, match=r"^there is no CPU \d{5,20}; write numbers below 65536$"):
        parse_cpus(text)


@given(st.sets(st.integers(0, 300), min_size=1))
def test_what_is_shown_can_be_read(cpus: set[int]) -> None:
    assert set(parse_cpus(show_cpus(frozenset(cpus)))) == cpus
