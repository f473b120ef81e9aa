"""Who the client is behind proxies (issue 5, "Behind proxies"; RFC 7239; X-Forwarded-* as proxies write them)."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsgi.errors import ClientError
from trio_wsgi.rules.environ import Site, build_environ
from trio_wsgi.rules.forwarded import BELIEVABLE, Forwarded, Forwarding, find_client, read_forwarded
from trio_wsgi.rules.head import parse_request
from trio_wsgi.rules.proxies import parse_ip, parse_proxies

OURS = "127.0.0.1, ::1, 10.0.0.0/8, fd00::/8"


def believe(ours: str = OURS, names: str = " ".join(BELIEVABLE)) -> Forwarding:
    return Forwarding(parse_proxies([ours]), frozenset(names.encode().split()))


def read(*lines: str, ours: str = OURS) -> Forwarded:
    headers = [line.partition(": ") for line in lines]
    return read_forwarded(
        [(name.lower().encode(), value.encode("latin-1")) for name, _, value in headers], believe(ours)
    )


# -- which machines are ours -------------------------------------------------------------------------------------

PEERS = [
    # setting, the peer's address (None: unix socket), believed
    ("127.0.0.1", "127.0.0.1", True),
    ("127.0.0.1", "127.0.0.2", False),
    ("127.0.0.1", None, True),
    ("", None, True),
    ("", "127.0.0.1", False),
    ("*", "203.0.113.9", True),
    ("10.0.0.0/8, 192.168.1.1", "10.255.0.1", True),
    ("10.0.0.0/8, 192.168.1.1", "192.168.1.1", True),
    ("10.0.0.0/8, 192.168.1.1", "192.168.1.2", False),
    ("10.0.0.7/8", "10.1.1.1", True),  # host bits do not count
    ("10.0.0.0/8", "::ffff:10.1.2.3", True),  # dual-stack sockets show IPv4 so
    ("::ffff:10.0.0.0/104", "10.1.2.3", True),
    ("::ffff:10.1.2.3", "10.1.2.3", True),
    ("::/0", "10.1.2.3", False),
    ("0.0.0.0/0", "::1", False),
    ("::1", "0:0:0:0:0:0:0:1", True),
    ("fe80::/10", "fe80::1%eth0", True),
    ("::1", "not an address", False),
]


@pytest.mark.parametrize(("setting", "peer", "believed"), PEERS)
def test_peers(setting: str, peer: str | None, believed: bool) -> None:
    assert parse_proxies([setting]).has_peer(peer) is believed


def test_everyone_is_said_of_peers_only() -> None:
    """Who connects is known; an address in a header is whatever somebody wrote there."""
    assert not parse_proxies(["*"]).has(ipaddress.ip_address("203.0.113.9"))
    assert parse_proxies(["*,203.0.113.0/24"]).has(ipaddress.ip_address("203.0.113.9"))


# -- the client --------------------------------------------------------------------------------------------------

CLIENTS = [
    # X-Forwarded-For, client, port
    ("198.51.100.7", "198.51.100.7", ""),
    ("1.1.1.1, 198.51.100.7", "198.51.100.7", ""),  # what the client said itself stands left
    ("1.1.1.1, 198.51.100.7, 10.0.0.2", "198.51.100.7", ""),
    ("1.1.1.1,198.51.100.7 ,\t10.0.0.2,127.0.0.1,::1", "198.51.100.7", ""),
    ("127.0.0.1, 198.51.100.7", "198.51.100.7", ""),  # a claim to be one of us
    ("10.0.0.3, 10.0.0.2", "10.0.0.3", ""),  # all are ours: the left-most
    ("127.0.0.1", "127.0.0.1", ""),
    ("198.51.100.7:50123", "198.51.100.7", "50123"),
    ("2001:DB8::1", "2001:db8::1", ""),
    ("[2001:db8::1]", "2001:db8::1", ""),
    ("[2001:db8::1]:50123", "2001:db8::1", "50123"),
    ("198.51.100.7, fd00::2", "198.51.100.7", ""),
    ("198.51.100.7, [fd00::2]:1", "198.51.100.7", ""),
    ("::ffff:198.51.100.7", "198.51.100.7", ""),
    ("198.51.100.7, ::ffff:10.0.0.1", "198.51.100.7", ""),
    ("unknown", "", ""),
    ("1.1.1.1, Unknown, 10.0.0.2", "", ""),
    ("1.1.1.1, _hidden", "", ""),
    ("198.51.100.7, ,, 10.0.0.2,", "198.51.100.7", ""),  # RFC 9110 §5.6.1: empty members do not count
    ("<script>, 198.51.100.7", "198.51.100.7", ""),  # nobody reads what the client made up
    ("198.51.100.7:_obfuscated", "198.51.100.7", ""),
]


@pytest.mark.parametrize(("value", "client", "port"), CLIENTS)
def test_x_forwarded_for(value: str, client: str, port: str) -> None:
    assert read(f"X-Forwarded-For: {value}")[:2] == (client, port)


def test_lines_are_one_list() -> None:
    """HAProxy's `option forwardfor` adds a line of its own (RFC 9110 §5.2)."""
    assert read("X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 198.51.100.7").client == "198.51.100.7"


