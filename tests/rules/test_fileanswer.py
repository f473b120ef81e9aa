"""What a file answer becomes: RFC 9110, sections 13.2, 14 and 15; nginx where the RFC leaves it open."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsgi.rules.conditional import Validators
from trio_wsgi.rules.fileanswer import FileAnswer, FileOptions, decide_app_answer, decide_file_answer
from trio_wsgi.rules.headers import Head, body_allowed
from trio_wsgi.rules.ranges import parts_length

THEN = 784111777
IMF = b"Sun, 06 Nov 1994 08:49:37 GMT"
FILE = Validators(b'"file"', THEN)
TYPE = (b"Content-Type", b"text/plain")
NOW = THEN + 1000
Fields = list[tuple[bytes, bytes]]


def pairs(asked: dict[str, bytes]) -> Fields:
    return [(name.encode(), value) for name, value in asked.items()]


def answer(
    asked: dict[str, bytes] | None = None,
    headers: Fields | None = None,
    *,
    method: bytes = b"GET",
    status: int = 200,
    size: int = 100,
    options: FileOptions | None = None,
    now: int = NOW,
    boundary: Callable[[], bytes] = lambda: b"BOUND",
) -> FileAnswer:
    head = Head(status, b"OK", [TYPE] if headers is None else headers)
    options = options or FileOptions()
    return decide_file_answer(method, pairs(asked or {}), head, size, FILE, options, boundary=boundary, now=now)


def fields(decided: FileAnswer) -> dict[bytes, bytes]:
    """The headers as a mapping; none may be double."""
    named = {name.lower(): value for name, value in decided.head.headers}
    assert len(named) == len(decided.head.headers)
    return named


def test_whole_file() -> None:
    """§8.8, §14.3: a 200 has validators, Content-Length and Accept-Ranges."""
    decided = answer()
    assert (*decided.head[:2], decided.parts) == (200, b"OK", [(0, 100)])
    assert fields(decided) == {
        b"content-type": b"text/plain",
        b"content-length": b"100",
        b"etag": b'"file"',
        b"last-modified": IMF,
        b"accept-ranges": b"bytes",
    }


def test_head_is_the_get_without_its_body() -> None:
    """§9.3.2; §14.2: Range is for GET only."""
    decided = answer({"range": b"bytes=0-1"}, method=b"HEAD")
    assert (decided.head.status, decided.parts) == (200, [])
    assert decided.head.headers == answer().head.headers


def test_empty_file() -> None:
    decided = answer(size=0)
    assert (decided.parts, fields(decided)[b"content-length"]) == ([], b"0")
    for value in (b"bytes=0-", b"bytes=-1", b"bytes=7-"):
        assert answer({"range": value}, size=0) == decided


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        # §13.1
        ({"if-none-match": b'"file"'}, 304),
        ({"if-none-match": b'W/"file"'}, 304),
        ({"if-none-match": b'"other"'}, 200),
        ({"if-modified-since": IMF}, 304),
        ({"if-match": b'"other"'}, 412),
        ({"if-match": b'"file"'}, 200),
        # §13.2.2: preconditions before ranges
        ({"if-none-match": b'"file"', "range": b"bytes=0-1"}, 304),
        ({"if-match": b'"other"', "range": b"bytes=0-1"}, 412),
        ({"if-match": b'"file"', "range": b"bytes=0-1"}, 206),
        ({"if-match": b'"other"', "range": b"bytes=100-"}, 412),
        # §14.2
        ({"range": b"bytes=0-1"}, 206),
        ({"range": b"bytes=-1"}, 206),
        ({"range": b"bytes=5-"}, 206),
        ({"range": b"bytes=0-1,4-5"}, 206),
        ({"range": b"bytes=100-"}, 416),
        ({"range": b"bytes=1-0"}, 200),
        ({"range": b"lines=0-1"}, 200),
        # §13.1.5
        ({"range": b"bytes=0-1", "if-range": b'"file"'}, 206),
        ({"range": b"bytes=0-1", "if-range": b'"other"'}, 200),
        ({"range": b"bytes=100-", "if-range": b'"other"'}, 200),
        ({"range": b"bytes=0-1", "if-range": IMF}, 206),
        ({"range": b"bytes=0-1", "if-range": b'W/"file"'}, 200),
        ({"if-range": b'"other"'}, 200),
    ],
)
def test_statuses(asked: dict[str, bytes], status: int) -> None:
    decided = answer(asked)
    assert decided.head.status == status
    named = fields(decided)
    if status in (304, 412, 416):
        assert decided.parts == []
        assert b"content-type" not in named
        assert named.get(b"content-length") == (None if status == 304 else b"0")
        assert named[b"etag"] == b'"file"'
    else:
        assert named[b"content-length"] == b"%d" % parts_length(decided.parts)
        assert named[b"accept-ranges"] == b"bytes"
    assert named.get(b"content-range") == {
        (206, b"bytes=0-1"): b"bytes 0-1/100",
        (206, b"bytes=-1"): b"bytes 99-99/100",
        (206, b"bytes=5-"): b"bytes 5-99/100",
        (416, b"bytes=100-"): b"bytes */100",
    }.get((status, asked.get("range", b"")))


def test_multipart() -> None:
    """§15.3.7.2: the type of the parts is inside, and there is no Content-Range outside."""
    decided = answer({"range": b"bytes=0-1,4-5"})
    named = fields(decided)
    assert named[b"content-type"] == b"multipart/byteranges; boundary=BOUND"
    assert b"content-range" not in named
    assert decided.parts[1::2] == [(0, 2), (4, 2)]
    assert b"Content-Type: text/plain\r\n" in decided.parts[0]  # type: ignore[operator]


def test_one_range_left_of_many_is_no_multipart() -> None:
    """§15.3.7.2: a client that gets one range gets it plainly."""
    decided = answer({"range": b"bytes=0-1,200-"})
    assert (decided.head.status, decided.parts) == (206, [(0, 2)])


def test_digests_of_the_whole_do_not_hold_for_a_part() -> None:
    """RFC 9530, section 3: Content-Digest is of the bytes in the message, Repr-Digest of the representation."""
    headers = [(b"Content-MD5", b"x"), (b"Content-Digest", b"x"), (b"Repr-Digest", b"x")]
    named = fields(answer({"range": b"bytes=0-1"}, headers))
    assert {b"content-md5", b"content-digest"}.isdisjoint(named)
    assert b"repr-digest" in named
    assert b"content-digest" in fields(answer(headers=headers))


@pytest.mark.parametrize(
    ("method", "status", "headers", "parts"),
    [
        # the application has made it partial itself
        (b"GET", 206, [(b"Content-Range", b"bytes 5-9/50"), (b"Content-Length", b"5")], [(0, 5)]),
        (b"GET", 200, [(b"Content-Range", b"bytes 5-9/50")], [(0, 100)]),
        (b"GET", 404, [], [(0, 100)]),
        (b"GET", 416, [(b"Content-Length", b"3")], [(0, 3)]),
        (b"POST", 200, [(b"Content-Length", b"3")], [(0, 3)]),
        (b"HEAD", 206, [(b"Content-Length", b"5")], []),
        # RFC 9112, section 6.3: no body
        (b"GET", 204, [], []),
        (b"GET", 304, [], []),
    ],
)
def test_left_alone(method: bytes, status: int, headers: Fields, parts: list[tuple[int, int]]) -> None:
    asked = {"range": b"bytes=0-1", "if-none-match": b"*", "if-match": b'"x"'}
    decided = answer(asked, headers, method=method, status=status)
    assert (decided.head.status, decided.parts) == (status, parts)
    named = fields(decided)
    assert {b"etag", b"last-modified", b"accept-ranges"}.isdisjoint(named)
    assert (b"content-length" in named) == (status not in (204, 304))


def test_content_length_cuts_the_span() -> None:
    """PEP 3333, wsgi.file_wrapper: never more than Content-Length; the ranges are those of what remains."""
    cut = [(b"Content-Length", b"10")]
    decided = answer(headers=cut)
    assert decided.parts == [(0, 10)]
    assert b"etag" not in fields(decided)  # the file's tag would be that of other bytes
    assert fields(answer({"range": b"bytes=-3"}, cut))[b"content-range"] == b"bytes 7-9/10"
    assert answer({"range": b"bytes=10-"}, cut).head.status == 416


def test_promise_of_more_than_the_file_is_kept_to_be_seen() -> None:
    decided = answer({"range": b"bytes=0-1"}, [(b"Content-Length", b"200")])
    assert (decided.head.status, decided.parts, decided.missing) == (200, [(0, 100)], 100)
    assert fields(decided) == {b"content-length": b"200"}
    assert answer(headers=[(b"Content-Length", b"200")], method=b"HEAD").missing == 0


@pytest.mark.parametrize(
    "lengths", [[b"x"], [b"-1"], [b""], [b"1", b"2"], [b"9" * 5000], [b"+1"]], ids=lambda v: str(v)[:12]
)
def test_malformed_content_length_gives_way_to_the_true_one(lengths: list[bytes]) -> None:
    decided = answer(headers=[(b"content-length", value) for value in lengths])
    assert (fields(decided)[b"content-length"], decided.parts) == (b"100", [(0, 100)])


def test_validators_of_the_application_come_first() -> None:
    decided = answer({"if-none-match": b'"app"'}, [(b"ETAG", b'"app"')])
    assert decided.head.status == 304
    assert fields(decided)[b"etag"] == b'"app"'
    decided = answer(headers=[(b"Etag", b'"app"'), (b"last-MODIFIED", b"x")])
    assert (fields(decided)[b"etag"], fields(decided)[b"last-modified"]) == (b'"app"', b"x")


def test_weak_etag_of_the_application_does_not_let_if_range_stand() -> None:
    """§13.1.5"""
    asked = {"range": b"bytes=0-1", "if-range": b'W/"a"'}
    assert answer(asked, [(b"ETag", b'W/"a"')]).head.status == 200


def test_options() -> None:
    ranged = {"range": b"bytes=0-1"}
    off = answer(ranged, options=FileOptions(max_ranges=0))
    assert (off.head.status, b"accept-ranges" in fields(off)) == (200, False)
    two = {"range": b"bytes=0-1,3-4"}
    assert answer(two, options=FileOptions(max_ranges=1)).head.status == 200
    bare = answer(options=FileOptions(add_validators=False))
    assert bare.head.status == 200
    assert {b"etag", b"last-modified"}.isdisjoint(fields(bare))


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"if-match": b'"old"', "range": b"bytes=0-1"}, 412),
        ({"if-match": b"*", "range": b"bytes=0-1"}, 206),
        ({"if-none-match": b"*"}, 304),
        ({"if-none-match": b'"old"'}, 200),
        ({"if-modified-since": IMF}, 200),
        ({"if-unmodified-since": IMF}, 200),
    ],
)
def test_a_file_without_validators_is_there_all_the_same(asked: dict[str, bytes], status: int) -> None:
    """§13.1.1: a tag that is not the file's does not match, so that nobody joins the parts of two; §13.1.2."""
    assert answer(asked, options=FileOptions(add_validators=False)).head.status == status


