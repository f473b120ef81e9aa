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


def start_bench(folder: Path, *words: str) -> subprocess.Popen[str]:
    """As a user types it in their own folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_the_application_is_imported_ends_that_import(number: int, tmp_path: Path) -> None:
    """Though nothing is measured yet, it is told in a line, and no interpreter stays behind."""
    (tmp_path / "bench_endless.py").write_text("import time\ntime.sleep(1000)")
    process = start_bench(tmp_path, "--app", "bench_endless:app", "--output", str(tmp_path / "results.json"))
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


def test_an_interrupt_tells_how_to_go_on(tmp_path: Path) -> None:
    """What was found by then is kept, and the page of it is printed."""
    output = tmp_path / "results.json"
    (tmp_path / "mine.bin").write_bytes(bytes(1000))
    words = ["--file", "mine.bin", "--only", "own-file-1", "--contestants", "sendfile-loop", "--rounds", "1000"]
    process = start_bench(tmp_path, *words, "--seconds", "0.2", "--files", "samples", "--output", str(output))
    deadline = time.monotonic() + 60
    while not output.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    page, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted; what was found is kept; to go on: --add, and --only for what is missing\n" in said
    assert "## your file, 1 connection" in page