def test_with_everyone_believed_the_last_word_counts() -> None:
    """Under * whoever connects is a proxy, and what it has seen stands at the right: clients cannot choose it."""
    assert read("X-Forwarded-For: 1.1.1.1, 198.51.100.7, 10.0.0.2", ours="*").client == "10.0.0.2"
    assert read("X-Forwarded-For: 1.1.1.1, 198.51.100.7, 10.0.0.2", ours="*,10.0.0.0/8").client == "198.51.100.7"


@pytest.mark.parametrize("value", ["", " ", ",", ", ,"])
def test_nothing_is_said(value: str) -> None:
    assert read(f"X-Forwarded-For: {value}") == Forwarded()


BAD_CLIENTS = [
    "localhost",
    "198.51.100",
    "198.51.100.07",
    "198.51.100.256",
    "198.51.100.7:",
    "198.51.100.7:65536",
    "198.51.100.7:123456",
    "198.51.100.7:-1",
    "198.51.100.7 198.51.100.8",
    "[198.51.100.7]:x",
    "[::1",
    "::1]",
    "[]",
    "[::g]",
    "fe80::1%eth0",
    "fe80::1%<script>",
    '"198.51.100.7"',
    "198.51.100.7\x00",
    "\xb2.1.1.1",
    "_",
    "unknown1",
    "1.1.1.1, x, 10.0.0.2",  # of the hop that counts
]


@pytest.mark.parametrize("value", BAD_CLIENTS)
def test_an_address_that_counts_and_cannot_be_read(value: str) -> None:
    """It is no absence of one: the request would look as if it came from the proxy itself."""
    with pytest.raises(ClientError, match="400: malformed"):
        read(f"X-Forwarded-For: {value}")


# -- the other headers, at the client's place --------------------------------------------------------------------

FOR = "X-Forwarded-For: 1.1.1.1, 198.51.100.7, 10.0.0.2"  # the client's place is the second from the right
PLACES = [
    # header, field, value
    ("X-Forwarded-Proto: https", "scheme", "https"),
    ("X-Forwarded-Proto: HTTPS", "scheme", "https"),
    ("X-Forwarded-Proto: wss", "scheme", "https"),
    ("X-Forwarded-Proto: ws", "scheme", "http"),
    ("X-Forwarded-Proto: https, http", "scheme", "https"),
    ("X-Forwarded-Proto: gopher, https, http", "scheme", "https"),  # the client's own claim stands left
    ("X-Forwarded-Proto: ", "scheme", None),
    ("X-Forwarded-Host: example.org", "host", "example.org"),
    ("X-Forwarded-Host: evil.example, example.org:81, inner:8000", "host", "example.org:81"),
    ("X-Forwarded-Host: [2001:db8::1]:8443", "host", "[2001:db8::1]:8443"),
    ("X-Forwarded-Port: 8443", "port", "8443"),
    ("X-Forwarded-Port: 0443, 80", "port", "443"),
    ("X-Forwarded-Prefix: /app", "prefix", "/app"),
    ("X-Forwarded-Prefix: /app/", "prefix", "/app"),
    ("X-Forwarded-Prefix: /", "prefix", ""),
    ("X-Forwarded-Prefix: /a/b%20c/%C3%A4", "prefix", "/a/b c/\xc3\xa4"),
    ("X-Forwarded-Prefix: /.well/..known", "prefix", "/.well/..known"),
]


