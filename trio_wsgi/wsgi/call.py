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
from functools import partial
from typing import Any, TypeGuard

from trio_wsgi.disk.answer import Answer
from trio_wsgi.disk.closing import Closing, closing_file
from trio_wsgi.disk.filesystem import is_local
from trio_wsgi.rules import appfault
from trio_wsgi.wsgi import bridge
from trio_wsgi.wsgi.filewrapper import FileWrapper, closes_at_once, is_nameless, is_temporary
from trio_wsgi.wsgi.response import ExcInfo, Response, Write
from trio_wsgi.wsgi.unwrap import FoundFile, find_file

log = logging.getLogger("trio_wsgi.error")

StartResponse = Callable[[str, list[tuple[str, str]], ExcInfo | None], Write]
WSGIApplication = Callable[[dict[str, Any], Any], Iterable[bytes]]

_ALL_KNOWN = (list.__iter__, tuple.__iter__, dict.__iter__)


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
            local = is_local(found.span.file.fileno(), found.status.st_dev)
            answer = response.finish_with_file(found, passing)
    except BaseException:
        response.close()
        _close(result)
        raise
    if found is not None:
        quick = type(result) is FileWrapper and not nameless and closes_at_once(found.filelike)
        answer.closing = _closing(result, found, local, quick, answer.closing)
        return answer
    if type(result) not in (list, tuple):
        response.leave(answer)
        try:
            _close(result)
        except BaseException:  # the request was cancelled
            if answer.closing is not None:
                answer.closing.close()
            raise
    return answer


def _blocks_left(result: Any, response: Response) -> list[Any]:
    """Send the blocks of an iterable; those of a list are all known, and are left for later."""
    if isinstance(result, str | bytes) and not result:  # to iterate it gives nothing, which is a body
        return []
    known = type(result) in (list, tuple)
    if not known and not _is_body(result):
        raise appfault.in_result(result)
    if known or _is_all_known(result):
        blocks = list(result)
        for block in blocks:
            if not isinstance(block, bytes):
                raise appfault.in_item(result, block)
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
    if getattr(type(result), "__iter__", None) in _ALL_KNOWN:  # a subclass may do anything
        return True
    with suppress(Exception):  # the application's own __len__
        return isinstance(result, Sized) and len(result) == 1
    return False


def _closing(result: object, found: FoundFile, local: bool, quick: bool, spooled: Closing | None) -> Closing:
    """What closes the app's object with its file, and what was buffered before it."""
    close = partial(_close, result) if spooled is None else partial(_close_both, spooled.close, result)
    return closing_file(close, found.span.file, found.status, local, quick and (spooled is None or spooled.quick))


def _close_both(close_first: Callable[[], object], result: object) -> None:
    close_first()
    _close(result)


def _close(result: object) -> None:
    try:
        close = getattr(result, "close", None)
        if close is not None:
            close()
    except bridge.Cancelled:
        raise
    except BaseException as exc:  # be it SystemExit: it changes nothing about the response
        if bridge.is_interrupt(exc):
            raise
        log.exception("close() of the application's iterable failed")
