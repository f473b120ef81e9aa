"""The rules of the environ: PEP 3333 "environ Variables" and "Unicode Issues", RFC 3875 §4.1."""

from __future__ import annotations

import io
from typing import Any
from wsgiref.validate import check_environ

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import ruled

from trio_wsgi.errors import ClientError
from trio_wsgi.rules.environ import Site, build_environ, check_scheme, wsgi_str
from trio_wsgi.rules.head import RequestHead, parse_request

PEER = ("192.0.2.7", 50123)


def make_site(**changes: Any) -> Site:
    settings: dict[str, Any] = {
        "server_name": "localhost",
        "server_port": "8000",
        "script_name": "",
        "scheme": "http",
        "software": "trio-wsgi/x",
        "multithread": True,
        "multiprocess": False,
        "pass_authorization": True,
        "extra": {},
    }
    return Site(**{**settings, **changes})


def make_head(
    *headers: tuple[bytes, bytes],
    target: bytes = b"/",
    method: bytes = b"GET",
    version: bytes = b"1.1",
    host: bytes | None = b"example.org",
) -> RequestHead:
    first = () if host is None else ((b"host", host),)
    return parse_request(method, target, first + headers, version)


def build(head: RequestHead, site: Site | None = None, **changes: Any) -> dict[str, Any]:
    environ = build_environ(site or make_site(), head, **{"peer": PEER, "body_length": None, **changes})
    check_environ({**environ, "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO()})
    return environ


def test_a_request_in_full() -> None:
    """PEP 3333 "environ Variables"; RFC 3875 §4.1."""
    head = make_head(
        (b"user-agent", b"x"),
        (b"content-type", b"text/plain"),
        (b"content-length", b"5"),
        method=b"POST",
        target=b"/a%20b/%C3%A4?c=%20d",
    )
    assert build(head) == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b/\xc3\xa4",
        "QUERY_STRING": "c=%20d",
        "REQUEST_URI": "/a%20b/%C3%A4?c=%20d",
        "RAW_URI": "/a%20b/%C3%A4?c=%20d",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "5",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "trio-wsgi/x",
        "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_PORT": "50123",
        "HTTP_HOST": "example.org",
        "HTTP_USER_AGENT": "x",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }


HEADERS = [
    # rule, headers, key, value (None: absent)
    ("RFC 9110 §5.2 joined", [(b"x-a", b"1"), (b"x-a", b"2")], "HTTP_X_A", "1,2"),
    ("RFC 9113 §8.2.3 cookies", [(b"cookie", b"a=b"), (b"cookie", b"c=d")], "HTTP_COOKIE", "a=b; c=d"),
    ("underscore dropped", [(b"x_a", b"1")], "HTTP_X_A", None),
    (
        "underscore does not join",
        [(b"x-real-ip", b"1"), (b"x_real-ip", b"2")],
        "HTTP_X_REAL_IP",
        "1",
    ),
    ("CVE-2016-5385", [(b"proxy", b"evil")], "HTTP_PROXY", None),
    ("RFC 3875 §4.1.3", [(b"content-type", b"a/b")], "HTTP_CONTENT_TYPE", None),
    ("RFC 3875 §4.1.2", [(b"content-length", b"1")], "HTTP_CONTENT_LENGTH", None),
    ("latin-1", [(b"x-a", b"\xe4\xff")], "HTTP_X_A", "\xe4\xff"),
    ("kept by default", [(b"authorization", b"Basic x")], "HTTP_AUTHORIZATION", "Basic x"),
    ("underscored content type", [(b"content_type", b"a/b")], "CONTENT_TYPE", None),
]


@pytest.mark.parametrize(("headers", "key", "value"), ruled(HEADERS))
def test_headers(headers: list[tuple[bytes, bytes]], key: str, value: str | None) -> None:
    assert build(make_head(*headers)).get(key) == value


PATHS = [
    # rule, prefix, method, target, SCRIPT_NAME, PATH_INFO
    ("root", "", b"GET", b"/", "", "/"),
    ("%2F is a slash, as with gunicorn", "", b"GET", b"/a%2Fb", "", "/a/b"),
    ("bad escapes stay", "", b"GET", b"/%zz%4", "", "/%zz%4"),
    ("plus stays", "", b"GET", b"/a+b", "", "/a+b"),
    ("double slash stays", "", b"GET", b"//a", "", "//a"),
    ("dots stay", "", b"GET", b"/a/../b", "", "/a/../b"),
    ("RFC 9112 §3.2.4", "", b"OPTIONS", b"*", "", ""),
    ("RFC 9112 §3.2.2", "", b"GET", b"http://other:1/a?b", "", "/a"),
    ("prefix itself", "/x", b"GET", b"/x", "/x", ""),
    ("prefix and slash", "/x", b"GET", b"/x/", "/x", "/"),
    ("below the prefix", "/x/", b"GET", b"/x/y", "/x", "/y"),
    ("escaped prefix", "x", b"GET", b"/%78/y", "/x", "/y"),
    ("prefix beyond ASCII", "/\xe4", b"GET", b"/%C3%A4/y", "/\xc3\xa4", "/y"),
    ("prefix /", "/", b"GET", b"/y", "", "/y"),
]


@pytest.mark.parametrize(("prefix", "method", "target", "script_name", "path_info"), ruled(PATHS))
def test_paths(prefix: str, method: bytes, target: bytes, script_name: str, path_info: str) -> None:
    environ = build(make_head(method=method, target=target), make_site(script_name=prefix))
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)
    assert environ["REQUEST_URI"] == environ["RAW_URI"] == target.decode()


