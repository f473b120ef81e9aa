"""Directories under a URL, over the wire: what is found, what is redirected, which of its forms a client gets."""

from __future__ import annotations

import ctypes
import errno
import gzip
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from answers import Answer, read_answer, read_answers
from asking import error_lines, request
from downloads import Client
from serving import Served, serving

from trio_wsgi.disk import root as root_module
from trio_wsgi.disk.mount import Mount
from trio_wsgi.disk.root import AtHand, OpenedDirectory, OpenedFile, Root, WouldBlock
from trio_wsgi.net import mounts

STYLE = b"body { color: black }\n" * 100


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"the app"]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "bare").mkdir()
    (root / "index.html").write_bytes(b"<p>index")
    (root / "deep" / "index.html").write_bytes(b"<p>deep")
    (root / "style.css").write_bytes(STYLE)
    (root / ".hidden").write_bytes(b"not to be seen")
    return root


@pytest.fixture
def nothing_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is opened has to be waited for."""

    def would_block(at_hand: AtHand, names: Any) -> OpenedFile | OpenedDirectory:
        raise WouldBlock

    monkeypatch.setattr(AtHand, "open", would_block)


async def ask(served: Served, target: str, *headers: str, method: str = "GET") -> Answer:
    return read_answer(await served.exchange(request(method, target, *headers)), method)


async def test_index_and_redirects(site: Path) -> None:
    """A directory answers with its index under its URL with a slash; without, it is redirected, query and all."""
    async with serving(app, static=(f"/s={site}",)) as served:
        assert (await ask(served, "/s/")).body == b"<p>index"
        assert (await ask(served, "/s/deep/")).body == b"<p>deep"
        assert (await ask(served, "/s/bare/")).status == 404
        for target, location in [
            ("/s", "/s/"),
            ("/s?a=b&c=%2F", "/s/?a=b&c=%2F"),
            ("/s/deep", "/s/deep/"),
            ("/s/deep?x", "/s/deep/?x"),
            ("//s/deep", "/s/deep/"),
            ("http://elsewhere.example/s/deep", "/s/deep/"),
            ("/s//deep", "/s/deep/"),
            ("/%73/d%65ep", "/%73/d%65ep/"),
        ]:
            answer = await ask(served, target)
            assert (answer.status, answer.value("location")) == (301, location), target


async def test_no_open_redirect(tmp_path: Path) -> None:
    """Nothing a client writes makes a Location that leads to another host (RFC 3986 §4.2: `//host/`)."""
    for name in ("evil.example", "%5cevil.example", "http:", "@evil.example"):
        (tmp_path / name).mkdir()
    (tmp_path / "evil.example" / "..x").mkdir()
    async with serving(app, static=(f"/={tmp_path}",)) as served:
        for target in ("//evil.example", "///evil.example", "//evil.example/..x", "/%2fevil.example",
                       "/%5cevil.example", "/http:", "/@evil.example",
                       "/\\evil.example", "/http:/evil.example"):  # fmt: skip
            answer = await ask(served, target)
            assert answer.status in (301, 400, 404), target
            for location in answer.values("location"):
                assert location.startswith("/")
                assert location[1:2] not in ("/", "\\")


async def test_only_get_and_head(site: Path) -> None:
    """RFC 9110 §15.5.6: 405 says what is allowed; the app is not asked."""
    async with serving(app, static=(f"/s={site}",)) as served:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            for target in ("/s/style.css", "/s/nothing"):
                answer = await ask(served, target, method=method)
                assert (answer.status, answer.value("allow")) == (405, "GET, HEAD")
        head = await ask(served, "/s/style.css", method="HEAD")
        assert (head.status, head.value("content-length"), head.body) == (200, str(len(STYLE)), b"")


async def test_what_is_not_there(site: Path) -> None:
    """Everything below the URL is the mount's; what is not is the app's."""
    async with serving(app, static=(f"/s={site}",)) as served:
        for target in ("/s/nothing", "/s/style.css/", "/s/style.css/x", "/s/.hidden", "/s/bare/x"):
            answer = await ask(served, target)
            assert (answer.status, answer.body) == (404, b"404 Not Found\n"), target
            assert (await ask(served, target, method="HEAD")).body == b""
        for target in ("/", "/sx", "/sx/style.css", "/S/style.css", "/x/s/style.css"):
            assert (await ask(served, target)).body == b"the app", target


async def test_the_longest_url_wins(site: Path, tmp_path: Path) -> None:
    """However they are written and ordered."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    static = (
        f"/={tmp_path / 'a'}",
        f"/x/%79/={tmp_path / 'b'}",
        f"/x%78x/yyyyyyyy={tmp_path / 'a'}",
        f"/x/y/z={tmp_path / 'c'}",
    )
    for order in (static, static[::-1]):
        async with serving(app, static=order) as served:
            assert [(await ask(served, t)).body for t in ("/f", "/x/y/f", "/x/y/z/f")] == [b"a", b"b", b"c"]
            assert (await ask(served, "/x/y/z/nothing")).status == 404


