"""Rules of `--bind`: which texts name a place to listen at."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsgi.address import Address, parse_address

ADDRESSES: list[tuple[str, Address]] = [
    ("127.0.0.1:8080", Address("tcp", "127.0.0.1", 8080)),
    ("localhost:0", Address("tcp", "localhost", 0)),
    ("tcp://a.example:1", Address("tcp", "a.example", 1)),
    ("localhost", Address("tcp", "localhost", 8000)),
    (":8080", Address("tcp", "0.0.0.0", 8080)),
    ("8080", Address("tcp", "127.0.0.1", 8080)),
    ("[::1]:8080", Address("tcp", "::1", 8080)),
    ("[::]", Address("tcp", "::", 8000)),
    ("unix:/run/a.sock", Address("unix", path="/run/a.sock")),
    ("unix:///run/a.sock", Address("unix", path="/run/a.sock")),
    ("unix:a.sock", Address("unix", path="a.sock")),
    ("unix:@name", Address("unix", path="@name")),
    ("fd://3", Address("fd", fd=3)),
    ("fd://web", Address("fd", name="web")),
    ("fd://app.socket", Address("fd", name="app.socket")),
]


@pytest.mark.parametrize(("text", "address"), ADDRESSES)
def test_address(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", ":", "a:", "a:b", "a:65536", "a:-1", "::1", "::1:80", "[::1", "[::1]x", "[a]:1", "unix:", "fd://", "fd://x:y",
     "fd://x\n", "fd://\u00e4", "fd://" + "x" * 256,
     "http://a:1", "a b:1", "/run/a.sock", "a:\uff11", "a:1\n"],
)  # fmt: skip
def test_wrong_address_is_told_the_fix(text: str) -> None:
    with pytest.raises(ValueError, match="write "):
        parse_address(text)


def test_address_url() -> None:
    assert parse_address("[::1]:1").url("https") == "https://[::1]:1"
    assert parse_address("unix:/a").url() == "unix:/a"


@given(st.text())
def test_reading_ends_in_an_address_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_address(text)
