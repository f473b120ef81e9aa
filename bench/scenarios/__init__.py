"""The scenarios, in the order in which they run and are reported."""

from __future__ import annotations

from bench.scenario import Scenario
from bench.scenarios import files, slow, small

SCENARIOS: tuple[Scenario, ...] = (*small.SCENARIOS, *files.SCENARIOS, *slow.SCENARIOS)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
