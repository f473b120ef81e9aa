"""Rules of watching files (issue 5, `--reload`): what is a change, when it is told, and which files there are.

The same tests hold with watchfiles and without: it says when to look, and nothing else.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import os
import sys
import threading
import time
import types
import zipfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from waiting import wait_until

from trio_wsgi.process import watch
from trio_wsgi.process.channel import Channel, open_pair
from trio_wsgi.process.imported import files_of_failure, find_places, imported_files, report_imports
from trio_wsgi.process.messages import Imported, parse_message
from trio_wsgi.process.watch import Bell, Notified, Watch, look_at, poll

BELLS = {"watchfiles": Notified, "polling": lambda: poll}


@pytest.fixture(scope="module", autouse=True)
def threads_left_behind() -> Iterator[None]:
    """They end after `SURE` seconds, and watchfiles closes its descriptors then: tests of other files count theirs."""
    yield
    wait_until(lambda: not any(thread.name.startswith("next from") for thread in threading.enumerate()), timeout=30)
    gc.collect()


@pytest.fixture(params=list(BELLS))
def bell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bell:
    monkeypatch.setattr(watch, "POLL", 0.05)
    monkeypatch.setattr(watch, "SURE", 2.0)  # for what happens before the kernel's watch stands
    return BELLS[request.param]()


class Told:
    """Collects what a watch tells."""

    def __init__(self, watching: Watch) -> None:
        self._watch = watching
        self.changes: list[list[str]] = []

    async def run(self) -> None:
        while True:
            self.changes.append(sorted(await self._watch.wait_changed()))

    async def wait(self, count: int) -> list[str]:
        """The newest change, which is the `count`th."""
        with trio.fail_after(20):
            while len(self.changes) < count:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert len(self.changes) == count
        return self.changes[-1]


@asynccontextmanager
async def watching(
    bell: Bell, files: Iterable[Path] = (), globs: Iterable[str] = (), since: float | None = None
) -> AsyncIterator[tuple[Watch, Told]]:
    """A watch that runs, and has looked once."""
    watched = Watch(tuple(globs), bell)
    watched.add(map(str, files), time.time() + 60 if since is None else since)
    told = Told(watched)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(told.run)
        with trio.fail_after(20):
            while watched._known is None:  # noqa: ASYNC110
                await trio.sleep(0.005)
        yield watched, told
        nursery.cancel_scope.cancel()


def save(path: Path, text: str) -> None:
    """As most editors do: another file takes the name."""
    draft = path.with_name("draft~")
    draft.write_text(text)
    draft.rename(path)


async def test_each_way_of_saving_is_one_change(tmp_path: Path, bell: Bell) -> None:
    path, other = tmp_path / "app.py", tmp_path / "other.py"
    path.write_text("1")
    other.write_text("1")
    async with watching(bell, [path, other]) as (_, told):
        path.write_text("2")
        assert await told.wait(1) == [str(path)]
        save(path, "3")
        assert await told.wait(2) == [str(path)]
        os.utime(path, (1, 1))  # back in time, as with an older version from the repository
        assert await told.wait(3) == [str(path)]
        for file in (path, other):  # at once
            save(file, "4")
        assert await told.wait(4) == [str(path), str(other)]
        (tmp_path / "unrelated.py").write_text("1")
        path.unlink()
        assert await told.wait(5) == [str(path)]
        path.write_text("5")
        assert await told.wait(6) == [str(path)]


async def test_a_file_that_comes_back_as_it_was_is_no_change(
    tmp_path: Path, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some editors move a file away before they write it."""
    monkeypatch.setattr(watch, "REST", 0.5)
    path, other = tmp_path / "app.py", tmp_path / "other.py"
    path.write_text("1")
    other.write_text("1")
    async with watching(bell, [path, other]) as (_, told):
        away = path.rename(tmp_path / "away")
        other.write_text("2")
        await trio.sleep(0.1)
        away.rename(path)
        assert await told.wait(1) == [str(other)]


async def test_what_changes_all_the_time_is_told_all_the_same(
    tmp_path: Path, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "RESTLESS", 0.3)
    path = tmp_path / "app.py"
    path.write_text("1")
    async with watching(bell, [path]) as (_, told), trio.open_nursery() as nursery:

        async def restless() -> None:
            while True:
                with path.open("a") as file:
                    file.write("x")
                await trio.sleep(0.01)

        nursery.start_soon(restless)
        with trio.fail_after(20):
            while not told.changes:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_files_are_added_while_it_waits(tmp_path: Path, bell: Bell) -> None:
    """Those of modules that are imported later; in folders that nobody watched."""
    inner = tmp_path / "inner"
    inner.mkdir()
    first, later = tmp_path / "app.py", inner / "later.py"
    for path in (first, later):
        path.write_text("1")
    async with watching(bell, [first]) as (watched, told):
        watched.add([str(later)], time.time() + 60)
        first.write_text("2")
        assert await told.wait(1) == [str(first)]
        later.write_text("2")
        assert await told.wait(2) == [str(later)]


