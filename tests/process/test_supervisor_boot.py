"""Rules of applications that cannot boot: with which code the command ends, and that nothing multiplies (issue 5)."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from serving import Command, command, with_constants
from waiting import wait_until
from workers import ask, end, is_alive, supervised, wait_log, worker_pids, write_app

BROKEN = {
    "raises": "raise ValueError('its own')",
    "exits": "raise SystemExit(0)",
    "dies": "import os; os._exit(7)",
    "imports": "import no_such_dependency",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in BROKEN.items():
        (tmp_path / f"boot_{name}.py").write_text(f"print('importing', flush=True)\n{text}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("app", "code", "told"),
    [
        ("boot_raises:app", 3, "importing 'boot_raises' failed: ValueError: its own"),
        ("boot_exits:app", 3, "importing 'boot_exits' failed: SystemExit: 0"),
        ("boot_dies:app", 3, "it ended while it booted: exit code 7"),
        ("boot_imports:app", 4, "importing 'boot_imports' failed: ModuleNotFoundError"),
        ("boot_raises_not:app", 4, "there is no module 'boot_raises_not'"),
    ],
)
def test_exit_codes_of_applications_that_cannot_boot(folder: Path, app: str, code: int, told: str) -> None:
    """gunicorn's: 3 for a worker that cannot boot, 4 for an application that is not there. The traceback once."""
    with command(app, "-b", "127.0.0.1:0", cwd=folder, workers=2, wait=False) as run:
        assert run.wait(30) == code, run.log
        assert run.log.splitlines()[-1].startswith(f"trio-wsgi: error: {told}")
        assert run.log.count("Traceback") <= 1
        assert run.log.count("importing\n") <= 2  # no worker was started twice


def test_why_it_ends_is_told_before_anything_ends_for_it(folder: Path) -> None:
    """A worker that serves may take long to finish; and the last line that people see says it once more."""
    (folder / "second_fails.py").write_text(
        "import os, time\n"
        "try:\n    os.close(os.open('first', os.O_CREAT | os.O_EXCL))\n"
        "except FileExistsError:\n"
        "    while not os.path.exists('go'): time.sleep(0.01)\n"
        "    raise ValueError('one is enough') from None\n"
        "def app(environ, start_response): ...\n"
    )
    with command("second_fails:app", "-b", "127.0.0.1:0", cwd=folder, workers=2, wait=False) as run:
        wait_log(run, "is ready")
        (folder / "go").touch()
        assert run.wait(30) == 3
        told = [run.log.index(text) for text in ("Traceback", "ValueError: one is enough", "has ended", "stopped")]
        assert told == sorted(told)
        assert run.log.count("Traceback") == run.log.count("has ended") == 1  # who never served is not missed
        assert run.log.splitlines()[-1].endswith("failed: ValueError: one is enough")


def test_why_it_ends_is_in_a_log_of_its_own_and_told_to_who_has_started_it(folder: Path) -> None:
    arguments = ["boot_raises:app", "-b", "127.0.0.1:0", "--log-file", "error.log"]
    with command(*arguments, cwd=folder, workers=1, wait=False) as run:
        assert run.wait(30) == 3
        for log in (run.log, (folder / "error.log").read_text()):
            assert log.count("Traceback") == 1 and "importing 'boot_raises' failed: ValueError: its own" in log


def test_what_the_application_does_at_exit_is_done_though_it_cannot_boot(folder: Path) -> None:
    """A worker that tells why has the supervisor send it a TERM, which is not to cut that off."""
    (folder / "at_exit.py").write_text(
        "import atexit, signal, time\n"
        "atexit.register(print, 'done at exit', flush=True)\n"
        "set_handler = signal.signal\n"
        "def set_slowly(number, handler):\n"
        "    time.sleep(0.1)\n"
        "    return set_handler(number, handler)\n"
        "signal.signal = set_slowly\n"
        "raise ValueError('its own')\n"
    )
    with command("at_exit:app", "-b", "127.0.0.1:0", cwd=folder, workers=1, wait=False) as run:
        assert run.wait(30) == 3
        assert "done at exit" in run.log


