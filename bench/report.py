"""python -m bench report RESULTS.json: the results as a page of Markdown, for docs/performance.md.

Laws:
- Everything on the page is computed from the results file; where we lose is found by the same rule as where we win,
  and what lies within the noise is neither (`noise.py`).
- A figure is the median of its rounds; the first two columns show the least and the most as well.
- Who failed is in the table with the reason; who is absent is named.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.contestants import SUBJECT, find_group
from bench.figures import Spread
from bench.metrics import METRICS, Metric
from bench.noise import CHANCE, NOTICEABLE, Verdict, is_better, judge
from bench.results import Results, load_results
from bench.scenario import Scenario
from bench.scenarios import BY_NAME as SCENARIOS

WITH_SPREAD = 2  # columns that show least and most
INTRODUCTION = f"""\
# Performance

One WSGI application, one server at a time, all on the same machine, in interleaved rounds: each scenario asks every
contestant in turn, then again, so that what changes with time changes for all. One worker process each, the same number
of threads where there are threads, limits of connections out of the way; the rest is as its authors ship it. Every
server is started afresh for every measurement, and what it delivers is checked: status, byte count, and once the hash
of the content. Files that are not meant to be cold are kept in memory all the time. Who fails is shown with the reason;
who is missing from a table was not measured there, or cannot do what it asks for.

- **CPU** is user and system time of the server's whole process tree, from the kernel, over the very window of the load.
  It is the figure to compare: throughput on a small machine depends on the client as well, whose own CPU is shown.
- **(least to most)** in the first two columns are the rounds around the median, where there were several.
- **~** marks what is undecided, as it lies within the noise: who is measured again has other figures. A difference from
  {SUBJECT} counts where, by more than {NOTICEABLE - 1:.0%}, it is there in nearly all pairs of a round of the one
  and a round of the other: in all but so few that chance does it for one in {1 / CHANCE:.0f} who are no better (the
  test of Mann and Whitney). Fewer than three rounds decide nothing. Bold is the best median, decided or not.
- GB and MB are 10⁹ and 10⁶ bytes, MiB and KiB are 2²⁰ and 2¹⁰.
- **The good client** sends a small request every 10 ms beside the crowd; its time begins when the request is due, so a
  server that stalls for a second is charged for the hundred requests that came due meanwhile.