async def test_media_types(site: Path) -> None:
    """Text says its charset; what is packed for keeps is not called text; the unknown is bytes."""
    table = {
        "a.css": "text/css; charset=utf-8",
        "a.html": "text/html; charset=utf-8",
        "a.js": "text/javascript; charset=utf-8",
        "a.json": "application/json; charset=utf-8",
        "a.png": "image/png",
        "a.mp4": "video/mp4",
        "a.tar.gz": "application/gzip",
        "a.unknown": "application/octet-stream",
        "none": "application/octet-stream",
    }
    async with serving(app, static=(f"/s={site}",)) as served:
        for name, wanted in table.items():
            (site / name).write_bytes(b"x")
            answer = await ask(served, f"/s/{name}")
            assert (answer.value("content-type"), answer.values("content-encoding")) == (wanted, []), name


async def test_expires(site: Path) -> None:
    """`--static-expires` in seconds, on 200, 206 and 304; nothing of it on errors; without it nothing at all."""
    async with serving(app, static=(f"/s={site}",), static_expires=3600) as served:
        answer = await ask(served, "/s/style.css")
        assert answer.value("cache-control") == "max-age=3600"
        for said, status in ((f"If-None-Match: {answer.value('etag')}", 304), ("Range: bytes=0-1", 206)):
            again = await ask(served, "/s/style.css", said)
            assert (again.status, again.value("cache-control")) == (status, "max-age=3600")
        assert (await ask(served, "/s/nothing")).values("cache-control") == []
        assert (await ask(served, "/s/style.css", "Range: bytes=99999-")).values("cache-control") == []
    async with serving(app, static=(f"/s={site}",)) as served:
        assert (await ask(served, "/s/style.css")).values("cache-control") == []


# -- precompressed siblings -------------------------------------------------------------------------------------------

SIBLINGS = {"br": b"brotli, let us say " * 9, "zstd": b"zstd, let us say " * 8, "gzip": gzip.compress(STYLE)}
SUFFIX = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}


@pytest.fixture
def packed(site: Path) -> Path:
    for coding, data in SIBLINGS.items():
        (site / f"style.css{SUFFIX[coding]}").write_bytes(data)
    return site