@pytest.mark.parametrize(("line", "field", "value"), PLACES)
def test_lists_are_read_at_the_clients_place(line: str, field: str, value: str | None) -> None:
    assert getattr(read(FOR, line), field) == value


def test_without_addresses_the_last_word_counts() -> None:
    assert read("X-Forwarded-Proto: https, http") == Forwarded(scheme="http")


BAD_VALUES = [
    "X-Forwarded-Proto: gopher",
    "X-Forwarded-Proto: on",
    "X-Forwarded-Proto: http s",
    "X-Forwarded-Host: user@evil.example",
    "X-Forwarded-Host: a b",
    "X-Forwarded-Host: evil.example/x",
    "X-Forwarded-Host: :80",
    "X-Forwarded-Host: [::g]",
    "X-Forwarded-Host: a:99999",
    "X-Forwarded-Host: \xe4.example",
    "X-Forwarded-Port: 65536",
    "X-Forwarded-Port: 4 4",
    "X-Forwarded-Port: -1",
    "X-Forwarded-Port: \xb2",
    "X-Forwarded-Port: 000000443",
    "X-Forwarded-Prefix: app",
    "X-Forwarded-Prefix: //evil.example",  # a link that begins so leads elsewhere
    "X-Forwarded-Prefix: /%2Fevil.example",
    "X-Forwarded-Prefix: /%5Cevil.example",
    "X-Forwarded-Prefix: /\\evil.example",
    "X-Forwarded-Prefix: /a//b",
    "X-Forwarded-Prefix: /a/../b",
    "X-Forwarded-Prefix: /%2e%2E/b",
    "X-Forwarded-Prefix: /.",
    "X-Forwarded-Prefix: /..",
    "X-Forwarded-Prefix: /a%00b",
    "X-Forwarded-Prefix: /a%0d%0ab",
    "X-Forwarded-Prefix: /a%4",
    "X-Forwarded-Prefix: /a?b",
    "X-Forwarded-Prefix: /a#b",
    "X-Forwarded-Prefix: https://evil.example",
    "X-Forwarded-Prefix: /\xe4",
]


@pytest.mark.parametrize("line", BAD_VALUES)
def test_a_value_that_counts_and_cannot_be_read(line: str) -> None:
    with pytest.raises(ClientError, match="400: "):
        read(FOR, line)


# -- RFC 7239 ----------------------------------------------------------------------------------------------------

FORWARDED = [
    # §4, the examples of the RFC and what senders make of it
    ("for=192.0.2.60;proto=http;by=203.0.113.43", Forwarded("192.0.2.60", "", "http")),
    ('For="[2001:db8:cafe::17]:4711"', Forwarded("2001:db8:cafe::17", "4711")),
    ('for="_gazonk"', Forwarded("")),
    ("for=unknown", Forwarded("")),
    ("for=_SEVKISEK;proto=https", Forwarded("", "", "https")),
    ('for="192.0.2.43:47011"', Forwarded("192.0.2.43", "47011")),
    ("for=192.0.2.43:47011", Forwarded("192.0.2.43", "47011")),  # without the quotes that are due
    ("for=[2001:db8::1]", Forwarded("2001:db8::1")),
    ('for="192.0.2.43:_obf"', Forwarded("192.0.2.43")),
    ("for=1.1.1.1, for=192.0.2.43", Forwarded("192.0.2.43")),
    ("for=1.1.1.1;proto=https;host=evil.example, for=192.0.2.43", Forwarded("192.0.2.43")),  # not of that hop
    (
        "for=1.1.1.1;proto=gopher, for=192.0.2.43;proto=https;host=a.example, for=10.0.0.2;proto=http;host=in",
        Forwarded("192.0.2.43", "", "https", "a.example"),
    ),
    ('for=192.0.2.43;host="a.example:8443"', Forwarded("192.0.2.43", "", None, "a.example:8443")),
    ('for="192.0.2\\.43"', Forwarded("192.0.2.43")),  # a quoted pair, RFC 9110 §5.6.4
    ('by="a, for=1.1.1.1; x";for=192.0.2.43', Forwarded("192.0.2.43")),
    ('by="\\", for=1.1.1.1";for=192.0.2.43', Forwarded("192.0.2.43")),
    ("for=192.0.2.43 ; proto=https", Forwarded("192.0.2.43", "", "https")),
    ("for=192.0.2.43;;proto=https;", Forwarded("192.0.2.43", "", "https")),
    (",for=192.0.2.43, ,", Forwarded("192.0.2.43")),
    ("for=192.0.2.43;secret=x;by=_me", Forwarded("192.0.2.43")),  # §5.5: extensions
    ("for=10.0.0.3, for=10.0.0.2", Forwarded("10.0.0.3")),
    ("for=192.0.2.43, proto=https", Forwarded("", "", "https")),  # the last proxy does not say whom it saw
    (",", Forwarded()),
]


