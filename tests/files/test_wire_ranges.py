"""Byte ranges over the wire: every way in which a file leaves gives the slice that was asked for (RFC 9110 §14)."""

from __future__ import annotations

import email
import email.policy
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from answers import Answer, read_answer, read_answers
from asking import PLAIN, Environ, StartResponse, request
from downloads import MIB, connected, file_app, known_bytes, make_file, make_sparse
from mounted import ask
from serving import serving
from threeways import WAYS, serving_three

SIZE = 300_007
DATA = known_bytes(SIZE)
LAST = SIZE - 1


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "f").write_bytes(DATA)
    (tmp_path / "empty").write_bytes(b"")
    os.utime(tmp_path / "f", (1_000_000_000, 1_000_000_000))
    return tmp_path


def parts_of(answer: Answer) -> list[tuple[str, bytes]]:
    """The Content-Range and the bytes of each part, split by Content-Range's own count: the data may hold anything."""
    boundary = answer.value("content-type").partition("boundary=")[2].strip('"').encode()
    assert answer.body.startswith(b"\r\n")
    body, parts = answer.body[2:], []
    while not body.startswith(b"--" + boundary + b"--"):
        head, _, body = body.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[0] == b"--" + boundary
        fields = dict(line.lower().split(b": ", 1) for line in lines[1:])
        assert set(fields) == {b"content-type", b"content-range"}
        place = fields[b"content-range"].decode()
        first, last = place.removeprefix("bytes ").partition("/")[0].split("-")
        count = int(last) - int(first) + 1
        parts.append((place, body[:count]))
        assert body[count : count + 2] == b"\r\n"
        body = body[count + 2 :]
    assert body == b"--" + boundary + b"--\r\n"
    return parts


SINGLE = [
    # Range, first, last; None: the whole file
    ("bytes=0-0", 0, 0),
    ("bytes=0-", 0, LAST),
    ("bytes=1-", 1, LAST),
    ("bytes=5-9", 5, 9),
    (f"bytes={LAST}-{LAST}", LAST, LAST),
    (f"bytes=100-{10**30}", 100, LAST),
    ("bytes=-1", LAST, LAST),
    ("bytes=-70000", SIZE - 70000, LAST),
    (f"bytes=-{SIZE + 1}", 0, LAST),
    ("BYTES=5-9", 5, 9),
    ("bytes= 5-9 ,", 5, 9),
    ("bytes=999999-,5-9", 5, 9),
]
WHOLE = [
    "bytes=9-5", "bytes=", "bytes=-", "bytes", "bytes=a-b", "bytes=5", "bytes 5-9", "bytes=5-9;6-7", "items=0-5",
    "bytes=0x1-5", "bytes=--5", "bytes=+1-5", "bytes=1-5,x", "=0-5", "bytes=0-5\xb2",
    "bytes=0-,0-", "bytes=" + ",".join("0-0" for _ in range(257)),
]  # fmt: skip


async def test_single_ranges(way: str, site: Path) -> None:
    """PAINS 3 (uwsgi#1884), 19 (whitenoise#82): 206 with Content-Range and exactly these bytes, for mounts and named
    files without being asked for (RFC 9110 §14.1.2, §15.3.7); the connection goes on.
    """
    async with serving_three(site) as served, connected(served) as client:
        for value, first, last in SINGLE:
            reply = await client.ask(f"/{way}/f", headers=[("Range", value)])
            assert (reply.status, reply.body) == (206, DATA[first : last + 1]), value
            assert reply.headers[b"content-range"] == b"bytes %d-%d/%d" % (first, last, SIZE)
            assert reply.headers[b"content-length"] == b"%d" % (last - first + 1)
            assert reply.headers[b"content-type"] == b"application/octet-stream"
            assert reply.headers[b"accept-ranges"] == b"bytes"
            assert {b"etag", b"last-modified"} <= set(reply.headers)
        for value in ("bytes=0-0,-1", "bytes=300006-,0-4,7-7"):
            assert (await client.ask(f"/{way}/f", headers=[("Range", value)])).status == 206


async def test_what_is_not_understood_or_too_much_gets_the_whole_file(way: str, site: Path) -> None:
    """§14.2: malformed, another unit, too many (nginx's max_ranges), more than the file in sum: 200."""
    asked = b"".join(  # as bytes: h11 as a client would not send some of these
        f"GET /{way}/f HTTP/1.1\r\nHost: t\r\nRange: {value}\r\n\r\n".encode("latin-1") for value in WHOLE
    )
    async with serving_three(site) as served:
        for value, answer in zip(WHOLE, read_answers(await served.exchange(asked), ["GET"] * len(WHOLE)), strict=True):
            assert (answer.status, answer.body == DATA) == (200, True), value
            assert answer.values("content-range") == []


