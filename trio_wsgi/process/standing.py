"""Where a process stands: the directory that names in settings count from, and the umask of what it makes.

Laws:

* Both are those of its plan, wherever it was started from: a worker takes them itself.
* A directory that is not there, or not as it has to be, is a ConfigError.
* A supervisor has those of the plan that it has taken for good. Of another it takes them only while it opens something
  for that, and nothing else is done meanwhile: they belong to the whole process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.process.plan import Plan
from trio_wsgi.process.privileges import set_umask


def find_home() -> str:
    """The working directory by the name that the shell has for it: a symlink may lead elsewhere by the next reload."""
    try:
        here, named = Path.cwd(), os.environ.get("PWD", "")
    except OSError as error:
        raise ConfigError("working directory", f"it cannot be named: {error.strerror}", "start in another") from None
    with contextlib.suppress(OSError):
        if named and here.samefile(named):
            return named
    return str(here)


def find_umask() -> int:
    """The umask of this process. Before there are threads: for a moment, the files that they make are ours alone."""
    found = os.umask(0o077)
    os.umask(found)
    return found


def stand(plan: Plan) -> None:
    """Be in the directory that a plan is served in, with its umask, wherever we are now."""
    os.umask(plan.umask)
    set_umask(plan.config)
    _go_home(plan.home)
    change_directory(plan.config)


@contextmanager
def at_home(plan: Plan) -> Iterator[None]:
    """Inside, be in the directory that the program was started in, with its umask; afterwards, where we were.

    All threads are: nothing that waits may be done there.
    """
    try:
        here = os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError("working directory", f"it cannot be left for a moment: {error.strerror}") from None
    try:
        _go_home(plan.home)
        before = os.umask(plan.umask)
        try:
            yield
        finally:
            os.umask(before)
    finally:
        with contextlib.suppress(OSError):  # it has been closed to us meanwhile
            os.fchdir(here)
        os.close(here)


@contextmanager
def standing(plan: Plan) -> Iterator[None]:
    """Inside, `stand`; else as `at_home`."""
    with at_home(plan):
        set_umask(plan.config)
        change_directory(plan.config)
        yield


def change_directory(config: Config) -> None:
    """Change to `chdir`; paths in settings are relative to that, but for those of the configuration itself."""
    if config.chdir is not None:
        try:
            os.chdir(config.chdir)
        except OSError as error:
            raise ConfigError("chdir", f"cannot change to {config.chdir!r}: {error.strerror}") from None
    temp = config.temp_path
    if temp is not None and not (Path(temp).is_dir() and os.access(temp, os.W_OK | os.X_OK)):
        raise ConfigError("temp_path", f"{temp!r} is no writable directory", "make it or name another")


def _go_home(home: str) -> None:
    try:
        os.chdir(home)
    except OSError as error:
        raise ConfigError("working directory", f"{home!r}: {error.strerror}", "make it again") from None
