"""What a run has found, as JSON: where it ran, who took part, and every bout of every round.

Laws:
- Nothing is summed up in the file: medians and spreads are the report's, from the bouts.
- A failed bout has a reason and no figures.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import Spread, spread

FORMAT = 1
BRIEF = "brief scenarios"  # how they are measured, among the settings
MAY_DIFFER = {
    *("date", "kernel", "memory", "load average before", "descriptors"),
    *("rounds", "seconds of each measurement", BRIEF),
}
Key = tuple[str, str, bool]  # scenario, contestant, whether pinned


@dataclass(frozen=True, slots=True)
class Finding:
    """One bout's outcome."""

    scenario: str
    contestant: str
    pinned: bool
    round: int  # from 1; 0: a traced bout
    figures: dict[str, float] = field(default_factory=dict)
    failure: str = ""
    took: float = 0.0  # seconds, start of the server included
    calls: dict[str, float] = field(default_factory=dict)  # system calls per request, by name, of a traced bout

    @property
    def key(self) -> Key:
        return self.scenario, self.contestant, self.pinned


@dataclass(slots=True)
class Results:
    """A run.

    Attributes:
        machine: what `machine.py` has found out, by title.
        settings: of the run, by title.
        versions: of the contestants that took part, by name.
        absent: why the others did not, by name.
    """

    machine: dict[str, str]
    settings: dict[str, str]
    versions: dict[str, str]
    absent: dict[str, str]
    findings: list[Finding] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write it whole, so that a reader never sees half of it."""
        unfinished = path.with_name(path.name + ".new")
        unfinished.write_text(json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n", encoding="utf-8")
        unfinished.rename(path)

    def tell_difference(self, earlier: Results | None) -> str:
        """What an earlier run had otherwise, so that its figures cannot stand beside ours; else ""."""
        before, now = (each.machine | each.settings if each else {} for each in (earlier, self))
        for title, fact in before.items():
            if title not in MAY_DIFFER and now.get(title, fact) != fact:
                return f"{title} {fact}, and this run {now[title]}"
        return ""

    def keep(self, earlier: Results) -> set[Key]:
        """Take over what an earlier run on this machine has found.

        Returns:
            what of it is there, until this run has measured it anew (`add`).
        """
        both = {
            title: ", ".join(sorted({*earlier.settings.get(title, value).split(", "), value}))
            for title, value in self.settings.items()
            if title in MAY_DIFFER
        }
        self.settings = earlier.settings | self.settings | both
        self.versions = earlier.versions | self.versions
        self.absent = {name: why for name, why in (earlier.absent | self.absent).items() if name not in self.versions}
        self.findings += earlier.findings
        return {each.key for each in earlier.findings}

    def add(self, finding: Finding, earlier: set[Key]) -> None:
        """Note what was found; the first of its kind takes the place of what an `earlier` run had."""
        if finding.key in earlier:
            earlier.remove(finding.key)
            self.findings = [each for each in self.findings if each.key != finding.key]
        self.findings.append(finding)

    def select(self, scenario: str, contestant: str, pinned: bool) -> list[Finding]:
        """The rounds of one contestant in one scenario."""
        return [each for each in self.findings if each.round and each.key == (scenario, contestant, pinned)]

    def calls(self, scenario: str) -> dict[str, dict[str, float]]:
        """System calls per request, by contestant and name, the most frequent first, where they were traced."""
        traced = [each for each in self.findings if each.scenario == scenario and each.calls]
        return {each.contestant: dict(sorted(each.calls.items(), key=lambda call: -call[1])) for each in traced}

    def rounds(self, scenario: str, contestant: str, pinned: bool, metric: str) -> list[float]:
        """A metric in each of the rounds that did not fail."""
        found = self.select(scenario, contestant, pinned)
        return [each.figures[metric] for each in found if metric in each.figures]

    def figure(self, scenario: str, contestant: str, pinned: bool, metric: str) -> Spread | None:
        """A metric over the rounds that did not fail; None where there is none."""
        return spread(self.rounds(scenario, contestant, pinned, metric))

    def failure(self, scenario: str, contestant: str, pinned: bool) -> str:
        """Why it failed, if it did in any round: the first reason, with the number of rounds."""
        found = self.select(scenario, contestant, pinned)
        reasons = [each.failure for each in found if each.failure]
        if not reasons:
            return ""
        return reasons[0] if len(reasons) == len(found) else f"{len(reasons)} of {len(found)} rounds: {reasons[0]}"


def check_types(results: Results) -> None:
    """Raises TypeError where facts are no texts, or figures no numbers."""
    facts = (results.machine | results.settings | results.versions | results.absent).values()
    figures = (value for each in results.findings for value in [*each.figures.values(), *each.calls.values()])
    if not all(isinstance(fact, str) for fact in facts) or not all(isinstance(one, int | float) for one in figures):
        raise TypeError("a fact or a figure of another kind")


def load_results(path: Path) -> Results:
    """Read what `save` has written.

    Raises:
        ValueError: it is no such file, or of another version of the bench.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        written = int(data.pop("format"))
        if written == FORMAT:
            return build_results(data)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a results file of this bench") from error
    raise ValueError(
        f"{path} has format {written}, and this bench reads format {FORMAT}: take the version that wrote it, "
        "or measure anew"
    )


def build_results(data: dict[str, Any]) -> Results:
    """What stands in a file.

    Raises:
        LookupError, TypeError, AttributeError: it is something else.
    """
    findings: Iterable[dict[str, object]] = data.pop("findings")
    results = Results(**data, findings=[Finding(**each) for each in findings])  # type: ignore[arg-type]
    check_types(results)
    return results
