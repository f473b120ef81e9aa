"""Work that a WSGI application starts on the event loop: for its request, or for as long as the server runs.

Laws:

* It has an owner that ends it: what was started for a request is cancelled, and waited for, when the request has ended;
  what was started for the server, when the server has.
* Its failure is logged, and harms nothing else.
* It is started from any thread, or from the loop itself.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from trio_wsgi.wsgi import bridge

log = logging.getLogger("trio_wsgi.error")


class Work:
    """A nursery as an application sees it: `environ["trio_wsgi.nursery"]` and `environ["trio_wsgi.server_nursery"]`.

    Args:
        nursery: where the tasks run; it outlives this.
        owner: what it is for, in the log.
        token: of the loop, for threads that do not know theirs.
        lives: asked on the loop before each start; False where the owner has ended. True also makes the loop
            responsible for the owner's end, so that this end waits for what is started now.
    """

    __slots__ = ("_done", "_ended", "_lives", "_nursery", "_owner", "_scopes", "_token")

    def __init__(
        self, nursery: trio.Nursery, owner: str, token: bridge.Token, lives: Callable[[], bool] | None = None
    ) -> None:
        self._nursery = nursery
        self._token = token
        self._owner = owner
        self._lives = lives
        self._scopes: dict[trio.CancelScope, None] = {}  # of the tasks that run; takes less than a set while empty
        self._ended = False
        self._done: trio.Event | None = None  # somebody waits for the end

    def __repr__(self) -> str:
        return f"<Work for {self._owner}, {len(self._scopes)} tasks>"

    def start_soon(self, async_fn: Callable[..., Awaitable[object]], *args: object, name: object | None = None) -> None:
        """Start `async_fn(*args)`, as `trio.Nursery.start_soon` does.

        Raises:
            RuntimeError: its owner has ended.
            TypeError: `async_fn` is no asynchronous function, or does not take these arguments.
        """
        start = partial(self._start, async_fn, args, name)
        if trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is self._token:
            start()
        else:
            bridge.run_sync(start, token=self._token)

    @trio.lowlevel.enable_ki_protection
    def _start(self, async_fn: Callable[..., Awaitable[object]], args: tuple[object, ...], name: object | None) -> None:
        # Asked twice: who has just ended in its own thread is, to `lives`, one that the loop need not look after.
        if self._ended or (self._lives is not None and not self._lives()) or self._ended:
            raise RuntimeError(f"{self._owner} has ended: nothing can be started for it any more")
        task = async_fn(*args)  # an asynchronous function does nothing yet
        if not isinstance(task, Awaitable):
            raise TypeError(f"an asynchronous function is to be started, not {async_fn!r}, which gave {task!r}")
        scope = trio.CancelScope()
        self._scopes[scope] = None
        self._nursery.start_soon(self._run, scope, task, name=name or async_fn)

    @trio.lowlevel.enable_ki_protection
    async def _run(self, scope: trio.CancelScope, task: Awaitable[object]) -> None:
        try:
            with scope:
                await _unprotected(task)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # be it SystemExit, alone or in a group: it is the application's
            if bridge.is_cancellation(exc):  # ours, or another task's, out of an outcome that several share
                await trio.lowlevel.checkpoint_if_cancelled()
            log.exception("a task that the application started for %s failed", self._owner)
            if isinstance(exc, BaseExceptionGroup) and (interrupts := exc.subgroup(KeyboardInterrupt)):
                raise interrupts from None
        finally:
            del self._scopes[scope]
            if not self._scopes and self._done is not None:
                self._done.set()

    def end_unused(self) -> None:
        """The owner has ended, for which nothing was started."""
        self._ended = True

    async def end(self) -> None:
        """Cancel what still runs, and wait for it."""
        self._ended = True
        while self._scopes:
            for scope in self._scopes:
                scope.cancel()
            self._done = trio.Event()
            await self._done.wait()


@trio.lowlevel.disable_ki_protection
async def _unprotected(task: Awaitable[object]) -> None:
    await task
