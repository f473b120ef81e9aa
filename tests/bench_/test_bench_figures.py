"""The pure half of the bench: figures, results, report, the order of bouts. Issue 6: median, spread, where we lose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import contestants, driver, report, run
from bench.contestants import CONTESTANTS, Can
from bench.figures import Spread, percentile, spread
from bench.metrics import METRICS
from bench.results import BRIEF, Finding, Results, load_results
from bench.roster import Present
from bench.samples import Samples
from bench.scenarios import BY_NAME, SCENARIOS
from bench.server import Setting, build_command
from bench.trace import parse_table

ROUNDS = 3


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 99, None),
        ([5.0], 50, 5.0),
        ([3.0, 1.0, 2.0], 50, 2.0),
        (list(range(1, 101)), 99, 99),
        (list(range(1, 101)), 100, 100),
        (list(range(1, 1001)), 99.9, 999),
    ],
)
def test_percentile_is_a_value_that_was_measured(values: list[float], percent: float, expected: float | None) -> None:
    assert percentile(values, percent) == expected


def test_spread_is_not_moved_by_one_bad_round() -> None:
    assert spread([1.0, 1.1, 9.0]) == Spread(1.1, 1.0, 9.0)
    assert spread([]) is None


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("throughput", 4_321_000_000.0, "4,321"),
        ("cpu_per_request", 61.25e-6, "61.2"),
        ("p99", 0.000_123_4, "0.123"),
        ("memory_per_connection", 6_758.0, "6.6"),
        ("failed", 0.0, "0"),
    ],
)
def test_three_digits_that_count(key: str, value: float, text: str) -> None:
    assert METRICS[key].format(value) == text


def build_results(*findings: Finding) -> Results:
    names = dict.fromkeys(finding.contestant for finding in findings)
    return Results({"CPU": "a fast one"}, {"rounds": "3"}, dict.fromkeys(names, "1.0"), {}, list(findings))


def measured(contestant: str, cpu: float, rate: float, *, scenario: str = "small-8", pinned: bool = False) -> Finding:
    return Finding(scenario, contestant, pinned, 1, {"cpu_per_request": cpu, "requests_per_second": rate})


def repeat(*findings: Finding) -> list[Finding]:
    """As in so many rounds without any noise."""
    return [replace(each, round=number + 1) for each in findings for number in range(ROUNDS)]


def test_losses_are_computed_both_ways_and_small_differences_are_none() -> None:
    findings = repeat(
        measured("trio-wsgi", 100e-6, 10_000),
        measured("waitress", 120e-6, 12_000),  # more CPU, but more requests
        measured("granian", 50e-6, 10_400),  # less CPU; 4 % more requests are no more
        measured("nginx", 20e-6, 50_000),
    )
    results = build_results(*findings)
    losses = {loss.metric: [name for name, _ in loss.others] for loss in report.find_losses(results)}
    assert losses == {"cpu_per_request": ["nginx", "granian"], "requests_per_second": ["nginx", "waitress"]}


def test_who_failed_beats_nobody_and_is_shown_with_the_reason() -> None:
    failed = Finding("small-8", "bjoern", False, 2, failure="died: was killed by SIGSEGV; | a pipe")
    results = build_results(measured("trio-wsgi", 100e-6, 10_000), measured("bjoern", 1e-6, 99_000), failed)
    assert list(report.find_losses(results)) == []
    page = report.write_report(results)
    assert "| bjoern | fails: 1 of 2 rounds: died: was killed by SIGSEGV; \\| a pipe |" in page
    assert "Nowhere in this run." in page


def test_our_own_failure_stands_among_the_losses() -> None:
    failed = Finding("small-8", "trio-wsgi", False, 1, failure="status 500 instead of 200")
    page = report.write_report(build_results(failed, measured("waitress", 120e-6, 12_000)))
    losses = page.partition("## Where we lose")[2].partition("\n## ")[0]
    assert "trio-wsgi fails `small-8`: status 500 instead of 200" in losses


def test_pinned_and_unpinned_are_compared_apart() -> None:
    findings = repeat(
        measured("trio-wsgi", 100e-6, 1),
        measured("trio-wsgi", 50e-6, 1, pinned=True),
        measured("waitress", 80e-6, 1),
        measured("waitress", 80e-6, 1, pinned=True),
    )
    results = build_results(*findings)
    assert [(loss.pinned, loss.others[0][0]) for loss in report.find_losses(results)] == [(False, "waitress")]
    page = report.write_report(results)
    plain, _, pinned = page.partition("Pinned to one core")
    assert "| waitress | **80.0** | 0.80 |" in plain
    assert "| waitress | 80.0 | 1.60 |" in pinned


def test_median_with_least_and_most_of_the_rounds() -> None:
    rounds = [replace(measured("trio-wsgi", cpu, 1), round=n) for n, cpu in enumerate((90e-6, 100e-6, 250e-6), 1)]
    assert "| trio-wsgi | **100** (90.0 to 250) | 1.00 |" in report.write_report(build_results(*rounds))


def test_traced_bouts_count_calls_and_nothing_else() -> None:
    traced = Finding("small-8", "trio-wsgi", False, 0, calls={"futex": 0.01, "sendto": 1.0, "recvfrom": 1.5})
    results = build_results(measured("trio-wsgi", 100e-6, 10), traced)
    assert len(results.select("small-8", "trio-wsgi", False)) == 1
    assert "| trio-wsgi | 2.51: recvfrom 1.5, sendto 1 |" in report.write_report(results)


def test_the_table_of_strace_without_its_total() -> None:
    text = (
        "    calls syscall\n--------- ----------\n       12 sendto\n        3 futex\n--------- ----\n       15 total\n"
    )
    assert parse_table(text) == {"sendto": 12, "futex": 3}


def test_results_come_back_as_they_were_saved(tmp_path: Path) -> None:
    results = build_results(measured("trio-wsgi", 100e-6, 10))
    results.save(tmp_path / "results.json")
    assert load_results(tmp_path / "results.json") == results
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="not a results file"):
        load_results(tmp_path / "other.json")


def test_an_earlier_run_is_kept_but_for_what_is_repeated() -> None:
    """An interrupted run can be gone on with, and one pinned run added for some scenarios only."""
    earlier = build_results(
        measured("ours", 1.0, 1.0), measured("theirs", 2.0, 2.0), measured("ours", 3.0, 3.0, scenario="slow-100")
    )
    now = build_results()
    now.settings["rounds"] = "2"
    replaceable = now.keep(earlier)
    assert now.settings == {"rounds": "2, 3"}
    assert now.findings == earlier.findings  # until something else is there
    for rate in (7.0, 8.0):
        now.add(measured("ours", 1.0, rate), replaceable)
    assert [(each.scenario, each.contestant, each.figures["requests_per_second"]) for each in now.findings] == [
        ("small-8", "theirs", 2.0),
        ("slow-100", "ours", 3.0),
        ("small-8", "ours", 7.0),
        ("small-8", "ours", 8.0),
    ]
    assert now.versions == earlier.versions


PRESENT = [Present(contestants.BY_NAME[name], "1") for name in ("trio-wsgi", "waitress", "nginx")]


@pytest.mark.parametrize(
    ("scenario", "rounds", "seconds", "pace"),
    [
        ("small-8", 3, 5.0, (10, 1.0)),
        ("slow-100", 3, 5.0, (3, 5.0)),
        ("own-app-8", 3, 5.0, (3, 5.0)),  # whose requests may take seconds
        ("small-8", 2, 2.0, (3, 1.0)),
        ("small-8", 1, 1.0, (1, 1.0)),  # as with --quick
        ("small-8", 4, 0.2, (4, 0.2)),
    ],
)
def test_what_a_second_shows_has_more_rounds_in_the_same_time(
    scenario: str, rounds: int, seconds: float, pace: tuple[int, float]
) -> None:
    """Ten looks of a second at the same server tell its noise, two of five seconds do not. Others go as was asked."""
    plan = driver.Plan([BY_NAME[scenario]], PRESENT, rounds, seconds)
    assert driver.choose_pace(plan, BY_NAME[scenario]) == pace
    asked = [turn.round for turn in driver.list_turns(plan) if turn.present.contestant.name == "trio-wsgi"]
    assert asked == list(range(1, pace[0] + 1))
    assert pace[0] * (pace[1] + driver.AROUND) <= rounds * (seconds + driver.AROUND)


@pytest.mark.parametrize(("rounds", "seconds", "said"), [(3, 5.0, "10 rounds of 1 s"), (1, 1.0, None)])
def test_the_page_tells_how_brief_scenarios_were_measured(
    rounds: int, seconds: float, said: str | None, tmp_path: Path
) -> None:
    """Where that is otherwise than was asked for: who compares two runs wants to know."""
    plan = driver.Plan([BY_NAME["slow-100"], BY_NAME["small-8"]], PRESENT, rounds, seconds)
    assert run.describe_settings(plan, driver.Ground("", "", 8, Samples(tmp_path), None)).get(BRIEF) == said


def test_rounds_are_interleaved_and_begin_with_another_each() -> None:
    plan = driver.Plan([BY_NAME["small-8"]], PRESENT, ROUNDS, 1.0, pin=True)
    turns = [(turn.pinned, turn.round, turn.present.contestant.name) for turn in driver.list_turns(plan)]
    assert turns[:6] == [
        (False, 1, "trio-wsgi"),
        (False, 1, "waitress"),
        (False, 1, "nginx"),
        (False, 2, "waitress"),
        (False, 2, "nginx"),
        (False, 2, "trio-wsgi"),
    ]
    assert turns[9:] == [(True, number, name) for _, number, name in turns[:9]]


@pytest.mark.parametrize(
    ("scenario", "times"), [("small-8", 1), ("own-app-8", 1), ("own-file-8", 1), ("own-app-slow-1000", 0), ("cold", 0)]
)
def test_calls_are_counted_where_they_are_those_of_requests(scenario: str, times: int) -> None:
    """Also of a user's application; a crowd that is looked at for a while has no number of requests."""
    plan = driver.Plan([BY_NAME[scenario]], PRESENT[:1], 1, 1.0, trace=True)
    assert [turn.round for turn in driver.list_turns(plan)].count(0) == times


