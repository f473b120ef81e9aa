"""The run itself: rounds of bouts, one server at a time.

Laws:
- Each scenario goes round by round, and each round asks everybody: what changes on the machine with time changes
  for all. Each round begins with another contestant.
- What a second shows is looked at for a second, and more often, in the time that its rounds would take: the noise of
  one window is not that of the next, and many short ones tell more of it than a few long ones.
- A server is started for a bout and ended after it; nothing runs beside it but its clients.
- A failure is a finding. Only an interrupt ends the run, and what was found by then is kept.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.asking import BY_DEFAULT, Asking
from bench.bout import Bout
from bench.client import Failed
from bench.metrics import METRICS
from bench.results import Finding
from bench.roster import Present
from bench.samples import COLD, Samples
from bench.scenario import Scenario
from bench.server import Setting, open_server
from bench.trace import Trace

BRIEF = 1.0  # seconds of the window of a brief scenario: the shortest that wrk knows
AROUND = 0.6  # seconds of a bout besides its window, mostly: to start a server, check and end it
LOG_PATIENCE = 2.0  # seconds for the last words of a server that has failed and lives
APP = "bench.app:app"  # which answers what all scenarios ask for but those of a user's application
TRACED = {"small", "files", "ranges", "tls", "streams", "uploads", "own"}  # whose cost is that of requests


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    scenarios: Sequence[Scenario]
    present: Sequence[Present]
    rounds: int
    seconds: float  # of each window; of both, brief scenarios make more and shorter ones
    pin: bool = False  # run everybody once more, on one core
    trace: bool = False  # count system calls in a bout more


@dataclass(frozen=True, slots=True)
class Ground:
    """What all bouts have in common."""

    python: str
    app: str  # the user's own, if there is one
    threads: int
    samples: Samples
    certificate: tuple[Path, Path] | None
    own: tuple[str, str] = ("", "")
    asking: Asking = BY_DEFAULT  # how the user's application is asked


@dataclass(frozen=True, slots=True)
class Turn:
    """One bout that is to come."""

    scenario: Scenario
    present: Present
    pinned: bool
    round: int  # 0: its system calls are counted


class Pace(NamedTuple):
    """How a scenario is measured."""

    rounds: int
    seconds: float  # of each window


def choose_pace(plan: Plan, scenario: Scenario) -> Pace:
    """As was asked for; of a brief scenario as many short rounds as there is time for, where these are more."""
    rounds = int(plan.rounds * (plan.seconds + AROUND) / (BRIEF + AROUND))
    return Pace(rounds, BRIEF) if scenario.brief and rounds > plan.rounds else Pace(plan.rounds, plan.seconds)


def list_turns(plan: Plan) -> list[Turn]:
    """All bouts, in their order."""
    traced = [
        Turn(scenario, present, False, 0)
        for scenario in plan.scenarios
        for present in plan.present
        if plan.trace and is_traced(scenario) and scenario.admits(present.contestant)
    ]
    return traced + [
        Turn(scenario, present, pinned, number + 1)
        for scenario in plan.scenarios
        for pinned in ((False, True) if plan.pin else (False,))
        for number in range(choose_pace(plan, scenario).rounds)
        for present in rotate([each for each in plan.present if scenario.admits(each.contestant)], number)
    ]


def is_traced(scenario: Scenario) -> bool:
    """Whether `--strace` counts its calls; a crowd's are those of time that goes by, and of no requests."""
    return scenario.tag in TRACED and not scenario.connections


def rotate(items: list[Present], by: int) -> list[Present]:
    by %= len(items) or 1
    return items[by:] + items[:by]


def run(plan: Plan, ground: Ground, tell: Callable[[str], None]) -> Iterator[Finding]:
    """Run the plan, bout by bout, telling each as a line of text."""
    turns = list_turns(plan)
    wanted = dict.fromkeys(sample for turn in turns for sample in turn.scenario.samples)
    for sample in wanted:
        if not ground.samples.has(sample):
            tell(f"making the sample {sample} in {ground.samples.folder}")
        ground.samples.path(sample)  # making them is nobody's time
    with ground.samples.hold(sample for sample in wanted if sample not in COLD):
        began = time.monotonic()
        for number, turn in enumerate(turns):
            finding = run_bout(turn, ground, choose_pace(plan, turn.scenario).seconds)
            took = time.monotonic() - began
            left = took / (number + 1) * (len(turns) - number - 1)
            tell(f"[{number + 1:4}/{len(turns)}, {left / 60:3.0f} min left] {describe(finding, turn.scenario)}")
            yield finding


