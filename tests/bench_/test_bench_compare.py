"""`python -m bench compare`: whether somebody's change made it faster, by two results files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import compare
from bench.results import Finding, Results

MACHINE = {"date": "2026-01-01", "CPU": "a fast one", "load average before": "0.1"}
SETTINGS = {"rounds": "3", "seconds of each measurement": "5"}


def measure(contestant: str, cpu: list[float], rate: list[float], *, scenario: str = "small-8") -> list[Finding]:
    """Rounds of it: microseconds and requests a second."""
    return [
        Finding(scenario, contestant, False, number, {"cpu_per_request": one / 1e6, "requests_per_second": other})
        for number, (one, other) in enumerate(zip(cpu, rate, strict=True), 1)
    ]


def build(*findings: list[Finding]) -> Results:
    found = [each for several in findings for each in several]
    return Results(MACHINE, SETTINGS, dict.fromkeys((each.contestant for each in found), "1.0"), {}, found)


def run(folder: Path, before: Results, after: Results) -> int:
    before.save(folder / "before.json")
    after.save(folder / "after.json")
    return compare.main([str(folder / "before.json"), str(folder / "after.json")])


def test_what_is_better_worse_or_undecided_is_told_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By medians, their ratio, where it lies, and the rule of the report; the exit code blames nobody."""
    before = build(measure("trio-wsgi", [100, 110, 120], [9000, 9100, 9200]), measure("nginx", [10, 11, 12], [1] * 3))
    after = build(measure("trio-wsgi", [50, 55, 60], [7000, 7100, 7200]), measure("nginx", [10, 11.5, 12], [1] * 3))
    assert run(tmp_path, before, after) == 0
    out, err = capsys.readouterr()
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[:2] == ["small-8", "contestant figure before after x"]
    assert "trio-wsgi server CPU, µs/request 110 55.0 0.50 (0.42 to 0.60) better" in lines
    assert "trio-wsgi requests/s 9,100 7,100 0.78 (0.76 to 0.80) worse" in lines
    assert "nginx server CPU, µs/request 11.0 11.5 1.05 (0.83 to 1.20) ~" in lines
    assert lines[-1].startswith("1 better, 1 worse by more than 5%; 2 undecided (~)")
    assert err == ""


def test_columns_stand_below_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through all scenarios, however long a name or a reason is."""
    broken = [Finding("file100k-8", "gunicorn-gthread", False, 1, failure="status 500 instead of 200")]
    results = build(measure("trio-wsgi", [1, 1, 1], [1, 1, 1]), broken)
    assert run(tmp_path, results, results) == 0
    lines = capsys.readouterr().out.splitlines()
    columns = {line.index("figure") for line in lines if "figure" in line}
    assert columns == {line.index("server CPU") for line in lines if "server CPU" in line}
    assert max(len(line) for line in lines[:-1] if "fails" not in line) < 90


def test_who_fails_in_one_of_them_is_told_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its figures of the other rounds are no figures."""
    before = build(measure("trio-wsgi", [100, 110, 120], [1, 1, 1]))
    failed = [replace(before.findings[0], figures={}, failure="status 500 instead of 200"), *before.findings[1:]]
    assert run(tmp_path, before, build(failed)) == 0
    out = capsys.readouterr().out
    assert "fails after: 1 of 3 rounds: status 500 instead of 200" in out
    assert "requests/s" not in out


def test_only_what_both_have_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No row for who or what was measured once; traced bouts and what has no rank are none either."""
    traced = [Finding("small-64", "trio-wsgi", False, 0, calls={"sendto": 1.0})]
    ours = measure("trio-wsgi", [1, 1, 1], [1, 1, 1])
    before = build(ours, measure("nginx", [1], [1]), traced)
    after = build(ours, measure("bjoern", [1], [1]), measure("trio-wsgi", [1], [1], scenario="small-1"), traced)
    assert run(tmp_path, before, after) == 0
    out = capsys.readouterr().out
    assert out.count("trio-wsgi") == 2
    assert not any(name in out for name in ("nginx", "bjoern", "small-1", "small-64"))


def test_what_else_differs_is_told_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another machine, other windows, another version: figures may differ by them; by the date they do not."""
    before = build(measure("trio-wsgi", [1], [1]), measure("nginx", [1], [1]))
    after = replace(
        before,
        machine=MACHINE | {"date": "2026-01-02", "load average before": "0.2", "CPU": "a slow one"},
        settings=SETTINGS | {"rounds": "4", "seconds of each measurement": "1", "your application": "shop:app"},
        versions=before.versions | {"trio-wsgi": "2.0"},
    )
    assert run(tmp_path, before, after) == 0
    assert capsys.readouterr().err.splitlines() == [
        "bench: not the same: CPU: a fast one, then a slow one",
        "bench: not the same: seconds of each measurement: 5, then 1",
        "bench: not the same: version of trio-wsgi: 1.0, then 2.0",
    ]


def test_what_has_nothing_in_common_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = build(measure("trio-wsgi", [1], [1])), build(measure("nginx", [1], [1], scenario="small-1"))
    assert run(tmp_path, before, after) == 1
    assert capsys.readouterr() == (
        "",
        f"bench: nothing to compare: {tmp_path}/before.json has small-8 of trio-wsgi; "
        f"{tmp_path}/after.json has small-1 of nginx\n",
    )
    (tmp_path / "other.json").write_text("{}")
    assert compare.main([str(tmp_path / "before.json"), str(tmp_path / "other.json")]) == 1
    assert capsys.readouterr().err == f"bench: {tmp_path}/other.json is not a results file of this bench\n"
