"""python -m bench list: the scenarios, the contestants, and who is here.

Laws:
- It starts no server and makes no file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench.contestants import CONTESTANTS
from bench.roster import find_python, take_roll
from bench.scenarios import SCENARIOS


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench list", description="Scenarios and contestants.")
    parser.add_argument("--venv", type=Path, help="environment of the servers (default: this interpreter's)")
    options = parser.parse_args(arguments)
    try:
        python = find_python(options.venv)
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print("scenarios (* also with --quick, + only with --app or --file):")
    for scenario in SCENARIOS:
        mark = "+" if scenario.own else "*" if scenario.quick else " "
        print(f" {mark} {scenario.name:18} {scenario.title}")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        present, absent = take_roll(CONTESTANTS, python, Path(folder))
    print("\ncontestants:")
    for each in present:
        print(f"   {each.contestant.name:22} {each.version}")
    for name, why in absent.items():
        print(f"   {name:22} absent: {why}")
    return 0
