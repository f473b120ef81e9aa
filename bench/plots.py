"""python -m bench plots RESULTS.json FOLDER: the results as pictures, one for each scenario and one of growth.

Laws:
- Bars are medians, whiskers the least and the most of the rounds; who failed has no bar and its reason instead.
- Growth is shown on logarithmic scales, where what grows in proportion is a straight line at 45°.
- Ours is the one in colour; below the bars stands which colour is whose.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.contestants import find_group
from bench.metrics import METRICS
from bench.report import list_scenarios, name_plot
from bench.results import Results, load_results
from bench.scenario import Scenario

COLOURS = {
    "ours": "#c2410c",
    "python": "#64748b",
    "native": "#94a3b8",
    "file server": "#0f766e",
    "yardstick": "#d4d4d8",
    "former": "#d4d4d8",
}
FAMILIES = {"slow": "slow readers", "idle": "idle connections"}
GROWTH = ("memory", "cpu_share", "good_p99")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench plots", description="Results as pictures.")
    parser.add_argument("results", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--format", default="svg", choices=("svg", "png"))
    options = parser.parse_args(arguments)
    try:
        results = load_results(options.results)
        if options.folder.exists() and not options.folder.is_dir():
            raise ValueError(f"{options.folder} is no folder; name one for the pictures")
        options.folder.mkdir(parents=True, exist_ok=True)
        draw_all(results, options.folder, options.format)
    except (OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def draw_all(results: Results, folder: Path, ending: str) -> None:
    mpl.rcParams["svg.hashsalt"] = "bench"  # the same results make the same file
    for scenario in list_scenarios(results):
        for pinned in (False, True):
            if any(results.select(scenario.name, name, pinned) for name in results.versions):
                path = folder / f"{name_plot(scenario, pinned)}.{ending}"
                save(draw_bars(results, scenario, pinned), path)
    for tag, title in FAMILIES.items():
        figure = draw_growth(results, tag, title)
        if figure is not None:
            save(figure, folder / f"growth-{tag}.{ending}")


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, bbox_inches="tight", dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)


def draw_bars(results: Results, scenario: Scenario, pinned: bool) -> Figure:
    """The first two figures of a scenario, a bar for each contestant, side by side."""
    names = [name for name in results.versions if results.select(scenario.name, name, pinned)]
    keys = scenario.columns[:2]
    figure = Figure(figsize=(11, 0.8 + 0.32 * len(names)))
    axes = figure.subplots(1, len(keys), sharey=True)
    for axis, key in zip(axes, keys, strict=True):
        for row, name in enumerate(names):
            draw_bar(axis, row, results, scenario, name, pinned, key)
        better = {1: ", more is better", -1: ", less is better", 0: ""}[METRICS[key].better]
        axis.set_title(METRICS[key].title + better, fontsize=9, loc="left")
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.tick_params(axis="x", labelsize=8)  # six digits have room
        axis.margins(x=0.2)
        axis.set_xlim(left=0)
        axis.set_ylim(len(names) - 0.5, -0.5)  # the first on top, and room for who has no bar
        if not axis.patches:
            axis.set_xticks([])  # all have failed: a scale of nothing
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(scenario.title + (", pinned to one core" if pinned else ""), x=0.02, ha="left", fontsize=11)
    figure.tight_layout()
    explain_colours(figure, names)
    return figure


def explain_colours(figure: Figure, names: Sequence[str]) -> None:
    """Below the bars: the kinds of contestants, as the report calls them, and their colours."""
    groups = dict.fromkeys(map(find_group, names))
    handles = [Patch(color=COLOURS[group], label=group) for group in groups]
    figure.legend(
        handles=handles,
        ncols=len(handles),
        fontsize=7,
        frameon=False,
        loc="upper right",
        borderaxespad=0.0,
        bbox_to_anchor=(1.0, 0.0),
    )


def draw_bar(axis: Axes, row: int, results: Results, scenario: Scenario, name: str, pinned: bool, key: str) -> None:
    """What one contestant did, or why it did not."""
    metric = METRICS[key]
    found = results.figure(scenario.name, name, pinned, key)
    failure = results.failure(scenario.name, name, pinned)
    if failure or found is None:
        text = "fails: " + failure[:48] if failure else "no figure"
        axis.text(0, row, " " + text, va="center", fontsize=7, color="#71717a")
        return
    value, least, most = (part * metric.scale for part in found)
    axis.barh(row, value, color=COLOURS[find_group(name)], height=0.7)
    if most > least:
        axis.plot((least, most), (row, row), color="black", linewidth=1)
    axis.text(most, row, " " + metric.format(found.median), va="center", fontsize=8)


def draw_growth(results: Results, tag: str, title: str) -> Figure | None:
    """Memory, CPU and the good client's p99 against the number of connections; None with fewer than two numbers."""
    family = [scenario for scenario in list_scenarios(results) if scenario.tag == tag and scenario.connections]
    if len(family) < 2:
        return None
    figure = Figure(figsize=(13, 4.4))
    axes = figure.subplots(1, len(GROWTH))
    for axis, key in zip(axes, GROWTH, strict=True):
        for name in results.versions:
            draw_line(axis, results, family, name, key)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel(title)
        axis.set_title(METRICS[key].title, fontsize=9, loc="left")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    return figure


def draw_line(axis: Axes, results: Results, family: Sequence[Scenario], name: str, key: str) -> None:
    """A figure of one contestant over the scenarios of a family in which it did not fail."""
    points = [
        (count.median, found.median * METRICS[key].scale)
        for scenario in family
        if not results.failure(scenario.name, name, False)
        and (count := results.figure(scenario.name, name, False, "connections"))
        and (found := results.figure(scenario.name, name, False, key))
    ]
    if points:
        ours = find_group(name) == "ours"
        axis.plot(
            *zip(*points, strict=True),
            marker="o",
            markersize=4,
            label=name,
            linewidth=2.5 if ours else 1.2,
            color=COLOURS["ours"] if ours else None,
            zorder=3 if ours else 2,
        )
