"""An application that has gevent or eventlet replace modules of Python's is refused, and told what to take out."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from serving import clean_environment, command

SOURCE = """
{patch}
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""
# Its records alone, as 0.41 keeps them: its makers advise against it, and importing it warns.
EVENTLET = "already_patched = {'socket': True}\ndef monkey_patch(): already_patched['thread'] = True\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "eventlet").mkdir()
    (tmp_path / "eventlet" / "__init__.py").write_text("from .patcher import monkey_patch\n")
    (tmp_path / "eventlet" / "patcher.py").write_text(EVENTLET)
    return tmp_path


def run_to_the_end(site: Path, *words: str) -> tuple[int, list[str]]:
    """Exit code, and the lines of the log that are more than information."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=site,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
    )
    return done.returncode, [line for line in done.stdout.splitlines() if "[INFO]" not in line]


REFUSED = [
    # The first cannot even be imported in whole: it waits for locks that are no more.
    ("from gevent import monkey; monkey.patch_all()", "gevent", "threading", "monkey.patch_all()"),
    ("from gevent import monkey; monkey.patch_thread()", "gevent", "threading", "monkey.patch_all()"),
    ("from gevent import monkey; monkey.patch_select()", "gevent", "select", "monkey.patch_all()"),
    ("from gevent import monkey; monkey.patch_queue()", "gevent", "queue", "monkey.patch_all()"),
    ("import eventlet; eventlet.monkey_patch()", "eventlet", "thread", "eventlet.monkey_patch()"),
]


@pytest.mark.parametrize(
    ("patch", "library", "replaced", "call", "workers"),
    [(*each, 0) for each in REFUSED] + [(*each, 1) for each in (REFUSED[0], REFUSED[-1])],
)
def test_a_patch_that_nothing_works_with_is_refused_in_one_line(
    patch: str, library: str, replaced: str, call: str, workers: int, site: Path
) -> None:
    """Each of them ended in a traceback of Trio's or of Python's imports, or in requests that nobody answered."""
    (site / "patched.py").write_text(SOURCE.format(patch=patch))
    code, lines = run_to_the_end(site, "-m", "trio_wsgi", "-b", "127.0.0.1:0", "--workers", str(workers), "patched:app")
    assert code == 4
    assert len(lines) == 1 + workers  # and first in the log, where there is a supervisor whose workers end for it
    assert lines[-1].startswith(f"trio-wsgi: error: {library} has replaced Python's ")
    for line in lines:
        assert replaced in line and f"remove {call} from the application" in line


def test_a_script_is_told_as_well(site: Path) -> None:
    """What `run()` is given was loaded before."""
    (site / "script.py").write_text(
        SOURCE.format(patch="import eventlet; eventlet.monkey_patch()")
        + "import trio_wsgi; trio_wsgi.run(app, bind='127.0.0.1:0')\n"
    )
    code, lines = run_to_the_end(site, "script.py")
    assert code == 1 and "AppLoadError: eventlet has replaced Python's thread, which" in lines[-1]


@pytest.mark.parametrize("patch", ["socket", "time", "ssl", "subprocess"])
def test_a_patch_that_harms_nothing_is_let_pass(patch: str, site: Path) -> None:
    """Who was served with it is not refused for its sake."""
    (site / "patched.py").write_text(SOURCE.format(patch=f"from gevent import monkey; monkey.patch_{patch}()"))
    with (
        command("patched:app", "-b", "127.0.0.1:0", cwd=site) as run,
        urllib.request.urlopen(run.url, timeout=10) as answer,
    ):
        assert answer.read() == b"hello"
