"""Watching files for whoever develops: which of them have changed since they were imported (reload).

Laws:

* What has changed is decided by stamps alone. watchfiles, where it is installed, only says when to look, and we look
  now and then without it: file systems of other machines tell nobody.
* Files are looked at in a thread, which is given what to look at and returns what it saw. While the system has no
  thread to give, nothing is seen, and nothing is lost.
* A change is told when files have come to rest, so that one save of many files is one change, and a file that an
  editor takes away and puts back is none.
* A file that changed between its import and our first look at it is a change, too.
"""

from __future__ import annotations

import glob
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import trio

from trio_wsgi.disk.stamp import Stamp, discard_bytecode, take_stamp
from trio_wsgi.net.inthread import run_in_thread_at_last
from trio_wsgi.process.plan import Plan

try:
    from watchfiles import watch as watch_directories
except ImportError:  # the extra `reload` is not installed
    watch_directories = None  # type: ignore[assignment]

log = logging.getLogger("trio_wsgi.error")

POLL = 1.0  # seconds between two looks, without watchfiles
REST = 0.1  # seconds in which nothing changes any more
RESTLESS = 3.0  # seconds after which we wait for that no longer: something is written all the time
SURE = 2.0  # seconds after which we look although watchfiles has said nothing
_QUIET, _GROUP = 50, 400  # milliseconds: watchfiles speaks when nothing has happened for so long, or at last


class Seen(NamedTuple):
    """What a look has found: the stamps of all files, None for those that are not there, and the folders of all."""

    stamps: Mapping[str, Stamp | None]
    folders: frozenset[str]


Bell = Callable[[frozenset[str]], Awaitable[None]]  # returns when it is time for a look at files in these folders


class Watch:
    """The files that are watched. Lives on the event loop.

    Args:
        globs: patterns of further files, absolute; files that begin or cease to match have changed.
        bell: says when to look; else watchfiles does if it is installed, or the clock.
    """

    def __init__(self, globs: Sequence[str] = (), bell: Bell | None = None) -> None:
        self._globs = tuple(globs)
        self._bell = bell or (poll if watch_directories is None else Notified())
        self._files: dict[str, float] = {}  # and until when each is known to have been as it was imported
        self._known: Seen | None = None

    def add(self, files: Iterable[str], since: float) -> None:
        """Watch these as well.

        Args:
            files: absolute paths; they need not exist.
            since: UNIX time; if one was changed after it, that has yet to be noticed.
        """
        for path in files:
            self._files.setdefault(path, since)

    async def wait_changed(self) -> Sequence[str]:
        """Wait until files have changed and come to rest.

        Returns:
            Their paths; the bytecode of these has been removed.

        Cancellation: what has changed meanwhile is told by the next call.
        """
        while True:
            before, now = self._known, await self._look()
            changed = list(self._differences(before, now))
            if changed:
                now = await self._rest(now)
                changed = list(self._differences(before, now))
            if changed:
                await run_in_thread_at_last(_discard, changed)
                self._known = now
                return changed
            self._known = now
            await self._bell(now.folders)

    async def _look(self) -> Seen:
        return await run_in_thread_at_last(look_at, tuple(self._files), self._globs)

    async def _rest(self, now: Seen) -> Seen:
        with trio.move_on_after(RESTLESS):
            while True:
                await trio.sleep(REST)
                before, now = now, await self._look()
                if now.stamps == before.stamps:
                    break
        return now

    def _differences(self, before: Seen | None, now: Seen) -> Iterator[str]:
        known = {} if before is None else before.stamps
        for path, stamp in now.stamps.items():
            if path in known:
                if stamp != known[path]:
                    yield path
            elif path in self._files:
                if stamp is not None and self._files[path] * 1e9 <= stamp.mtime_ns <= time.time_ns():
                    yield path
            elif before is not None:  # a pattern matches it now
                yield path
        yield from known.keys() - now.stamps.keys()  # no pattern matches it any more


def open_watch(plan: Plan, since: float) -> Watch:
    """The watch of a supervisor: what its configuration was read from, and matches; its workers add what they import.

    Args:
        since: UNIX time at which the configuration was read.
    """
    folder = os.path.join(plan.home, plan.config.chdir or "")  # noqa: PTH118 - for patterns
    patterns = [os.path.abspath(os.path.join(folder, each)) for each in plan.config.reload_extra_file]  # noqa: PTH100, PTH118
    watch = Watch(patterns)
    watch.add(plan.files, since)
    return watch


def describe_changes(changed: Sequence[str]) -> str:
    """Which files have changed, for the log."""
    more = len(changed) - 1
    return f"{changed[0]} has changed" if not more else f"{changed[0]} and {more} more have changed"


def look_at(files: Iterable[str], globs: Iterable[str]) -> Seen:
    """Look at all files, and at those that patterns match. Blocks: a stat for each."""
    stamps = {path: take_stamp(path) for path in files}
    folders = {os.path.dirname(path) for path in stamps}  # noqa: PTH120 - thousands of them
    for pattern in globs:
        found = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        stamps |= {path: take_stamp(path) for path in found}
        folders.update(glob.glob(os.path.dirname(pattern), recursive=True))  # noqa: PTH120, PTH207
    return Seen(stamps, frozenset(filter(os.path.isdir, folders)))


def _discard(changed: Iterable[str]) -> None:
    for path in changed:
        if path.endswith(".py"):
            discard_bytecode(path)


async def poll(folders: frozenset[str]) -> None:
    """The bell that is the clock."""
    await trio.sleep(POLL)


class Notified:
    """The bell that is rung by the kernel, through watchfiles."""

    def __init__(self) -> None:
        self._folders: frozenset[str] | None = None
        self._events: Iterator[Any] = iter(())
        self._broken = False

    async def __call__(self, folders: frozenset[str]) -> None:
        if self._broken or not folders:
            await poll(folders)
            return
        if folders != self._folders:
            self._folders = folders
            self._events = watch_directories(
                *sorted(folders),
                watch_filter=None,
                recursive=False,
                step=_QUIET,
                debounce=_GROUP,
                rust_timeout=int(SURE * 1000),
                yield_on_timeout=True,
                raise_interrupt=False,
                ignore_permission_denied=True,
            )
        try:
            # A thread that is left behind ends after SURE seconds, and nobody hears of it.
            event = await trio.to_thread.run_sync(next, self._events, None, abandon_on_cancel=True)
            if event is not None:
                return
        except FileNotFoundError:  # a folder that has gone since we looked
            pass
        except Exception as error:  # too many watches for the kernel, most often
            log.warning("watchfiles cannot watch: %s; looking every %g s instead", error, POLL)
            self._broken = True
        # It speaks no more: the next look may find other folders.
        self._folders = None
        await trio.sleep(REST)
