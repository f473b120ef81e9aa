"""What lies within the noise of the rounds is neither lost nor won: the rule, and the report that marks it."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import report
from bench.noise import NOTICEABLE, Span, Verdict, count_exceptions, count_orders, find_span, judge
from bench.results import Finding, Results

ROUNDS = st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=12)
DIRECTIONS = st.sampled_from((-1, 1))


@pytest.mark.parametrize(
    ("ones", "others", "allowed"),
    [
        *((1, 1, -1), (1, 18, -1), (1, 19, 0), (2, 2, -1), (2, 4, -1), (2, 5, 0)),
        *((3, 3, 0), (3, 4, 0), (3, 5, 1), (4, 4, 1), (5, 5, 4), (6, 6, 7), (5, 8, 8)),
        *((8, 8, 15), (9, 9, 21), (10, 10, 27), (12, 12, 42), (20, 20, 138)),
        *((0, 5, -1), (0, 0, -1)),
    ],
)
def test_as_many_pairs_may_disagree_as_the_tables_say(ones: int, others: int, allowed: int) -> None:
    """The critical values of U, one-tailed at 5 %, of the tables in textbooks; nothing is told of fewer rounds."""
    assert count_exceptions(ones, others) == count_exceptions(others, ones) == allowed


@pytest.mark.parametrize(("ones", "others"), [(1, 3), (2, 3), (3, 3), (2, 5), (4, 3)])
def test_orders_are_counted_as_by_trying_them_all(ones: int, others: int) -> None:
    """In how many orders of the rounds so many pairs are the other way round."""
    tried = Counter(
        sum(place - rank for rank, place in enumerate(places))
        for places in itertools.combinations(range(ones + others), ones)
    )
    assert count_orders(ones, others) == [tried[pairs] for pairs in range(ones * others + 1)]


def test_many_rounds_go_by_the_normal_distribution_which_says_the_same() -> None:
    """Counting is exact and slow: where it ends, what takes its place is off by a pair or so in hundreds."""
    allowed = 0.05 * sum(count_orders(21, 25))
    exact = sum(count <= allowed for count in itertools.accumulate(count_orders(21, 25))) - 1
    assert count_exceptions(21, 25) == pytest.approx(exact, abs=1)
    assert count_exceptions(2000, 2000) > 0


@pytest.mark.parametrize(
    ("ones", "others", "verdict"),
    [
        ([100.0] * 3, [150.0] * 3, Verdict.BETTER),
        ([100.0] * 2, [900.0] * 2, Verdict.UNDECIDED),  # too few rounds for anything
        ([100.0, 110.0, 165.0], [150.0, 160.0, 170.0], Verdict.UNDECIDED),  # its worst is no better than their best
        ([100.0] * 9, [104.0] * 9, Verdict.UNDECIDED),  # not to be noticed
        ([100.0] * 8 + [900.0], [150.0] * 9, Verdict.BETTER),  # one bad round moves nothing
        ([100.0] * 6 + [900.0] * 3, [150.0] * 9, Verdict.UNDECIDED),  # three of nine do
        ([0.0] * 3, [5.0] * 3, Verdict.BETTER),
        ([0.0] * 3, [0.0] * 3, Verdict.UNDECIDED),
        ([], [1.0] * 30, Verdict.UNDECIDED),
    ],
)
def test_less_is_better_beyond_the_noise(ones: list[float], others: list[float], verdict: Verdict) -> None:
    """A difference counts where nearly all pairs of rounds show it, and more than 5 % of it."""
    opposite = {Verdict.BETTER: Verdict.WORSE}.get(verdict, verdict)
    assert judge(ones, others, -1) is verdict
    assert judge(others, ones, -1) is opposite
    assert judge(ones, others, 1) is opposite


@given(ROUNDS, ROUNDS, DIRECTIONS)
def test_a_verdict_is_the_same_from_both_sides(ones: list[float], others: list[float], direction: int) -> None:
    opposite = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}
    verdict = judge(ones, others, direction)
    assert judge(others, ones, direction) is opposite.get(verdict, verdict)
    assert judge(ones, others, -direction) is opposite.get(verdict, verdict)


@given(ROUNDS, DIRECTIONS)
def test_nobody_is_better_than_the_same_rounds(rounds: list[float], direction: int) -> None:
    assert judge(rounds, rounds, direction) is Verdict.UNDECIDED


@given(ROUNDS, ROUNDS)
def test_the_span_of_the_ratio_says_what_the_verdict_says(ones: list[float], others: list[float]) -> None:
    """Better is whose whole span lies beyond what can be noticed; without a span there is no verdict."""
    span, verdict = find_span(ones, others), judge(ones, others, -1)
    if span is None:
        assert verdict is Verdict.UNDECIDED
        return
    assert span.least <= span.most
    if not any(abs(bound * edge - 1) < 1e-9 for bound in span for edge in (NOTICEABLE, 1 / NOTICEABLE)):  # rounding
        expected = Verdict.BETTER if span.most * NOTICEABLE < 1 else Verdict.WORSE if span.least > NOTICEABLE else "~"
        assert verdict == expected


def test_a_span_leaves_out_what_few_pairs_say() -> None:
    """Three rounds span all that was seen, more leave out both ends; nothing is divided by nothing."""
    assert find_span([2.0, 4.0, 6.0], [1.0, 2.0, 4.0]) == Span(0.5, 6.0)
    assert find_span([1.0] * 8 + [9.0], [1.0] * 9) == Span(1.0, 1.0)
    assert find_span([1.0, 2.0], [1.0, 2.0]) is None
    assert find_span([1.0] * 3, [0.0, 1.0, 1.0]) is None


def measure(contestant: str, *rounds: float) -> list[Finding]:
    return [
        Finding("small-8", contestant, False, number, {"cpu_per_request": figure / 1e6, "requests_per_second": 1.0})
        for number, figure in enumerate(rounds, 1)
    ]


def write_page(*findings: list[Finding]) -> str:
    found = list(itertools.chain(*findings))
    versions = dict.fromkeys((each.contestant for each in found), "1.0")
    return report.write_report(Results({}, {}, versions, {}, found))


def test_the_report_lists_apart_what_lies_within_the_noise() -> None:
    """The same server differs by 1.4x between two looks at it: a better median alone is no loss of ours."""
    page = write_page(
        measure("trio-wsgi", 115, 130, 165),
        measure("waitress", 100, 120, 160),
        measure("bjoern", 10, 20, 30),
        measure("cheroot", 200, 240, 260),
    )
    assert "| `small-8` | server CPU, µs/request | 130 | bjoern 20.0 (x0.15) | waitress 120 (x0.92) |" in page
    assert "| waitress | 120 (100 to 160) | 0.92 ~ |" in page
    assert "| bjoern | **20.0** (10.0 to 30.0) | 0.15 |" in page
    assert "| cheroot | 240 (200 to 260) | 1.85 |" in page
    assert "| trio-wsgi | 130 (115 to 165) | 1.00 |" in page


def test_two_rounds_decide_nothing_and_hide_nothing() -> None:
    """As in results that are older than the rule: who is better in the median is named all the same."""
    page = write_page(measure("trio-wsgi", 100, 110), measure("bjoern", 10, 11))
    assert "| `small-8` | server CPU, µs/request | 105 |  | bjoern 10.5 (x0.10) |" in page
    assert "`small-8`, 2 rounds\n" in page


def test_a_scenario_tells_how_many_rounds_it_had() -> None:
    """Also where somebody was added with others."""
    page = write_page(measure("trio-wsgi", 100, 110, 120), measure("bjoern", 10))
    assert "`small-8`, 1 or 3 rounds\n" in page
