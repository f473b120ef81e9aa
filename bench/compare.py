"""python -m bench compare BEFORE.json AFTER.json: what two runs have in common, side by side.

Laws:
- What is better or worse is decided by the rule of the report (`noise.py`).
- What else is not the same in both runs, and may be why, is told: machine, settings, versions.
- Exit codes are those of the field (pyperf, benchstat): 0 whatever is found, 1 where nothing can be compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.metrics import METRICS, Metric
from bench.noise import NOTICEABLE, Verdict, find_span, judge
from bench.report import list_scenarios
from bench.results import Results, load_results

OF_NO_WEIGHT = {"date", "load average before", "rounds"}  # facts that may differ between any two runs


class Row(NamedTuple):
    """Of the table, in texts."""

    contestant: str
    figure: str = ""
    before: str = ""
    after: str = ""
    ratio: str = ""
    span: str = ""
    verdict: str = ""


HEADS = Row("contestant", "figure", "before", "after", "x")


class Runs(NamedTuple):
    """What is compared."""

    before: Results
    after: Results


class Case(NamedTuple):
    """A contestant in a scenario that both runs have."""

    scenario: str
    columns: tuple[str, ...]
    contestant: str
    pinned: bool

    @property
    def title(self) -> str:
        return self.scenario + (" (pinned)" if self.pinned else "")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench compare", description="What two runs have in common, side by side; better, worse or ~."
    )
    parser.add_argument("before", type=Path, metavar="BEFORE.json")
    parser.add_argument("after", type=Path, metavar="AFTER.json")
    options = parser.parse_args(arguments)
    try:
        runs = Runs(load_results(options.before), load_results(options.after))
        cases = list(find_common(runs))
        if not cases:
            raise ValueError(
                f"nothing to compare: {options.before} has {tell_content(runs.before)}; "
                f"{options.after} has {tell_content(runs.after)}"
            )
    except (OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    for line in tell_differences(runs):
        print(f"bench: not the same: {line}", file=sys.stderr)
    print("\n".join(write_comparison(runs, cases)))
    return 0


def find_common(runs: Runs) -> Iterator[Case]:
    for scenario in list_scenarios(runs.before):
        for pinned in (False, True):
            for name in runs.before.versions:
                if all(results.select(scenario.name, name, pinned) for results in runs):
                    yield Case(scenario.name, scenario.columns, name, pinned)


def tell_content(results: Results) -> str:
    """What a run has measured, where it is not what another has."""
    scenarios = dict.fromkeys(each.scenario for each in results.findings)
    names = dict.fromkeys(each.contestant for each in results.findings)
    return f"{', '.join(scenarios) or 'nothing'} of {', '.join(names) or 'nobody'}"


def tell_differences(runs: Runs) -> Iterator[str]:
    """What both sides tell, and otherwise, so that figures may differ by it."""
    facts = [
        results.machine | results.settings | {f"version of {name}": text for name, text in results.versions.items()}
        for results in runs
    ]
    for title, before in facts[0].items():
        if title not in OF_NO_WEIGHT and facts[1].get(title, before) != before:
            yield f"{title}: {before}, then {facts[1][title]}"


def write_comparison(runs: Runs, cases: Sequence[Case]) -> Iterator[str]:
    """A block of rows for each scenario, then a line that counts the verdicts."""
    blocks: dict[str, list[Row]] = {}
    for case in cases:
        blocks.setdefault(case.title, [HEADS]).extend(list_rows(runs, case))
    rows = [row for block in blocks.values() for row in block]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for title, block in blocks.items():
        yield title
        for row in block:
            yield "  " + "  ".join(map(str.ljust, row, widths)).rstrip()
        yield ""
    counts = Counter(row.verdict for row in rows)
    yield (
        f"{counts[Verdict.BETTER]} better, {counts[Verdict.WORSE]} worse by more than {NOTICEABLE - 1:.0%}; "
        f"{counts[Verdict.UNDECIDED]} undecided ({Verdict.UNDECIDED}): within that, within the noise, "
        "or measured in fewer than three rounds"
    )


def list_rows(runs: Runs, case: Case) -> Iterator[Row]:
    """One for each figure that ranks and that both runs have; one with the reason where it failed in one of them."""
    failures = {
        when: failure
        for when, results in zip(Runs._fields, runs, strict=True)
        if (failure := results.failure(case.scenario, case.contestant, case.pinned))
    }
    if failures:
        yield Row(case.contestant, verdict="; ".join(f"fails {when}: {failure}" for when, failure in failures.items()))
        return
    for key in case.columns:
        before, after = (results.rounds(case.scenario, case.contestant, case.pinned, key) for results in runs)
        if before and after and METRICS[key].better:
            yield write_row(case.contestant, METRICS[key], before, after)


def write_row(contestant: str, metric: Metric, before: Sequence[float], after: Sequence[float]) -> Row:
    """Medians, their ratio, between what and what it lies, and the verdict."""
    old, new = statistics.median(before), statistics.median(after)
    span = find_span(after, before)
    return Row(
        contestant,
        metric.title,
        metric.format(old),
        metric.format(new),
        f"{new / old:.2f}" if old > 0 and new > 0 else "",
        f"({span.least:.2f} to {span.most:.2f})" if span else "",
        judge(after, before, metric.better),
    )
