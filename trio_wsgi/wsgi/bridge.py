"""The one door from an application thread to the event loop.

Laws:

* Nothing else in `wsgi/` imports trio.
* An application may read its request, and write, in a thread that neither Trio nor we have started: asgiref runs async
  views in one. With a `token` that is served as well; only, no cancellation reaches such a thread.
* `run` and `run_sync` execute in the task that hosts this thread. Cancelling the request reaches the thread as
  `Cancelled` out of `run`, where that waits, and out of `check_cancelled`, and nowhere else.
* What is run for us on the loop is whole: no Ctrl-C strikes in the middle of it.
* An application may run an event loop of its own (`trio.run`), with threads of its own: what is for ours goes to ours.
  What runs on that loop is served as a foreign thread is, for Trio itself would refuse it.
* On our own loop nothing is waited for: who would is told so before anything has changed (`refuse_on_loop`).
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import TypeVar, TypeVarTuple, cast

import trio

from trio_wsgi.rules import appfault

Cancelled = trio.Cancelled
Token = trio.lowlevel.TrioToken

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


_CAUSES_MAX = 100  # of one error: it may be its own
_thread = threading.local()
_ASKING = {trio.from_thread.run.__code__, trio.from_thread.run_sync.__code__}


@contextmanager
def hosted_by(token: Token) -> Iterator[None]:
    """In the block this thread is hosted by a task of that loop; then Trio may give it to whoever asks, on any loop."""
    _thread.token = token
    try:
        yield
    finally:
        del _thread.token


def run(async_fn: Callable[[*Ts], Awaitable[T]], *args: *Ts, token: Token | None = None) -> T:
    """Run `async_fn(*args)` on the event loop and wait for it.

    Args:
        token: of the loop, for threads that do not know theirs.

    Raises:
        Cancelled: the request was cancelled; let it pass through the app.
        RunFinishedError: that loop has ended.
    """
    if (asked := _beyond_another_loop(token)) is not None:
        return _ask(asked, async_fn, *args)
    return trio.from_thread.run(_run_whole, async_fn, *args, trio_token=None if _is_hosted(token) else token)


def run_sync(fn: Callable[[*Ts], T], *args: *Ts, token: Token | None = None) -> T:
    """Run `fn(*args)`, which must not block, on the event loop and wait for its result; also after a cancellation.

    It may be called on that loop, too.
    """
    if trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is token:
        return _call_whole(fn, *args)
    if (asked := _beyond_another_loop(token)) is not None:
        return _ask(asked, _call_soon, fn, *args)
    return trio.from_thread.run_sync(_call_whole, fn, *args, trio_token=None if _is_hosted(token) else token)


def _beyond_another_loop(token: Token | None) -> Token | None:
    """The loop that is asked, where this very thread runs another one; else None: Trio's own ways are open."""
    asked = token or getattr(_thread, "token", None)
    return asked if trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is not asked else None


def _ask(token: Token, async_fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """`trio.from_thread.run` for a thread that runs a loop of its own, which waits with it."""
    outcomes = queue.SimpleQueue[tuple[T, None] | tuple[None, BaseException]]()
    context = copy_context()

    async def task() -> None:
        try:
            outcomes.put((await _run_whole(async_fn, *args), None))
        except BaseException as exc:
            outcomes.put((None, exc))

    def start() -> None:
        try:
            trio.lowlevel.spawn_system_task(task, name=async_fn, context=context)
        except RuntimeError:  # it takes no more tasks
            outcomes.put((None, trio.RunFinishedError("the event loop is about to end")))

    token.run_sync_soon(start)
    result, error = outcomes.get()
    try:
        if error is not None:
            raise error
        return cast("T", result)
    finally:
        del error  # it would keep this frame, and the frame the error


@trio.lowlevel.enable_ki_protection
async def _run_whole(async_fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    return await async_fn(*args)


async def _call_soon(fn: Callable[[*Ts], T], *args: *Ts) -> T:
    return fn(*args)


@trio.lowlevel.enable_ki_protection
def _call_whole(fn: Callable[[*Ts], T], *args: *Ts) -> T:
    return fn(*args)


def _is_hosted(token: Token | None) -> bool:
    """Whether a task of this loop hosts the thread; None for whichever does."""
    if token is None or getattr(_thread, "token", None) is token:
        return True
    try:
        trio.from_thread.check_cancelled()
    except RuntimeError:  # Trio has not started it
        return False
    except Cancelled:
        pass
    return trio.from_thread.run_sync(trio.lowlevel.current_trio_token) is token


def refuse_on_loop(loop_thread: int, verb: str) -> None:
    """What is called first by whoever may have to wait for the event loop.

    Args:
        loop_thread: the identifier of its thread.
        verb: as the application knows what it has called.

    Raises:
        AppError: this is that thread; nothing has changed yet.
    """
    if threading.get_ident() == loop_thread:
        raise appfault.on_loop(verb)


def causes(exc: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it was raised from, one after the other."""
    for _ in range(_CAUSES_MAX):
        if exc is None:
            return
        yield exc
        exc = exc.__cause__


def is_cancellation(exc: BaseException) -> bool:
    """Whether it says that something was cancelled, and nothing else: alone, or in a group, as nurseries raise it."""
    return isinstance(exc, Cancelled) or (isinstance(exc, BaseExceptionGroup) and exc.split(Cancelled)[1] is None)


def is_interrupt(exc: BaseException) -> bool:
    """Whether it is the Ctrl-C that struck what a thread had asked of the loop by `trio.from_thread`.

    It is the program's, alone, in a group, or as the cause of another error. A KeyboardInterrupt that the application
    raises in its thread is not.
    """
    return any(_is_struck(each) and _was_asked_for(each) for each in causes(exc))


def _is_struck(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return exc.subgroup(KeyboardInterrupt) is not None
    return isinstance(exc, KeyboardInterrupt)


def _was_asked_for(exc: BaseException) -> bool:
    return any(frame.f_code in _ASKING for frame, _ in traceback.walk_tb(exc.__traceback__))


def check_cancelled() -> None:
    """What a thread calls that may go on for long without waiting. In a thread of the app's own it does nothing.

    Raises:
        Cancelled: the request was cancelled; let it pass through the app.
    """
    try:
        trio.from_thread.check_cancelled()
    except RuntimeError:  # a thread that Trio did not start
        return