async def test_what_changed_before_the_first_look_is_a_change(tmp_path: Path, bell: Bell) -> None:
    """PAINS 42: a file that is saved while it is imported is not missed; one from the future is left alone."""
    old, new, future = (tmp_path / name for name in ("old.py", "new.py", "future.py"))
    for path in (old, new, future):
        path.write_text("1")
    now = time.time()
    for path, at in ((old, now - 30), (new, now - 10), (future, now + 1000)):
        os.utime(path, (at, at))
    async with watching(bell, [old, new, future], since=now - 20) as (_, told):
        assert await told.wait(1) == [str(new)]


async def test_patterns_match_files_that_come_and_go(tmp_path: Path, bell: Bell) -> None:
    (tmp_path / "templates" / "deep").mkdir(parents=True)
    page, note = tmp_path / "templates" / "page.html", tmp_path / "note.txt"
    page.write_text("1")
    globs = [str(tmp_path / "templates" / "**" / "*.html"), str(note)]
    async with watching(bell, globs=globs) as (_, told):
        page.write_text("2")
        assert await told.wait(1) == [str(page)]
        (tmp_path / "templates" / "deep" / "other.txt").write_text("1")
        (tmp_path / "templates" / "deep" / "new.html").write_text("1")
        assert await told.wait(2) == [str(tmp_path / "templates" / "deep" / "new.html")]
        page.unlink()
        assert await told.wait(3) == [str(page)]


async def test_the_bytecode_of_what_changed_is_removed(tmp_path: Path, bell: Bell) -> None:
    """Python takes it for new when seconds and size are the same, and the next worker would run the old code."""
    path, cache = tmp_path / "watched_module.py", tmp_path / "__pycache__"
    path.write_text("value = 1")
    cache.mkdir()
    for each in (importlib.util.cache_from_source(str(path)), str(cache / "other.pyc")):
        (cache / each).touch()
    async with watching(bell, [path]) as (_, told):
        path.write_text("value = 2")
        await told.wait(1)
    assert [file.name for file in cache.iterdir()] == ["other.pyc"]


async def test_watchfiles_speaks_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change is not found by looking now and then."""
    monkeypatch.setattr(watch, "SURE", 60.0)
    path = tmp_path / "app.py"
    path.write_text("0")
    async with watching(Notified(), [path]) as (_, told):
        with trio.fail_after(20):
            while not told.changes:
                path.write_text(str(time.time()))  # again: its watch may not have stood yet
                await trio.sleep(1)
        assert told.changes[0] == [str(path)]
    path.write_text("last")  # for the thread that is left behind


async def test_watchfiles_that_cannot_watch_leaves_it_to_polling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """inotify has a limit of watches, and some systems have no inotify."""

    def fails(*folders: str, **options: object) -> Iterator[None]:
        raise OSError(28, "No space left on device (about inotify watches)")
        yield

    monkeypatch.setattr(watch, "watch_directories", fails)
    monkeypatch.setattr(watch, "POLL", 0.05)
    path = tmp_path / "app.py"
    path.write_text("1")
    async with watching(bell := Notified(), [path]) as (_, told):
        path.write_text("2")
        assert await told.wait(1) == [str(path)]
        assert bell._broken
    (line,) = [record.getMessage() for record in caplog.records if record.name == "trio_wsgi.error"]
    assert line.startswith("watchfiles cannot watch: [Errno 28] No space left on device")


async def test_a_folder_that_vanishes_is_survived(tmp_path: Path, bell: Bell) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    gone, path = inner / "gone.py", tmp_path / "app.py"
    for file in (gone, path):
        file.write_text("1")
    async with watching(bell, [gone, path]) as (_, told):
        gone.unlink()
        inner.rmdir()
        assert await told.wait(1) == [str(gone)]
        path.write_text("2")
        assert await told.wait(2) == [str(path)]


def test_thousands_of_files_are_cheap_to_look_at(tmp_path: Path) -> None:
    """5,000 modules, in the worst case every second: a small part of one CPU."""
    for number in range(100):
        (tmp_path / f"module_{number}.py").touch()
    files = [f"{tmp_path}{'/.' * turn}/module_{number}.py" for turn in range(50) for number in range(100)]
    began = time.process_time()
    seen = look_at(files, [])
    assert len(seen.stamps) == 5000
    assert time.process_time() - began < 0.5  # some 20 ms


# -- which files -------------------------------------------------------------------------------------------------------


def test_the_files_of_imported_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever people put into sys.modules (gunicorn once died of a module without a text for its file)."""

    class Lazy(types.ModuleType):
        def __getattribute__(self, name: str) -> object:
            raise AssertionError("was woken")

    class Slots:
        __slots__ = ()

    odd = types.ModuleType("odd")
    odd.__file__ = None
    compiled = types.ModuleType("compiled")
    compiled.__file__ = "/srv/old/compiled.pyc"
    relative = types.ModuleType("relative")
    relative.__file__ = "relative.py"
    for name, module in (("odd", odd), ("lazy", Lazy("lazy")), ("slots", Slots()), ("nothing", None)):
        monkeypatch.setitem(sys.modules, f"watch_{name}", module)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "watch_compiled", compiled)
    monkeypatch.setitem(sys.modules, "watch_relative", relative)
    monkeypatch.chdir(tmp_path)
    found = imported_files()
    assert {__file__, trio.__file__, "/srv/old/compiled.py", str(tmp_path / "relative.py")} <= found
    assert all(os.path.isabs(path) for path in found)  # noqa: PTH117


