"""Which files an application consists of: told by the worker that has imported them, or failed to.

Laws:

* Nothing is imported, and no lazy module is woken, by being looked at.
* They go up the channel in short lines: what a supervisor has read of one, when it becomes a new program, has to go
  into its environment (execve(2)).
* A failure names the files that its fix will change: those of its traceback, the one with the wrong syntax, and for
  a module that is not there all places where it may appear.
* What is imported from an archive (zipimport) is that archive's.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator

import trio

from trio_wsgi.net.inthread import run_in_thread_at_last
from trio_wsgi.process.channel import Channel
from trio_wsgi.process.messages import Imported, format_message

LOOK = 1.0  # seconds between two looks at what has been imported since
AT_ONCE = 16  # files in one message
_SUFFIXES = {".pyc": ".py", ".pyo": ".py"}


async def report_imports(channel: Channel, since: float) -> None:
    """Tell the supervisor what this process has imported, and what it imports from now on. Runs until it is cancelled.

    Args:
        since: UNIX time at which it had imported nothing of the application yet.
    """
    told: set[str] = set()
    count = 0
    while True:
        now = time.time()
        if count != len(sys.modules):
            count = len(sys.modules)
            files = await run_in_thread_at_last(imported_files)
            with contextlib.suppress(OSError):  # it has ended, which is noticed elsewhere
                for message in build_messages(files - told, since):
                    await channel.send_all(format_message(message))
            told |= files
        since = now
        await trio.sleep(LOOK)


def build_messages(files: Iterable[str], since: float) -> Iterator[Imported]:
    """What is to be told of files."""
    paths = sorted(files)
    for start in range(0, len(paths), AT_ONCE):
        yield Imported(tuple(paths[start : start + AT_ONCE]), since)


def imported_files() -> set[str]:
    """The files of all modules that this process has imported, as absolute paths."""
    found = (_file_of(module) for module in list(sys.modules.values()))
    return set(_absolute(path for path in found if path))


def files_of_failure(error: BaseException) -> set[str]:
    """The files that may be changed to undo a failed import, its causes and contexts, as absolute paths.

    Some may not exist.
    """
    found: set[str] = set()
    for each in _chain(error):
        found.update(frame.filename for frame in traceback.extract_tb(each.__traceback__, limit=-100))
        if isinstance(each, SyntaxError) and each.filename:
            found.add(each.filename)
        if isinstance(each, ModuleNotFoundError) and each.name:
            found.update(_places_of(each.name))
    return set(_absolute(path for path in found if not path.startswith("<")))


def find_places(reference: str) -> set[str]:
    """Where the module of a reference may be; for a worker that ends, or hangs, before it can tell what it imported."""
    return set(_absolute(_places_of(reference.partition(":")[0])))


def _file_of(module: object) -> str | None:
    try:
        path = object.__getattribute__(module, "__dict__").get("__file__")
    except AttributeError:  # something else than a module: sys.modules takes anything
        return None
    return path if isinstance(path, str) else None


def _absolute(paths: Iterable[str]) -> Iterator[str]:
    texts = [each for each in sys.path if isinstance(each, str)]
    archives = [f"{os.path.abspath(each)}{os.sep}" for each in texts if os.path.isfile(each)]  # noqa: PTH100, PTH113
    for path in paths:
        stem, suffix = os.path.splitext(path)  # noqa: PTH122 - thousands of them, and no symlink is to be followed
        absolute = os.path.abspath(stem + _SUFFIXES.get(suffix, suffix))  # noqa: PTH100
        yield next((each[: -len(os.sep)] for each in archives if absolute.startswith(each)), absolute)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    left = [error]
    while left:
        each = left.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            left += [each.__cause__, each.__context__]


def _places_of(name: str) -> Iterator[str]:
    """Where a module, or its package, would be found."""
    top, *rest = name.split(".")
    for folder in sys.path:
        yield os.path.join(folder, top + ".py")  # noqa: PTH118
        yield os.path.join(folder, top, "__init__.py")  # noqa: PTH118
        if rest:
            inner = os.path.join(folder, top, *rest)  # noqa: PTH118
            yield inner + ".py"
            yield os.path.join(inner, "__init__.py")  # noqa: PTH118