To run it yourself, and on your own application and files: bench/README.md.
"""


class Loss(NamedTuple):
    """A figure in which another contestant is better than ours, or seems to be."""

    scenario: str
    pinned: bool
    metric: str
    ours: float
    others: list[tuple[str, float]]  # name and figure, the best first
    undecided: list[tuple[str, float]]  # whose median is better, but within the noise


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench report", description="Results as Markdown, on stdout.")
    parser.add_argument("results", type=Path)
    parser.add_argument("--plots", metavar="FOLDER", help="show its plots (a path as the page sees it)")
    options = parser.parse_args(arguments)
    try:
        results = load_results(options.results)
    except (OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(write_report(results, options.plots))
    return 0


def write_report(results: Results, plots: str | None = None) -> str:
    """The page. `plots` is the folder of plots as the page sees it, if they are to be shown."""
    parts = [INTRODUCTION, *write_header(results), *write_losses(results)]
    for scenario in list_scenarios(results):
        parts += write_scenario(results, scenario, plots)
    return "\n".join(parts)


def write_scenario(results: Results, scenario: Scenario, plots: str | None) -> Iterator[str]:
    yield f"## {scenario.title}\n\n`{scenario.name}`, {count_rounds(results, scenario)}\n"
    for pinned in (False, True):
        if table := write_table(results, scenario, pinned):
            yield (f"Pinned to one core, {where_clients_were(results)}:\n\n" if pinned else "") + table
            if plots:
                yield f"![{scenario.title}]({plots}/{name_plot(scenario, pinned)}.svg)\n"
    if calls := results.calls(scenario.name):
        rows = [(name, write_calls(each)) for name, each in calls.items()]
        yield "System calls per request, as strace counts them:\n\n" + write_rows(("contestant", ""), rows)
    family = [each for each in list_scenarios(results) if each.connections and each.tag == scenario.tag]
    if plots and len(family) > 1 and scenario is family[-1]:
        yield f"![Memory, CPU and latency against the number of connections]({plots}/growth-{scenario.tag}.svg)\n"


def count_rounds(results: Results, scenario: Scenario) -> str:
    """In words, such as "9 rounds": what was added later may have had more of them, or fewer."""
    counts = Counter(each.key for each in results.findings if each.round and each.scenario == scenario.name)
    numbers = sorted(set(counts.values()))
    return " or ".join(map(str, numbers)) + (" round" if numbers == [1] else " rounds")


def where_clients_were(results: Results) -> str:
    """While servers were pinned."""
    return (
        "and so are the clients, as there is no other"
        if results.machine.get("cores") == "1"
        else "clients on the others"
    )


def list_scenarios(results: Results) -> list[Scenario]:
    found = {finding.scenario for finding in results.findings}
    return [scenario for name, scenario in SCENARIOS.items() if name in found]


def name_plot(scenario: Scenario, pinned: bool) -> str:
    """Of the file with its bars, without its ending."""
    return scenario.name + ("-pinned" if pinned else "")


def write_header(results: Results) -> Iterator[str]:
    yield "## Where and who\n"
    facts = results.machine | results.settings
    yield write_rows(("", ""), [(title, fact) for title, fact in facts.items()])
    rows = [(name, find_group(name), version) for name, version in results.versions.items()]
    yield write_rows(("contestant", "kind", "version"), rows)
    if results.absent:
        yield "Absent: " + "; ".join(f"{name} ({why})" for name, why in results.absent.items()) + ".\n"


def write_losses(results: Results) -> Iterator[str]:
    """The part that says where we lose."""
    yield "## Where we lose\n"
    yield (
        f"Every figure in which somebody is better than {SUBJECT} by more than {NOTICEABLE - 1:.0%}, best first. "
        "Undecided is who is better by as much in the median, but not beyond the noise of the rounds.\n"
    )
    rows = []
    for loss in find_losses(results):
        where = loss.scenario + (" (pinned)" if loss.pinned else "")
        metric = METRICS[loss.metric]
        names = (write_others(others, loss.ours, metric) for others in (loss.others, loss.undecided))
        rows.append((f"`{where}`", metric.title, metric.format(loss.ours), *names))
    failures = [
        f"- {SUBJECT} fails `{scenario.name}`{' (pinned)' if pinned else ''}: {reason}"
        for scenario in list_scenarios(results)
        for pinned in (False, True)
        if (reason := results.failure(scenario.name, SUBJECT, pinned))
    ]
    if failures:
        yield "\n".join(failures) + "\n"
    if rows:
        yield write_rows(("scenario", "figure", SUBJECT, "better", "undecided"), rows)
    elif not any(each.contestant == SUBJECT for each in results.findings):
        yield f"{SUBJECT} was not measured.\n"
    elif not failures:
        alone = f"There is nothing to compare {SUBJECT} with: nobody else was measured, or all others failed.\n"
        yield "Nowhere in this run.\n" if has_others(results) else alone


def has_others(results: Results) -> bool:
    """Whether somebody who is not of ours has figures where we have some."""
    measured = [each for each in results.findings if each.figures]
    places = {(each.scenario, each.pinned) for each in measured if each.contestant == SUBJECT}
    return any((each.scenario, each.pinned) in places for each in measured if find_group(each.contestant) != "ours")


def write_others(others: list[tuple[str, float]], ours: float, metric: Metric) -> str:
    """Names and figures in a cell, with their ratio to ours where there is one."""
    return ", ".join(
        f"{name} {metric.format(value)}" + (f" (x{value / ours:.2f})" if value > 0 and ours > 0 else "")
        for name, value in others
    )


def find_losses(results: Results) -> Iterator[Loss]:
    """All figures, scenario by scenario, in which a contestant that did not fail is, or seems, noticeably better."""
    for scenario in list_scenarios(results):
        for pinned in (False, True):
            for key in scenario.columns:
                ours = results.figure(scenario.name, SUBJECT, pinned, key)
                if ours is None or not METRICS[key].better:
                    continue
                others, undecided = find_better(results, scenario, pinned, key)
                if others or undecided:
                    yield Loss(scenario.name, pinned, key, ours.median, others, undecided)


def find_better(
    results: Results, scenario: Scenario, pinned: bool, key: str
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Who is better than ours in a figure, and whose median only is, within the noise; the best first."""
    direction = METRICS[key].better
    ours = results.rounds(scenario.name, SUBJECT, pinned, key)
    others, undecided = [], []
    for name in results.versions:
        theirs = results.rounds(scenario.name, name, pinned, key)
        if find_group(name) == "ours" or results.failure(scenario.name, name, pinned) or not theirs:
            continue
        median = statistics.median(theirs)
        if judge(theirs, ours, direction) is Verdict.BETTER:
            others.append((name, median))
        elif is_better(median, statistics.median(ours), direction):
            undecided.append((name, median))
    for found in (others, undecided):
        found.sort(key=lambda other: other[1] * -direction)
    return others, undecided