@pytest.mark.slow
def test_a_boot_that_hangs_ends_in_exit_3_with_its_stack_in_the_log(folder: Path) -> None:
    (folder / "boot_hangs.py").write_text("import time\nwhile True:\n    time.sleep(1)\n")
    with command(
        "boot_hangs:app", "-b", "127.0.0.1:0", "--boot-timeout", "5", cwd=folder, workers=2, wait=False
    ) as run:
        assert run.wait(40) == 3, run.log
        assert "did not boot within 5 s (boot_timeout): it is killed" in run.log
        assert 'boot_hangs.py", line 3' in run.log
        assert run.log.splitlines()[-1] == "trio-wsgi: error: it did not boot within 5 s (boot_timeout)"


def test_settings_that_only_a_worker_can_find_wrong_end_in_exit_1(folder: Path) -> None:
    write_app(folder)
    arguments = ["-b", "127.0.0.1:0", "--static", "/x=/no/such/directory"]
    with command("workers_app:app", *arguments, cwd=folder, workers=1, wait=False) as run:
        assert run.wait(30) == 1
        assert run.log.splitlines()[-1].startswith("trio-wsgi: error: static: '/x=/no/such/directory'")


@pytest.mark.parametrize("workers", [0, 1])
def test_where_the_system_has_no_thread_to_begin_with_the_end_is_one_line(workers: int, folder: Path) -> None:
    """It says what the operator can do, by exit code 1; a traceback would be for us."""
    (folder / "no_thread.py").write_text(
        "import trio\n"
        'def refuse(*_): raise RuntimeError("can\'t start new thread")\n'
        "trio._threads.start_thread_soon = refuse\n"
        "def app(environ, start_response): ...\n"
    )
    with command("no_thread:app", "-b", "127.0.0.1:0", cwd=folder, workers=workers, wait=False) as run:
        assert run.wait(30) == 1
        assert run.log.splitlines()[-1].startswith("trio-wsgi: error: threads: nothing can be served: no thread can be")
        assert "Traceback" not in run.log


def test_an_address_in_use_is_told_before_anything_boots(folder: Path) -> None:
    write_app(folder)
    with supervised(folder) as run:
        arguments = ["boot_raises:app", "-b", f"127.0.0.1:{run.port}"]
        with command(*arguments, cwd=folder, workers=1, wait=False) as second:
            assert second.wait(30) == 1
            assert "is another server running there, or is it named twice?" in second.log
            assert "importing" not in second.log


# -- after a good start ------------------------------------------------------------------------------------------------


def break_app(folder: Path) -> None:
    (folder / "workers_app.py").write_text("raise ValueError('broken now')\n")


def kill_one(run: Command) -> int:
    victim = min(worker_pids(run))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not is_alive(victim))
    return victim


@pytest.mark.slow
def test_replacements_that_cannot_boot_are_tried_again_while_others_serve(tmp_path: Path) -> None:
    """More and more slowly: that is no fork bomb. The traceback is shown once. When it is mended, they boot."""
    write_app(tmp_path)
    with supervised(tmp_path, workers=2) as run:
        break_app(tmp_path)
        kill_one(run)
        wait_log(run, "cannot boot: ", 3)
        assert ask(run).startswith("one ")
        assert run.log.count("Traceback") == 1
        write_app(tmp_path, "two")
        wait_log(run, "is ready", 3)
        wait_until(lambda: ask(run).startswith("two "))
        assert end(run, signal.SIGTERM) == 0


@pytest.mark.slow
def test_when_nobody_is_left_who_serves_and_none_can_boot_it_exits_3(tmp_path: Path) -> None:
    write_app(tmp_path)
    with supervised(tmp_path, program=with_constants(process_fleet_FIRST_PAUSE=0.01)) as run:
        break_app(tmp_path)
        kill_one(run)
        assert run.wait(60) == 3
        assert run.log.count("worker 1 cannot boot: ") == 5
        assert "no worker is left, and none can boot: giving up" in run.log
        assert run.log.splitlines()[-1] == "trio-wsgi: error: importing 'workers_app' failed: ValueError: broken now"


@pytest.mark.slow
def test_workers_that_die_soon_after_they_have_booted_are_replaced_more_and_more_slowly(tmp_path: Path) -> None:
    (tmp_path / "workers_app.py").write_text(
        "import os, threading\ndef app(environ, start_response): ...\nthreading.Timer(2, os._exit, [9]).start()\n"
    )
    with supervised(tmp_path) as run:
        wait_log(run, "died: exit code 9", 2)
        assert end(run, signal.SIGTERM) == 0
