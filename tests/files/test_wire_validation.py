"""Preconditions over the wire, for what an app answers in any way (RFC 9110 §13; PEP 3333)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import trio
from answers import Answer, read_answer, read_answers
from asking import request
from downloads import connected
from serving import Served, serving
from threeways import serving_three

BODY = b"what the app says"
MODIFIED = "Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE = "Sat, 05 Nov 1994 08:49:37 GMT"
AFTER = "Mon, 07 Nov 1994 08:49:37 GMT"
KINDS = ("list", "generator", "write", "file", "iterated file")


class Watched:
    """An app that answers in one of the ways there are, and knows how far its iterable was run."""

    def __init__(self, kind: str, path: Path, headers: list[tuple[str, str]], status: str = "200 OK") -> None:
        self.kind = kind
        self.headers = headers
        self.status = status
        self.closed = 0
        self.ended = 0
        self._path = path
        path.write_bytes(BODY)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response(self.status, [("Content-Type", "text/plain"), *self.headers])
        if self.kind == "list":
            return [BODY[:5], BODY[5:]]
        if self.kind == "generator":
            return self._generate()
        if self.kind == "write":
            write(BODY[:5])
            write(BODY[5:])
            return []
        file = self._path.open("rb")
        wrapper = environ["wsgi.file_wrapper"](file)
        return wrapper if self.kind == "file" else Iterated(wrapper)

    def _generate(self) -> Iterator[bytes]:
        try:
            yield BODY[:5]
            yield BODY[5:]
            self.ended += 1
        finally:
            self.closed += 1


class Iterated:
    """What a middleware returns that does not know of files."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        while block := self._inner.filelike.read(4):
            yield block

    def close(self) -> None:
        self._inner.close()


async def ask(served: Served, *headers: str, method: str = "GET") -> Answer:
    return read_answer(await served.exchange(request(method, "/", *headers)), method)


TAG_AND_DATE = [("ETag", '"one"'), ("Last-Modified", MODIFIED)]
TABLE = [
    # what the request says, the status, the rule
    pytest.param('If-None-Match: "one"', 304, id="§13.1.2 the tag matches"),
    pytest.param('If-None-Match: W/"one"', 304, id="§13.1.2 weak comparison"),
    pytest.param('If-None-Match: "zero", W/"one", "two"', 304, id="§13.1.2 a list"),
    pytest.param("If-None-Match: *", 304, id="§13.1.2 a star"),
    pytest.param('If-None-Match: "two"', 200, id="§13.1.2 another tag"),
    pytest.param(f"If-Modified-Since: {MODIFIED}", 304, id="§13.1.3 IMF-fixdate"),
    pytest.param("If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT", 304, id="§5.6.7 RFC 850 date"),
    pytest.param("If-Modified-Since: Sun Nov  6 08:49:37 1994", 304, id="§5.6.7 asctime date"),
    pytest.param(f"If-Modified-Since: {BEFORE}", 200, id="§13.1.3 modified since"),
    pytest.param("If-Modified-Since: yesterday", 200, id="§13.1.3 no date is ignored"),
    pytest.param('If-Match: "one"', 200, id="§13.1.1 the tag matches"),
    pytest.param('If-Match: "zero", "one"', 200, id="§13.1.1 a list"),
    pytest.param("If-Match: *", 200, id="§13.1.1 a star"),
    pytest.param('If-Match: "two"', 412, id="§13.1.1 another tag"),
    pytest.param('If-Match: W/"one"', 412, id="§13.1.1 strong comparison"),
    pytest.param(f"If-Unmodified-Since: {AFTER}", 200, id="§13.1.4 not modified"),
    pytest.param(f"If-Unmodified-Since: {BEFORE}", 412, id="§13.1.4 modified"),
    pytest.param(f'If-None-Match: "two"\r\nIf-Modified-Since: {AFTER}', 200, id="§13.2.2 the tag goes before the date"),
    pytest.param(f'If-Match: "one"\r\nIf-Unmodified-Since: {BEFORE}', 200, id="§13.2.2 If-Match before the date"),
    pytest.param('If-Match: "two"\r\nIf-None-Match: "one"', 412, id="§13.2.2 If-Match first"),
    pytest.param('If-Match: "one"\r\nIf-None-Match: "one"', 304, id="§13.2.2 then If-None-Match"),
]


