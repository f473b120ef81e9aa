"""Mounts: RFC 3986 (segments, percent-encoding), RFC 9110 §12.5.3 (Accept-Encoding), media types."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsgi.rules.accept import choose_encoding, parse_accept_encoding
from trio_wsgi.rules.mediatypes import guess_type
from trio_wsgi.rules.paths import MountPath, directory_location, encode_name, split_internal, split_mount


@pytest.mark.parametrize(
    ("path", "prefix", "expected"),
    [
        (b"/static/a.css", b"/static", ((b"a.css",), False)),
        (b"/static/a.css", b"/static/", ((b"a.css",), False)),
        (b"/static/a/b/", b"/static", ((b"a", b"b"), True)),
        (b"/static/", b"/static", ((), True)),
        (b"/static", b"/static", ((), False)),
        (b"/", b"/", ((), True)),
        (b"/a", b"/", ((b"a",), False)),
        (b"/a", b"", ((b"a",), False)),
        (b"/x/y/a", b"/x/y", ((b"a",), False)),
        # someone else's
        (b"/staticky/a", b"/static", None),
        (b"/other", b"/static", None),
        (b"/STATIC/a", b"/static", None),
        (b"/x/static/a", b"/static", None),
        (b"static/a", b"/static", None),
        (b"*", b"/", None),
        (b"", b"/", None),
        (b"/x/../static/a", b"/static", None),
        # RFC 3986 §2.1, §2.3: decoded once, and equivalent encodings are the same path
        (b"/static/a%20b", b"/static", ((b"a b",), False)),
        (b"/static/%25%32%65", b"/static", ((b"%2e",), False)),
        (b"/static/%c3%a4%ff", b"/static", ((b"\xc3\xa4\xff",), False)),
        (b"/%73tatic/a", b"/static", ((b"a",), False)),
        (b"/caf%C3%A9/a", "/café".encode(), ((b"a",), False)),
        (b"/static/a%0Ab", b"/static", ((b"a\nb",), False)),
        (b"/static/a+b", b"/static", ((b"a+b",), False)),
        (b"/static/a%3Fb", b"/static", ((b"a?b",), False)),
        # nginx's merge_slashes
        (b"//static///a//", b"/static", ((b"a",), True)),
        # RFC 3986 §6.2.2.3, §5.2.4: dot segments below the mount, which are spelled in several ways by §6.2.2.2
        (b"/static/./a", b"/static", ((b"a",), False)),
        (b"/static/a/../b/./c", b"/static", ((b"b", b"c"), False)),
        (b"/static/%2e/a/%2E%2e/%2e./b", b"/static", "above"),
        (b"/static/a/b/%2e%2E/.%2e/c", b"/static", ((b"c",), False)),
        (b"/static/.", b"/static", ((), True)),
        (b"/static/a/%2E", b"/static", ((b"a",), True)),
        (b"/static/a/..", b"/static", ((), True)),
        (b"/static/a//../b", b"/static", ((b"b",), False)),
        (b"/static/.git/../a", b"/static", "hidden"),
        (b"/static/a%2fb/../a", b"/static", "slash"),
        (b"/static/%zz/../a", b"/static", "percent"),
        (b"/./static/a", b"/static", None),
        # names that only look dangerous
        (b"/static/...", b"/static", "hidden"),
        (b"/static/a..b", b"/static", ((b"a..b",), False)),
        (b"/static/a.", b"/static", ((b"a.",), False)),
        (b"/.well-known/acme", b"/", ((b".well-known", b"acme"), False)),
        # never
        (b"/static/..", b"/static", "above"),
        (b"/static/../secret", b"/static", "above"),
        (b"/static/../static/a", b"/static", "above"),
        (b"/static/./../a", b"/static", "above"),
        (b"/static/a/../../secret", b"/static", "above"),
        (b"/static/a/../../static/a", b"/static", "above"),
        (b"/static/%2e%2e/secret", b"/static", "above"),
        (b"/static/.%2E/secret", b"/static", "above"),
        (b"/%2E./a", b"/", "above"),
        (b"/static/..%2fsecret", b"/static", "slash"),
        (b"/static/a%2Fb", b"/static", "slash"),
        (b"/static/%2fetc%2fpasswd", b"/static", "slash"),
        (b"/static/a%5Cb", b"/static", "slash"),
        (b"/static/..\\secret", b"/static", "slash"),
        (b"/static/a%00.css", b"/static", "slash"),
        (b"/static/a%", b"/static", "percent"),
        (b"/static/a%2", b"/static", "percent"),
        (b"/static/%zz", b"/static", "percent"),
        (b"/static/%u002e%u002e/a", b"/static", "percent"),
        (b"/static/.git/config", b"/static", "hidden"),
        (b"/static/a/.env", b"/static", "hidden"),
        (b"/static/%2eenv", b"/static", "hidden"),
    ],
)
def test_split(path: bytes, prefix: bytes, expected: tuple[tuple[bytes, ...], bool] | str | None) -> None:
    check_split(split_mount(path, prefix), expected)


def check_split(found: MountPath | None, expected: tuple[tuple[bytes, ...], bool] | str | None) -> None:
    """None, or names and whether of a directory; a text is of the reason why there can be nothing."""
    if isinstance(expected, str):
        assert found is not None
        assert expected in found.refused
        assert found.names == ()
    else:
        assert found == (None if expected is None else MountPath(*expected))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"/p/a", ((b"a",), False)),
        (b"/p/a%20b/c?d", ((b"a b", b"c"), False)),
        (b"/p/a%3fb%2525", ((b"a?b%25",), False)),
        (b"/p/.git/config", ((b".git", b"config"), False)),
        (b"/p/./a//b/.", ((b"a", b"b"), True)),
        (b"/p/a/", ((b"a",), True)),
        (b"/p", ((), False)),
        (b"%2Fp%2Fa%2fb", ((b"a", b"b"), False)),
        (b"/p/back\\slash%5c", ((b"back\\slash\\",), False)),
        (b"/p/100%", ((b"100%",), False)),
        (b"/p/%zz", ((b"%zz",), False)),
        (b"/p/a..b", ((b"a..b",), False)),
        (b"/p/../a", "dot"),
        (b"/p/..", "dot"),
        (b"/p/%2e%2e/a", "dot"),
        (b"/p/..%2fa", "dot"),
        (b"/p/a%00", "NUL"),
        (b"/pa", None),
        (b"p/a", None),
        (b"/q/../p/a", None),
        (b"@named", None),
        (b"", None),
    ],
)
def test_an_applications_path(value: bytes, expected: tuple[tuple[bytes, ...], bool] | str | None) -> None:
    check_split(split_internal(value, b"/p/"), expected)


@given(
    st.binary(max_size=40) | st.text(alphabet="/.%2eEfF5cC0\\ab~", max_size=40).map(str.encode),
    st.sampled_from([b"/", b"/a", b"/a/b/"]),
)
def test_no_name_can_leave_the_root(tail: bytes, prefix: bytes) -> None:
    for path in (tail, prefix + tail, prefix + b"/" + tail):
        found = split_mount(path, prefix)
        for name in found.names if found else ():
            assert name not in (b"", b".", b"..")
            assert not re.search(rb"[/\\\x00]", name)
            assert not name.startswith(b".") or name == b".well-known"
        internal = split_internal(path, prefix)
        for name in internal.names if internal else ():
            assert name not in (b"", b".", b"..")
            assert not re.search(rb"[/\x00]", name)


NAMES = st.binary(min_size=1).filter(lambda name: not re.search(rb"[/\\\x00]|\A\.", name))


@given(st.lists(NAMES, max_size=4))
def test_names_round_trip(names: list[bytes]) -> None:
    """Every name that a file can have, but for the forbidden, is found by its URL."""
    path = b"/m/" + b"/".join(map(encode_name, names))
    assert split_mount(path, b"/m") == MountPath(tuple(names), not names)


STAY = st.sampled_from([b".", b"%2e", b"%2E"])
BACK = st.sampled_from([b"..", b"%2e.", b".%2E", b"%2E%2e"])
DETOURS = STAY | st.tuples(NAMES.map(encode_name), BACK).map(b"/".join)


def detoured(data: st.DataObject, segments: list[bytes]) -> bytes:
    """Another spelling of a path below /m, with ways that lead back to where they began."""
    written = [b"/m"]
    for segment in segments:
        written += [*data.draw(st.lists(DETOURS, max_size=2)), segment]
    return b"/".join(written)


@given(st.data(), st.lists(NAMES.map(encode_name), max_size=3), st.booleans())
def test_dot_segments_are_another_spelling_of_the_same(data: st.DataObject, names: list[bytes], slash: bool) -> None:
    """RFC 3986 §6.2.2.3: they change nothing of what is found, nor of where a directory's name is sent to."""
    segments = [*names, b""] if slash or not names else names
    plain, path = b"/m/" + b"/".join(segments), detoured(data, segments)
    assert split_mount(path, b"/m") == split_mount(plain, b"/m")
    assert directory_location(path) == directory_location(plain)


