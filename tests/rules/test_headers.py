"""The rules for what an application says: PEP 3333 (start_response), RFC 9110 §5, §6.4.1, §8.6, §15."""

from __future__ import annotations

from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import ruled

from trio_wsgi.errors import AppError
from trio_wsgi.rules.headers import (
    HOP_BY_HOP,
    body_allowed,
    check_headers,
    check_status,
    finish_headers,
    get_all,
    join_duplicates,
)

STATUSES = [
    ("PEP 3333", "200 OK", (200, b"OK")),
    ("RFC 9110 §15: up to 599", "599 Own", (599, b"Own")),
    ("RFC 9112 §4: reason may be empty", "404 ", (404, b"")),
    ("latin-1", "200 Sch\xf6n", (200, b"Sch\xf6n")),
]
WRONG_STATUSES = [
    ("PEP 3333: str", b"200 OK", "got bytes"),
    ("PEP 3333: str", 200, "got int"),
    ("PEP 3333: str", None, "got NoneType"),
    ("PEP 3333: no space", "404", "space"),
    ("PEP 3333: no code", "OK", "code"),
    ("PEP 3333: digits", "20x OK", "code"),
    ("PEP 3333: ASCII digits", "\u0662\u0660\u0660 OK", "code"),
    ("RFC 9110 §15.2: no 1xx", "100 Continue", "200 to 599"),
    ("RFC 9110 §15: no 6xx", "600 No", "200 to 599"),
    ("PEP 3333: control characters", "200 OK\r\nX: y", "control"),
    ("PEP 3333: no end of line", "200 OK\n", "control"),
    ("PEP 3333: NUL", "200 \x00", "control"),
    ("PEP 3333: latin-1", "200 \u20ac", "latin-1"),
]


@pytest.mark.parametrize(("status", "parts"), ruled(STATUSES))
def test_right_statuses(status: str, parts: tuple[int, bytes]) -> None:
    assert check_status(status) == parts


@pytest.mark.parametrize(("status", "word"), ruled(WRONG_STATUSES))
def test_wrong_statuses_are_named(status: object, word: str) -> None:
    with pytest.raises(AppError, match=word):
        check_status(status)


class OwnList(list[Any]):
    pass


RIGHT_HEADERS: list[tuple[str, Any, list[tuple[bytes, bytes]]]] = [
    ("none", [], []),
    ("spelling and order stay", [("X-b", "1"), ("x-A", "2")], [(b"X-b", b"1"), (b"x-A", b"2")]),
    (
        "duplicates stay apart",
        [("Set-Cookie", "a"), ("Set-Cookie", "b")],
        [(b"Set-Cookie", b"a"), (b"Set-Cookie", b"b")],
    ),
    ("blanks around", [("X", " \ta b ")], [(b"X", b"a b")]),
    ("empty value", [("X", "")], [(b"X", b"")]),
    ("latin-1", [("X", "\xe4\xa0\xad")], [(b"X", b"\xe4\xa0\xad")]),
    ("tab inside", [("X", "a\tb")], [(b"X", b"a\tb")]),
    ("length", [("content-length", "012")], [(b"content-length", b"012")]),
    ("list subclass", OwnList([("X", "y")]), [(b"X", b"y")]),
]
WRONG_HEADERS: list[tuple[str, Any, str]] = [
    ("PEP 3333: a list", (("X", "y"),), "list, got tuple"),
    ("PEP 3333: a list", {"X": "y"}, "list, got dict"),
    ("PEP 3333: a list", None, "list, got NoneType"),
    ("PEP 3333: tuples", [["X", "y"]], "tuple"),
    ("PEP 3333: of two", [("X", "y", "z")], "tuple"),
    ("PEP 3333: str names", [(b"X", "y")], "name must be str, got bytes"),
    ("PEP 3333: str values", [("X", b"y")], "header X must be str, got bytes"),
    ("PEP 3333: str values", [("Content-Length", 5)], "Content-Length must be str, got int"),
    ("RFC 9110 §5.1", [("X y", "z")], "token"),
    ("RFC 9110 §5.1", [("", "z")], "token"),
    ("RFC 9110 §5.1", [("X:", "z")], "token"),
    ("RFC 9110 §5.1", [("X\r\nY", "z")], "token"),
    ("RFC 9110 §5.1", [("X\n", "z")], "token"),
    ("RFC 9110 §5.1", [("\xe4", "z")], "token"),
    ("PEP 3333: CR LF", [("X", "a\r\nSet-Cookie: b")], "header X has a control"),
    ("PEP 3333: LF at the end", [("X", "a\n")], "control"),
    ("PEP 3333: CR", [("X", "a\rb")], "control"),
    ("PEP 3333: NUL", [("X", "\x00")], "control"),
    ("PEP 3333: DEL", [("X", "\x7f")], "control"),
    ("PEP 3333: latin-1", [("X", "\u20ac")], "header X must be latin-1"),
    ("RFC 9110 §8.6: equal lengths", [("Content-Length", "5"), ("content-length", "5")], "more than once"),
    ("RFC 9110 §8.6: list", [("Content-Length", "5, 5")], "decimal"),
    ("RFC 9110 §8.6: sign", [("Content-Length", "-5")], "decimal"),
    ("RFC 9110 §8.6: empty", [("Content-Length", "")], "decimal"),
    ("RFC 9110 §8.6: ASCII digits", [("Content-Length", "\xb2")], "decimal"),
    *[("PEP 3333: hop-by-hop", [(name.decode().title(), "x")], "hop-by-hop") for name in sorted(HOP_BY_HOP)],
]