@pytest.mark.parametrize(("value", "said"), FORWARDED)
def test_forwarded(value: str, said: Forwarded) -> None:
    assert read(f"Forwarded: {value}") == said


def test_forwarded_in_two_lines() -> None:
    assert read("Forwarded: for=1.1.1.1", "Forwarded: for=192.0.2.43").client == "192.0.2.43"


@pytest.mark.parametrize(
    "value",
    [
        "for",
        "for=",
        "=1.1.1.1",
        "for=1.1.1.1 proto=http",
        "for=1.1.1.1;for=192.0.2.43",  # §4: each parameter once
        "for=1.1.1.1;FOR=192.0.2.43",
        'for="1.1.1.1',
        'for="1.1.1.1\\"',
        'for=", for=192.0.2.43',  # a quote that swallows what our proxy adds
        'for=1.1.1.1"x"',
        "for=example.org",
        "for=2001:db8::1;proto=gopher",
        "for=192.0.2.43;proto=gopher",
        'for=192.0.2.43;host="a b"',
        "for=192.0.2.43;host=",
        "for=\xe4",
    ],
)
def test_forwarded_that_cannot_be_read(value: str) -> None:
    with pytest.raises(ClientError, match="400: "):
        read(f"Forwarded: {value}")


# -- two accounts ------------------------------------------------------------------------------------------------

AGREEING = [
    ["Forwarded: for=192.0.2.43;proto=https", "X-Forwarded-For: 1.1.1.1, 192.0.2.43", "X-Forwarded-Proto: https"],
    ['Forwarded: for="192.0.2.43:4711";host=a.example', "X-Forwarded-For: 192.0.2.43", "X-Forwarded-Host: a.example"],
    ["Forwarded: for=192.0.2.43", "X-Forwarded-For: 192.0.2.43:4711"],
]
DIFFERING = [
    ["Forwarded: for=127.0.0.1", "X-Forwarded-For: 192.0.2.43"],  # nginx passes on a client's own Forwarded
    ["Forwarded: for=192.0.2.43", "X-Forwarded-For: 192.0.2.43", "X-Forwarded-Host: evil.example"],
    ["Forwarded: for=192.0.2.43", "X-Forwarded-Prefix: /evil"],
    ["Forwarded: for=192.0.2.43;proto=http", "X-Forwarded-For: 192.0.2.43", "X-Forwarded-Proto: https"],
    ["Forwarded: for=192.0.2.43;proto=https", "X-Forwarded-For: 192.0.2.43"],
]


@pytest.mark.parametrize("lines", AGREEING)
def test_two_accounts_that_agree(lines: list[str]) -> None:
    said = read(*lines)
    assert said.client == "192.0.2.43"
    assert said.client_port in ("", "4711")


@pytest.mark.parametrize("lines", DIFFERING)
def test_two_accounts_that_differ(lines: list[str]) -> None:
    with pytest.raises(ClientError, match=r"400: .*trusted_proxy_headers"):
        read(*lines)


# -- the environ -------------------------------------------------------------------------------------------------


def environ_of(
    *lines: str, forwarding: Forwarding | None, script_name: str = "", scheme: str = "http", **extra: str
) -> dict[str, Any]:
    site = Site("inner", "8000", script_name, scheme, "x", True, False, True, extra)
    headers = [(b"host", b"inner:8000")] if not any(line.startswith("Host") for line in lines) else []
    for line in lines:
        name, _, value = line.partition(": ")
        headers.append((name.lower().encode(), value.encode("latin-1")))
    head = parse_request(b"GET", b"%b/x" % script_name.encode(), headers, b"1.1")
    return build_environ(site, head, peer=("127.0.0.1", 1234), body_length=None, forwarding=forwarding)


