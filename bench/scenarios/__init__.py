"""The scenarios, in the order in which they run and are reported."""

from __future__ import annotations

from bench.scenario import Scenario
from bench.scenarios import busy, cold, files, own, ranges, restart, slow, small, streams, tls, uploads

SCENARIOS: tuple[Scenario, ...] = tuple(
    scenario
    for module in (small, files, busy, ranges, tls, slow, cold, streams, uploads, restart, own)
    for scenario in module.SCENARIOS
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
