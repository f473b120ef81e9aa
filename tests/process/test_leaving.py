"""Rules of the very end: what the application leaves running has `graceful_timeout`, and no more, without workers, too.

Python itself waits at its exit for threads that are no daemons, and for what was registered with atexit, for ever.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from serving import Command, command

APP = "def app(environ, start_response): ...\n"
THREAD = "import threading\nthreading.Thread(target=threading.Event().wait, name='poller').start()\n"
AT_EXIT = "import atexit, time\natexit.register(time.sleep, 60)\n"
IN_TIME = (
    "import threading, time\n"
    "def save():\n"
    "    threading.main_thread().join()\n"
    "    print('saved', flush=True)\n"
    "threading.Thread(target=save).start()\n"
)
TOLD = "application's thread 'poller' did not end within 0.1 s (graceful_timeout): leaving it\n"


def end(run: Command) -> int:
    run.send_signal(signal.SIGTERM)
    return run.wait()


@pytest.mark.parametrize(
    ("leaving", "told"),
    [(THREAD, TOLD), (AT_EXIT, "what the application does at exit did not end within 0.1 s (graceful_timeout)")],
    ids=["a thread", "atexit"],
)
def test_who_serves_without_workers_ends_after_graceful_timeout(tmp_path: Path, leaving: str, told: str) -> None:
    (tmp_path / "leaving_app.py").write_text(leaving + APP)
    with command("-b", "127.0.0.1:0", "--graceful-timeout", "0.1", "leaving_app:app", cwd=tmp_path) as run:
        assert end(run) == 0
        assert run.log.count(told) == 1


@pytest.mark.parametrize(
    ("words", "code"), [(["--check-config", "leaving_app:app"], 0), (["leaving_app:no_app"], 4)], ids=["check", "wrong"]
)
def test_who_never_serves_ends_as_well(tmp_path: Path, words: list[str], code: int) -> None:
    """With the code that it would have had."""
    (tmp_path / "leaving_app.py").write_text(THREAD + APP)
    with command("-b", "127.0.0.1:0", "--graceful-timeout", "0.1", *words, cwd=tmp_path, wait=False) as run:
        assert run.wait() == code
        assert run.log.count(TOLD) == 1


@pytest.mark.parametrize("patience", ["5", "9999999999999999999999999d", "none"])
def test_what_ends_in_time_is_waited_for(tmp_path: Path, patience: str) -> None:
    (tmp_path / "leaving_app.py").write_text(IN_TIME + APP)
    with command("-b", "127.0.0.1:0", "--graceful-timeout", patience, "leaving_app:app", cwd=tmp_path) as run:
        assert end(run) == 0
        assert "saved\n" in run.log
        assert "leaving it" not in run.log
        assert "Traceback" not in run.log  # of a wait that is longer than a clock can count