@pytest.mark.parametrize(("said", "status"), TABLE)
async def test_preconditions(said: str, status: int, tmp_path: Path) -> None:
    """RFC 9110 §13.2.2, for every kind of answer, GET and HEAD."""
    for kind in KINDS:
        async with serving(Watched(kind, tmp_path / "f", TAG_AND_DATE)) as served:
            for method in ("GET", "HEAD"):
                answer = await ask(served, said, method=method)
                assert answer.status == status, (kind, method)
                assert answer.body == (BODY if (status, method) == (200, "GET") else b"")


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_304_and_a_412_carry(kind: str, tmp_path: Path) -> None:
    """RFC 9110 §15.4.5: a 304 has what guides caches and nothing of a content; nobody may store a 412 as the thing."""
    headers = [*TAG_AND_DATE, ("Cache-Control", "max-age=5"), ("Vary", "Cookie"), ("Content-Language", "de"),
               ("Set-Cookie", "a=b"), ("Set-Cookie", "c=d"), ("Content-Length", str(len(BODY)))]  # fmt: skip
    async with serving(Watched(kind, tmp_path / "f", headers)) as served:
        fresh = await ask(served, 'If-None-Match: "one"')
        assert (fresh.value("etag"), fresh.value("cache-control"), fresh.value("vary")) == (
            '"one"',
            "max-age=5",
            "Cookie",
        )
        assert fresh.values("set-cookie") == ["a=b", "c=d"]
        assert fresh.value("date")
        for name in ("content-type", "content-language", "content-length", "transfer-encoding"):
            assert not fresh.values(name)
        failed = await ask(served, 'If-Match: "two"')
        assert failed.value("content-length") == "0"
        assert not failed.values("cache-control") + failed.values("content-type") + failed.values("transfer-encoding")


@pytest.mark.parametrize("kind", KINDS)
async def test_the_connection_goes_on(kind: str, tmp_path: Path) -> None:
    """No byte of a body follows a 304 or 412: the next answer on the connection is in its place."""
    async with serving(Watched(kind, tmp_path / "f", TAG_AND_DATE)) as served:
        several = [
            (f"{method} / HTTP/1.1\r\nHost: t\r\n{said}\r\n").encode()
            for method in ("GET", "HEAD")
            for said in ('If-None-Match: "one"\r\n', 'If-Match: "two"\r\n', "")
        ]
        raw = await served.exchange(b"".join(several))
        answers = read_answers(raw, ["GET"] * 3 + ["HEAD"] * 3)
        assert [answer.status for answer in answers] == [304, 412, 200] * 2
        assert [answer.body for answer in answers] == [b"", b"", BODY, b"", b"", b""]


@pytest.mark.parametrize("kind", ["list", "generator", "write"])
async def test_http_1_0(kind: str, tmp_path: Path) -> None:
    """A 304 needs no length, so an HTTP/1.0 client that keeps its connection may."""
    async with serving(Watched(kind, tmp_path / "f", TAG_AND_DATE)) as served:
        raw = await served.exchange(
            b'GET / HTTP/1.0\r\nConnection: keep-alive\r\nIf-None-Match: "one"\r\n\r\nGET / HTTP/1.0\r\n\r\n'
        )
        answers = read_answers(raw, ["GET", "GET"])
        assert [answer.status for answer in answers] == [304, 200]
        assert answers[1].body == BODY


@pytest.mark.parametrize("kind", KINDS)
async def test_other_methods_and_statuses_are_left_alone(kind: str, tmp_path: Path) -> None:
    """Another method has had its effect; §13.2.1: preconditions are nothing for what is no 2xx."""
    async with serving(Watched(kind, tmp_path / "f", TAG_AND_DATE)) as served:
        for method in ("POST", "PUT", "DELETE"):
            assert (await ask(served, 'If-Match: "two"', method=method)).status == 200
    for status in ("404 Not Found", "302 Found", "500 Oops", "206 Partial Content"):
        async with serving(Watched(kind, tmp_path / "f", TAG_AND_DATE, status)) as served:
            answer = await ask(served, 'If-None-Match: "one"')
            assert (answer.status, answer.body) == (int(status[:3]), BODY)
    if "file" not in kind:
        async with serving(Watched(kind, tmp_path / "f", [])) as served:  # without validators nothing is decided
            assert (await ask(served, "If-None-Match: *")).status == 200


@pytest.mark.parametrize(
    ("optimize", "said", "method", "ended"),
    [
        (False, 'If-None-Match: "one"', "GET", 1),
        (False, "Accept: */*", "HEAD", 1),
        (True, 'If-None-Match: "one"', "GET", 0),
        (True, 'If-Match: "two"', "GET", 0),
        (True, "Accept: */*", "HEAD", 0),
        (True, "Accept: */*", "GET", 1),
    ],
)
async def test_optimize_send_headers(optimize: bool, said: str, method: str, ended: int, tmp_path: Path) -> None:
    """Without a body to send, the generator is closed after its head; otherwise it runs to its end. Closed once."""
    app = Watched("generator", tmp_path / "f", TAG_AND_DATE)
    async with serving(app, optimize_send_headers=optimize) as served:
        await ask(served, said, method=method)
    assert (app.ended, app.closed) == (ended, 1)


