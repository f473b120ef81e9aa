"""The page where a run is not what it mostly is: nobody of ours, one core, figures of nothing, a row that has gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import report
from bench.results import Finding, Results, load_results


def build(*findings: Finding, cores: str = "2") -> Results:
    names = dict.fromkeys(finding.contestant for finding in findings)
    return Results({"cores": cores}, {"rounds": "1"}, dict.fromkeys(names, "1.0"), {}, list(findings))


def test_where_we_lose_says_nowhere_only_of_what_was_measured() -> None:
    theirs = Finding("small-8", "waitress", False, 1, {"cpu_per_request": 1e-4})
    assert "trio-wsgi was not measured." in report.write_report(build(theirs))
    failed = report.write_report(build(theirs, Finding("small-8", "trio-wsgi", False, 1, failure="status 500")))
    assert "trio-wsgi fails `small-8`: status 500" in failed
    assert "Nowhere" not in failed
    assert "nothing to compare" not in failed


@pytest.mark.parametrize(
    "other",
    [
        [],
        [Finding("small-8", "waitress", False, 1, failure="status 500")],
        [Finding("small-1", "waitress", False, 1, {"cpu_per_request": 1.0})],
        [Finding("small-8", "trio-wsgi-httptools", False, 1, {"cpu_per_request": 1.0})],
    ],
    ids=["nobody", "failed", "elsewhere", "ours"],
)
def test_where_nobody_else_was_measured_nothing_is_said_of_losses(other: list[Finding]) -> None:
    """Who runs alone does not win."""
    ours = Finding("small-8", "trio-wsgi", False, 1, {"cpu_per_request": 1e-4})
    page = report.write_report(build(ours, *other))
    assert "There is nothing to compare trio-wsgi with" in page
    assert "Nowhere" not in page
    slower = Finding("small-8", "waitress", False, 1, {"cpu_per_request": 2e-4})
    assert "Nowhere in this run." in report.write_report(build(ours, slower))


def test_there_is_no_ratio_to_less_than_nothing() -> None:
    """Memory by connection was below zero where a server shrank meanwhile."""
    metric = "memory_per_connection"
    ours, theirs = (
        Finding("slow-100", "trio-wsgi", False, 1, {metric: 1085.0}),
        Finding("slow-100", "nginx", False, 1, {metric: -7270.0}),
    )
    assert "| 1.06 |  | nginx -7.1 |" in report.write_report(build(ours, theirs))


def test_pinned_clients_are_where_they_are_said_to_be() -> None:
    pinned = Finding("small-8", "waitress", True, 1, {"cpu_per_request": 1e-4})
    assert "Pinned to one core, clients on the others:" in report.write_report(build(pinned))
    assert "and so are the clients, as there is no other:" in report.write_report(build(pinned, cores="1"))


def test_who_has_left_the_table_is_shown_all_the_same() -> None:
    """Results outlive the names of contestants."""
    ours = Finding("small-8", "trio-wsgi", False, 1, {"cpu_per_request": 2e-4})
    page = report.write_report(build(ours, Finding("small-8", "apache", False, 1, {"cpu_per_request": 1e-4})))
    assert "| apache | former | 1.0 |" in page
    assert "| apache | **100** | 0.50 ~ |" in page


def test_results_of_another_version_are_told_from_what_is_none(tmp_path: Path) -> None:
    """The file is all right: another bench reads it."""
    path = tmp_path / "results.json"
    path.write_text('{"format": 2, "bouts": []}')
    with pytest.raises(ValueError, match="has format 2, and this bench reads format 1: take the version that wrote it"):
        load_results(path)


@pytest.mark.parametrize(
    "change",
    [
        {"versions": []},
        {"machine": {"cores": 2}},
        {"findings": "abc"},
        {"findings": [{"scenario": "s", "contestant": "c", "pinned": False, "round": 1, "figures": {"p50": "x"}}]},
    ],
    ids=str,
)
def test_what_is_no_results_file_is_told_and_no_traceback(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "results.json"
    build(Finding("small-8", "trio-wsgi", False, 1, {"p50": 1.0})).save(path)
    load_results(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="is not a results file of this bench"):
        load_results(path)