def test_what_is_in_an_archive_changes_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is imported, what fails, and what is missing there: none of them is a file that could be looked at."""
    archive = tmp_path / "site.zip"
    with zipfile.ZipFile(archive, "w") as site:
        site.writestr("zipped/__init__.py", "")
        site.writestr("zipped/fails.py", "1 / 0")
    monkeypatch.setattr(sys, "path", [*sys.path, str(archive)])
    assert str(archive) in files_of_failure(failure("zipped.fails"))
    assert str(archive) in imported_files()
    assert str(archive) in find_places("zipped.other:app")
    assert not [path for path in imported_files() if path.startswith(f"{archive}/")]
    del sys.modules["zipped"]


def failure(name: str) -> BaseException:
    try:
        importlib.import_module(name)
    except BaseException as error:
        return error
    raise AssertionError("it could be imported")


def test_a_failure_names_the_files_that_may_mend_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PAINS 42: for a SyntaxError the file with the error, which is in no traceback."""
    monkeypatch.syspath_prepend(str(tmp_path))
    sources = {
        "outer_fails": "import inner_fails",
        "inner_fails": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise LookupError",
        "outer_syntax": "import inner_syntax",
        "inner_syntax": "def (:",
        "outer_missing": "import missing_package.inner",
        "outer_cause": "try:\n    import inner_fails\nexcept LookupError as error:\n    raise OSError from error",
    }
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)

    def told(name: str) -> set[str]:
        files = files_of_failure(failure(name))
        return {path.removeprefix(f"{tmp_path}/") for path in files if path.startswith(str(tmp_path))}

    assert told("outer_fails") == {"outer_fails.py", "inner_fails.py"}
    assert told("outer_syntax") == {"outer_syntax.py", "inner_syntax.py"}
    assert told("outer_cause") == {"outer_cause.py", "inner_fails.py"}
    assert told("outer_missing") == {
        "outer_missing.py",
        "missing_package.py",
        "missing_package/__init__.py",
    }
    assert told("not_there_at_all") == {"not_there_at_all.py", "not_there_at_all/__init__.py"}


def test_a_failure_of_endless_recursion_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "recursive_fails.py").write_text("def f():\n    f()\nf()\n")
    assert str(tmp_path / "recursive_fails.py") in files_of_failure(failure("recursive_fails"))


async def test_what_is_imported_is_told_once_there_is_a_thread_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that has none to give (RLIMIT_NPROC, a limit of pids) is no reason for a worker to end."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    ours, theirs = open_pair()
    with contextlib.closing(ours), theirs, monkeypatch.context() as poor, trio.fail_after(30):
        poor.setattr("trio._threads.start_thread_soon", refuse)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(report_imports, Channel(theirs), 0.0)
            await trio.testing.wait_all_tasks_blocked()
            poor.undo()
            messages = map(parse_message, await ours.receive())
            assert any(isinstance(each, Imported) and each.files for each in messages)
            nursery.cancel_scope.cancel()