@pytest.mark.parametrize(
    ("path", "query", "location"),
    [
        (b"/a", None, b"/a/"),
        (b"/a/b", b"x=1&y=%20", b"/a/b/?x=1&y=%20"),
        (b"/a%20b", b"", b"/a%20b/?"),
        # an open redirect, were the slashes kept
        (b"//evil.example/..", None, b"/"),
        (b"/a/..//evil.example", None, b"/evil.example/"),
        (b"/../a/./b/%2e%2E/c%2e", None, b"/a/c%2e/"),
        (b"///evil.example", None, b"/evil.example/"),
        (b"/\\evil.example", None, b"/%5Cevil.example/"),
        (b"/a\r\nX: y", b"\r\n", b"/a%0D%0AX:%20y/?%0D%0A"),
        (b"/", None, b"/"),
    ],
)
def test_redirect_to_a_directory(path: bytes, query: bytes | None, location: bytes) -> None:
    assert directory_location(path, query) == location


@given(st.binary(), st.none() | st.binary())
def test_redirects_stay_on_this_host(path: bytes, query: bytes | None) -> None:
    location = directory_location(path, query)
    assert re.fullmatch(rb"/(?!/)[\x21-\x7e]*", location)
    assert b"\\" not in location


ALL = ["br", "zstd", "gzip"]