ENVIRONS: list[Any] = [
    # lines, what the environ has (None: not there)
    (["X-Forwarded-For: 198.51.100.7"], {"REMOTE_ADDR": "198.51.100.7", "REMOTE_PORT": "", "SERVER_PORT": "8000"}),
    (["X-Forwarded-For: 198.51.100.7:99"], {"REMOTE_ADDR": "198.51.100.7", "REMOTE_PORT": "99"}),
    (["X-Forwarded-For: unknown"], {"REMOTE_ADDR": "", "REMOTE_PORT": ""}),
    (["X-Forwarded-Proto: https"], {"wsgi.url_scheme": "https", "HTTPS": "on", "REMOTE_ADDR": "127.0.0.1"}),
    (["Host: a.example", "X-Forwarded-Proto: https"], {"HTTP_HOST": "a.example", "SERVER_PORT": "443"}),
    (["Host: a.example:8443", "X-Forwarded-Proto: https"], {"HTTP_HOST": "a.example:8443", "SERVER_PORT": "8443"}),
    (["Host: a.example", "X-Forwarded-Port: 81"], {"HTTP_HOST": "a.example", "SERVER_PORT": "81"}),
    (
        ["X-Forwarded-Host: a.example"],
        {"HTTP_HOST": "a.example", "SERVER_NAME": "a.example", "SERVER_PORT": "80"},
    ),
    (
        ["X-Forwarded-Host: a.example:81", "X-Forwarded-Port: 82"],
        {"HTTP_HOST": "a.example:81", "SERVER_NAME": "a.example", "SERVER_PORT": "81"},
    ),
    (
        ["X-Forwarded-Host: a.example", "X-Forwarded-Port: 8443", "X-Forwarded-Proto: https"],
        {"HTTP_HOST": "a.example:8443", "SERVER_NAME": "a.example", "SERVER_PORT": "8443"},
    ),
    (
        ["X-Forwarded-Host: a.example", "X-Forwarded-Port: 443", "X-Forwarded-Proto: https"],
        {"HTTP_HOST": "a.example", "SERVER_NAME": "a.example", "SERVER_PORT": "443"},
    ),
    (
        ["X-Forwarded-Host: [2001:db8::1]"],
        {"HTTP_HOST": "[2001:db8::1]", "SERVER_NAME": "[2001:db8::1]", "SERVER_PORT": "80"},
    ),
    (
        ["X-Forwarded-Host: [2001:db8::1]:81"],
        {"HTTP_HOST": "[2001:db8::1]:81", "SERVER_NAME": "[2001:db8::1]", "SERVER_PORT": "81"},
    ),
    (["X-Forwarded-Prefix: /app"], {"SCRIPT_NAME": "/app", "PATH_INFO": "/x", "REQUEST_URI": "/x"}),
    (["X-Forwarded-Ssl: on"], {"HTTP_X_FORWARDED_SSL": "on", "wsgi.url_scheme": "http"}),  # passed on, not read
    (["X-Forwarded-For: 1.1.1.1"], {"HTTP_X_FORWARDED_FOR": "1.1.1.1"}),  # frameworks read them, too
    (
        ["Forwarded: for=198.51.100.7;proto=https;host=a.example"],
        {"REMOTE_ADDR": "198.51.100.7", "wsgi.url_scheme": "https", "HTTP_HOST": "a.example", "SERVER_PORT": "443"},
    ),
]


@pytest.mark.parametrize(("lines", "expected"), ENVIRONS)
def test_what_the_application_sees(lines: list[str], expected: dict[str, str | None]) -> None:
    environ = environ_of(*lines, forwarding=believe())
    assert {key: environ.get(key) for key in expected} == expected


def test_a_proxys_prefix_stands_before_our_own() -> None:
    environ = environ_of("X-Forwarded-Prefix: /outer", forwarding=believe(), script_name="/app")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/outer/app", "/x")


def test_http_in_front_of_our_own_tls() -> None:
    """The client's part of the way counts: it did not use TLS."""
    environ = environ_of("X-Forwarded-Proto: http", forwarding=believe(), scheme="https")
    assert environ["wsgi.url_scheme"] == "http"
    assert "HTTPS" not in environ


