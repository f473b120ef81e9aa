"""What others think of our answers: `httplint`, the checker of headers, has no bad note, and every warning is known."""

from __future__ import annotations

import gzip
import time
from pathlib import Path
from typing import Any

import httplint
import pytest
from answers import read_answer
from asking import request
from serving import serving
from threeways import three_settings, three_ways

TEXT = b"some text of a page that is long enough\n" * 50

# What it warns of and why that is as it should be.
EXPLAINED = {
    "FRESHNESS_HEURISTIC": "how long an answer is fresh is for the app, or --static-expires, to say",
    "PARTIAL_WITHOUT_RANGE": "of multipart/byteranges: RFC 9110 §15.3.7.2 forbids a Content-Range in its head",
}


def notes_of(raw: bytes, target: str, headers: list[tuple[bytes, bytes]], method: str = "GET") -> dict[str, str]:
    """Its notes above the level of information, by name: what they say."""
    answer = read_answer(raw, method)
    asked = httplint.HttpRequestLinter()
    asked.process_request_topline(method.encode(), f"http://test{target}".encode(), b"1.1")
    asked.process_headers([(b"Host", b"test"), (b"User-Agent", b"test"), *headers])
    asked.finish_content(True)
    linter = httplint.HttpResponseLinter(start_time=time.time(), _related=asked)
    linter.is_head_response = method == "HEAD"
    head = raw.partition(b"\r\n\r\n")[0].split(b"\r\n")
    version, status, reason = head[0].split(b" ", 2)
    linter.process_response_topline(version.removeprefix(b"HTTP/"), status, reason)
    linter.process_headers([tuple(line.split(b": ", 1)) for line in head[1:]])
    if answer.body:
        linter.feed_content(answer.body)
    linter.finish_content(True)
    return {
        type(note).__name__: f"{note.level.value}: {note.subject}: {note.summary}"
        for note in linter.notes
        if note.level in (httplint.levels.BAD, httplint.levels.WARN)
    }


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "page.txt").write_bytes(TEXT)
    (tmp_path / "style.css").write_bytes(TEXT)
    (tmp_path / "style.css.gz").write_bytes(gzip.compress(TEXT))
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "sub").mkdir()
    return tmp_path


ASKED: list[Any] = [
    # name, headers, method, status
    ("page.txt", [], "GET", 200),
    ("page.txt", [], "HEAD", 200),
    ("empty.txt", [], "GET", 200),
    ("page.txt", [(b"If-None-Match", b"{etag}")], "GET", 304),
    ("page.txt", [(b"If-None-Match", b"{etag}")], "HEAD", 304),
    ("page.txt", [(b"If-Match", b'"x"')], "GET", 412),
    ("page.txt", [(b"Range", b"bytes=5-99")], "GET", 206),
    ("page.txt", [(b"Range", b"bytes=5-99,200-250")], "GET", 206),
    ("page.txt", [(b"Range", b"bytes=99999-")], "GET", 416),
]
ONLY_MOUNTS: list[Any] = [
    ("style.css", [(b"Accept-Encoding", b"gzip")], "GET", 200),
    ("style.css", [], "GET", 200),
    ("style.css", [(b"Accept-Encoding", b"gzip"), (b"Range", b"bytes=0-9")], "GET", 206),
    ("style.css", [(b"Accept-Encoding", b"gzip"), (b"If-None-Match", b"{etag}")], "GET", 304),
    ("sub", [], "GET", 301),
    ("sub/", [], "GET", 404),
    ("nothing", [], "GET", 404),
    ("page.txt", [], "POST", 405),
]


@pytest.mark.parametrize("expires", [False, True], ids=["", "expires"])
async def test_httplint(way: str, expires: bool, site: Path) -> None:
    """RFC 9110, RFC 9111: no bad note on any answer; no warning but those explained above."""
    settings = three_settings(site) | ({"static_expires": 3600} if expires else {})
    complaints = []
    async with serving(three_ways(site, "text/plain; charset=utf-8"), **settings) as served:
        for name, headers, method, status in ASKED + (ONLY_MOUNTS if way == "static" else []):
            target = f"/{way}/{name}"
            accept = [item for item in headers if item[0] == b"Accept-Encoding"]
            first = await served.exchange(request("GET", target, *(f"{k.decode()}: {v.decode()}" for k, v in accept)))
            tags = [value for key, value in read_answer(first).headers if key == b"etag"]
            filled = [(key, value.replace(b"{etag}", b"".join(tags))) for key, value in headers]
            said = [f"{key.decode()}: {value.decode()}" for key, value in filled]
            raw = await served.exchange(request(method, target, *said))
            assert read_answer(raw, method).status == status
            known = set(EXPLAINED)
            if b"multipart/byteranges" not in raw:
                known.remove("PARTIAL_WITHOUT_RANGE")
            if expires and way == "static" and status != 301:
                known.remove("FRESHNESS_HEURISTIC")
            for note, text in notes_of(raw, target, filled, method).items():
                if note not in known:
                    complaints.append(f"{status} {method} {name} {said}: {note}: {text}")
    assert not complaints, "\n".join(complaints)
