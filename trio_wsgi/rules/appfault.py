"""What an application got wrong of PEP 3333, in one line for its author: what was given, and what to give instead.

Laws:

* A line names the type and the value, the latter at a bounded length and whatever its repr does.
* It is made only once something is wrong: whoever finds that raises what is returned here.
* It is written for somebody whose application another server took as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus

from trio_wsgi.errors import AppError

_SHOWN_MAX = 80  # characters of a value
_CODE = re.compile(r"[0-9]{3}")


def show(value: object) -> str:
    """A value of the application's in ASCII."""
    try:
        text = ascii(value)
    except Exception:  # the application's own __repr__
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "..."


def of_type(what: str, rule: str, given: object, fix: str) -> AppError:
    """Something is of the wrong type."""
    return AppError(f"{what} must be {rule}, got {type(given).__name__}: {show(given)}; {fix}")


# -- start_response ----------------------------------------------------------------------------------------------


def in_status_type(status: object) -> AppError:
    """The status is no str."""
    code = int(status) if isinstance(status, int) else None
    return of_type("status", "str", status, f"write {_suggest_status(code)!r}")


def in_status(status: str) -> AppError:
    """The status is a str, but no code and reason."""
    if _CODE.fullmatch(status):
        fix = f"write {_suggest_status(int(status))!r}: gunicorn and waitress do without the reason, PEP 3333 does not"
    else:
        fix = "write such as '200 OK'"
    rule = "a code from 200 to 599, a space and a reason without control characters"
    return AppError(f"status must be {rule}, got {show(status)}; {fix}")


def in_reason(status: str) -> AppError:
    """The status is right, but for the characters of its reason."""
    return AppError(f"status must be latin-1, got {show(status)}; write the reason in plain English, or none")


def in_headers_type(headers: object) -> AppError:
    """The headers are no list."""
    if isinstance(headers, Mapping):
        fix = "write list(headers.items())"
    elif isinstance(headers, Iterable) and not isinstance(headers, str | bytes):
        fix = "write list(headers)"
    else:
        fix = "write [('Content-Type', 'text/plain')], or [] for none"
    return of_type("headers", "a list", headers, fix)


def in_header(item: object) -> AppError:
    """An item of the headers is no pair, or not in a tuple."""
    pair = isinstance(item, list) and len(item) == 2
    fix = "write [tuple(header) for header in headers]" if pair else "write ('Content-Type', 'text/plain')"
    return of_type("a header", "a (name, value) tuple", item, fix)


def in_name_type(name: object) -> AppError:
    """A header's name is no str."""
    return of_type("header name", "str", name, "write name.decode('latin-1')" if _is_bytes(name) else "write str(name)")


def in_name(name: str) -> AppError:
    """A header's name has characters that it may not have."""
    return AppError(
        f"header name is not a token (RFC 9110 §5.1): {show(name)}; write letters, digits and hyphens alone, such as"
        " 'X-Name'"
    )


def of_hop_by_hop(name: str) -> AppError:
    """The header is for the server to set."""
    return AppError(
        f"header {name} is hop-by-hop: only the server may set it (PEP 3333); leave it out, gunicorn drops it"
    )


def in_value_type(name: str, value: object) -> AppError:
    """A header's value is no str."""
    if value is None:
        fix = "leave the header out"
    else:
        fix = "write value.decode('latin-1')" if _is_bytes(value) else "write it as text, such as str(value)"
    return of_type(f"value of header {name}", "str", value, fix)


def in_value(name: str, value: str, control: re.Pattern[str]) -> AppError:
    """A header's value has characters that it may not have.

    Args:
        control: those that no value has.
    """
    shown = show(value)
    if control.search(value) is None:
        return AppError(
            f"value of header {name} must be latin-1, got {shown}; encode other text as its header's specification"
            " says: percent-encoded in a URL, filename*=UTF-8''... for a file's name (RFC 8187)"
        )
    if control.search(value.strip()) is None:
        fix = "write value.strip()"
    elif "\n" in value or "\r" in value:
        fix = "take the line break out, for it splits the response; each header is a tuple of its own"
    else:
        fix = "take it out"
    return AppError(f"value of header {name} has a control character: {shown}; {fix}")