def test_the_operator_wins() -> None:
    environ = environ_of("X-Forwarded-For: 198.51.100.7", forwarding=believe(), REMOTE_ADDR="9.9.9.9")
    assert environ["REMOTE_ADDR"] == "9.9.9.9"


def test_only_headers_that_the_proxy_sets() -> None:
    """`trusted_proxy_headers`: the others come from clients, and neither count nor reach the application."""
    lines = ["X-Forwarded-For: 198.51.100.7", "X-Forwarded-Host: evil.example", "Forwarded: for=127.0.0.1"]
    environ = environ_of(*lines, forwarding=believe(names="x-forwarded-for x-forwarded-proto"))
    assert environ["REMOTE_ADDR"] == "198.51.100.7"
    assert environ["HTTP_HOST"] == "inner:8000"
    assert not {"HTTP_X_FORWARDED_HOST", "HTTP_FORWARDED"} & environ.keys()


SPOOFED = [
    "X-Forwarded-For: 127.0.0.1",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Port: 1",
    "X-Forwarded-Prefix: /evil",
    "X-Forwarded-User: root",
    "X-Forwarded-Ssl: on",
    "Forwarded: for=127.0.0.1;proto=https",
]


def test_from_others_nothing_reaches_the_environ() -> None:
    assert environ_of(*SPOOFED, forwarding=None) == environ_of(forwarding=None)


def test_the_address_for_a_log() -> None:
    assert find_client([(b"x-forwarded-for", b"198.51.100.7:5")], believe()) == ("198.51.100.7", "5")
    assert find_client([(b"x-forwarded-for", b"garbage")], believe()) is None
    assert find_client([(b"host", b"x")], believe()) is None


# -- whatever is sent --------------------------------------------------------------------------------------------

ADDRESSES = st.sampled_from(["10.0.0.2", "198.51.100.7", "::1", "[fd00::1]:80", "unknown", "_x", "junk", "1.2.3.4:5"])
VALUES = st.one_of(
    st.binary(max_size=40),
    st.lists(ADDRESSES, max_size=5).map(lambda nodes: ", ".join(nodes).encode()),
    st.lists(ADDRESSES, max_size=5).map(lambda nodes: ",".join(f'for="{node}";proto=https' for node in nodes).encode()),
    st.text('for=proto;," \\[]:.0123456789/%abc', max_size=60).map(str.encode),
)
HEADERS = st.lists(st.tuples(st.sampled_from([name.encode() for name in BELIEVABLE]), VALUES), max_size=6)


@given(HEADERS)
def test_it_is_read_or_refused(headers: list[tuple[bytes, bytes]]) -> None:
    """Nothing but 400; what is read is an address, a scheme and a port, and latin-1 (PEP 3333)."""
    try:
        said = read_forwarded(headers, believe())
    except ClientError as exc:
        assert exc.status == 400
        return
    assert not said.client or parse_ip(said.client) is not None
    assert said.scheme in (None, "http", "https")
    assert said.port is None or said.port.isdigit()
    assert not said.prefix or (said.prefix.startswith("/") and not said.prefix.startswith("//"))
    for text in (said.client_port, said.host or "", said.prefix or ""):
        assert text.encode("latin-1").isascii() or text == said.prefix


@given(HEADERS)
def test_others_have_no_influence(headers: list[tuple[bytes, bytes]]) -> None:
    head = parse_request(b"GET", b"/", [(b"host", b"h"), *headers], b"1.1")
    bare = parse_request(b"GET", b"/", [(b"host", b"h")], b"1.1")
    site = Site("inner", "8000", "", "http", "x", True, False, True, {})
    peer = ("203.0.113.9", 1)
    assert build_environ(site, head, peer=peer, body_length=None) == build_environ(
        site, bare, peer=peer, body_length=None
    )


@given(st.lists(ADDRESSES, max_size=4), st.sampled_from(["198.51.100.7", "unknown"]))
def test_a_client_cannot_choose_its_address(claims: list[str], seen: str) -> None:
    """Whatever it sends: our proxies add what they have seen at the right."""
    claim, expected = ", ".join([*claims, seen, "10.0.0.2"]), "" if seen == "unknown" else seen
    assert read(f"X-Forwarded-For: {claim}").client == expected
    claim = ", ".join(f'for="{node}"' for node in [*claims, seen, "10.0.0.2"])
    assert read(f"Forwarded: {claim}").client == expected
