"""What stands ready before an application is imported, and its import.

Laws:

* The environment, the working directory and the import path are those that gunicorn gives an application.
* Whom or what workers could not have, a supervisor finds out itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple
from wsgiref.types import StartResponse, WSGIEnvironment

from trio_wsgi.address import Address
from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.net.listeners import Resolved, resolve
from trio_wsgi.net.unixsocket import Access, find_access
from trio_wsgi.owner import Owner, find_heir
from trio_wsgi.process.affinity import check_cpus_available
from trio_wsgi.process.patches import refusing_patches
from trio_wsgi.process.plan import Plan
from trio_wsgi.process.privileges import Identity, check_supervisor, decide_identity
from trio_wsgi.process.standing import change_directory
from trio_wsgi.wsgi.call import WSGIApplication
from trio_wsgi.wsgi.loading import apply_middleware, load_app
from trio_wsgi.wsgi.script import load_script


def open_standard_streams() -> None:
    """See that the descriptors 0, 1 and 2 are open, if only to nothing: a socket that got such a number would be
    written to by every `print`, here and in whatever is started.

    Raises:
        ConfigError: there is nothing that they could be open to.
    """
    try:
        for fd in range(3):
            if not _is_open(fd):
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free
    except OSError as error:
        why = f"it cannot be opened in place of a standard stream that is closed: {error.strerror}"
        raise ConfigError(os.devnull, why, "see that it is there") from None


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def prepare_process(config: Config) -> None:
    """Set the environment, the working directory and the import path of the application.

    Raises:
        ConfigError: a directory that is not there or cannot be written to.
    """
    os.environ.update(config.env)
    change_directory(config)
    prepare_imports(config)


class Found(NamedTuple):
    """What names in a configuration stand for.

    Args:
        resolved: the addresses that are to be opened.
        access: to unix sockets.
        heir: whose log files are.
    """

    resolved: list[Resolved]
    access: Access
    heir: Owner


def find_out(config: Config, addresses: Iterable[Address]) -> Found:
    """Find out what a supervisor needs to know to serve these addresses; may ask the network.

    Raises:
        ConfigError: a name is not known, or as in `check_workers`.
    """
    check_workers(config)
    return Found(resolve(addresses), find_access(config), find_heir(config))


def check_workers(config: Config) -> Identity | None:
    """See that workers could serve; may ask the network who the user is.

    Returns:
        Whom they become.

    Raises:
        ConfigError: they could not become whom, or run where, the settings say; or not be ended by this process then.
    """
    identity = decide_identity(config)
    check_supervisor(identity)
    check_cpus_available(config.cpu_affinity)
    return identity


def prepare_imports(config: Config) -> None:
    """Let the application be imported from the working directory and from `pythonpath` first."""
    paths = [str(Path.cwd()), *(str(Path(path).resolve()) for path in config.pythonpath.split(",") if path)]
    for path in paths:
        if path in sys.path:
            sys.path.remove(path)
        sys.path.insert(0, path)


def _ask_nobody(reason: str) -> None:
    """Where nobody could replace this process, settings that would ask for it are refused."""


def load_plan(plan: Plan, replace: Callable[[str], None] = _ask_nobody) -> WSGIApplication:
    """The application with its middleware around it.

    Args:
        replace: asks for another worker, for the reason it is given; called on the event loop.

    Raises:
        AppLoadError: one of them cannot be loaded, or has replaced modules of Python's.
    """
    config = plan.config
    with refusing_patches():
        if config.script_reloading and plan.reference is not None:
            return load_script(plan.reference, config.middleware, config.reload_mechanism, replace)
        app = nothing_here if plan.reference is None else load_app(plan.reference)
        return apply_middleware(app, config.middleware)


def nothing_here(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """The application behind `files`: the mount answers for every path, so this one for `OPTIONS *`, which has none."""
    if environ["REQUEST_METHOD"] == "OPTIONS" and not environ["PATH_INFO"]:
        start_response("204 No Content", [("Allow", "GET, HEAD, OPTIONS")])
        return []
    body = b"404 Not Found\n"
    start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
