"""Preconditions and entity tags: RFC 9110, sections 8.8 and 13."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsgi.rules.conditional import (
    ANY_ETAG,
    Precondition,
    Validators,
    decide_if_range,
    decide_precondition,
    make_etag,
    not_modified_headers,
    parse_etag,
    parse_etag_list,
    refusal_headers,
    strong_match,
    validators_of,
    weak_match,
)
from trio_wsgi.rules.dates import format_http_date

THEN = 784111777  # the RFC's own example
IMF = b"Sun, 06 Nov 1994 08:49:37 GMT"
EARLIER = b"Sun, 06 Nov 1994 08:49:36 GMT"
LATER = b"Sun, 06 Nov 1994 08:49:38 GMT"
NOW = THEN + 1000
P, N, F = Precondition.PROCEED, Precondition.NOT_MODIFIED, Precondition.FAILED


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        # §8.8.3
        (b'"xyzzy"', b'"xyzzy"'),
        (b' W/"xyzzy" ', b'W/"xyzzy"'),
        (b'""', b'""'),
        (b'"a,b"', b'"a,b"'),
        (b'"\xff\x80"', b'"\xff\x80"'),
        (b'"a b"', b'"a b"'),  # wider than the grammar, on purpose
        (b"xyzzy", None),
        (b'w/"xyzzy"', None),  # §8.8.3: weak is case-sensitive
        (b'W/ "xyzzy"', None),
        (b'"xyzzy', None),
        (b'"a""b"', None),
        (b'"a", "b"', None),
        (b"*", None),
        (b"", None),
        (b'"a\x00"', None),
        (b'"a"\n', None),
    ],
)
def test_entity_tag(value: bytes, tag: bytes | None) -> None:
    assert parse_etag(value) == tag


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        # §13.1.1, §13.1.2
        (b"*", (ANY_ETAG,)),
        (b" * ", (ANY_ETAG,)),
        (b'"a"', (b'"a"',)),
        (b'"a", "b",W/"c"\t,"d"', (b'"a"', b'"b"', b'W/"c"', b'"d"')),
        (b'"a,b", "c"', (b'"a,b"', b'"c"')),
        # §5.6.1.2: empty elements
        (b', ,"a",, "b" ,', (b'"a"', b'"b"')),
        (b"", ()),
        (b" , ", ()),
        # what is no tag matches nothing
        (b'a, "b"', (b'"b"',)),
        (b'"a" "b", "c"', (b'"c"',)),
        (b'"a"x, "b"', (b'"b"',)),
        (b'*, "b"', (b'"b"',)),
        (b'"b", "unterminated', (b'"b"',)),
        (b'W/"a", w/"b"', (b'W/"a"',)),
    ],
)
def test_entity_tag_lists(value: bytes, tags: tuple[bytes, ...]) -> None:
    assert parse_etag_list(value) == tags


def test_entity_tag_lists_take_linear_time() -> None:
    for piece in (b'"', b'",', b"W/", b'W/"', b'"a" ', b" ,"):
        start = time.process_time()
        parse_etag_list(piece * 50_000)
        assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("one", "other", "strong", "weak"),
    [
        # §8.8.3.2, the table of the RFC
        (b'W/"1"', b'W/"1"', False, True),
        (b'W/"1"', b'W/"2"', False, False),
        (b'W/"1"', b'"1"', False, True),
        (b'"1"', b'"1"', True, True),
    ],
)
def test_comparison(one: bytes, other: bytes, strong: bool, weak: bool) -> None:
    assert strong_match(one, other) == strong_match(other, one) == strong
    assert weak_match(one, other) == weak_match(other, one) == weak


def test_etags_of_files_differ_by_every_fact() -> None:
    """§8.8.1: a strong validator changes with the bytes; §8.8.3.3: and with the content coding."""
    tags = [make_etag(2, 3), make_etag(3, 3), make_etag(2, 4), make_etag(23, 3), make_etag(2, -3)]
    tags += [make_etag(2, 3, b"gzip"), make_etag(2, 3, b"gzip0-1"), make_etag(2, 3, b"0-1")]
    assert len(set(tags)) == len(tags)
    for tag in tags:
        assert parse_etag(tag) == tag
        assert strong_match(tag, tag)
    assert make_etag(2, 3) == make_etag(2, 3)


BOTH = Validators(b'"v"', THEN)
WEAK = Validators(b'W/"v"', THEN)
DATE = Validators(None, THEN)
NONE = Validators()


@pytest.mark.parametrize(
    ("fields", "validators", "expected"),
    [
        ({}, BOTH, P),
        # §13.1.1 If-Match: strong comparison
        ({"if-match": b'"v"'}, BOTH, P),
        ({"if-match": b'"u", "v"'}, BOTH, P),
        ({"if-match": b'"u"'}, BOTH, F),
        ({"if-match": b'W/"v"'}, BOTH, F),
        ({"if-match": b'W/"v"'}, WEAK, F),
        ({"if-match": b"*"}, NONE, P),
        ({"if-match": b'"v"'}, DATE, F),
        ({"if-match": b"rubbish"}, BOTH, F),
        # §13.1.4 If-Unmodified-Since
        ({"if-unmodified-since": IMF}, BOTH, P),
        ({"if-unmodified-since": LATER}, BOTH, P),
        ({"if-unmodified-since": EARLIER}, BOTH, F),
        ({"if-unmodified-since": EARLIER}, NONE, P),
        ({"if-unmodified-since": b"rubbish"}, BOTH, P),
        ({"if-match": b'"v"', "if-unmodified-since": EARLIER}, BOTH, P),
        # §13.1.2 If-None-Match: weak comparison
        ({"if-none-match": b'"v"'}, BOTH, N),
        ({"if-none-match": b'"u", W/"v"'}, BOTH, N),
        ({"if-none-match": b'"v"'}, WEAK, N),
        ({"if-none-match": b'"u"'}, BOTH, P),
        ({"if-none-match": b"*"}, NONE, N),
        ({"if-none-match": b'"v"'}, DATE, P),
        # §13.1.3 If-Modified-Since
        ({"if-modified-since": IMF}, BOTH, N),
        ({"if-modified-since": LATER}, BOTH, N),
        ({"if-modified-since": EARLIER}, BOTH, P),
        ({"if-modified-since": b"Sunday, 06-Nov-94 08:49:37 GMT"}, BOTH, N),
        ({"if-modified-since": b"Sun Nov  6 08:49:37 1994"}, BOTH, N),
        ({"if-modified-since": IMF}, NONE, P),
        ({"if-modified-since": b"rubbish"}, BOTH, P),
        ({"if-none-match": b'"u"', "if-modified-since": IMF}, BOTH, P),
        # §13.2.2: the order
        ({"if-match": b'"u"', "if-none-match": b'"v"'}, BOTH, F),
        ({"if-match": b'"v"', "if-none-match": b'"v"'}, BOTH, N),
        ({"if-unmodified-since": EARLIER, "if-none-match": b'"v"'}, BOTH, F),
        ({"if-unmodified-since": IMF, "if-modified-since": IMF}, BOTH, N),
    ],
)
def test_preconditions(fields: dict[str, bytes], validators: Validators, expected: Precondition) -> None:
    request = [(name.encode(), value) for name, value in fields.items()]
    assert decide_precondition(request, validators, now=NOW) is expected


def test_repeated_fields_are_one_list() -> None:
    """§5.3: lines of one name are one list; §13.1.3: a date that comes twice is ignored."""
    tags = [(b"if-none-match", b'"u"'), (b"if-none-match", b'"v"')]
    assert decide_precondition(tags, BOTH, now=NOW) is N
    assert decide_precondition([(b"if-modified-since", IMF)] * 2, BOTH, now=NOW) is P


@pytest.mark.parametrize(
    ("value", "validators", "now", "stands"),
    [
        # §13.1.5
        (b'"v"', BOTH, NOW, True),
        (b'"u"', BOTH, NOW, False),
        (b'W/"v"', BOTH, NOW, False),
        (b'W/"v"', WEAK, NOW, False),
        (b'"v"', WEAK, NOW, False),
        (b'"v"', DATE, NOW, False),
        (b'"v", "v"', BOTH, NOW, False),
        (b"*", BOTH, NOW, False),
        (IMF, BOTH, NOW, True),
        (b"Sun Nov  6 08:49:37 1994", BOTH, NOW, True),
        (LATER, BOTH, NOW, False),  # exact, unlike If-Unmodified-Since
        (EARLIER, BOTH, NOW, False),
        (IMF, NONE, NOW, False),
        (b"", BOTH, NOW, False),
        # §8.8.2.2: strong only a second later
        (IMF, BOTH, THEN, False),
        (IMF, BOTH, THEN + 1, True),
        (IMF, BOTH, THEN - 5, False),
    ],
)
def test_if_range(value: bytes, validators: Validators, now: int, stands: bool) -> None:
    assert decide_if_range(value, validators, now=now) is stands


def test_headers_of_a_304_and_of_a_refusal() -> None:
    """§15.4.5 for the 304; a 412 or 416 must not bring its own permission to be cached."""
    headers = [
        (b"Content-Type", b"text/plain"),
        (b"CONTENT-LENGTH", b"5"),
        (b"Content-Encoding", b"gzip"),
        (b"Accept-Ranges", b"bytes"),
        (b"Content-Location", b"/x"),
        (b"Date", IMF),
        (b"ETag", b'"v"'),
        (b"Last-Modified", IMF),
        (b"Vary", b"Accept"),
        (b"Cache-Control", b"max-age=5"),
        (b"Expires", IMF),
        (b"Set-Cookie", b"a=b"),
        (b"Set-Cookie", b"c=d"),
    ]
    assert not_modified_headers(headers) == headers[4:]
    kept = [name for name, _ in refusal_headers(headers)]
    assert kept == [b"Date", b"ETag", b"Last-Modified", b"Vary", b"Set-Cookie", b"Set-Cookie"]


def test_validators_of_an_answer() -> None:
    """§8.8: doubled or malformed validators are none."""
    assert validators_of([(b"ETag", b'"v"'), (b"LAST-MODIFIED", IMF)]) == BOTH
    assert validators_of([(b"etag", b"v"), (b"last-modified", b"0")]) == NONE
    assert validators_of([(b"etag", b'"v"'), (b"etag", b'"u"')]) == NONE


any_value = st.binary(max_size=40) | st.text(alphabet='W/"*,ab \t', max_size=30).map(str.encode)
any_value |= st.sampled_from([IMF, EARLIER, LATER, b'"v"', b"*"])
any_name = st.sampled_from([b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"x"])
any_validators = st.builds(Validators, st.sampled_from([None, b'"v"', b'W/"v"', b'"u"']), st.none() | st.integers())


@given(st.lists(st.tuples(any_name, any_value), max_size=6), any_validators, st.integers())
def test_no_header_raises(request: list[tuple[bytes, bytes]], validators: Validators, now: int) -> None:
    decide_precondition(request, validators, now=now)
    for _, value in request:
        decide_if_range(value, validators, now=now)
        validators_of([(b"etag", value), (b"last-modified", value)])


tag_names = st.sampled_from(["a", "b", ",", "c d"])
tags = st.tuples(st.booleans(), tag_names)
tag_lists = st.none() | st.just("*") | st.lists(tags, min_size=1, max_size=4)
moments = st.none() | st.integers(1000, 1003)


def written(value: object) -> bytes:
    if isinstance(value, int):
        return format_http_date(value) or b""
    if isinstance(value, list):
        return b", ".join(written(tag) for tag in value)
    if isinstance(value, tuple):
        return b'%s"%s"' % (b"W/" if value[0] else b"", value[1].encode())
    return str(value).encode()


@given(tag_lists, moments, tag_lists, moments, st.none() | tags, moments)
def test_equals_a_naive_model(  # type: ignore[no-untyped-def]
    if_match, if_unmodified, if_none_match, if_modified, current, modified
) -> None:
    """§13.2.2, written down a second time on structured values instead of bytes."""
    named = {
        b"if-match": if_match,
        b"if-unmodified-since": if_unmodified,
        b"if-none-match": if_none_match,
        b"if-modified-since": if_modified,
    }
    request = [(name, written(value)) for name, value in named.items() if value is not None]
    validators = Validators(None if current is None else written(current), modified)

    def model() -> Precondition:
        if if_match is not None:
            if if_match != "*" and (current is None or current[0] or current not in if_match):
                return F
        elif if_unmodified is not None and modified is not None and modified > if_unmodified:
            return F
        if if_none_match is not None:
            same = current is not None and if_none_match != "*" and current[1] in [t[1] for t in if_none_match]
            if if_none_match == "*" or same:
                return N
        elif if_modified is not None and modified is not None and modified <= if_modified:
            return N
        return P

    assert decide_precondition(request, validators, now=NOW) is model()
