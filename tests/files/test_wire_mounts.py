"""Directories under a URL, over the wire: what is found, what is redirected, which of its forms a client gets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from answers import read_answer, read_answers
from asking import error_lines, request
from downloads import Client, connected
from mounted import STYLE, app, ask
from serving import Served, serving
from waiting import until

from trio_wsgi import Outcome
from trio_wsgi.disk.root import Directory, OpenedFile, Root
from trio_wsgi.net import mounts


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


async def test_dot_segments_are_other_spellings(site: Path) -> None:
    """RFC 3986 §6.2.2.3, as in nginx: apt asks a flat repository for `/flat/./Packages.xz`, rclone for `./a:b`."""
    (site / "a:b").write_bytes(b"colon")
    (site / "deep" / "below").mkdir()
    async with serving(app, static=(f"/s={site}",), static_listing=True) as served:
        for target, plain in [
            ("/s/./style.css", "/s/style.css"),
            ("/s/./a:b", "/s/a%3Ab"),
            ("/s/deep/%2e%2e/no%20such/./%2E./style.css", "/s/style.css"),
            ("/s/deep/../nothing", "/s/nothing"),
            ("/s/style.css/.", "/s/style.css/"),
            ("/s/deep/.", "/s/deep/"),
            ("/s/bare/..", "/s/"),
            ("/s/./deep?a", "/s/deep?a"),
            ("/s/deep/./below/../../bare/", "/s/bare/"),
            ("/s/x/../deep/./below/", "/s/deep/below/"),
        ]:
            answer, wanted = await ask(served, target), await ask(served, plain)
            assert (answer.status, answer.body) == (wanted.status, wanted.body), target
            for name in ("location", "etag", "content-type"):
                assert answer.values(name) == wanted.values(name)
        # relative links lead astray from there: the page is under its one name
        answer = await ask(served, "/s/bare/below/..")
        assert (answer.status, answer.value("location")) == (301, "/s/bare/")
        for target in ("/s/..", "/s/../s/style.css", "/s/deep/../../s/style.css", "/s/.hidden/../style.css"):
            assert (await ask(served, target)).status == 404, target
        assert (await ask(served, "/x/../s/style.css")).body == b"the app"


async def test_a_redirect_behind_a_proxy_that_takes_a_prefix_away(site: Path) -> None:
    """It leads to where the client finds the directory; whom nobody trusts, or who talks nonsense, changes nothing."""
    every, other = ("x-forwarded-for", "x-forwarded-prefix"), ("x-forwarded-for",)
    for allowed, names, prefix, location, vary in [
        ("127.0.0.1", every, "/shop", "/shop/s/deep/", ["X-Forwarded-Prefix"]),
        ("127.0.0.1", every, "/a%20shop/", "/a%20shop/s/deep/", ["X-Forwarded-Prefix"]),
        ("127.0.0.1", every, "//evil.example", "/s/deep/", ["X-Forwarded-Prefix"]),
        ("127.0.0.1", other, "/shop", "/s/deep/", []),
        ("10.0.0.0/8", every, "/shop", "/s/deep/", []),
    ]:
        settings: dict[str, Any] = {"forwarded_allow_ips": (allowed,), "trusted_proxy_headers": names}
        async with serving(app, static=(f"/s={site}",), **settings) as served:
            answer = await ask(served, "/s/deep", f"X-Forwarded-Prefix: {prefix}")
            assert (answer.status, answer.value("location")) == (301, location), prefix
            assert answer.values("vary") == vary, "a cache between must not give it to whoever has another prefix"


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
        await until(lambda: served.server.statistics().threads.busy)
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


class HungRoot(Root):
    """A directory on a file system that does not answer until the gate is open."""

    gate = threading.Event()
    waiting = threading.Semaphore(0)

    def open(self, names: Any) -> OpenedFile | Directory:
        self.waiting.release()
        assert self.gate.wait(10)
        return super().open(names)


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Have one directory hang from now on; its file system is none of the others'."""

    def hang(directory: Path) -> None:
        def make(path: str, follow_symlinks: bool = False) -> Root:
            if path != str(directory):
                return Root(path, follow_symlinks)
            root = HungRoot(path, follow_symlinks)
            root.device = -1
            return root

        monkeypatch.setattr(HungRoot, "gate", threading.Event())
        monkeypatch.setattr(HungRoot, "waiting", threading.Semaphore(0))  # none that another test has left in it
        monkeypatch.setattr(mounts, "Root", make)

    return hang


@pytest.mark.usefixtures("nothing_at_hand")
async def test_opening_is_never_on_the_event_loop(site: Path, hang: Callable[[Path], None]) -> None:
    """While the disk hangs in open(), every other request is answered at once."""
    hang(site)
    bodies: list[bytes] = []

    async def get(served: Served, target: str) -> None:
        bodies.append((await ask(served, target)).body)

    async with serving(app, static=(f"/s={site}",), threads=2) as served, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(get, served, "/s/style.css")
            await trio.to_thread.run_sync(HungRoot.waiting.acquire, True, 10)
        for _ in range(20):
            with trio.fail_after(1):
                assert (await ask(served, "/")).body == b"the app"
        assert bodies == []
        HungRoot.gate.set()
    assert bodies == [STYLE] * 3


@pytest.mark.usefixtures("nothing_at_hand")
async def test_a_file_system_that_hangs_holds_up_no_other(site: Path, hang: Callable[[Path], None]) -> None:
    """Each has four threads. Who waits for one of them does so for `queue_timeout` seconds: 503."""
    (hung := site.parent / "hung").mkdir()
    hang(hung)
    statuses: list[int] = []

    async def get(served: Served) -> None:
        statuses.append((await ask(served, "/h/nothing")).status)

    settings: dict[str, Any] = {"static": (f"/s={site}", f"/h={hung}"), "queue_timeout": 0.2}
    async with serving(app, **settings) as served, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(get, served)
            await trio.to_thread.run_sync(HungRoot.waiting.acquire, True, 10)
        with trio.fail_after(5):
            assert (await ask(served, "/h/nothing")).status == 503
            assert (await ask(served, "/s/style.css")).body == STYLE
        await served.record(2)
        assert [record.outcome for record in served.records] == [Outcome.REFUSED, Outcome.FINISHED]
        assert statuses == []
        HungRoot.gate.set()
    assert statuses == [404] * 4


class BrokenRoot(Root):
    """A disk that fails."""

    def open(self, names: Any) -> OpenedFile | Directory:
        raise OSError(5, "Input/output error")


@pytest.mark.usefixtures("nothing_at_hand")
async def test_a_disk_that_fails(site: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A 500, a line that names what was asked for, and the connection goes on."""
    monkeypatch.setattr(mounts, "Root", BrokenRoot)
    async with serving(app, static=(f"/s={site}",)) as served, connected(served) as client:
        assert (await client.ask("/s/style.css")).status == 500
        assert (await client.ask("/")).body == b"the app"
    (line,) = error_lines(caplog)
    assert "/s/style.css" in line
    assert "Input/output error" in line
