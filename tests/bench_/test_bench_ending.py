"""The bench is interrupted: nothing goes on running, and what to do next is told."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.client import ROOT
from bench.proc import find_tree


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_the_application_is_imported_ends_that_import(number: int, tmp_path: Path) -> None:
    """Though nothing is measured yet, it is told in a line, and no interpreter stays behind."""
    (tmp_path / "bench_endless.py").write_text("import time\ntime.sleep(1000)")
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "--app", "bench_endless:app", "--output", str(tmp_path / "results.json")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not (importing := find_tree(process.pid)[1:]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    try:
        assert process.communicate(timeout=30) == ("", "interrupted: nothing was measured\n")
        assert process.returncode == 130
        assert find_tree(importing[0]) == []
    finally:
        for pid in importing:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