@pytest.mark.parametrize(("headers", "raw"), ruled(RIGHT_HEADERS))
def test_right_headers(headers: object, raw: list[tuple[bytes, bytes]]) -> None:
    checked = check_headers(headers)
    assert checked == raw
    h11.Response(status_code=200, headers=checked)


@pytest.mark.parametrize(("headers", "word"), ruled(WRONG_HEADERS))
def test_wrong_headers_are_named(headers: object, word: str) -> None:
    with pytest.raises(AppError, match=word):
        check_headers(headers)


def test_an_error_shows_a_bounded_part_of_the_value_whatever_its_repr_does() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(AppError, match="got Broken: <Broken>"):
        check_status(Broken())
    with pytest.raises(AppError) as caught:
        check_headers([("X", "\u20ac" * 10_000)])
    assert len(str(caught.value)) < 300


TEXT = st.one_of(st.text(max_size=8), st.sampled_from(["X", "Content-Length", "5", "a\tb", " x", "\xa0", "\x85"]))
ANYTHING = st.one_of(st.none(), st.integers(), st.binary(max_size=4), TEXT)


@given(st.one_of(ANYTHING, st.lists(st.one_of(ANYTHING, st.tuples(ANYTHING, ANYTHING), st.tuples(TEXT, TEXT)))))
def test_arbitrary_objects_raise_nothing_but_app_errors_and_the_rest_h11_takes(value: object) -> None:
    try:
        headers = check_headers(value)
    except AppError:
        pass
    else:
        response = h11.Response(status_code=200, headers=headers)
        assert response.headers.raw_items() == headers
    try:
        code, reason = check_status(value)
    except AppError:
        return
    h11.Response(status_code=code, reason=reason, headers=[])


def test_look_up_and_join() -> None:
    """RFC 9110 §5.2: a comma; RFC 9113 §8.2.3: a semicolon for Cookie."""
    headers = [(b"X-A", b"1"), (b"cookie", b"a=b"), (b"x-a", b"2"), (b"Cookie", b"c=d")]
    assert get_all(headers, b"x-a") == [b"1", b"2"]
    assert get_all(headers, b"x-b") == []
    assert join_duplicates(headers, b"x-a") == b"1, 2"
    assert join_duplicates(headers, b"cookie") == b"a=b; c=d"
    assert join_duplicates(headers, b"x-b") is None


def finish(headers: list[tuple[bytes, bytes]], **changes: Any) -> dict[bytes, list[bytes]]:
    settings: dict[str, Any] = {
        "status": 200,
        "date": b"now",
        "server": b"us",
        "length": None,
        "close": False,
    }
    finished = finish_headers(headers, **{**settings, **changes})
    assert finished[: len(headers)] == headers or changes.get("status") in {204, 205, 304}
    return {name.lower(): get_all(finished, name.lower()) for name, _ in finished}


def test_date_and_server_are_there_exactly_once() -> None:
    """RFC 9110 §6.6.1; issue 2: the application's own where it set them."""
    assert finish([]) == {b"date": [b"now"], b"server": [b"us"]}
    assert finish([(b"DATE", b"then"), (b"server", b"app")]) == {b"date": [b"then"], b"server": [b"app"]}
    assert finish([], server=b"") == {b"date": [b"now"]}


def test_length_and_connection_are_added_where_they_are_due() -> None:
    """RFC 9110 §8.6, RFC 9112 §9.6."""
    assert finish([], length=5)[b"content-length"] == [b"5"]
    assert finish([], length=0)[b"content-length"] == [b"0"]
    assert finish([(b"content-length", b"7")], length=5)[b"content-length"] == [b"7"]
    assert b"content-length" not in finish([(b"Content-Length", b"0")], status=204, length=0)
    assert finish([(b"Content-Length", b"9")], status=304)[b"content-length"] == [b"9"]
    assert b"content-length" not in finish([(b"Content-Length", b"0")], status=304)  # as Django's etag() has it
    assert finish([(b"Content-Length", b"9")], status=205, length=9)[b"content-length"] == [b"0"]  # §15.3.6
    assert finish([], status=205)[b"content-length"] == [b"0"]
    assert finish([], close=True)[b"connection"] == [b"close"]


BODIES = [
    # RFC 9110 §6.4.1, §9.3.2, §15.3.6
    (b"GET", 200, True),
    (b"HEAD", 200, False),
    (b"POST", 204, False),
    (b"GET", 304, False),
    (b"GET", 103, False),
    (b"GET", 205, False),
    (b"head", 200, True),
    (b"GET", 404, True),
]


@pytest.mark.parametrize(("method", "status", "allowed"), BODIES)
def test_which_responses_have_a_body(method: bytes, status: int, allowed: bool) -> None:
    assert body_allowed(method, status) is allowed
