"""The PROXY protocol (issue 5, "Behind proxies"; HAProxy's proxy-protocol.txt, sections 2.1 and 2.2)."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsgi.rules.proxyprotocol import (
    V1_MAX,
    V2_MAX,
    ProxyHeader,
    ProxyHeaderError,
    header_length,
    parse_header,
)

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
NOBODY = ProxyHeader()


def v2(command: int, protocol: int, body: bytes = b"", length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, protocol, len(body) if length is None else length) + body


def addresses(source: str, destination: str, *ports: int) -> bytes:
    return ip_address(source).packed + ip_address(destination).packed + struct.pack("!HH", *ports)


V4 = addresses("192.0.2.1", "198.51.100.1", 56324, 443)
V6 = addresses("2001:db8::1", "2001:db8::2", 65535, 0)
UNIX = b"/run/client".ljust(108, b"\0") + b"/run/server".ljust(108, b"\0")
TLV = b"\x04\x00\x03abc"
LONGEST = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"

RIGHT = [
    # 2.1
    (
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        ProxyHeader("TCP4", ("192.168.0.1", 56324), ("192.168.0.11", 443)),
    ),
    (b"PROXY TCP4 1.2.3.4 5.6.7.8 0 65535\r\n", ProxyHeader("TCP4", ("1.2.3.4", 0), ("5.6.7.8", 65535))),
    (b"PROXY TCP6 2001:DB8::1 ::1 1 2\r\n", ProxyHeader("TCP6", ("2001:db8::1", 1), ("::1", 2))),
    (
        f"PROXY TCP6 {LONGEST} {LONGEST} 65535 65535\r\n".encode(),
        ProxyHeader("TCP6", (LONGEST, 65535), (LONGEST, 65535)),
    ),
    (b"PROXY UNKNOWN\r\n", NOBODY),
    (f"PROXY UNKNOWN {LONGEST} {LONGEST} 65535 65535\r\n".encode(), NOBODY),  # 107 bytes: the worst case
    (b"PROXY UNKNOWN \xff\x00 whatever\r\n", NOBODY),
    # 2.2
    (v2(0x21, 0x11, V4), ProxyHeader("TCP4", ("192.0.2.1", 56324), ("198.51.100.1", 443))),
    (v2(0x21, 0x21, V6), ProxyHeader("TCP6", ("2001:db8::1", 65535), ("2001:db8::2", 0))),
    (v2(0x21, 0x11, V4 + TLV), ProxyHeader("TCP4", ("192.0.2.1", 56324), ("198.51.100.1", 443))),
    (v2(0x21, 0x11, V4 + b"\xff"), ProxyHeader("TCP4", ("192.0.2.1", 56324), ("198.51.100.1", 443))),
    (v2(0x21, 0x31, UNIX), ProxyHeader("UNIX")),
    (v2(0x21, 0x31, UNIX + TLV), ProxyHeader("UNIX")),
    (v2(0x20, 0x00), NOBODY),
    (v2(0x20, 0x11, V4), NOBODY),  # LOCAL: a health check; the addresses do not count
    (v2(0x20, 0xFF, b"junk"), NOBODY),
    (v2(0x21, 0x00), NOBODY),
    (v2(0x21, 0x00, V4), NOBODY),
    (v2(0x21, 0x12, V4), NOBODY),  # UDP: "falls back to the UNSPEC mode"
    (v2(0x21, 0x11, V4 + TLV * 600), ProxyHeader("TCP4", ("192.0.2.1", 56324), ("198.51.100.1", 443))),
]


@pytest.mark.parametrize(("data", "header"), RIGHT)
def test_right(data: bytes, header: ProxyHeader) -> None:
    assert header_length(data) == len(data)
    assert parse_header(data) == header


@pytest.mark.parametrize("data", [data for data, _ in RIGHT])
def test_the_end_is_known_byte_by_byte(data: bytes) -> None:
    """What follows is never taken for a part of it, what has come is never too early."""
    for count in range(len(data)):
        assert header_length(data[:count]) in (0, len(data))
    assert header_length(data + b"GET / HTTP/1.1\r\n") == len(data)
    assert header_length(data + data) == len(data)


NO_START = [
    b"G",
    b"GET / HTTP/1.1\r\n",
    b"PROXY\r\n",
    b"PROXX",
    b"proxy TCP4",
    b" PROXY",
    b"\r\nPROXY",
    b"\r\n\r\n\x00\r\nQUIZ",
    b"\x16\x03\x01",  # TLS
    b"PROXY UNKNOWN " + b"x" * (V1_MAX - 14),
    b"PROXY TCP4 " + b"1" * V1_MAX + b"\r\n",
    v2(0x21, 0x11, b"", V2_MAX - 15),
    v2(0x21, 0x11, b"", 65535),
]


@pytest.mark.parametrize("data", NO_START)
def test_what_cannot_become_a_header_is_known_at_once(data: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        header_length(data)


MALFORMED = [
    b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\n",  # a bare LF
    b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 \r\n",
    b"PROXY TCP4 192.168.0.1  192.168.0.11 56324 443\r\n",
    b"PROXY TCP4 192.168.0.1 192.168.0.11 56324\r\n",
    b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 1\r\n",
    b"PROXY TCP4 192.168.0.256 192.168.0.11 56324 443\r\n",
    b"PROXY TCP4 192.168.0.01 192.168.0.11 56324 443\r\n",  # heading zeroes
    b"PROXY TCP4 192.168.0.1 192.168.0.11 056 443\r\n",
    b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 65536\r\n",
    b"PROXY TCP4 192.168.0.1 192.168.0.11 -1 443\r\n",
    b"PROXY TCP4 ::1 ::1 1 2\r\n",  # the family dictates the format
    b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXY TCP6 ::g ::1 1 2\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXY UNIX /a /b\r\n",
    b"PROXY UNKNOWNX\r\n",
    b"PROXY unknown\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\r\n",
    v2(0x11, 0x11, V4),  # version 1 in the binary form
    v2(0x22, 0x11, V4),  # no such command
    v2(0x21, 0x41, V4),
    v2(0x21, 0x13, V4),
    v2(0x21, 0x11, V4[:-1]),
    v2(0x21, 0x11),
    v2(0x21, 0x21, V4),
    v2(0x21, 0x31, UNIX[:-1]),
]


@pytest.mark.parametrize("data", MALFORMED)
def test_malformed(data: bytes) -> None:
    assert header_length(data) == len(data)
    with pytest.raises(ProxyHeaderError):
        parse_header(data)


@given(
    st.one_of(
        st.binary(max_size=80),
        st.binary(max_size=80).map(lambda tail: b"PROXY " + tail),
        st.binary(max_size=300).map(lambda tail: SIGNATURE + tail),
        st.tuples(st.sampled_from([0x20, 0x21]), st.integers(0, 255), st.binary(max_size=300)).map(
            lambda row: v2(*row)
        ),
    )
)
def test_it_is_a_header_or_refused(data: bytes) -> None:
    """Never another error, never a length that would swallow what follows."""
    try:
        length = header_length(data)
        if 0 < length <= len(data):
            header = parse_header(data[:length])
            assert (header.client is None) == (header.family not in ("TCP4", "TCP6"))
            if header.client is not None:
                ip_address(header.client[0])
        else:
            assert length <= V2_MAX
    except ProxyHeaderError as exc:
        assert str(exc).isprintable()


@given(st.ip_addresses(), st.integers(0, 65535))
def test_both_versions_tell_the_same(client: object, port: int) -> None:
    host = str(client)
    family = "TCP6" if ":" in host else "TCP4"
    line = f"PROXY {family} {host} {host} {port} 80\r\n".encode()
    block = v2(0x21, 0x21 if ":" in host else 0x11, addresses(host, host, port, 80))
    assert parse_header(line) == parse_header(block) == ProxyHeader(family, (host, port), (host, 80))