@pytest.mark.parametrize(
    ("value", "available", "chosen"),
    [
        # §12.5.3
        (None, ALL, None),
        (b"", ALL, None),
        (b"gzip", ALL, "gzip"),
        (b"gzip, deflate, br, zstd", ALL, "br"),
        (b"gzip, deflate", ALL, "gzip"),
        (b"deflate", ALL, None),
        (b"gzip", [], None),
        (b"*", ALL, "br"),
        (b"compress, gzip", ALL, "gzip"),
        (b"compress;q=0.5, gzip;q=1.0", ALL, "gzip"),
        (b"gzip;q=1.0, identity; q=0.5, *;q=0", ALL, "gzip"),
        (b"br;q=0.1, gzip;q=0.9", ALL, "gzip"),
        (b"br;q=0, *", ALL, "zstd"),
        (b"br;q=0, *;q=0.1", ["br"], None),
        (b"identity;q=0", ALL, None),
        (b"identity;q=0, gzip;q=0.001", ALL, "gzip"),
        (b"*;q=0", ALL, None),
        (b"identity, gzip;q=0.5", ALL, None),
        (b"identity;q=0.5, gzip;q=0.5", ALL, "gzip"),
        # §8.4.1.3, §8.4.1: aliases and case
        (b"x-gzip", ALL, "gzip"),
        (b"GZip;Q=0.5", ALL, "gzip"),
        # §12.4.2: weights; what is malformed is not there
        (b"gzip;q=0", ALL, None),
        (b"gzip;q=0.000", ALL, None),
        (b"gzip;q=0.", ALL, None),
        (b"gzip;q=1.", ALL, "gzip"),
        (b"gzip;q=1.001", ALL, None),
        (b"gzip;q=2", ALL, None),
        (b"gzip;q=0.0001", ALL, None),
        (b"gzip;level=9", ALL, None),
        (b"gzip;q=x, br", ALL, "br"),
        (b"gzip ; q=0.2 , br ; q=0.1", ALL, "gzip"),
        (b",, gzip ,", ALL, "gzip"),
        (b"gzip br", ALL, None),
        (b"gzip;q=0, gzip", ALL, None),
    ],
)
def test_encoding(value: bytes | None, available: list[str], chosen: str | None) -> None:
    assert choose_encoding(value, available) == chosen


@given(
    st.binary() | st.text(alphabet="gzipbr*identy;q=01., ", max_size=40).map(str.encode),
    st.lists(st.sampled_from(ALL), unique=True),
)
def test_no_accept_encoding_raises(value: bytes, available: list[str]) -> None:
    chosen = choose_encoding(value, available)
    assert chosen is None or chosen in available
    weights = parse_accept_encoding(value)
    assert all(0 <= weight <= 1000 for weight in weights.values())
    if chosen:
        assert weights.get(chosen, weights.get("*", 0)) > 0


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        (b"index.html", b"text/html; charset=utf-8"),
        (b"A.HTML", b"text/html; charset=utf-8"),
        (b"app.min.js", b"text/javascript; charset=utf-8"),  # RFC 9239
        (b"m.mjs", b"text/javascript; charset=utf-8"),
        (b"d.json", b"application/json; charset=utf-8"),
        (b"site.webmanifest", b"application/manifest+json; charset=utf-8"),
        (b"i.svg", b"image/svg+xml"),  # XML declares its encoding itself
        (b"f.xml", b"application/xml"),
        (b"m.wasm", b"application/wasm"),
        (b"f.woff2", b"font/woff2"),
        (b"i.avif", b"image/avif"),
        (b"v.mp4", b"video/mp4"),
        (b"s.ts", b"video/mp2t"),
        (b"x.tar.gz", b"application/gzip"),
        (b"README", b"application/octet-stream"),
        (b"html", b"application/octet-stream"),
        (b".html", b"application/octet-stream"),
        (b"a.", b"application/octet-stream"),
        (b"", b"application/octet-stream"),
        (b"a.\xff\n", b"application/octet-stream"),
    ],
)
def test_media_types(name: bytes, media_type: bytes) -> None:
    assert guess_type(name) == media_type


def test_each_extension_has_one_type() -> None:
    from trio_wsgi.rules import mediatypes

    extensions = [word for line in mediatypes._TABLE.split("\n") for word in line.split()[1:]]
    assert len(extensions) == len(set(extensions))
