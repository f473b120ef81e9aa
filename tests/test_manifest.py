"""What a source distribution has of the project: all of it, as README.md leads to it and its tests run on it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GIVEN = {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"}
"""What setuptools takes in any case."""


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git tells what the project is")
def test_the_manifest_names_all_that_is_kept() -> None:
    """Every folder and every file beside them."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    kept = {line.partition("/")[0] for line in listed.splitlines()}
    commands = [line.split() for line in (ROOT / "MANIFEST.in").read_text().splitlines()]
    named = {name for command in commands if command[0] in ("include", "graft") for name in command[1:]}
    assert kept - named == GIVEN