async def test_unsatisfiable_ranges(way: str, site: Path) -> None:
    """§15.5.17: 416 says how long the file is, and that is all it says."""
    async with serving_three(site) as served:
        for value in (
            f"bytes={SIZE}-",
            f"bytes={SIZE}-{SIZE + 5}",
            f"bytes={10**40}-",
            "bytes=-0",
            "bytes=999999-,888888-",
        ):
            answer = await ask(served, f"/{way}/f", f"Range: {value}")
            assert (answer.status, answer.body) == (416, b"")
            assert answer.value("content-range") == f"bytes */{SIZE}"
            assert answer.value("content-length") == "0"


async def test_several_ranges(way: str, site: Path) -> None:
    """§14.6, §15.3.7.2: multipart/byteranges in the order asked for, overlapping or not; each part says its place."""
    async with serving_three(site) as served:
        for value in ("0-0,-1", "5-9,100-70000,200000-", "200000-200009,5-9", "0-99,50-149,20-29", "1-1,1-1,1-1"):
            answer = await ask(served, f"/{way}/f", f"Range: bytes={value}")
            assert answer.status == 206
            assert answer.values("content-range") == []
            wanted = []
            for element in value.split(","):
                first, last = element.split("-")
                low = int(first) if first else SIZE - int(last)
                high = int(last) if first and last else LAST
                wanted.append((f"bytes {low}-{high}/{SIZE}", DATA[low : high + 1]))
            assert parts_of(answer) == wanted


async def test_as_many_ranges_as_zchunk_asks_for(way: str, site: Path) -> None:
    """librepo's zchunk, and so dnf, begins with 256 in one request, and throws away a whole file that comes instead."""
    starts = range(0, 256 * 1000, 1000)
    async with serving_three(site) as served:
        answer = await ask(served, f"/{way}/f", "Range: bytes=" + ",".join(f"{n}-{n + 99}" for n in starts))
        assert parts_of(answer) == [(f"bytes {n}-{n + 99}/{SIZE}", DATA[n : n + 100]) for n in starts]


async def test_multipart_as_the_email_package_reads_it(tmp_path: Path) -> None:
    """RFC 2046 §5.1, by a reader that is not ours."""
    text = b"".join(b"line %d\n" % n for n in range(1000))
    (tmp_path / "f.txt").write_bytes(text)
    async with serving_three(tmp_path) as served:
        answer = await ask(served, "/static/f.txt", "Range: bytes=0-6,7-13,-9")
    head = f"Content-Type: {answer.value('content-type')}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.body, policy=email.policy.HTTP)
    assert message.get_content_type() == "multipart/byteranges"
    assert not message.defects
    parts = list(message.iter_parts())
    assert [part.get_payload(decode=True) for part in parts] == [text[:7], text[7:14], text[-9:]]
    places = ("0-6", "7-13", f"{len(text) - 9}-{len(text) - 1}")
    assert [part["content-range"] for part in parts] == [f"bytes {place}/{len(text)}" for place in places]
    assert {part.get_content_type() for part in parts} == {"text/plain"}


async def test_300_random_ranges(sendfile: bool, site: Path) -> None:
    """Byte by byte what Python's slices give, a third of them each way, on kept connections."""
    chance = random.Random(1)
    async with serving_three(site, sendfile=sendfile) as served, connected(served) as client:
        for number in range(300 if sendfile else 60):
            first, last = sorted(chance.randrange(SIZE) for _ in range(2))
            if number % 4 == 0:
                last = min(last, first + chance.randrange(40))
            value, wanted = chance.choice([
                (f"{first}-{last}", DATA[first : last + 1]),
                (f"{first}-", DATA[first:]),
                (f"-{last or 1}", DATA[-(last or 1) :]),
            ])  # fmt: skip
            reply = await client.ask(f"/{WAYS[number % 3]}/f", headers=[("Range", f"bytes={value}")])
            assert (reply.status, reply.body == wanted) == (206, True), value


async def test_if_range(way: str, site: Path) -> None:
    """§13.1.5: the range only where the client's part is of this very file; strong tags, the exact date."""
    async with serving_three(site) as served:
        whole = await ask(served, f"/{way}/f", method="HEAD")
        tag, modified = whole.value("etag"), whole.value("last-modified")
        table = [
            (tag, 206),
            (modified, 206),
            (f"W/{tag}", 200),
            ('"other"', 200),
            ("Sun, 09 Sep 2001 01:46:41 GMT", 200),  # a second later: not exactly the date
            ("Sun, 09 Sep 2001 01:46:39 GMT", 200),
            ("nonsense", 200),
            (f"{tag}, {tag}", 200),
        ]
        for value, status in table:
            answer = await ask(served, f"/{way}/f", "Range: bytes=5-9", f"If-Range: {value}")
            assert (answer.status, answer.body == (DATA[5:10] if status == 206 else DATA)) == (status, True), value
        # §14.2: preconditions are evaluated before Range
        assert (await ask(served, f"/{way}/f", "Range: bytes=5-9", f"If-None-Match: {tag}")).status == 304
        assert (await ask(served, f"/{way}/f", "Range: bytes=5-9", 'If-Match: "x"')).status == 412
        assert (await ask(served, f"/{way}/f", "Range: bytes=999999-", 'If-Range: "x"')).status == 200


