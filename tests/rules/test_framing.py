"""Responses are framed as h11 frames them (RFC 9112 §6), whichever engine reads the requests."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import h11
import pytest

from sendfile import Part
from trio_wsgi.net.codec import Codec, H11Codec
from trio_wsgi.net.fastcodec import FastCodec, choose_codec
from trio_wsgi.rules.headers import body_allowed, get_length

REQUEST = b"%b / HTTP/%b\r\nHost: a\r\n%b\r\n"
BODY = [b"first", b"", b"second" * 30]


def framed(codec: Codec, request: bytes, status: int, headers: list[tuple[bytes, bytes]], body: list[Part]) -> bytes:
    """All bytes of one exchange: an interim response, head, body, end; and whether another one may follow."""
    codec.read_head(request)
    codec.end_request()
    assert not codec.response_started
    parts = codec.frame_interim(103, b"Early Hints", [(b"Link", b"</a>")])
    parts += codec.frame_head(status, b"Any Reason", headers, get_length(headers) is not None)
    assert codec.response_started
    assert codec.frame_interim(103, b"Early Hints", []) == []
    for part in body:
        if len(part):
            parts += codec.frame_data(part)
    parts += codec.frame_end()
    again = codec.start_next_cycle()
    return b"".join(bytes(part) for part in parts) + b" keeps" * again  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "version", "status", "length"),
    list(
        itertools.product([b"GET", b"HEAD", b"POST"], [b"1.1", b"1.0"], [200, 204, 206, 304, 404, 500], [False, True])
    ),
)
def test_both_engines_frame_the_same_bytes(method: bytes, version: bytes, status: int, length: bool) -> None:
    headers = [(b"Content-Type", b"text/plain"), (b"X-Twice", b"1"), (b"x-twice", b"2")]
    body: list[Part] = list(BODY) if body_allowed(method, status) else []
    if length and status != 204:
        headers.append((b"content-LENGTH", b"%d" % sum(map(len, BODY))))
    if version == b"1.0":
        headers.append((b"Connection", b"close"))  # as `finish_headers` has it
    request = REQUEST % (method, version, b"")
    by_h11 = framed(H11Codec(65536), request, status, headers, body)
    by_us = framed(FastCodec(), request, status, headers, body)
    if version == b"1.0":  # whether it is kept is the exchange's to say
        by_us = by_us.removesuffix(b" keeps")
    assert by_us.replace(b"Content-Length", b"content-LENGTH") == by_h11


# Sizes of the pieces of a body, each framed as a block (b) or as a part (p).
PIECES = [
    ["b5", "b5", "b5"],
    ["b5", "b6", "b6", "b5"],
    ["p5", "b5", "b5", "p5", "b5", "p7"],
    ["b1", "p1", "b100", "b100", "b100", "p100", "b100"],
]


def in_pieces(codec: Codec, request: bytes, headers: list[tuple[bytes, bytes]], pieces: list[str]) -> bytes:
    codec.read_head(request)
    codec.end_request()
    parts = codec.frame_head(200, b"OK", headers, bool(headers) and headers[0][0] == b"Content-Length")
    for index, piece in enumerate(pieces):
        data = b"%d" % index * int(piece[1:])
        parts += [codec.frame_block(data)] if piece[0] == "b" else codec.frame_data(data)
    parts += codec.frame_end()
    return b"".join(bytes(part) for part in parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [False, True], ids=["unknown", "known"])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("pieces", PIECES, ids=" ".join)
@pytest.mark.parametrize("make", [lambda: H11Codec(65536), FastCodec], ids=["h11", "httptools"])
def test_blocks_are_framed_as_parts_are(
    make: Callable[[], Codec], pieces: list[str], version: bytes, length: bool
) -> None:
    """One connection, response after response: nothing of one is remembered for the next."""
    codec = make()
    for these in (pieces, [piece.replace("b", "p") for piece in pieces], pieces[::-1]):
        size = sum(int(piece[1:]) for piece in these)
        headers = [(b"Content-Length", b"%d" % size)] if length else []
        if version == b"1.0":
            headers.append((b"Connection", b"close"))
            codec = make()
        request = REQUEST % (b"GET", version, b"")
        whole = in_pieces(H11Codec(65536), request, headers, [piece.replace("b", "p") for piece in these])
        assert in_pieces(codec, request, headers, these).lower() == whole.lower()
        assert codec.start_next_cycle() or version == b"1.0"


def test_h11_keeps_its_account_of_blocks_of_which_it_was_not_told() -> None:
    """Neither more nor less than the Content-Length, whoever else may have seen to that before."""
    for sizes in ([4, 4, 4], [4, 4]):
        codec = H11Codec(65536)
        codec.read_head(REQUEST % (b"GET", b"1.1", b""))
        codec.end_request()
        codec.frame_head(200, b"OK", [(b"Content-Length", b"10")], True)
        with pytest.raises(h11.LocalProtocolError):
            for size in sizes:
                codec.frame_block(b"x" * size)
            codec.frame_end()


def test_the_length_of_http10_without_one_is_the_end_of_the_connection() -> None:
    codec = FastCodec()
    framed_bytes = framed(codec, REQUEST % (b"GET", b"1.0", b""), 200, [], [b"body"])
    assert framed_bytes.endswith(b"Connection: close\r\n\r\nbody")  # and it does not keep


def test_the_engine_is_chosen_by_the_setting() -> None:
    assert isinstance(choose_codec("h11", 100)(), H11Codec)
    assert isinstance(choose_codec("httptools", 100)(), FastCodec)
    assert isinstance(choose_codec("auto", 100)(), FastCodec)  # it is installed here
