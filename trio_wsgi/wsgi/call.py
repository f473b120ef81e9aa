"""The call of the app in its thread: from the environ to what is left to send (PEP 3333).

Laws:

* What the app has finished producing is returned, not sent: no thread waits for the client to take a list, a file or a
  buffered body.
* A block of any other iterable is sent before the next is asked for.
* `close()` of the iterable is called exactly once: here, or, when the server sends its file, by whoever sent it. Here,
  once the answer has left as far as the kernel takes it: what an app does in it keeps nobody waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sized
from contextlib import suppress
from typing import Any, TypeGuard

from trio_wsgi.disk.answer import Answer
from trio_wsgi.errors import AppError
from trio_wsgi.wsgi import bridge
from trio_wsgi.wsgi.filewrapper import FileWrapper, closes_at_once, is_nameless, is_temporary
from trio_wsgi.wsgi.response import ExcInfo, Response, Write
from trio_wsgi.wsgi.unwrap import find_file

log = logging.getLogger("trio_wsgi.error")

StartResponse = Callable[[str, list[tuple[str, str]], ExcInfo | None], Write]
WSGIApplication = Callable[[dict[str, Any], Any], Iterable[bytes]]


def call_app(app: WSGIApplication, environ: dict[str, Any], response: Response) -> Answer:
    """Run the app to its end and return what is left to send.

    Raises:
        AppError: it broke a rule of PEP 3333.
        ClientGone: the client left before it was done.
        BaseException: whatever the app raised.
    """
    result: object = None
    try:
        result = app(environ, response.start_response)
        found = find_file(result)
        if found is None:
            answer = response.finish(_blocks_left(result, response))
        else:
            nameless = is_nameless(found.span, found.status)
            passing = nameless or is_temporary(found.filelike)  # it was made for this one answer
            answer = response.finish_with_file(found.span, found.status, passing)
    except BaseException:
        response.close()
        _close(result)
        raise
    if found is not None:
        at_once = type(result) is FileWrapper and not nameless and closes_at_once(found.filelike)
        return _closing_too(answer, result, at_once)
    if type(result) not in (list, tuple):
        response.leave(answer)
        _close(result)
    return answer


def _blocks_left(result: Any, response: Response) -> list[Any]:
    """Send the blocks of an iterable; those of a list are all known, and are left for later."""
    if isinstance(result, str | bytes) and not result:  # to iterate it gives nothing, which is a body
        return []
    known = type(result) in (list, tuple)
    if not known and not _is_body(result):
        raise AppError(
            f"the application returned {type(result).__name__}: it must be an iterable of bytes, such as a list"
        )
    if known or _is_all_known(result):
        blocks = list(result)
        for block in blocks:
            if not isinstance(block, bytes):
                raise AppError(f"the list returned by the application holds {type(block).__name__}, not only bytes")
        return blocks
    if isinstance(result, FileWrapper):
        result.iterated_by_server = True
    for block in result:
        if not response.send_block(block):
            break
    return []


def _is_body(result: object) -> TypeGuard[Iterable[Any]]:
    if isinstance(result, str | bytes | bytearray | memoryview):
        return False
    return isinstance(result, Iterable) or hasattr(type(result), "__getitem__")


def _is_all_known(result: Iterable[Any]) -> bool:
    """Whether nothing has to be computed to have all blocks: a list, or one block (PEP 3333, "Content-Length")."""
    if getattr(type(result), "__iter__", None) in (list.__iter__, tuple.__iter__):  # a subclass may do anything
        return True
    with suppress(Exception):  # the application's own __len__
        return isinstance(result, Sized) and len(result) == 1
    return False


def _closing_too(answer: Answer, result: object, at_once: bool) -> Answer:
    answer.close = _Closing(answer.close, result)
    answer.quick = at_once and answer.quick
    return answer


class _Closing:
    """Closes what an answer consists of, and the app's iterable; a closure would take six times as much."""

    __slots__ = ("_finish", "_result")

    def __init__(self, finish: Callable[[], object], result: object) -> None:
        self._finish = finish
        self._result = result

    def __call__(self) -> None:
        self._finish()
        _close(self._result)


def _close(result: object) -> None:
    try:
        close = getattr(result, "close", None)
        if close is not None:
            close()
    except bridge.Cancelled:
        raise
    except BaseException:  # be it SystemExit: it changes nothing about the response
        log.exception("close() of the application's iterable failed")
