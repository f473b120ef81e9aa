"""The package's README says what really happens: its example is run and its output compared."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_prints_what_it_says() -> None:
    text = (ROOT / "sendfile" / "README.md").read_text()
    code, output = re.findall(r"```(?:python)?\n(.*?)```", text, re.DOTALL)
    assert run("-c", code) == output


def test_the_example_program() -> None:
    lines = run("-c", "import sys, runpy; sys.path.insert(0, '.'); "
                "runpy.run_path('examples/sendfile_download.py', run_name='__main__')").splitlines()  # fmt: skip
    hashes = [line.rpartition(" ")[2] for line in lines if line.startswith(("whole", "slowly"))]
    assert len(hashes) == 2
    assert len(set(hashes)) == 1
