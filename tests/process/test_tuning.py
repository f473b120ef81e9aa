"""What a process of ours changes for whoever is served beside an application that computes."""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path

import pytest
from asking import PLAIN, Environ, StartResponse
from serving import command, serving

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


async def test_a_program_that_serves_keeps_its_own_settings() -> None:
    before = sys.getswitchinterval()
    async with serving(hello):
        assert sys.getswitchinterval() == before