def describe(finding: Finding, scenario: Scenario) -> str:
    who = f"{finding.scenario:16} {finding.contestant + (' (pinned)' if finding.pinned else ''):22} "
    if finding.failure:
        return who + "FAILED: " + finding.failure
    if finding.calls:
        return who + f"{sum(finding.calls.values()):.1f} system calls per request"
    shown = [key for key in scenario.columns if key in finding.figures][:3]
    return who + ", ".join(f"{METRICS[key].title} {METRICS[key].format(finding.figures[key])}" for key in shown)


def run_bout(turn: Turn, ground: Ground, seconds: float) -> Finding:
    """Measure a contestant in a scenario, whatever comes of it."""
    began = time.monotonic()
    figures: dict[str, float] = {}
    failure = ""
    trace = None if turn.round else Trace()
    try:
        figures = measure_turn(turn, ground, seconds, trace)
    except Failed as reason:
        failure = str(reason)
    except (OSError, http.client.HTTPException, subprocess.SubprocessError) as error:
        failure = f"{type(error).__name__}: {error}"
    calls, requests = (trace.calls if trace else {}), figures.get("requests")
    return Finding(
        turn.scenario.name,
        turn.present.contestant.name,
        turn.pinned,
        turn.round,
        figures if trace is None else {},
        failure,
        time.monotonic() - began,
        {name: count / requests for name, count in calls.items()} if requests else {},
    )


def measure_turn(turn: Turn, ground: Ground, seconds: float, trace: Trace | None) -> dict[str, float]:
    """Start a server, measure it, end it.

    Args:
        seconds: of each window.
        trace: count system calls into it.

    Raises:
        Failed: it did not do what the scenario asks of it.
        OSError, HTTPException, SubprocessError: nor did it say so.
    """
    scenario, contestant = turn.scenario, turn.present.contestant
    if scenario.tls and ground.certificate is None:
        raise Failed("not tried: no openssl to make a certificate with")
    server_core, client_cores = choose_cores() if turn.pinned else ("", "")
    setting = Setting(
        ground.python,
        turn.present.program,
        ground.app if scenario.own == "app" else APP,
        ground.samples.folder,
        prefix=run_on(server_core),
        threads=ground.threads,
        static=scenario.static,
        certificate=ground.certificate if scenario.tls else None,
    )
    with open_server(contestant, setting) as server:
        bout = Bout(
            contestant,
            server,
            ground.samples,
            seconds,
            verify=turn.round == 1,
            tls=scenario.tls,
            client_prefix=run_on(client_cores),
            own=ground.own,
            asking=ground.asking if scenario.own == "app" else BY_DEFAULT,
            trace=trace,
        )
        said = server.wait_silent() if scenario.own == "app" else 0
        try:
            measured = scenario.measure(bout)
            server.check_alive()
        except Failed as reason:
            if scenario.own != "app":
                raise
            words = server.last_line(said, LOG_PATIENCE)  # the user's application may say what is wrong with it
            if not words or words in str(reason):
                raise
            raise Failed(f"{reason}; its last words: {words}") from None
    figures = {key: value for key, value in measured.items() if value is not None}
    if trace is not None and not figures.get("requests"):
        raise Failed("no request came to its end while its system calls were counted")
    return figures


def choose_cores() -> tuple[str, str]:
    """The core for a pinned server, and those for its clients: the last one, and the others if there are any."""
    *others, last = sorted(os.sched_getaffinity(0))
    return str(last), ",".join(map(str, others))


def run_on(cores: str) -> tuple[str, ...]:
    """What to put before a command for it to run on these cores; nothing where it may run on all."""
    return ("taskset", "--cpu-list", cores) if cores else ()


def tell_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