def test_the_application_can_switch_ranges_off() -> None:
    """§14.3: Accept-Ranges: none."""
    asked = {"range": b"bytes=0-1"}
    decided = answer(asked, [(b"Accept-Ranges", b"none")])
    assert (decided.head.status, fields(decided)[b"accept-ranges"]) == (200, b"none")
    assert answer(asked, [(b"accept-ranges", b"Bytes")]).head.status == 206


def test_dates_and_the_present() -> None:
    """§8.8.2.1: no Last-Modified in the future; §8.8.2.2: one of this second is weak."""
    early = b"Sun, 06 Nov 1994 08:49:36 GMT"
    assert fields(answer(now=THEN - 1))[b"last-modified"] == early
    asked = {"range": b"bytes=0-1", "if-range": IMF}
    assert answer(asked, now=THEN).head.status == 200
    assert answer(asked, now=THEN + 1).head.status == 206


@pytest.mark.parametrize(
    ("method", "status", "headers", "asked", "expected"),
    [
        (b"GET", 200, [(b"ETag", b'"a"')], {"if-none-match": b'"a"'}, 304),
        (b"HEAD", 200, [(b"ETag", b'"a"')], {"if-none-match": b'"a"'}, 304),
        (b"GET", 200, [(b"Last-Modified", IMF)], {"if-modified-since": IMF}, 304),
        (b"GET", 200, [(b"ETag", b'"a"')], {"if-match": b'"b"'}, 412),
        (b"GET", 200, [(b"ETag", b'"a"')], {"if-none-match": b'"b"'}, None),
        (b"GET", 200, [(b"ETag", b'"a"')], {}, None),
        # §13.2.1: only where the answer would have been a 2xx; §15.4.5: a 304 stands for a 200
        (b"GET", 404, [(b"ETag", b'"a"')], {"if-none-match": b'"a"'}, None),
        (b"GET", 203, [(b"ETag", b'"a"')], {"if-none-match": b'"a"'}, None),
        (b"GET", 203, [(b"ETag", b'"a"')], {"if-match": b'"b"'}, 412),
        (b"GET", 206, [(b"ETag", b'"a"')], {"if-match": b'"b"'}, None),
        (b"GET", 304, [(b"ETag", b'"a"')], {"if-none-match": b'"a"'}, None),
        # §13.2.1: afterwards it is too late; the ETag is that of the new state
        (b"PUT", 200, [(b"ETag", b'"new"')], {"if-match": b'"old"'}, None),
        (b"POST", 200, [(b"ETag", b'"a"')], {"if-none-match": b'"a"'}, None),
        # no validators: the application does not take part
        (b"GET", 200, [], {"if-none-match": b"*"}, None),
        (b"GET", 200, [], {"if-match": b'"a"'}, None),
        (b"GET", 200, [(b"ETag", b"rubbish")], {"if-match": b'"a"'}, None),
    ],
)
def test_app_answers(
    method: bytes, status: int, headers: Fields, asked: dict[str, bytes], expected: int | None
) -> None:
    head = Head(status, b"OK", [*headers, TYPE, (b"Content-Length", b"5")])
    decided = decide_app_answer(method, pairs(asked), head, now=NOW)
    assert (decided and decided.status) == expected
    if decided:
        length = [] if decided.status == 304 else [(b"Content-Length", b"0")]
        assert decided.headers == headers + length


