"""What every response owes: Date, Server, framing, no body where none belongs (RFC 9110 §6.4.1, §9.3.2, PEP 3333)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from answers import Answer, read_answer, read_answers
from asking import Environ
from serving import serving

pytestmark = pytest.mark.usefixtures("each_engine")

App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def answering(*headers: tuple[str, str], status: str = "200 OK", body: Iterable[bytes] = (b"body",)) -> App:
    def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(status, list(headers))
        return body

    return app


def _request(method: str = "GET", version: str = "1.1", *lines: str) -> bytes:
    return "\r\n".join([f"{method} / HTTP/{version}", "Host: test", *lines, "", ""]).encode()


async def _ask(app: App, method: str = "GET", **settings: Any) -> Answer:
    async with serving(app, **settings) as served:
        return read_answer(await served.exchange(_request(method)), method)


# -- Date and Server -------------------------------------------------------------------------------------------------


async def test_date_and_server_are_ours_by_default() -> None:
    answer = await _ask(answering())
    assert answer.value("server") == "trio-wsgi"
    assert answer.value("date").endswith(" GMT")


@pytest.mark.parametrize("spelling", ["Date", "date", "DATE"])
async def test_the_apps_own_date_and_server_win(spelling: str) -> None:
    # The seed sent both twice.
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    answer = await _ask(answering((spelling, date), ("sErVeR", "mine")))
    assert answer.value("date") == date
    assert answer.value("server") == "mine"


async def test_no_server_header_when_ident_is_empty() -> None:
    assert (await _ask(answering(), ident="")).values("server") == []


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "500 Internal Server Error"])
async def test_date_and_server_stand_in_every_answer(status: str) -> None:
    answer = await _ask(answering(status=status, body=[]))
    assert len(answer.values("date")) == len(answer.values("server")) == 1


# -- hop-by-hop ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["Connection", "keep-alive", "Transfer-Encoding", "TE", "Upgrade", "Trailers", "Proxy-Authenticate", "trailer"],
)
async def test_hop_by_hop_headers_are_the_servers(name: str) -> None:
    # PEP 3333, "Other HTTP Features": "a fatal error"
    async with serving(answering((name, "close"))) as served:
        answers = read_answers(await served.exchange(_request() * 2), ["GET", "GET"])
        record = await served.record(2)
    assert [answer.status for answer in answers] == [500, 500]  # and nothing of the app's leaks out
    assert answers[0].values("connection") == []
    assert record.outcome.value == "app-error"
    assert name.lower() in record.reason.lower()


# -- responses without a body ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [[b"oops"], [], iter([b"oo", b"ps"])], ids=["list", "empty", "iterator"])
@pytest.mark.parametrize(
    ("status", "headers", "length"),
    [
        ("204 No Content", [], []),
        ("204 No Content", [("Content-Length", "4")], []),  # RFC 9110 §8.6: MUST NOT
        ("304 Not Modified", [("ETag", '"x"')], []),
        ("304 Not Modified", [("Content-Length", "4")], ["4"]),  # §8.6: that of the 200
    ],
)
async def test_204_and_304_have_no_body(
    status: str, headers: list[tuple[str, str]], length: list[str], body: Iterable[bytes]
) -> None:
    blocks = list(body) if not isinstance(body, list) else body

    def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(status, list(headers))
        return blocks if isinstance(body, list) else iter(blocks)

    async with serving(app) as served:
        answers = read_answers(await served.exchange(_request() * 2), ["GET", "GET"])  # framing holds
    for answer in answers:
        assert answer.status == int(status[:3])
        assert answer.body == b""
        assert answer.values("content-length") == length
        assert answer.values("transfer-encoding") == []
        assert not answer.closes


def _list(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello ", b"world"]


def _generator(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"hello "
    yield b"world"


def _generator_with_length(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "11")])
    yield b"hello "
    yield b"world"


def _written(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"hello ")
    return [b"world"]


def _buffered(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    environ["trio_wsgi.write_policy"] = "buffer"
    return _written(environ, start_response)


def _file(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](Path(__file__).open("rb"))  # type: ignore[no-any-return]


def _file_with_length(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "7")])
    return environ["wsgi.file_wrapper"](Path(__file__).open("rb"))  # type: ignore[no-any-return]


def _no_such(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    raise LookupError("on purpose")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(
    "app",
    [_list, _generator, _generator_with_length, _written, _buffered, _file, _file_with_length, _no_such],
    ids=lambda app: app.__name__.strip("_"),
)
async def test_heads_headers_equal_gets(app: App, version: str) -> None:
    """PAINS 5 of the peers: HEAD on a file sent its body in five of eight servers (RFC 9110 §9.3.2)."""
    keep = ["Connection: keep-alive"] if version == "1.0" else []
    async with serving(app) as served:
        get = read_answers(await served.exchange(_request("GET", version, *keep)), ["GET"])[0]
        head, *_ = read_answers(await served.exchange(_request("HEAD", version, *keep)), ["HEAD"])

    def plain(answer: Answer) -> list[tuple[bytes, bytes]]:
        return [item for item in answer.headers if item[0] != b"date"]

    assert head.status == get.status
    assert plain(head) == plain(get)
    assert (head.body, bool(get.body)) == (b"", True)


async def test_head_answers_keep_the_connection() -> None:
    async with serving(_generator) as served:
        answers = read_answers(await served.exchange(_request("HEAD") * 3 + _request()), ["HEAD"] * 3 + ["GET"])
    assert [answer.body for answer in answers] == [b""] * 3 + [b"hello world"]


async def test_an_app_that_drops_the_body_of_head_itself_claims_no_length_of_zero() -> None:
    # Bottle does: the empty list says nothing of what GET would have sent (RFC 9110 §8.6).
    answer = await _ask(answering(body=[]), "HEAD")
    assert answer.values("content-length") == []
    assert (await _ask(answering(body=[]), "GET")).value("content-length") == "0"


# -- status line -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["200 OK", "299 ", "418 I'm a teapot", "599 \xe4 own"])
async def test_the_status_goes_out_as_it_is(status: str) -> None:
    async with serving(answering(status=status)) as served:
        raw = await served.exchange(_request())
    assert raw.startswith(f"HTTP/1.1 {status}\r\n".encode("latin-1"))


@pytest.mark.parametrize("status", ["100 Continue", "101 Switching Protocols", "199 x", "600 x", "200", "OK", ""])
async def test_a_status_that_no_final_response_has_is_an_app_error(status: str) -> None:
    assert (await _ask(answering(status=status))).status == 500


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_we_answer_in_our_own_version(version: str) -> None:
    # RFC 9110 §2.5: the highest the server speaks, whatever minor version the client has
    async with serving(answering()) as served:
        assert read_answer(await served.exchange(_request("GET", version))).version == "1.1"