@pytest.mark.parametrize("target", [b"/", b"/y", b"/xy", b"/%58", b"/y/x"])
def test_a_path_outside_of_the_prefix_is_not_found(target: bytes) -> None:
    with pytest.raises(ClientError, match=r"^404: "):
        build(make_head(target=target), make_site(script_name="/x"))


def test_a_nul_in_the_path_is_refused() -> None:
    """As nginx does: beneath the app it ends file names in C."""
    with pytest.raises(ClientError, match=r"^400: "):
        build(make_head(target=b"/a%00.txt"))


def test_the_host_is_the_targets_else_the_headers_else_absent() -> None:
    """RFC 9112 §3.2.2 and §3.3: without an authority the server's own name counts."""
    assert build(make_head(target=b"http://other:1/"))["HTTP_HOST"] == "other:1"
    assert "HTTP_HOST" not in build(make_head(host=b""))
    assert "HTTP_HOST" not in build(make_head(host=None, version=b"1.0"))
    assert build(make_head(host=None, version=b"1.0", target=b"http://a/"))["HTTP_HOST"] == "a"


def test_an_https_target_is_for_tls() -> None:
    """RFC 9110 §7.4: rejected over plain HTTP; the scheme is the listener's all the same."""
    with pytest.raises(ClientError, match=r"^421: "):
        check_scheme(make_site(), make_head(target=b"https://example.org/"), None)
    site = make_site(scheme="https")
    for target in (b"https://example.org/", b"http://example.org/"):
        check_scheme(site, make_head(target=target), None)
        assert build(make_head(target=target), site)["wsgi.url_scheme"] == "https"


def test_the_length_is_what_the_app_can_read() -> None:
    """RFC 9112 §7.1.3: once de-chunked, a body has a length and no coding."""
    chunked = make_head((b"transfer-encoding", b"chunked"), method=b"POST")
    streamed = build(chunked)
    assert ("CONTENT_LENGTH" in streamed, streamed["HTTP_TRANSFER_ENCODING"]) == (False, "chunked")
    buffered = build(chunked, body_length=7)
    assert (buffered["CONTENT_LENGTH"], "HTTP_TRANSFER_ENCODING" in buffered) == ("7", False)
    assert "CONTENT_LENGTH" not in build(make_head())
    assert build(make_head((b"content-length", b"05")))["CONTENT_LENGTH"] == "5"


def test_what_the_operator_sets_wins() -> None:
    site = make_site(pass_authorization=False, extra={"HTTP_X_A": "mine", "K\xe4": "\u20ac", "AUTH": "1"})
    environ = build(make_head((b"x-a", b"theirs"), (b"authorization", b"x")), site)
    assert environ["HTTP_X_A"] == "mine"
    assert environ["K\xc3\xa4"] == "\xe2\x82\xac"
    assert "HTTP_AUTHORIZATION" not in environ


def test_the_listener() -> None:
    environ = build(make_head(), make_site(scheme="https"), peer=None)
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("", "")
    assert (environ["wsgi.url_scheme"], environ["HTTPS"]) == ("https", "on")


def test_environs_share_nothing() -> None:
    site = make_site()
    build(make_head(), site)["wsgi.url_scheme"] = "changed"
    assert build(make_head(), site)["wsgi.url_scheme"] == "http"


@given(st.text())
def test_operators_text_becomes_latin_1_and_comes_back(text: str) -> None:
    """PEP 3333 "Unicode Issues"; a lone surrogate that stands for no byte cannot come from a command line."""
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return
    assert wsgi_str(text).encode("latin-1") == raw


NAMES = st.one_of(st.binary(max_size=8), st.sampled_from([b"cookie", b"content-type", b"x-a", b"x_a", b"expect"]))


@given(st.binary(max_size=20), st.lists(st.tuples(NAMES, st.binary(max_size=8)), max_size=5), st.booleans())
def test_everything_is_latin_1_str_and_nothing_but_client_errors_is_raised(
    path: bytes, headers: list[tuple[bytes, bytes]], prefixed: bool
) -> None:
    try:
        head = make_head(*headers, target=b"/" + path)
        environ = build_environ(make_site(script_name="/x" * prefixed), head, peer=("fe80::1", 1), body_length=None)
    except ClientError:
        return
    for key, value in environ.items():
        key.encode("latin-1")
        assert type(key) is str
        if not key.startswith("wsgi."):
            assert type(value) is str
            value.encode("latin-1")
