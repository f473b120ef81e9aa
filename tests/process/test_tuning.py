"""What a process of ours changes for whoever is served beside an application that computes."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from asking import PLAIN, Environ, StartResponse
from serving import clean_environment, command, serving

APP = """
import sys
{first}
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [repr(sys.getswitchinterval()).encode()]
"""


@pytest.mark.parametrize(("first", "told"), [("", b"0.001"), ("sys.setswitchinterval(0.02)", b"0.02")])
@pytest.mark.parametrize("workers", [0, 1])
def test_who_computes_gives_the_interpreter_away_soon_unless_the_application_says_otherwise(
    tmp_path: Path, workers: int, first: str, told: bytes
) -> None:
    (tmp_path / "tuned.py").write_text(APP.format(first=first))
    with (
        command("tuned:app", "-b", "127.0.0.1:0", cwd=tmp_path, workers=workers) as running,
        urllib.request.urlopen(running.url, timeout=10) as answer,
    ):
        assert answer.read() == told


def hello(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", PLAIN)
    return [b"hello"]


RUNS = """
import gc, resource, signal, sys, threading
import trio_wsgi

def app(environ, start_response): ...

def settings():
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    frozen = gc.get_freeze_count() // 1000  # Python 3.12 has frozen some hundred itself, which is no matter
    return sys.getswitchinterval(), gc.get_threshold(), frozen, files, sys.unraisablehook

resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
before = settings()
for _ in range(2):
    threading.Timer(0.5, signal.raise_signal, [signal.SIGTERM]).start()
    assert trio_wsgi.run(app, bind="127.0.0.1:0") == 0
    assert settings() == before, (settings(), before)
"""


def test_a_program_that_goes_on_after_run_finds_all_as_it_was() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUNS], capture_output=True, text=True, timeout=60, env=clean_environment()
    )
    assert done.returncode == 0, done.stderr


async def test_a_program_that_serves_keeps_its_own_settings() -> None:
    before = sys.getswitchinterval()
    async with serving(hello):
        assert sys.getswitchinterval() == before
