"""Closing a file may wait for its file system, as FUSE's and NFS's let it: nobody else waits with it."""

from __future__ import annotations

import dataclasses
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from downloads import MIB, Client, connected, make_sparse
from serving import Served, serving
from threeways import three_settings, three_ways
from waiting import wait_until

from trio_wsgi.disk import filesystem
from trio_wsgi.disk.root import OpenedFile, Root
from trio_wsgi.net import disks
from trio_wsgi.wsgi.filewrapper import FileWrapper


class Remote:
    """A file system of which nobody knows that it is local. While it hangs, who closes a file of it waits.

    Args:
        monkeypatch: the files of all three ways are of this file system from now on.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers = threading.Event()
        self.threads: list[int] = []  # that began to close a file
        self.closed = 0
        for name in ("_OPEN_AT_ONCE", "_CLOSE_AT_ONCE", "_seen"):
            monkeypatch.setattr(filesystem, name, {})
        give_out, close = Root._give_out, FileWrapper.close

        def give_out_remote(root: Root, *args: Any, **kwargs: Any) -> Any:
            found = give_out(root, *args, **kwargs)
            return dataclasses.replace(found, file=RemoteFile(self, found)) if isinstance(found, OpenedFile) else found

        def close_wrapper(wrapper: FileWrapper) -> None:
            self.close(lambda: close(wrapper))

        monkeypatch.setattr(Root, "_give_out", give_out_remote)
        monkeypatch.setattr(FileWrapper, "close", close_wrapper)

    def close(self, really: Callable[[], object]) -> None:
        self.threads.append(threading.get_ident())
        self.answers.wait(4)
        really()
        self.closed += 1


class RemoteFile(io.FileIO):
    def __init__(self, remote: Remote, opened: OpenedFile) -> None:
        super().__init__(os.dup(opened.file.fileno()))
        opened.file.close()
        self._remote = remote

    def close(self) -> None:
        if not self.closed:
            self._remote.close(super().close)


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    made = Remote(monkeypatch)
    yield made
    made.answers.set()
    assert threading.get_ident() not in made.threads, "a file was closed on the event loop"


def app_of(folder: Path) -> Callable[..., Any]:
    files = three_ways(folder)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["PATH_INFO"] != "/hello":
            return files(environ, start_response)
        start_response("200 OK", [("Content-Length", "5")])
        return [b"hello"]

    return app


async def says_hello(served: Served) -> None:
    async with connected(served) as client:
        assert (await client.ask("/hello", seconds=2)).body == b"hello"


@pytest.mark.usefixtures("each_way")
async def test_who_waits_for_a_close_is_a_thread_of_the_file_system(way: str, remote: Remote, tmp_path: Path) -> None:
    """Neither the event loop nor the application's only thread; and its own client for linger_timeout at most."""
    (tmp_path / "f").write_bytes(b"a file")
    async with serving(app_of(tmp_path), threads=1, linger_timeout=0.1, **three_settings(tmp_path)) as served:
        async with connected(served) as client:
            assert (await client.ask(f"/{way}/f", seconds=2)).body == b"a file"
            await says_hello(served)
            assert (await client.ask("/hello", seconds=2)).body == b"hello"
            assert (len(remote.threads), remote.closed) == (1, 0)
            remote.answers.set()
        await trio.to_thread.run_sync(wait_until, lambda: remote.closed)


async def test_a_crowd_that_leaves_keeps_nobody(way: str, remote: Remote, tmp_path: Path) -> None:
    """More slow clients than there are threads of either kind leave while the file system hangs; each file is closed
    once it answers again."""
    make_sparse(tmp_path / "f", 16 * MIB)
    count = disks.DISK_THREADS + 3
    async with serving(app_of(tmp_path), threads=2, linger_timeout=0.1, **three_settings(tmp_path)) as served:
        streams = [await served.connect(16 * 1024) for _ in range(count)]
        for stream in streams:
            client = Client(stream)
            await client.send(f"/{way}/f")
            await client.read_head()
        for stream in streams:
            await stream.aclose()
        await served.record(count)
        await says_hello(served)
        assert remote.closed == 0
        remote.answers.set()
        await trio.to_thread.run_sync(wait_until, lambda: remote.closed == count)


async def test_what_is_sent_when_the_server_is_cancelled_is_closed(way: str, remote: Remote, tmp_path: Path) -> None:
    """In a thread, and before the server has ended."""
    make_sparse(tmp_path / "f", 16 * MIB)
    remote.answers.set()
    async with serving(app_of(tmp_path), **three_settings(tmp_path)) as served:
        stream = await served.connect(16 * 1024)
        client = Client(stream)
        await client.send(f"/{way}/f")
        await client.read_head()
    assert remote.closed == 1
    with suppress(trio.BrokenResourceError):
        await stream.aclose()


async def test_a_deleted_file_that_the_app_returns_is_closed_by_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It frees its blocks (unlink(2))."""
    threads: list[int] = []
    close = FileWrapper.close

    def note(wrapper: FileWrapper) -> None:
        threads.append(threading.get_ident())
        close(wrapper)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        (tmp_path / "f").write_bytes(b"once")
        file = (tmp_path / "f").open("rb")
        (tmp_path / "f").unlink()
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file)

    monkeypatch.setattr(FileWrapper, "close", note)
    async with serving(app) as served, connected(served) as client:
        assert (await client.ask("/")).body == b"once"
        await served.record()
        assert len(threads) == 1
        assert threading.get_ident() not in threads


def test_only_what_is_known_is_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is believed for a second: afterwards the number of its device may be that of another file system."""
    clock = 1000.0
    monkeypatch.setattr(filesystem.time, "monotonic", lambda: clock)
    monkeypatch.setattr(filesystem, "_seen", {})
    (tmp_path / "f").touch()
    with (tmp_path / "f").open() as file, Path("/proc/version").open() as foreign:
        if not filesystem.is_local(file.fileno(), 1):
            pytest.skip("tests run on a file system that is not known to be local")
        assert not filesystem.is_local(foreign.fileno(), 2)
        assert filesystem.is_local(foreign.fileno(), 1)
        clock += 1
        assert not filesystem.is_local(foreign.fileno(), 1)
    assert not filesystem.is_local(2**30, 3)


async def test_the_last_of_many_file_systems_share_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands that are mounted when they are needed, as by autofs, do not take threads each."""
    monkeypatch.setattr(disks, "_DEVICES_MAX", 2)
    async with disks.open_disks(10) as opened:
        first, second, third = (opened.of(device) for device in (1, 2, 3))
        assert len({first, second, third}) == 3
        assert opened.of(4) is third
        assert opened.of(1) is first
        with trio.fail_after(5):
            assert threading.get_ident() not in [await one.run(threading.get_ident) for one in (first, second, third)]


async def test_a_thread_of_a_file_system_is_told_from_one_of_the_application() -> None:
    """By its name, in the log and in a debugger: what stands in it is no code of the application's."""
    async with disks.open_disks(10) as opened:
        assert await opened.of(1).run(lambda: threading.current_thread().name) == "trio-wsgi disk"
        assert "disk threads" in repr(opened.of(1))
