"""Modules of Python's that gevent or eventlet have replaced, and that nothing here works without.

Laws:

* What was tried and works beside such a patch is not refused: sockets, time, ssl, subprocess.
* Nothing is imported to find out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from trio_wsgi.errors import AppLoadError

# Without the first the event loop has no epoll; with the others a thread waits for a switch that never comes.
_NEEDED = frozenset({"select", "selectors", "_thread", "thread", "threading", "queue"})
_RECORDS = (  # who replaces modules, and where it keeps the names of those that it has replaced
    ("gevent", "gevent.monkey", "saved", "monkey.patch_all()"),
    ("eventlet", "eventlet.patcher", "already_patched", "eventlet.monkey_patch()"),
)


def find_patches() -> str:
    """What was replaced by whom, and the fix; empty where all is Python's own."""
    for library, module, record, call in _RECORDS:
        replaced = sorted(_NEEDED.intersection(getattr(sys.modules.get(module), record, ())))
        if replaced:
            return (
                f"{library} has replaced Python's {', '.join(replaced)}, which this server's event loop and threads "
                f"need as they are: remove {call} from the application; each request has a real thread here, and "
                "--threads says how many there are"
            )
    return ""


@contextmanager
def refusing_patches() -> Iterator[None]:
    """The application is loaded inside; a failure that comes of the patch is told as that.

    Raises:
        AppLoadError: it has replaced what we need.
    """
    try:
        yield
    except Exception:
        _refuse_patches()
        raise
    _refuse_patches()


def _refuse_patches() -> None:
    if found := find_patches():
        _quieten_threads()
        raise AppLoadError(found) from None


def _quieten_threads() -> None:
    """A thread from before the patch does not find itself when it ends, which Python would print above what we say."""
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        is_thread = getattr(unraisable.object, "__name__", "") == "_bootstrap"
        if not (is_thread and isinstance(unraisable.exc_value, KeyError)):
            before(unraisable)

    sys.unraisablehook = hook