async def test_if_range_after_the_file_was_replaced(way: str, site: Path) -> None:
    """A resumed download never mixes two files: the new one comes whole."""
    async with serving_three(site) as served:
        tag = (await ask(served, f"/{way}/f", "Range: bytes=0-99")).value("etag")
        make_file(site / "new", SIZE, seed=8)
        (site / "new").replace(site / "f")
        answer = await ask(served, f"/{way}/f", "Range: bytes=100-", f"If-Range: {tag}")
        assert (answer.status, answer.body == known_bytes(SIZE, seed=8)) == (200, True)
        assert answer.value("etag") != tag


async def test_ranges_can_be_switched_off_and_limited(way: str, site: Path) -> None:
    """`--no-allow-ranges`: nothing is offered; `--max-ranges`."""
    async with serving_three(site, allow_ranges=False) as served:
        answer = await ask(served, f"/{way}/f", "Range: bytes=5-9")
        assert (answer.status, answer.body == DATA) == (200, True)
        assert answer.values("accept-ranges") == []
    async with serving_three(site, max_ranges=2) as served:
        assert len(parts_of(await ask(served, f"/{way}/f", "Range: bytes=0-1,3-4"))) == 2
        assert (await ask(served, f"/{way}/f", "Range: bytes=0-1,3-4,6-7")).status == 200


async def test_head_and_other_methods_know_no_range(way: str, site: Path) -> None:
    """§14.2: Range is defined for GET; a HEAD gets the head of the whole file."""
    async with serving_three(site) as served:
        answer = await ask(served, f"/{way}/f", "Range: bytes=5-9", method="HEAD")
        assert (answer.status, answer.value("content-length"), answer.body) == (200, str(SIZE), b"")
        assert answer.value("accept-ranges") == "bytes"
        if way != "static":
            posted = await ask(served, f"/{way}/f", "Range: bytes=5-9", method="POST")
            assert (posted.status, posted.body == DATA) == (200, True)


async def test_http_1_0(way: str, site: Path) -> None:
    """Ranges are older than HTTP/1.1, and nothing in them needs chunks."""
    async with serving_three(site) as served:
        one = f"GET /{way}/f HTTP/1.0\r\nConnection: keep-alive\r\nRange: bytes=%s\r\n\r\n"
        raw = await served.exchange((one % "5-9" + one % "1-2,4-5" + one % "999999-" + one % "bad").encode())
        answers = read_answers(raw, ["GET"] * 4)
        assert [answer.status for answer in answers] == [206, 206, 416, 200]
        assert answers[0].body == DATA[5:10]
        assert [part for _, part in parts_of(answers[1])] == [DATA[1:3], DATA[4:6]]
        assert answers[3].body == DATA


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_zero_length_files(way: str, version: str, method: str, site: Path) -> None:
    """Content-Length: 0 and not a byte: a 200, whatever range is asked for (§14.2; nginx and Apache do so)."""
    async with serving_three(site) as served:
        for value in ("", "bytes=0-", "bytes=-5", "bytes=0-0", "bytes=5-", "bytes=0-0,1-1", "nonsense"):
            headers = [f"Range: {value}"] if value else []
            answer = read_answer(
                await served.exchange(request(method, f"/{way}/empty", *headers, version=version)), method
            )
            assert (answer.value("content-length"), answer.body, answer.values("transfer-encoding")) == ("0", b"", [])
            assert (answer.status, answer.values("content-range")) == (200, []), value
        again = request(method, f"/{way}/empty", version="1.1").replace(b"Connection: close\r\n", b"")
        answers = read_answers(await served.exchange(again * 2 + request("GET", f"/{way}/f")), [method, method, "GET"])
        assert answers[-1].body == DATA


# -- apps that know of ranges themselves ------------------------------------------------------------------------------


async def test_an_app_that_cuts_itself_is_left_alone(site: Path) -> None:
    """Its 206 and its Content-Range stay; its file is cut to its Content-Length. PAINS 4 of the peers: uWSGI sends all
    of the file, pyruvate begins at its beginning, gevent.pywsgi goes on beyond the length."""
    headers = [("Content-Range", f"bytes 10-19/{SIZE}"), ("Content-Length", "10"), ("ETag", '"x"')]

    def opened(_: object) -> Any:
        file = (site / "f").open("rb")
        file.seek(10)
        return file

    for status in ("206 Partial Content", "200 OK"):
        async with serving(file_app(opened, headers, status)) as served:
            answer = await ask(served, "/", "Range: bytes=1-1")
            assert (answer.status, answer.body) == (int(status[:3]), DATA[10:20])
            assert answer.value("content-range") == f"bytes 10-19/{SIZE}"