async def test_a_generator_that_is_cut_short_promises_no_length(tmp_path: Path) -> None:
    """What was never run has no length: a HEAD whose generator is closed early does not claim Content-Length: 0."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b""
        yield BODY

    async with serving(app, optimize_send_headers=True) as served:
        assert (await ask(served, method="HEAD")).values("content-length") == []


# -- validators of files ----------------------------------------------------------------------------------------------


async def test_files_get_validators(way: str, tmp_path: Path) -> None:
    """A strong tag and the time of change; they revalidate, for a copy of the file, too; a change changes the tag."""
    (tmp_path / "f").write_bytes(BODY)
    os.utime(tmp_path / "f", (1_000_000_000, 1_000_000_000))
    async with serving_three(tmp_path) as served, connected(served) as client:
        first = await client.ask(f"/{way}/f")
        tag, modified = first.headers[b"etag"].decode(), first.headers[b"last-modified"].decode()
        assert tag.startswith('"')
        assert modified == formatdate(1_000_000_000, usegmt=True)
        for said in (("If-None-Match", tag), ("If-None-Match", f'"x", W/{tag}'), ("If-Modified-Since", modified)):
            for method in ("GET", "HEAD"):
                again = await client.ask(f"/{way}/f", method, [said])
                assert (again.status, again.body) == (304, b"")
                assert (again.headers[b"etag"].decode(), again.headers[b"last-modified"].decode()) == (tag, modified)
        assert (await client.ask(f"/{way}/f", headers=[("If-Match", tag)])).body == BODY
        assert (await client.ask(f"/{way}/f", headers=[("If-Match", '"x"')])).status == 412
        shutil.copy2(tmp_path / "f", tmp_path / "copy")  # as another node has it, or a deployment that changed nothing
        (tmp_path / "copy").replace(tmp_path / "f")
        assert (await client.ask(f"/{way}/f", headers=[("If-None-Match", tag)])).status == 304
        (tmp_path / "f").write_bytes(BODY[::-1])
        changed = await client.ask(f"/{way}/f", headers=[("If-None-Match", tag)])
        assert (changed.status, changed.body) == (200, BODY[::-1])
        assert changed.headers[b"etag"].decode() != tag


async def test_the_second_of_a_file_is_the_one_that_has_begun(way: str, tmp_path: Path) -> None:
    """As in nginx and by stat(1): a float would round the last fraction up, and take one before 1970 for 1970."""
    (tmp_path / "f").write_bytes(BODY)
    async with serving_three(tmp_path) as served, connected(served) as client:
        for changed, said in [
            (1_000_000_000_999_999_999, [formatdate(1_000_000_000, usegmt=True)]),
            (999_999_999, [formatdate(0, usegmt=True)]),
            (-1, []),  # dates of HTTP begin in 1970 here
        ]:
            os.utime(tmp_path / "f", ns=(changed, changed))
            headers = (await client.ask(f"/{way}/f")).headers
            assert [value.decode() for name, value in headers.items() if name == b"last-modified"] == said


async def test_validators_can_be_switched_off(way: str, tmp_path: Path) -> None:
    """`--no-file-validators`."""
    (tmp_path / "f").write_bytes(BODY)
    async with serving_three(tmp_path, file_validators=False) as served:
        answer = read_answer(await served.exchange(request("GET", f"/{way}/f", f"If-Modified-Since: {AFTER}")))
        assert (answer.status, answer.body) == (200, BODY)
        assert answer.values("etag") + answer.values("last-modified") == []
        other = read_answer(await served.exchange(request("GET", f"/{way}/f", 'If-Match: "x"', "Range: bytes=0-1")))
        assert other.status == 412  # RFC 9110 §13.1.1: there is a file, and no tag of it that would match


async def test_the_apps_own_validators_stay(tmp_path: Path) -> None:
    """Where the app set one, ours of that name is not added, and its own decides."""
    async with serving(Watched("file", tmp_path / "f", TAG_AND_DATE)) as served:
        answer = await ask(served)
        assert (answer.value("etag"), answer.value("last-modified")) == ('"one"', MODIFIED)
    async with serving(Watched("file", tmp_path / "f", [("ETag", 'W/"one"')])) as served:
        answer = await ask(served)
        assert answer.value("etag") == 'W/"one"'
        assert len(answer.values("last-modified")) == 1


async def test_a_part_of_a_file_is_not_the_file(tmp_path: Path) -> None:
    """Two spans of one file have different tags: a cache must not take one for the other."""
    (tmp_path / "f").write_bytes(BODY)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [])
        file = (tmp_path / "f").open("rb")
        file.seek(int(environ["QUERY_STRING"]))
        return environ["wsgi.file_wrapper"](file)

    async with serving(app) as served, connected(served) as client:
        tags = set()
        for offset in (0, 1, 5, 5):
            reply = await client.ask(f"/?{offset}")
            assert reply.body == BODY[offset:]
            tags.add(reply.headers[b"etag"])
        assert len(tags) == 3


async def test_an_unread_request_body_beside_a_304(tmp_path: Path) -> None:
    """The answer to a GET with a body that nobody reads leaves the connection usable."""
    async with serving(Watched("list", tmp_path / "f", TAG_AND_DATE)) as served:
        with trio.fail_after(5):
            raw = await served.exchange(
                b'GET / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nIf-None-Match: "one"\r\n\r\nabc' + request()
            )
        assert [answer.status for answer in read_answers(raw, ["GET", "GET"])] == [304, 200]
