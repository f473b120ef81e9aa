"""What a process that serves changes of the system's and Python's settings, once its application is loaded.

Laws:

* Only processes of ours are tuned: who serves inside a program of their own decides for themselves.
* It is done once, after the application was loaded and before anybody is served.
* It can be put back, for a program that goes on when it has served; what somebody else has changed since stays.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PYTHONS_SWITCH_INTERVAL = 0.005  # seconds (sys.setswitchinterval)
_SWITCH_INTERVAL = 0.001
_PYTHONS_FROZEN = 1000  # objects at most that Python freezes itself: 3.12 does, some 400


@contextmanager
def tuned_process() -> Iterator[None]:
    """All of it, for as long as the block runs."""
    with raised_descriptor_limit(), calm_collector(), shared_interpreter(), quiet_handshakes():
        yield


@contextmanager
def raised_descriptor_limit() -> Iterator[None]:
    """Raise the soft limit of open files to the hard one: each download takes two (getrlimit(2))."""
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:  # a sandbox forbids it
        yield
        return
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        if resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def calm_collector() -> Iterator[None]:
    """Let the cyclic collector look at the application's modules no more, and at the rest less often.

    A collection stops everybody. Beside 5,000 slow readers the longest hello took 477 ms with Python's own settings,
    and 46 to 140 ms with full collections as rare as these. While the readers came, the longest pause was that of the
    middle generation: 260 ms over 400,000 objects, 70 ms over the 50,000 that it may have here.
    """
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 4, 200)
    ours = gc.get_threshold()  # some versions have fewer generations
    try:
        yield
    finally:
        if gc.get_threshold() == ours:
            gc.set_threshold(*before)
        if frozen <= _PYTHONS_FROZEN:  # else what was the program's, and what is ours, cannot be told apart
            gc.unfreeze()


@contextmanager
def shared_interpreter() -> Iterator[None]:
    """Have who computes give the interpreter away after a millisecond, unless the application has chosen a time itself.

    By Python's own settings it is 5 ms, and a request takes the interpreter some ten times: beside four requests that
    compute for 20 ms each, a hello took 82 ms with those (median), and 34 with these. At 0.5 ms it was 25, but of the
    others some 5 % fewer were served.
    """
    before = sys.getswitchinterval()
    if before == _PYTHONS_SWITCH_INTERVAL:
        sys.setswitchinterval(_SWITCH_INTERVAL)
    try:
        yield
    finally:
        if before == _PYTHONS_SWITCH_INTERVAL and sys.getswitchinterval() == _SWITCH_INTERVAL:
            sys.setswitchinterval(before)


@contextmanager
def quiet_handshakes() -> Iterator[None]:
    """Have no traceback printed for a client that asks for a server name (SNI) which is not ASCII.

    `ssl` cannot decode it for our callback, and tells nobody but this hook; the handshake has failed then, and our log
    says of whom. All else goes where it went before.
    """
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if not _is_asked_name(unraisable):
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        if sys.unraisablehook is hook:
            sys.unraisablehook = before


def _is_asked_name(unraisable: sys.UnraisableHookArgs) -> bool:
    """Whether the handshake itself could not decode something; its callbacks have frames of their own."""
    inner = unraisable.exc_traceback
    while inner is not None and inner.tb_next is not None:
        inner = inner.tb_next
    return (
        isinstance(unraisable.exc_value, UnicodeDecodeError)
        and inner is not None
        and inner.tb_frame.f_code is ssl.SSLSocket.do_handshake.__code__
    )
