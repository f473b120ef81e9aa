"""Rules of cpu_affinity (issue 5): which worker gets which CPU, and what the operator is told who asks for another."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from serving import command
from workers import supervised, worker_pids, write_app

from trio_wsgi.cpulist import parse_cpus
from trio_wsgi.errors import ConfigError
from trio_wsgi.process.affinity import check_cpus_available, decide_cpu, pin_worker

HAVE = frozenset({0, 1, 4, 5, 6})


@pytest.mark.parametrize(
    ("setting", "dealt"),
    [
        ("off", [None] * 7),
        ("auto", [0, 1, 4, 5, 6, 0, 1]),  # more workers than CPUs: they share
        ("4-6", [4, 5, 6, 4, 5, 6, 4]),
        ("5,0", [5, 0, 5, 0, 5, 0, 5]),
    ],
)
def test_cpus_are_dealt_out_in_turn(setting: str, dealt: list[int | None]) -> None:
    assert [decide_cpu(setting, slot, HAVE) for slot in range(7)] == dealt


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("2", r"cpu_affinity: CPU 2 is not to be had \(this process may use 0-1,4-6\)"),
        ("0-3", r"CPUs 2-3 are not to be had"),
        ("9,0", r"CPU 9 is not to be had"),  # at once, and not only in the worker whose turn it is
    ],
)
@pytest.mark.parametrize("slot", [0, 1])
def test_cpus_that_are_not_there_are_named(setting: str, told: str, slot: int) -> None:
    with pytest.raises(ConfigError, match=told):
        decide_cpu(setting, slot, HAVE)


PINNED = """
import os, threading
from trio_wsgi.process.affinity import allowed_cpus, check_cpus_available, pin_worker
cpus = sorted(allowed_cpus())
check_cpus_available("auto")
assert sorted(allowed_cpus()) == cpus
pin_worker("auto", len(cpus) + len(cpus) - 1)
seen = []
thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
thread.start()
thread.join()
assert seen == [{cpus[-1]}], seen
"""


def test_a_worker_and_its_threads_are_pinned() -> None:
    """In a process of its own: this one goes on using all CPUs."""
    done = subprocess.run([sys.executable, "-c", PINNED], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


NARROWED = """
import os
from trio_wsgi.process.affinity import pin_worker
last = max(os.sched_getaffinity(0))
os.sched_setaffinity(0, {last})  # as taskset and cpusets do
pin_worker("auto", 0)
pin_worker("auto", 1)
assert os.sched_getaffinity(0) == {last}
if last:
    pin_worker("0", 0)
"""


def test_the_mask_this_process_was_given_is_respected() -> None:
    done = subprocess.run([sys.executable, "-c", NARROWED], capture_output=True, text=True, timeout=30)
    if max(os.sched_getaffinity(0)) == 0:
        assert done.returncode == 0
    else:
        assert "cpu_affinity: CPU 0 is not to be had (this process may use " in done.stderr


def test_where_the_system_cannot_pin_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """macOS has neither call; nothing else changes there."""
    monkeypatch.delattr(os, "sched_getaffinity")
    with caplog.at_level(logging.INFO, "trio_wsgi.error"):
        check_cpus_available("auto")
        pin_worker("auto", 0)
        check_cpus_available("off")
    assert [record.getMessage() for record in caplog.records] == [
        "cpu_affinity: this system cannot pin processes to CPUs; the setting is ignored"
    ]


# -- the command -------------------------------------------------------------------------------------------------------


def cpus_of(task: Path) -> str:
    (found,) = re.findall(r"^Cpus_allowed_list:\s*(\S+)$", (task / "status").read_text(), re.MULTILINE)
    return str(found)


def test_workers_and_all_their_threads_are_pinned_in_turn(tmp_path: Path) -> None:
    write_app(tmp_path)
    cpus = sorted(os.sched_getaffinity(0))
    with supervised(tmp_path, "--cpu-affinity", "auto", workers=2) as run:
        pinned = [{cpus_of(task) for task in Path(f"/proc/{pid}/task").iterdir()} for pid in worker_pids(run)]
        assert sorted(pinned, key=min) == sorted(({str(cpus[slot % len(cpus)])} for slot in range(2)), key=min)
        assert parse_cpus(cpus_of(Path(f"/proc/{run.process.pid}"))) == tuple(
            cpus
        )  # the supervisor goes where it likes


@pytest.mark.parametrize(("workers", "words"), [(0, []), (1, []), (1, ["--check-config"])])
def test_a_cpu_that_is_not_there_ends_the_command_at_once(tmp_path: Path, workers: int, words: list[str]) -> None:
    write_app(tmp_path)
    arguments = ["workers_app:app", "-b", "127.0.0.1:0", "--cpu-affinity", "1023", *words]
    with command(*arguments, cwd=tmp_path, workers=workers, wait=False) as run:
        assert run.wait(30) == 1
        assert re.fullmatch(
            r"trio-wsgi: error: cpu_affinity: CPU 1023 is not to be had \(this process may use \S+\)\n", run.log
        )