async def test_an_app_may_forbid_ranges(site: Path) -> None:
    """Accept-Ranges: none from the app is its word."""
    async with serving(file_app(lambda _: (site / "f").open("rb"), [("Accept-Ranges", "none")])) as served:
        answer = await ask(served, "/", "Range: bytes=5-9")
        assert (answer.status, answer.value("accept-ranges"), answer.body == DATA) == (200, "none", True)


@pytest.mark.parametrize("kind", ["list", "generator", "write", "other status"])
async def test_only_files_with_status_200_have_ranges(kind: str, site: Path) -> None:
    """What an app computes is sent as it is, and so is the file that belongs to an error."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("404 Not Found" if kind == "other status" else "200 OK", [("Content-Length", "10")])
        if kind == "write":
            write(DATA[:10])
            return []
        if kind == "other status":
            return environ["wsgi.file_wrapper"]((site / "f").open("rb"))
        return [DATA[:10]] if kind == "list" else (DATA[n : n + 1] for n in range(10))

    async with serving(app) as served:
        answer = await ask(served, "/", "Range: bytes=5-9")
        assert (answer.status, answer.body) == (404 if kind == "other status" else 200, DATA[:10])
        assert answer.values("content-range") == []


async def test_ranges_are_of_what_the_app_gives(site: Path) -> None:
    """A file from its position on, or as much of it as Content-Length says, is the whole thing for a client."""

    def opened(_: object) -> Any:
        file = (site / "f").open("rb")
        file.seek(1000)
        return file

    async with serving(file_app(opened, [("Content-Length", "500")])) as served:
        for value, wanted in (("0-9", DATA[1000:1010]), ("-10", DATA[1490:1500]), ("490-9999", DATA[1490:1500])):
            answer = await ask(served, "/", f"Range: bytes={value}")
            assert (answer.status, answer.body) == (206, wanted)
            assert answer.value("content-range").endswith("/500")
        assert (await ask(served, "/", "Range: bytes=500-")).status == 416


# -- files that change while they are sent ----------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["truncated", "replaced"])
async def test_a_file_that_changes_while_a_range_is_sent(way: str, change: str, tmp_path: Path) -> None:
    """Truncated: cut, so that the client can tell. Replaced: the old file to its end, no byte of the new."""
    big = make_sparse(tmp_path / "big", 64 * MIB, {MIB: b"first", 64 * MIB - 4: b"last"})
    async with serving_three(tmp_path) as served, connected(served, 16 * 1024) as client:
        await client.send(f"/{way}/big", headers=[("Range", f"bytes={MIB}-")])
        head = await client.read_head()
        assert (await client.read_some()).startswith(b"first")
        if change == "truncated":
            os.truncate(big, 40 * MIB)
        else:
            make_sparse(tmp_path / "new", 64 * MIB, {64 * MIB - 4: b"NEW!"}).replace(big)
        with trio.fail_after(20):
            reply = await client.read(head)
        assert reply.status == 206
        if change == "replaced":
            assert reply.whole
            assert reply.body.endswith(b"last")
        else:
            assert not reply.whole
            record = await served.record()
            assert (record.outcome.value, record.body_sent) == ("file-too-short", 39 * MIB)
            assert str(big) in record.reason


@pytest.mark.parametrize("make", [tempfile.TemporaryFile, tempfile.NamedTemporaryFile])
@pytest.mark.parametrize("etag", [None, '"v1"'])
async def test_a_file_made_for_one_answer_has_parts_only_where_the_app_has_a_tag(make: Any, etag: str | None) -> None:
    """Each request has another one: a resume without If-Range, as curl's, would join two of them (RFC 9110 §14.2)."""

    def app(environ: Environ, start_response: StartResponse) -> Any:
        file = make()
        file.write(DATA)
        file.seek(0)
        start_response("200 OK", [*PLAIN, *([("ETag", etag)] if etag else [])])
        return environ["wsgi.file_wrapper"](file)

    async with serving(app) as served:
        answer = await ask(served, "/", "Range: bytes=1000-1999")
        said = [name for name in ("etag", "last-modified", "accept-ranges") if answer.values(name)]
        if etag:
            assert (answer.status, answer.body, said) == (206, DATA[1000:2000], ["etag", "accept-ranges"])
        else:
            assert (answer.status, answer.body, said) == (200, DATA, [])