names = st.sampled_from([b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since"])
values = st.binary(max_size=20) | st.sampled_from(
    [b"bytes=0-0", b"bytes=-1,0-3,7-8", b"bytes=9-", b'"file"', IMF, b"*"]
)
app_names = st.sampled_from(
    [b"ETag", b"Last-Modified", b"Content-Length", b"Content-Range", b"Accept-Ranges", b"Content-Type"]
)
app_values = values | st.integers(0, 20).map(lambda n: b"%d" % n)


@given(
    st.sampled_from([b"GET", b"HEAD", b"POST", b"X"]),
    st.lists(st.tuples(names, values), max_size=4),
    st.sampled_from([200, 200, 200, 204, 206, 304, 404]),
    st.lists(st.tuples(app_names, app_values), max_size=4),
    st.integers(0, 12),
    st.builds(FileOptions, st.integers(0, 3), st.booleans()),
    st.integers(),
)
def test_whatever_comes(  # type: ignore[no-untyped-def]
    method, request, status, headers, size, options, now
) -> None:
    """No exception, nothing outside the span, and Content-Length is what is sent."""
    head = Head(status, b"OK", headers)
    decided = decide_file_answer(method, request, head, size, FILE, options, boundary=lambda: b"B", now=now)
    sent = 0
    for part in decided.parts:
        if isinstance(part, tuple):
            assert 0 <= part[0] < part[0] + part[1] <= size
            sent += part[1]
        else:
            sent += len(part)
    if sent:
        assert method != b"HEAD"
        assert decided.head.status not in (204, 304, 412, 416)
        lengths = {v for n, v in decided.head.headers if n.lower() == b"content-length"}
        promised = [int(value) for value in lengths if value.isdigit()]
        assert promised == [sent] or (decided.head.status == status and promised[0] > size == sent)
    if body_allowed(method, decided.head.status):
        (promise,) = {int(v) for n, v in decided.head.headers if n.lower() == b"content-length"}
        assert decided.missing == promise - sent >= 0
    else:
        assert decided.missing == 0
    decide_app_answer(method, request, head, now=now)


def test_a_boundary_is_made_only_where_there_are_several_ranges() -> None:
    made: list[bytes] = []

    def boundary() -> bytes:
        made.append(b"B%d" % len(made))
        return made[-1]

    for said, expected in [(b"bytes=0-1", 0), (b"bytes=999-", 0), (b"bytes=0-1,5-6", 1), (b"bytes=0-1,5-6", 2)]:
        decided = answer({"range": said}, boundary=boundary)
        assert len(made) == expected
    assert fields(decided)[b"content-type"].endswith(b"boundary=B1")