def write_table(results: Results, scenario: Scenario, pinned: bool) -> str:
    """One row for each contestant; empty where nobody ran."""
    names = [name for name in results.versions if results.select(scenario.name, name, pinned)]
    if not names:
        return ""
    figures = {
        name: [results.figure(scenario.name, name, pinned, key) for key in scenario.columns]
        for name in names
        if not results.failure(scenario.name, name, pinned)
    }
    best = [
        find_best([row[column] for row in figures.values()], METRICS[key].better)
        for column, key in enumerate(scenario.columns)
    ]
    rows: list[tuple[str, ...]] = []
    for name in names:
        if name not in figures:
            rows.append((name, f"fails: {results.failure(scenario.name, name, pinned)}"))
            continue
        ratio = write_ratio(results, scenario, name, pinned) if SUBJECT in figures else ""
        cells = [
            write_cell(figure, key, column < WITH_SPREAD, figure is not None and figure.median == best[column])
            for column, (figure, key) in enumerate(zip(figures[name], scenario.columns, strict=True))
        ]
        rows.append((name, cells[0], ratio, *cells[1:]))
    first, *others = (METRICS[key].title for key in scenario.columns)
    return write_rows(("contestant", first, f"x {SUBJECT}", *others), rows)


def write_ratio(results: Results, scenario: Scenario, name: str, pinned: bool) -> str:
    """Of the headline to ours, marked where it is undecided; empty where there is none."""
    key = scenario.columns[0]
    theirs, ours = (results.rounds(scenario.name, each, pinned, key) for each in (name, SUBJECT))
    if not theirs or not ours or not statistics.median(ours):
        return ""
    undecided = name != SUBJECT and judge(theirs, ours, METRICS[key].better) is Verdict.UNDECIDED
    return f"{statistics.median(theirs) / statistics.median(ours):.2f}" + (f" {Verdict.UNDECIDED}" if undecided else "")


def write_calls(calls: dict[str, float]) -> str:
    """The most frequent ones, those of less than one in twenty requests left out."""
    shown = ", ".join(f"{name} {count:.3g}" for name, count in calls.items() if count >= 0.05)
    return f"{sum(calls.values()):.3g}: {shown}"


def find_best(figures: list[Spread | None], direction: int) -> float | None:
    medians = [figure.median for figure in figures if figure is not None]
    if not medians or not direction:
        return None
    return max(medians) if direction > 0 else min(medians)


def write_cell(figure: Spread | None, key: str, with_spread: bool, best: bool) -> str:
    if figure is None:
        return "-"
    metric = METRICS[key]
    text = metric.format(figure.median)
    if best:
        text = f"**{text}**"
    if with_spread and figure.least != figure.most:
        text += f" ({metric.format(figure.least)} to {metric.format(figure.most)})"
    return text


def write_rows(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table; short rows are filled up."""
    lines = [heads, tuple("---" for _ in heads), *rows]
    filled = [(*row, *[""] * (len(heads) - len(row))) for row in lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in filled) + "\n"