def test_names_are_chosen_exactly_or_by_their_beginning() -> None:
    assert list(run.choose(None, BY_NAME)) == list(SCENARIOS)
    assert [each.name for each in run.choose("file1g,small-8", BY_NAME)] == [
        "small-8",
        "file1g-1",
        "file1g-8",
        "file1g-64",
    ]
    assert [each.name for each in run.choose("trio-wsgi", contestants.BY_NAME)] == ["trio-wsgi"]
    with pytest.raises(LookupError, match="nothing is called 'apache'"):
        run.choose("apache", contestants.BY_NAME)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_scenario_shows_known_figures_and_somebody_can_run_it(scenario: object) -> None:
    assert isinstance(scenario, type(SCENARIOS[0]))
    assert set(scenario.columns) <= set(METRICS)
    assert METRICS[scenario.columns[0]].better, "the headline ranks"
    assert sum(scenario.admits(contestant) for contestant in CONTESTANTS) >= 3


def test_names_are_unique_and_tags_are_those_of_scenarios() -> None:
    assert len(BY_NAME) == len(SCENARIOS)
    assert len(contestants.BY_NAME) == len(CONTESTANTS)
    assert {tag for each in CONTESTANTS for tag in each.tags} <= {scenario.tag for scenario in SCENARIOS}


