"""A served directory that is removed and made anew while the server runs, as many builds do it."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mounted import ask
from opened import descriptors_of
from threeways import WAYS, serving_three

from trio_wsgi.disk import filesystem
from trio_wsgi.disk.root import Root

TARGETS = ("/static/f.txt", "/named/f.txt", "/static/", "/static/sub/", "/static/listed/")


def build(site: Path, content: bytes) -> None:
    """Make the directory anew, with something in it for each of the targets."""
    shutil.rmtree(site, ignore_errors=True)
    for directory in (site, site / "sub", site / "listed"):
        directory.mkdir()
        (directory / "index.html").write_bytes(content)
    (site / "listed" / "index.html").rename(site / "listed" / content.decode())
    (site / "f.txt").write_bytes(content)


@pytest.mark.parametrize("target", TARGETS)
async def test_what_is_there_now_is_served(target: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also a root's index, which is looked for before its entries. The number of its descriptor stays, for others."""
    caplog.set_level(logging.INFO, "trio_wsgi.error")
    site = tmp_path / "dist"
    build(site, b"old")
    async with serving_three(site, static_listing=True) as served:
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
    async with serving_three(site, static_listing=True) as served:
        shutil.rmtree(site)
        site.mkdir()
        (site / "only.txt").touch()
        assert b"only.txt" in (await ask(served, "/static/")).body


async def test_nothing_is_there_until_it_is_made(tmp_path: Path) -> None:
    """Nor where it is something else by now."""
    site = tmp_path / "dist"
    build(site, b"old")
    async with serving_three(site) as served:
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


# -- file systems that tell it otherwise ------------------------------------------------------------------------------


def counting(status: os.stat_result, links: int) -> os.stat_result:
    """With another st_nlink."""
    more = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
    return os.stat_result([*status[:3], links, *status[4:]], more)


def is_removed(directory: os.stat_result) -> bool:
    return stat.S_ISDIR(directory.st_mode) and not directory.st_nlink


def like_overlayfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that was removed from a lower layer keeps its count."""
    fstat = os.fstat
    monkeypatch.setattr(os, "fstat", lambda fd: counting(fstat(fd), 1))


def like_fuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process behind it knows nothing of what was removed."""
    fstat = os.fstat

    def fstat_by_path(fd: int) -> os.stat_result:
        status = fstat(fd)
        if is_removed(status):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return status

    monkeypatch.setattr(os, "fstat", fstat_by_path)


def like_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else has removed it: its name is as it was, and whatever is asked of it is stale."""
    fstat, open_, list_, name_of = os.fstat, Root.open, Root.list, filesystem._name_of

    def check(fd: int) -> os.stat_result:
        status = fstat(fd)
        if is_removed(status):
            raise OSError(errno.ESTALE, "Stale file handle")
        return status

    def checked(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(root: Root, names: Any) -> Any:
            check(root._fd)
            return method(root, names)

        return call

    monkeypatch.setattr(os, "fstat", check)
    monkeypatch.setattr(Root, "open", checked(open_))
    monkeypatch.setattr(Root, "list", checked(list_))
    monkeypatch.setattr(filesystem, "_name_of", lambda fd: name_of(fd).removesuffix(" (deleted)"))
    monkeypatch.setattr(filesystem, "_OPEN_AT_ONCE", {})  # a network's is none of them


def without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in some jails: there is only the count."""

    def name_of(fd: int) -> str:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(filesystem, "_name_of", name_of)


@pytest.mark.parametrize("system", [like_overlayfs, like_fuse, like_nfs, without_proc])
@pytest.mark.parametrize("target", TARGETS)
async def test_it_is_noticed_on_every_file_system(
    target: str, system: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not all of them count the names of a directory, nor does each know anything of one that was removed."""
    system(monkeypatch)
    site = tmp_path / "dist"
    build(site, b"old")
    async with serving_three(site, static_listing=True) as served:
        for content in (b"old", b"new", b"newer"):
            build(site, content)
            answer = await ask(served, target)
            assert (answer.status, content in answer.body) == (200, True)


async def test_a_file_system_that_counts_no_names_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """st_nlink of 0 for everything, as many of FUSE: what is not there is looked for once, nothing is said of the root;
    and a file is there for the next request, too."""
    caplog.set_level(logging.INFO, "trio_wsgi.error")
    fstat = os.fstat
    monkeypatch.setattr(os, "fstat", lambda fd: counting(fstat(fd), 0))
    site = tmp_path / "dist"
    build(site, b"content")
    async with serving_three(site, static_listing=True) as served:
        for target in ("/static/nothing", "/named/nothing"):
            assert (await ask(served, target)).status == 404
        for target in TARGETS:
            assert (await ask(served, target)).status == 200
        assert [line for line in caplog.records if "removed" in line.getMessage()] == []
        for way in WAYS:
            part = await ask(served, f"/{way}/f.txt", "Range: bytes=1-2")
            assert (part.status, part.body, bool(part.value("etag"))) == (206, b"on", True)


async def test_a_name_that_ends_as_if_it_were_deleted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is the kernel's way to say so (proc(5)), and a directory may be called like that."""
    caplog.set_level(logging.INFO, "trio_wsgi.error")
    site = tmp_path / "dist (deleted)"
    build(site, b"old")
    async with serving_three(site, static_listing=True) as served:
        for _ in range(2):
            assert (await ask(served, "/static/nothing")).status == 404
        assert [line for line in caplog.records if "removed" in line.getMessage()] == []
        build(site, b"new")
        assert (await ask(served, "/static/f.txt")).body == b"new"
        assert (await ask(served, "/named/f.txt")).body == b"new"


async def test_a_root_that_is_gone_has_no_entries(tmp_path: Path) -> None:
    """It is not there, rather than an empty page."""
    site = tmp_path / "dist"
    build(site, b"old")
    async with serving_three(site, static_listing=True) as served:
        shutil.rmtree(site)
        assert (await ask(served, "/static/")).status == 404


def test_the_file_system_of_a_root_is_that_of_what_is_there_now(tmp_path: Path) -> None:
    """Its threads are those that wait for it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        path, first = tmp_path / "dist", Path(elsewhere) / "first"
        first.mkdir()
        path.symlink_to(first)
        root = Root(str(path))
        try:
            assert root.device == first.stat().st_dev
            first.rmdir()
            path.unlink()
            path.mkdir()
            assert root.renew()
            assert root.device == path.stat().st_dev
        finally:
            root.close()