async def test_which_encoding_a_client_gets(packed: Path) -> None:
    """RFC 9110 §12.5.3, §8.4; Vary whatever was chosen; each a representation with a tag of its own."""
    table = [
        (None, ""),
        ("", ""),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip, br", "br"),
        ("gzip, deflate, br, zstd", "br"),
        ("gzip;q=1.0, br;q=0.5", "gzip"),
        ("zstd, gzip", "zstd"),
        ("br;q=0, gzip;q=0.001", "gzip"),
        ("*", "br"),
        ("*;q=0, gzip", "gzip"),
        ("br;q=0, zstd;q=0, gzip;q=0", ""),
        ("identity", ""),
        ("identity, gzip;q=0.5", ""),
        ("deflate, compress", ""),
        ("identity;q=0", ""),
        ("GZIP", "gzip"),
    ]
    tags: dict[str, set[str]] = {}
    async with serving(app, static=(f"/s={packed}",)) as served:
        for value, wanted in table:
            answer = await ask(served, "/s/style.css", *([] if value is None else [f"Accept-Encoding: {value}"]))
            assert (answer.status, answer.values("content-encoding")) == (200, [wanted] if wanted else []), value
            assert answer.body == SIBLINGS.get(wanted, STYLE)
            assert answer.value("vary") == "Accept-Encoding"
            assert answer.value("content-type") == "text/css; charset=utf-8"
            tags.setdefault(wanted, set()).add(answer.value("etag"))
        assert [len(seen) for seen in tags.values()] == [1] * 4
        assert len(set.union(*tags.values())) == 4
        plain = await ask(served, "/s/index.html", "Accept-Encoding: br")
        assert plain.values("vary") + plain.values("content-encoding") == []


async def test_conditions_and_ranges_are_of_the_encoded_form(packed: Path) -> None:
    """RFC 9110 §8.8.3.3, §14: the tag of one form does not validate another, and positions are in the encoded bytes."""
    async with serving(app, static=(f"/s={packed}",)) as served:
        for coding, data in SIBLINGS.items():
            accept = f"Accept-Encoding: {coding}"
            tag = (await ask(served, "/s/style.css", accept)).value("etag")
            fresh = await ask(served, "/s/style.css", accept, f"If-None-Match: {tag}")
            assert (fresh.status, fresh.value("vary"), fresh.value("etag")) == (304, "Accept-Encoding", tag)
            assert (await ask(served, "/s/style.css", f"If-None-Match: {tag}")).status == 200
            part = await ask(served, "/s/style.css", accept, "Range: bytes=3-9", f"If-Range: {tag}")
            assert (part.status, part.body, part.value("content-encoding")) == (206, data[3:10], coding)
            assert part.value("content-range") == f"bytes 3-9/{len(data)}"
            assert (await ask(served, "/s/style.css", "Range: bytes=3-9", f"If-Range: {tag}")).status == 200
        head = await ask(served, "/s/style.css", "Accept-Encoding: gzip", method="HEAD")
        assert head.value("content-length") == str(len(SIBLINGS["gzip"]))


async def test_a_stale_sibling_is_ignored(packed: Path) -> None:
    """The file was changed and not packed again: its own bytes go out."""
    os.utime(packed / "style.css.br", (1, 1))
    async with serving(app, static=(f"/s={packed}",)) as served:
        assert (await ask(served, "/s/style.css", "Accept-Encoding: br")).body == STYLE
        assert (await ask(served, "/s/style.css", "Accept-Encoding: br, gzip")).value("content-encoding") == "gzip"


async def test_odd_siblings_are_ignored(site: Path, tmp_path: Path) -> None:
    """A directory, a pipe and a link out of the root are no packed files; one that is packed is also itself."""
    (tmp_path / "secret").write_bytes(b"secret")
    (site / "style.css.br").mkdir()
    os.mkfifo(site / "style.css.zst")
    (site / "style.css.gz").symlink_to(tmp_path / "secret")
    (site / "only.css.gz").write_bytes(b"packed")
    (site / "only.css.gz.gz").write_bytes(b"packed twice")
    async with serving(app, static=(f"/s={site}",)) as served:
        answer = await ask(served, "/s/style.css", "Accept-Encoding: br, zstd, gzip")
        assert (answer.body, answer.values("content-encoding"), answer.values("vary")) == (STYLE, [], [])
        assert (await ask(served, "/s/only.css", "Accept-Encoding: gzip")).status == 404
        packed = await ask(served, "/s/only.css.gz", "Accept-Encoding: gzip")
        assert (packed.body, packed.values("content-encoding")) == (b"packed", [])


# -- beside the app ---------------------------------------------------------------------------------------------------