def in_length(value: str) -> AppError:
    """Content-Length is no number."""
    return AppError(
        f"Content-Length must be a decimal number, got {show(value)}; write str(len(body)), of bytes, or leave it out"
    )


def of_second_length(value: str) -> AppError:
    """There are two of them."""
    return AppError(f"Content-Length is set more than once, the second time to {show(value)}; set it once, or never")


def of_second_start(first: int, status: object) -> AppError:
    """start_response was called again.

    Args:
        first: the code that it was called with before.
    """
    return AppError(
        f"start_response was called a second time without exc_info, with {show(status)} after {first}; call it once, or"
        " hand over sys.exc_info() as its third argument to answer an error instead"
    )


def in_exc_info(exc_info: object) -> AppError:
    """What start_response was given to be raised, as the head has left, is no error."""
    fix = "write sys.exc_info(), inside the except; the head has left, so that error would be raised"
    return of_type("exc_info", "what sys.exc_info() gives", exc_info, fix)


def of_no_start() -> AppError:
    """start_response was never called."""
    return AppError(
        "the application returned without calling start_response; call start_response('200 OK', headers) before the"
        " first block of the body, also where there is none"
    )


# -- the body ----------------------------------------------------------------------------------------------------


def in_result(result: object) -> AppError:
    """What the application returned is no body."""
    if isinstance(result, Mapping):
        fix = "write return [json.dumps(result).encode()]"
    elif result is None:
        fix = "is a return missing? for an empty body write return []"
    elif isinstance(result, str):
        fix = "write return [text.encode()]"
    elif isinstance(result, bytes | bytearray | memoryview):
        fix = f"write return [{'body' if isinstance(result, bytes) else 'bytes(body)'}]"
    else:
        fix = "write return [b'...']"
    return AppError(
        f"the application returned {type(result).__name__}: it must be an iterable of bytes, such as a list, got"
        f" {show(result)}; {fix}"
    )


def in_item(result: object, block: object) -> AppError:
    """What the application returned is no body for the sake of this block of it."""
    if isinstance(result, Mapping):
        return in_result(result)
    return in_block(f"a block of the {type(result).__name__} that the application returned", block)


def in_block(source: str, block: object) -> AppError:
    """A block of the body is none.

    Args:
        source: what gave it, for the beginning of a sentence.
    """
    if isinstance(block, str):
        fix = "write text.encode()"
    elif isinstance(block, bytearray | memoryview):
        fix = "write bytes(block)"
    elif block is None:
        fix = "leave it out, or write b''"
    elif isinstance(block, int):  # what iterating a bytes object gives
        fix = "a number is str(number).encode(); and write return [b'...'], not return b'...'"
    else:
        fix = "encode it, such as by json.dumps(value).encode()"
    return of_type(source, "bytes", block, fix)


def of_early_block(block: bytes) -> AppError:
    """There is no head yet."""
    return AppError(
        f"the application gave a block of its body, {show(block)}, before it called start_response; call that first"
    )


def of_late_block(source: str, block: bytes) -> AppError:
    """The answer is complete."""
    return AppError(
        f"{source} came after the application had returned, with {show(block)}: the answer is complete; write before"
        " that, or yield it"
    )


def on_loop(verb: str) -> AppError:
    """What may wait for the client was called where nobody may wait."""
    return AppError(
        f"{verb} was called on the server's event loop, which it would stop while it waits for the client; call it in"
        " the application's thread, or from the loop by `await trio.to_thread.run_sync(...)`"
    )


def _suggest_status(code: int | None) -> str:
    try:
        known = HTTPStatus(HTTPStatus.OK if code is None else code)
    except ValueError:
        return f"{code} Reason" if code is not None and 200 <= code < 600 else "200 OK"
    return f"{known.value} {known.phrase}" if known.value >= 200 else "200 OK"


def _is_bytes(value: object) -> bool:
    return isinstance(value, bytes | bytearray)
