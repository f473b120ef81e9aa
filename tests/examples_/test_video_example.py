"""The film of examples/video seeks in a real browser: each jump is a range request, answered with 206."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from browser import browser
from serving import Command, command
from tools import require_tool

ROOT = Path(__file__).parent.parent.parent
SECONDS = 20
JUMPS = (17, 5, 10.5, 18, 0)


def served(running: Command) -> list[tuple[str, str, str]]:
    """(status, Range, outcome) of each request that has ended."""
    return re.findall(r"^film (\S+) (\S+) (\S+)$", running.log, re.MULTILINE)


@pytest.mark.slow
def test_a_video_element_seeks(tmp_path: Path) -> None:
    """RFC 9110 §14.2, from the side of whom it was made for."""
    film = tmp_path / "film.webm"
    make_film: Any = runpy.run_path(str(ROOT / "examples/video/make_film.py"))["make_film"]
    make_film(film, require_tool("ffmpeg"), SECONDS)
    log_format = "film %(s)s %({range}i)s %(outcome)s"
    words = ("-b", "127.0.0.1:0", "--access-logfile", "-", "--access-logformat", log_format, "examples.video.app:app")
    slowly = ("--limit-rate", "600k")  # so that the film is not there as a whole before the first jump
    with command(*words, *slowly, FILM=str(film)) as running:
        with browser() as page:
            page.call("Network.enable")
            page.call("Network.setCacheDisabled", cacheDisabled=True)  # the player's buffer stays
            page.open(running.url + "/")
            page.run("globalThis.film = document.querySelector('video'); 0")
            ready = "new Promise(done => film.readyState >= 2 ? done(0) : film.addEventListener('loadeddata', done))"
            page.run(f"{ready}.then(() => 0)")
            assert page.run("film.duration") == pytest.approx(SECONDS, abs=0.5)
            for second in JUMPS:
                page.run(
                    f"new Promise(done => {{film.addEventListener('seeked', done, {{once: true}});"
                    f"film.currentTime = {second}}}).then(() => 0)"
                )
                assert page.run("film.currentTime") == second
                assert page.run("film.readyState") >= 2  # the picture of this moment is there
            page.run("film.currentTime = 8; film.play()")  # and it plays on from where it was put
            page.run("new Promise(done => {film.ontimeupdate = () => film.currentTime > 8.3 && done(0)})")
            assert page.run("film.error") is None
            assert page.complaints == []
        running.process.terminate()
        assert running.wait() == 0
        requests = [request for request in served(running) if request[1] != "-"]
    assert {status for status, _, _ in requests} == {"206"}, requests
    starts = {int(asked[len("bytes=") :].partition("-")[0]) for _, asked, _ in requests}
    assert 0 in starts
    assert max(starts) > film.stat().st_size / 2, requests  # it skipped what lay between
