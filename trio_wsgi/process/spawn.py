"""The start of processes: of a worker's, which begins in `worker.main`, and of a trial's.

Laws:

* Each leads a process group of its own, so that Ctrl-C reaches us alone, and reads nothing.
* It is our child before anything else happens here: who collects orphans can be told its number. No thread is needed.
* A worker is a fresh interpreter that has our flags, our import path, the listening sockets, its end of the channel, a
  place for its stacks, and nothing else of ours.
"""

from __future__ import annotations

import _imp
import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping

from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.process.channel import open_pair
from trio_wsgi.process.child import Child
from trio_wsgi.process.messages import Order, format_order
from trio_wsgi.process.stacks import open_stacks

_PATH_VARIABLE = "_TRIO_WSGI_PATH"

_CODE = (
    f"import json, os, sys; sys.path[:] = json.loads(os.environ.pop('{_PATH_VARIABLE}')); "
    "from trio_wsgi.process.worker import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)


def check_interpreter(config: Config) -> None:
    """Refuse workers where this program is no Python that could run their code, but would start itself again.

    Raises:
        ConfigError: the program is frozen, as by PyInstaller; or Python does not know which file it is.
    """
    if getattr(sys, "frozen", False):
        why = f"{config.workers}: a worker needs a Python of its own, and this program is frozen (sys.frozen)"
        raise ConfigError("workers", why, "write --workers 0")
    if not sys.executable:
        why = f"{config.workers}: a worker is started as another Python, and this one does not know where it is"
        raise ConfigError("workers", why, "start it by its full path, or set PATH")


def start_child(order: Order, environ: Mapping[str, str]) -> Child:
    """Start a worker, which gets its order from `Child.watch`.

    Raises:
        OSError: no process can be started.
    """
    with contextlib.ExitStack() as failing, contextlib.ExitStack() as given:
        channel, theirs = open_pair()
        failing.callback(channel.close)
        given.enter_context(theirs)
        stacks, written = open_stacks()
        failing.callback(stacks.close)
        given.callback(os.close, written)
        fds = [theirs.fileno(), written, *(listener.fd for listener in order.listeners)]
        command = _build_command(theirs.fileno(), written, order)
        pid = spawn(command, {**environ, _PATH_VARIABLE: _import_path()}, dict(zip(fds, fds, strict=True)))
        failing.pop_all()
    return Child(order.number, pid, channel, stacks, order=format_order(order))


def spawn(command: list[str], environ: Mapping[str, str], fds: Mapping[int, int]) -> int:
    """Start our Python by these words, the first of them its name; the process that it is.

    Args:
        fds: which of our descriptors it has, by the numbers that they have there.

    Raises:
        OSError: no process can be started.
    """
    nothing = os.open(os.devnull, os.O_RDONLY)  # here, so that it is named if it is not there
    try:
        return os.posix_spawn(
            sys.executable,
            command,
            environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nothing, 0),  # a debugger is not to stop us all by reading
                *((os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in fds.items()),  # which clears close-on-exec
            ],
            setpgroup=0,
            setsigmask=(),
        )
    finally:
        os.close(nothing)


def _import_path() -> str:
    """Ours, in JSON: an entry may hold any character; what is no text says nothing to Python either."""
    return json.dumps([entry for entry in sys.path if isinstance(entry, str)])


def _build_command(channel: int, stacks: int, order: Order) -> list[str]:
    """The words that start a worker; what follows the descriptors is for people who list processes."""
    return [
        sys.executable,
        *_flags(),
        "-c",
        _CODE,
        str(channel),
        str(stacks),
        f"trio-wsgi worker {order.number}: {order.plan.reference or 'files'}",
    ]


def _flags() -> list[str]:
    """Those of Python that this process was started with, and that its import path is the one we set (`_CODE`)."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    flags += [] if "-P" in flags else ["-P"]
    # Which knows only some of what `-X` may say, and nothing of the others.
    if _imp.check_hash_based_pycs != "default":
        flags += ["--check-hash-based-pycs", _imp.check_hash_based_pycs]
    options = (name if value is True else f"{name}={value}" for name, value in sys._xoptions.items())
    flags += [word for option in options if option not in flags for word in ("-X", option)]
    is_unbuffered = isinstance(sys.__stdout__, io.TextIOWrapper) and sys.__stdout__.write_through
    return [*flags, "-u"] if is_unbuffered else flags