def test_nobody_is_asked_for_what_it_cannot_do() -> None:
    assert not BY_NAME["stream-64k"].admits(contestants.BY_NAME["nginx"])
    assert not BY_NAME["slow-1000"].admits(contestants.BY_NAME["sendfile-loop"])
    assert not BY_NAME["static1g-8"].admits(contestants.BY_NAME["waitress"])
    assert BY_NAME["static1g-8"].admits(contestants.BY_NAME["trio-wsgi"])
    assert not BY_NAME["restart"].admits(contestants.BY_NAME["bjoern"])


@pytest.mark.parametrize(
    ("contestant", "tls"),
    [(each, tls) for each in CONTESTANTS for tls in (False, True) if not tls or Can.TLS in each.can],
    ids=lambda value: value.name if isinstance(value, contestants.Contestant) else "tls" if value else "plain",
)
def test_command_lines_are_filled_in(contestant: contestants.Contestant, tls: bool, tmp_path: Path) -> None:
    certificate = (tmp_path / "cert.pem", tmp_path / "key.pem") if tls else None
    setting = Setting("/py", "/prog", "m:app", Path("/samples"), (), 8, Can.STATIC in contestant.can, certificate)
    command = build_command(contestant, setting, 8765, tmp_path)
    config = tmp_path / "config"
    text = " ".join(command) + (config.read_text() if config.exists() else "")
    assert "8765" in text
    assert not any(f"{{{word}" in text for word in ("port", "app", "files", "listen", "static", "cert", "key", "aio"))
    assert ("cert.pem" in text) == tls
    if Can.STATIC in contestant.can:
        assert "/static" in text
        assert "/samples" in text


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.name)
def test_paths_may_have_spaces(contestant: contestants.Contestant, tmp_path: Path) -> None:
    """A word of the command line stays one, whatever it holds."""
    static = Can.STATIC in contestant.can
    plain, spaced = (
        build_command(
            contestant,
            Setting(f"/my{x}venv/py", f"/my{x}prog", "m:app", Path(f"/my{x}files"), (), 8, static),
            1,
            tmp_path,
        )
        for x in ("-", " ")
    )
    assert [word.replace("my ", "my-") for word in spaced] == plain
    if contestant.config:
        assert 'alias "/my files/";' in (tmp_path / "config").read_text()
