"""A served directory that is removed and made anew while the server runs, as many builds do it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from answers import Answer, read_answer
from asking import request
from opened import descriptors_of
from serving import Served, serving
from threeways import three_settings, three_ways

TARGETS = ("/static/f.txt", "/named/f.txt", "/static/", "/static/sub/", "/static/listed/")


def build(site: Path, content: bytes) -> None:
    """Make the directory anew, with something in it for each of the targets."""
    shutil.rmtree(site, ignore_errors=True)
    for directory in (site, site / "sub", site / "listed"):
        directory.mkdir()
        (directory / "index.html").write_bytes(content)
    (site / "listed" / "index.html").rename(site / "listed" / content.decode())
    (site / "f.txt").write_bytes(content)


async def ask(served: Served, target: str) -> Answer:
    return read_answer(await served.exchange(request("GET", target)))


@pytest.mark.parametrize("target", TARGETS)
async def test_what_is_there_now_is_served(target: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also a root's index, which is looked for before its entries. The number of its descriptor stays, for others."""
    caplog.set_level(logging.INFO, "trio_wsgi.error")
    site = tmp_path / "dist"
    build(site, b"old")
    async with serving(three_ways(site), static_listing=True, **three_settings(site)) as served:
        assert b"old" in (await ask(served, target)).body
        numbers = descriptors_of(site)
        assert len(numbers) == 2
        for content in (b"new", b"newer"):
            caplog.clear()
            build(site, content)
            for _ in range(2):
                answer = await ask(served, target)
                assert (answer.status, content in answer.body) == (200, True)
            (line,) = [line.getMessage() for line in caplog.records if line.name == "trio_wsgi.error"]
            assert line.startswith(f"{site} ")
            assert descriptors_of(site) == numbers


async def test_an_empty_root_that_is_gone_shows_what_is_there_now(tmp_path: Path) -> None:
    """A directory that was removed looks empty."""
    site = tmp_path / "dist"
    build(site, b"old")
    async with serving(three_ways(site), static_listing=True, **three_settings(site)) as served:
        shutil.rmtree(site)
        site.mkdir()
        (site / "only.txt").touch()
        assert b"only.txt" in (await ask(served, "/static/")).body


async def test_nothing_is_there_until_it_is_made(tmp_path: Path) -> None:
    """Nor where it is something else by now."""
    site = tmp_path / "dist"
    build(site, b"old")
    async with serving(three_ways(site), **three_settings(site)) as served:
        shutil.rmtree(site)
        for target in TARGETS:
            assert (await ask(served, target)).status == 404
        site.touch()
        for target in TARGETS:
            assert (await ask(served, target)).status == 404
        site.unlink()
        build(site, b"new")
        for target in TARGETS[:-1]:
            assert (await ask(served, target)).status == 200
