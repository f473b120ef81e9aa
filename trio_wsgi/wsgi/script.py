"""An application that follows its file: a changed one is loaded anew, or has the worker replaced (script_reloading).

Laws:

* A request looks at the file once, before its call (one stat), and is served by one version from its start to its end.
* Who asks after a change gets the new code; while that does not load, the old goes on, and the log says why, once.
* Versions are made by one thread, in the order in which it is asked, and are handed over as values: there is no lock.
* A version is made in a context of its own: it sees no context variables of an older one, nor of a request.
* What only the event loop may touch is touched there (`bridge.run_sync`).
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from trio_wsgi.disk.stamp import Stamp, discard_bytecode, take_stamp
from trio_wsgi.errors import AppLoadError
from trio_wsgi.wsgi import bridge
from trio_wsgi.wsgi.call import WSGIApplication
from trio_wsgi.wsgi.loading import apply_middleware, load_app

log = logging.getLogger("trio_wsgi.error")

REFRESH_FOR = 10.0  # seconds for which clients are told to ask again; a new version that never boots ends that, too


class Version(NamedTuple):
    """The application as its file said at one time."""

    app: WSGIApplication
    stamp: Stamp | None  # of the file before it was read; None: it may have changed meanwhile


class Script:
    """A reference to an application, and the file behind it.

    Args:
        reference: as for `load_app`.
        middleware: as for `apply_middleware`; applied to every version.
    """

    def __init__(self, reference: str, middleware: Sequence[str]) -> None:
        self._reference = reference
        self._middleware = middleware
        self._name = reference.partition(":")[0]
        self._module: ModuleType | None = None  # these two are known once it is loaded
        self.path = ""

    def load(self) -> Version:
        """Import the application for the first time.

        Raises:
            AppLoadError: it cannot be loaded, or comes from no source file.
        """
        started = time.time_ns()
        app = self._build()
        self._module = sys.modules[self._name]
        path = getattr(self._module, "__file__", None)
        if path is None or not path.endswith(".py"):
            raise AppLoadError(f"module {self._name!r} has no source file; leave out --script-reloading")
        if not Path(path).parent.is_dir():
            raise AppLoadError(f"module {self._name!r} is in an archive, {path}: use --reload, which follows those")
        self.path = path
        stamp = take_stamp(path)
        return Version(app, None if stamp is not None and stamp.mtime_ns >= started else stamp)

    def load_anew(self, stamp: Stamp) -> Version:
        """Import the module as another one of the same name; modules that it imports are not imported anew.

        Whoever imports it by name meanwhile waits for the new one: that is Python's own doing.

        Raises:
            BaseException: whatever it raised; the name stands for the old module again.
        """
        compile(Path(self.path).read_bytes(), self.path, "exec")  # the usual mistake is found before anything is let go
        discard_bytecode(self.path)
        sys.modules.pop(self._name, None)
        try:
            app = self._build()
            self._module = sys.modules[self._name]
        except BaseException:
            self._put_back()
            raise
        return Version(app, stamp)

    def _build(self) -> WSGIApplication:
        return apply_middleware(load_app(self._reference), self._middleware)

    def _put_back(self) -> None:
        assert self._module is not None
        sys.modules[self._name] = self._module
        parent, _, child = self._name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, self._module)


class InPlace:
    """The mechanism `module`: a WSGI application that is always the one its file holds.

    Args:
        script: where it comes from.
        first: its version of now.
    """

    def __init__(self, script: Script, first: Version) -> None:
        self._script = script
        # Set by the thread that makes versions, and there alone. A request that reads it a moment too early finds that
        # its stamp is not the file's, and asks.
        self._version = first
        self._maker = ThreadPoolExecutor(1, "trio-wsgi script")

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        version = self._version
        stamp = take_stamp(self._script.path)
        if stamp is not None and stamp != version.stamp:
            version = self._maker.submit(self._renew).result()
        return version.app(environ, start_response)

    def _renew(self) -> Version:
        """The version that the file holds now; in the maker's thread."""
        old, stamp = self._version, take_stamp(self._script.path)
        if stamp is None or stamp == old.stamp:  # another request has asked before
            return old
        try:
            self._version = Context().run(self._script.load_anew, stamp)
            log.info("%s has changed: loaded anew", self._script.path)
        except BaseException:  # be it SystemExit
            self._version = Version(old.app, stamp)
            log.exception("%s has changed and cannot be loaded; the old code goes on", self._script.path)
        return self._version


class ByProcess:
    """The mechanism `process`: the old code answers, tells the client to ask again, and its worker is replaced.

    Args:
        script: where it comes from.
        first: its version of now.
        replace: asks for another worker, and says why; called on the event loop.
    """

    def __init__(self, script: Script, first: Version, replace: Callable[[str], None]) -> None:
        self._script = script
        self._first = first
        self._replace = replace
        self._seen: Stamp | None = first.stamp  # the newest; this and the next belong to the event loop
        self._seen_at = 0.0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        stamp = take_stamp(self._script.path)
        if stamp is None or stamp == self._first.stamp:
            return self._first.app(environ, start_response)
        fresh = bridge.run_sync(self._notice, stamp)
        if fresh and environ["REQUEST_METHOD"] == "GET":  # to ask again for anything else is not ours to say
            return self._first.app(environ, _refreshing(start_response))
        return self._first.app(environ, start_response)

    def _notice(self, stamp: Stamp) -> bool:
        """Have the worker replaced, once for each change; tells whether that is still worth waiting for."""
        if stamp != self._seen:
            self._seen, self._seen_at = stamp, time.monotonic()
            discard_bytecode(self._script.path)
            self._replace(f"{self._script.path} has changed")
        return time.monotonic() - self._seen_at < REFRESH_FOR


def _refreshing(start_response: Any) -> Any:
    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        with suppress(TypeError, ValueError):  # headers that are none are the response's to refuse
            if all(name.lower() != "refresh" for name, _ in headers):
                headers = [*headers, ("Refresh", "0")]
        return start_response(status, headers, exc_info)

    return start


def load_script(
    reference: str, middleware: Sequence[str], mechanism: str, replace: Callable[[str], None]
) -> WSGIApplication:
    """Import an application that follows its file from then on.

    Args:
        reference, middleware: as for `load_app` and `apply_middleware`.
        mechanism: module or process, as the setting `reload_mechanism`.
        replace: asks for this worker to be replaced, for the reason it is given; called on the event loop.

    Raises:
        AppLoadError: as `load_app`, or the application comes from no source file.
    """
    script = Script(reference, middleware)
    first = script.load()
    return ByProcess(script, first, replace) if mechanism == "process" else InPlace(script, first)
