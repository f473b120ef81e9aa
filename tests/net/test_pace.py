"""Rules of the pace: calls that compute are kept together, calls that wait are spread, mistakes become rare."""

from __future__ import annotations

import pytest

from trio_wsgi.net.pace import APART_FOR, APART_MOST, Pace


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(pace: Pace, took: float, worked: float, calls: int = 16, others: float = 0.0) -> None:
    for _ in range(calls):
        pace.note(took, worked, worked + others)


@pytest.mark.parametrize(
    ("took", "worked", "others", "together"),
    [
        pytest.param(0.003, 0.003, 0.0, True, id="they compute"),
        pytest.param(0.003, 0.0015, 0.0, True, id="half of the time"),
        pytest.param(0.003, 0.0001, 0.0, False, id="they wait"),
        pytest.param(0.003, 0.0001, 0.0010, False, id="they wait, while others compute as well"),
        pytest.param(0.003, 0.0005, 0.0020, True, id="they wait for the interpreter"),
        pytest.param(0.003, 0.0001, 0.0090, True, id="for threads that need none, as far as can be told"),
        pytest.param(0.003, 0.0005, -0.0005, False, id="what they worked was the kernel's work"),
        pytest.param(0.0001, 0.0, 0.0, True, id="they wait, but who cares"),
    ],
)
def test_who_is_kept_together(took: float, worked: float, others: float, together: bool) -> None:
    pace = Pace(Time())
    run(pace, took, worked, 15, others)
    assert pace.together, "a few prove nothing"
    run(pace, took, worked, 1, others)
    assert pace.together is together


@pytest.mark.parametrize("long", [4, 8])
def test_a_few_that_take_long_have_met_others_who_compute(long: int) -> None:
    """Seen with 64 clients: while the loop looks after all of them, some calls take 4 ms, and the others 0.1."""
    pace = Pace(Time())
    run(pace, 0.0001, 0.0001, 16 - long)
    run(pace, 0.004, 0.0004, long)
    assert pace.together is (long < 8)


def test_a_mistake_is_repeated_later_each_time_up_to_a_bound_and_forgotten_with_the_first_success() -> None:
    time = Time()
    pace = Pace(time)
    pauses = []
    for _ in range(9):
        began = time.now
        run(pace, 0.003, 0.0)
        while not pace.together:
            time.now += 0.5
        pauses.append(time.now - began)
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 64, 64]
    assert (pauses[0], pauses[-1]) == (APART_FOR, APART_MOST)
    run(pace, 0.003, 0.003)
    run(pace, 0.003, 0.0)
    time.now += APART_FOR
    assert pace.together


def test_a_call_that_lasts_parts_them_for_a_while_and_shortens_no_pause() -> None:
    time = Time()
    pace = Pace(time)
    pace.part()
    assert not pace.together
    time.now += APART_FOR
    assert pace.together
    for _ in range(3):
        run(pace, 0.003, 0.0)
        while not pace.together:
            time.now += 0.5
    run(pace, 0.003, 0.0)  # for 8 s
    pace.part()
    time.now += 7.5
    assert not pace.together
