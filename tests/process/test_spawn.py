"""Rules of how a worker's process is started: by which program, and with what of its supervisor's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from serving import clean_environment, command

FROZEN = """
import runpy, sys
sys.frozen = True
runpy.run_module("trio_wsgi", run_name="__main__", alter_sys=True)
"""
BARE = """
import os, runpy
os.devnull = "/missing/null"
runpy.run_module("trio_wsgi", run_name="__main__", alter_sys=True)
"""
APP = "def app(environ, start_response): ...\n"


def run_python(folder: Path, *words: str, redirections: str = "") -> subprocess.CompletedProcess[str]:
    """Python, as a shell starts it with these redirections; it is to end by itself."""
    return subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {redirections}', sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=folder,
        env=clean_environment(),
    )


@pytest.mark.parametrize("word", ["--check-config", "--no-reload"])
def test_a_frozen_program_has_no_workers(word: str, tmp_path: Path) -> None:
    """It would start itself as its worker, and that itself as its own, without end."""
    (tmp_path / "spawned.py").write_text(APP)
    done = run_python(tmp_path, "-c", FROZEN, word, "-b", "127.0.0.1:0", "-w", "2", "spawned:app")
    assert done.returncode == 1
    assert done.stderr.startswith("trio-wsgi: error: workers: 2: ")
    assert done.stderr.endswith("(write --workers 0)\n")
    assert done.stderr.count("\n") == 1
    assert run_python(tmp_path, "-c", FROZEN, "--check-config", "-w", "0", "spawned:app").returncode == 0


NOWHERE = """
import runpy, sys
sys.executable = ""
runpy.run_module("trio_wsgi", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("word", ["--check-config", "--no-reload"])
def test_a_python_that_does_not_know_where_it_is_has_no_workers(word: str, tmp_path: Path) -> None:
    """As where it was started by a bare name, and without PATH: nothing says what a worker is to be started by."""
    (tmp_path / "spawned.py").write_text(APP)
    done = run_python(tmp_path, "-c", NOWHERE, word, "-b", "127.0.0.1:0", "-w", "1", "spawned:app")
    assert done.returncode == 1
    assert done.stderr.startswith("trio-wsgi: error: workers: 1: ")
    assert done.stderr.endswith("(start it by its full path, or set PATH)\n")
    assert done.stderr.count("\n") == 1
    assert run_python(tmp_path, "-c", NOWHERE, "--check-config", "-w", "0", "spawned:app").returncode == 0


PLACED = """
import pathlib, runpy, sys
sys.path[:0] = [pathlib.Path("/a/path"), {folder!r}, ""]
runpy.run_module("trio_wsgi", run_name="__main__", alter_sys=True)
"""


def test_a_worker_has_the_import_path_of_its_supervisor(tmp_path: Path) -> None:
    """Also an entry with a colon; one that is no text, as some sitecustomize adds, says nothing to Python either."""
    folder = tmp_path / "a:b\u00fc"
    folder.mkdir()
    (folder / "spawned.py").write_text(f"import sys\n{APP}print('PATH', 'b\u00fc' in repr(sys.path), '' in sys.path)\n")
    program = ("-c", PLACED.format(folder=str(folder)))
    with command("spawned:app", "-b", "127.0.0.1:0", cwd=tmp_path, workers=1, program=program) as run:
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 0
        assert "PATH True True" in run.log


SHOWS = """
import _imp, sys
def app(environ, start_response): ...
print(sorted(sys._xoptions.items()), sys.__stdout__.write_through, sys.flags, sys.warnoptions)
print(_imp.check_hash_based_pycs)
"""
FLAGS = {
    "none": [],
    "unbuffered": ["-u"],
    "hash-based": ["--check-hash-based-pycs", "always"],
    "options": [f"-X{each}" for each in ("int_max_str_digits=640", "pycache_prefix=/tmp/a b", "no_debug_ranges")],
    "all kinds": ["-Xwarn_default_encoding", "-Xdev", "-bb", "-Xutf8=1", "-OuB", "-Werror::ImportWarning", "-q"],
}


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS.keys())
def test_a_worker_has_the_flags_of_its_supervisor(flags: list[str], tmp_path: Path) -> None:
    """As without a worker; `--user` is `-u`, too, but not Python's."""
    (tmp_path / "shows.py").write_text(SHOWS)
    program = (*flags, "-m", "trio_wsgi")
    shown = []
    for workers in (0, 1):
        words = ("-u", str(os.getuid()), "-b", "127.0.0.1:0", "shows:app")
        with command(*words, cwd=tmp_path, workers=workers, program=program, PYTHONUNBUFFERED="") as run:
            run.send_signal(signal.SIGTERM)
            assert run.wait(30) == 0
            shown += re.findall(r".*sys\.flags.*\n.*\n", run.log)
    here, there = shown
    assert here.replace("safe_path=False", "safe_path=True") == there


def test_a_missing_dev_null_is_named(tmp_path: Path) -> None:
    """As in a container or a chroot that has none: workers read from it, and what is closed is open to it."""
    (tmp_path / "spawned.py").write_text(APP)
    words = ("-c", BARE, "-b", "127.0.0.1:0", "-w", "1", "spawned:app")
    done = run_python(tmp_path, *words)
    assert done.returncode == 3
    assert "it cannot be started: [Errno 2] No such file or directory: '/missing/null'\n" in done.stderr
    done = run_python(tmp_path, *words, redirections="<&-")
    assert done.returncode == 1
    assert done.stderr.startswith("trio-wsgi: error: /missing/null: it cannot be opened in place of a standard stream")
    assert done.stderr.count("\n") == 1