async def test_mounts_need_no_thread_of_the_apps(site: Path) -> None:
    """threads=1, and the app is stuck in it: files go out all the same."""
    released = threading.Event()

    def stuck(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        released.wait(10)
        return app(environ, start_response)

    async with (
        serving(stuck, threads=1, queue_size=0, static=(f"/s={site}",)) as served,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(ask, served, "/")
        await trio.sleep(0.05)
        for _ in range(20):
            with trio.fail_after(2):
                assert (await ask(served, "/s/style.css")).body == STYLE
        released.set()


async def test_a_body_sent_to_a_mount(site: Path) -> None:
    """A small one is read away and the connection goes on; of a big one the client is told to stop."""
    async with serving(app, static=(f"/s={site}",)) as served:
        small = b"POST /s/style.css HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc"
        chunked = b"GET /s/style.css HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        raw = await served.exchange(small + chunked + request("GET", "/"))
        answers = read_answers(raw, ["POST", "GET", "GET"])
        assert [answer.body for answer in answers] == [b"405 Method Not Allowed\n", STYLE, b"the app"]
        async with await served.connect() as stream:
            await stream.send_all(
                b"POST /s/x HTTP/1.1\r\nHost: t\r\nContent-Length: 100000000\r\n\r\n" + bytes(300_000)
            )
            client = Client(stream)
            await client.send("/")  # to h11 it is one request; what the server sees is more of the body
            reply = await client.read()
            assert (reply.status, reply.body) == (405, b"405 Method Not Allowed\n")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_expect_at_a_mount(method: str, site: Path) -> None:
    """RFC 9110 §10.1.1: a final answer instead of 100, and the connection ends, since the body may or may not come."""
    async with serving(app, static=(f"/s={site}",)) as served:
        sent = request(method, "/s/style.css", "Expect: 100-continue", "Content-Length: 5").replace(
            b"Connection: close\r\n", b""
        )
        answer = read_answer(await served.exchange(sent), method)
        assert (answer.status, answer.interim, answer.closes) == (200 if method == "GET" else 405, [], True)


class SlowRoot(Root):
    """A disk that takes its time to open anything."""

    gate = threading.Event()

    def open(self, names: Any) -> OpenedFile | OpenedDirectory:
        assert self.gate.wait(10)
        return super().open(names)


@pytest.mark.usefixtures("nothing_at_hand")
async def test_opening_is_never_on_the_event_loop(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk hangs in open(), every other request is answered at once."""
    monkeypatch.setattr(mounts, "Root", SlowRoot)
    SlowRoot.gate.clear()
    bodies: list[bytes] = []

    async def get(served: Served, target: str) -> None:
        bodies.append((await ask(served, target)).body)

    async with serving(app, static=(f"/s={site}",), threads=2) as served, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(get, served, "/s/style.css")
        await trio.sleep(0.05)
        for _ in range(20):
            with trio.fail_after(1):
                assert (await ask(served, "/")).body == b"the app"
        assert bodies == []
        SlowRoot.gate.set()
    assert bodies == [STYLE] * 3


class BrokenRoot(Root):
    """A disk that fails."""

    def open(self, names: Any) -> OpenedFile | OpenedDirectory:
        raise OSError(5, "Input/output error")


@pytest.mark.usefixtures("nothing_at_hand")
async def test_a_disk_that_fails(site: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A 500, a line that names what was asked for, and the connection goes on."""
    monkeypatch.setattr(mounts, "Root", BrokenRoot)
    async with serving(app, static=(f"/s={site}",)) as served, await served.connect() as stream:
        client = Client(stream)
        assert (await client.ask("/s/style.css")).status == 500
        assert (await client.ask("/")).body == b"the app"
    (line,) = error_lines(caplog)
    assert "/s/style.css" in line
    assert "Input/output error" in line


class FailsBeside(Root):
    """A disk, or a lack of descriptors, that spares the file and hits its sibling."""

    opened: list[OpenedFile] = []  # noqa: RUF012

    def open(self, names: Any) -> OpenedFile | OpenedDirectory:
        if names[-1].endswith(b".gz"):
            raise OSError(24, "Too many open files")
        opened = super().open(names)
        if isinstance(opened, OpenedFile):
            self.opened.append(opened)
        return opened


@pytest.mark.usefixtures("nothing_at_hand")
async def test_what_was_opened_is_closed_when_a_sibling_fails(
    packed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The file itself, and the siblings before the one that failed."""
    monkeypatch.setattr(mounts, "Root", FailsBeside)
    monkeypatch.setattr(FailsBeside, "opened", [])
    async with serving(app, static=(f"/s={packed}",)) as served:
        assert (await ask(served, "/s/style.css", "Accept-Encoding: br")).status == 500
    assert len(FailsBeside.opened) == 3
    assert all(opened.file.closed for opened in FailsBeside.opened)


def noting_opened(monkeypatch: pytest.MonkeyPatch, where: type[Root | AtHand]) -> list[OpenedFile]:
    """The files that are opened from now on, one way."""
    opened: list[OpenedFile] = []
    real: Any = where.open

    def note(root: Root | AtHand, names: Any) -> OpenedFile | OpenedDirectory:
        found: OpenedFile | OpenedDirectory = real(root, names)
        if isinstance(found, OpenedFile):
            opened.append(found)
        return found

    monkeypatch.setattr(where, "open", note)
    return opened


async def see_all_closed(folder: Path, said: str, opened: list[OpenedFile]) -> None:
    """A file and its siblings, asked for twice."""
    async with serving(app, static=(f"/s={folder}",)) as served:
        for method in ("GET", "HEAD"):
            await ask(served, "/s/style.css", said, method=method)
        await served.record(2)
    assert len(opened) == 8
    assert all(found.file.closed for found in opened)


@pytest.mark.parametrize("said", ["Accept: */*", "Accept-Encoding: gzip", "Range: bytes=0-0", "Range: bytes=99999999-",
                                  "If-None-Match: *", 'If-Match: "x"'])  # fmt: skip
@pytest.mark.usefixtures("nothing_at_hand")
async def test_every_file_is_closed_after_its_answer(said: str, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of it, or of its siblings, was sent."""
    await see_all_closed(packed, said, noting_opened(monkeypatch, Root))


# -- what is at hand --------------------------------------------------------------------------------------------------


@pytest.fixture
def tells(packed: Path) -> Path:
    """`packed`, where the kernel can open what is in its caches only."""
    root = Root(str(packed))
    try:
        for one in (root, root.at_hand):
            opened = one.open([b"style.css"])
            assert isinstance(opened, OpenedFile)
            opened.file.close()
    except WouldBlock:
        pytest.skip("nothing is at hand in this file system, or with this kernel")
    finally:
        root.close()
    return packed


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads that answer for mounts with leave to wait."""
    threads: list[int] = []
    real = Mount.answer

    def answer(mount: Mount, *args: Any) -> Any:
        threads.append(threading.get_ident())
        return real(mount, *args)

    monkeypatch.setattr(Mount, "answer", answer)
    return threads


ASKED = [
    ("/s/style.css", "Accept: */*"), ("/s/style.css", "Accept-Encoding: gzip"), ("/s/style.css", "Range: bytes=5-9"),
    ("/s/style.css", "If-None-Match: *"), ("/s/style.css", "Range: bytes=0-0,5-7"), ("/s/nothing", "Accept: */*"),
    ("/s/", "Accept: */*"), ("/s", "Accept: */*"), ("/s/style.css/", "Accept: */*"),
]  # fmt: skip


async def test_what_is_at_hand_takes_no_thread(tells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the kernel knows the names, that of the file and those of siblings that are not there; what is not, too."""
    threads = counting(monkeypatch)
    async with serving(app, static=(f"/s={tells}",)) as served:
        for target, said in ASKED:
            await ask(served, target, said)
        took = len(threads)
        for target, said in ASKED:
            for method in ("GET", "HEAD"):
                await ask(served, target, said, method=method)
    assert threads[took:] == []
    assert threading.get_ident() not in threads


async def test_both_ways_give_one_answer(tells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte, but for the date and what is random."""
    answers: dict[str, list[Answer]] = {"at hand": [], "in a thread": []}
    async with serving(app, static=(f"/s={tells}",)) as served:
        for way, collected in answers.items():
            if way == "in a thread":
                monkeypatch.setattr(Mount, "answer_nowait", lambda *_: _would_block())
            for target, said in ASKED:
                collected.append(await ask(served, target, said))
    for one, other in zip(*answers.values(), strict=True):
        assert one.status == other.status
        if one.body.startswith(b"--"):
            assert len(one.body) == len(other.body)
        else:
            assert one.body == other.body
            drop = {b"date"}
            assert [h for h in one.headers if h[0] not in drop] == [h for h in other.headers if h[0] not in drop]


def _would_block() -> Any:
    raise WouldBlock


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("sibling", [False, True])
async def test_what_the_kernel_does_not_have_goes_to_a_thread(
    number: int, sibling: bool, tells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EAGAIN is openat2's word for it; whatever else it says, a thread is told the truth. The client sees no
    difference, and what was opened before is closed."""
    real = root_module._openat2_cached
    said: list[int] = []

    def get_errno() -> int:
        return said.pop() if said else real_errno()

    def openat2(directory: int, path: bytes, how: Any) -> int:
        if path.endswith(b".gz") is sibling:
            said.append(number)
            path += b" that is not there"
        return real(directory, path, how)

    real_errno = ctypes.get_errno
    monkeypatch.setattr(ctypes, "get_errno", get_errno)
    monkeypatch.setattr(root_module, "_openat2_cached", openat2)
    threads, opened = counting(monkeypatch), noting_opened(monkeypatch, AtHand)
    async with serving(app, static=(f"/s={tells}",)) as served:
        for _ in range(2):
            answer = await ask(served, "/s/style.css", "Accept-Encoding: gzip")
            assert (answer.status, answer.value("content-encoding")) == (200, "gzip")
    assert len(threads) == 2
    assert threading.get_ident() not in threads
    assert len(opened) == (6 if sibling else 0)
    assert all(found.file.closed for found in opened)


@pytest.mark.parametrize("said", ["Accept: */*", "Accept-Encoding: gzip", "If-None-Match: *"])
async def test_every_file_at_hand_is_closed_after_its_answer(
    said: str, tells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of it, or of its siblings, was sent."""
    await see_all_closed(tells, said, noting_opened(monkeypatch, AtHand))


async def test_a_directory_is_opened_and_read_in_a_thread(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the mount itself is open already, but to be read."""
    (site / "index.html").unlink()
    threads = counting(monkeypatch)
    async with serving(app, static=(f"/s={site}",), static_listing=True) as served:
        for target in ("/s/", "/s/bare/", "/s/deep/") * 2:
            assert (await ask(served, target)).status == 200
    assert len(threads) == 6
    assert threading.get_ident() not in threads


async def test_who_asks_ahead_gives_way(tells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred requests in one packet, none of which has to wait for anything: others have their turns between."""
    turns, seen = 0, []
    real = Mount.answer_nowait

    def answer_nowait(mount: Mount, *args: Any) -> Any:
        seen.append(turns)
        return real(mount, *args)

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    monkeypatch.setattr(Mount, "answer_nowait", answer_nowait)
    one = b"GET /s/nothing HTTP/1.1\r\nHost: t\r\n\r\n"
    async with serving(app, static=(f"/s={tells}",)) as served, trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        answers = read_answers(await served.exchange(one * 99 + request("GET", "/s/nothing")), ["GET"] * 100)
        nursery.cancel_scope.cancel()
    assert [answer.status for answer in answers] == [404] * 100
    assert seen[-1] - seen[0] >= 98
