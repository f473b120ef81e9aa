"""Listings of mounts, on the wire: what is shown, what is not, how it is framed, and what thousands of entries cost."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from answers import Answer, read_answer
from asking import request
from browser import browser
from serving import command, serving

from trio_wsgi.disk.answer import second_of
from trio_wsgi.disk.root import Absent, Root
from trio_wsgi.rules.listing import CONTENT_SECURITY_POLICY, Entry, build_page


def app(environ: object, start_response: object) -> list[bytes]:
    raise AssertionError("the mount answers")


async def ask(directory: Path, target: str = "/", method: str = "GET", mount: str = "/", **settings: object) -> Answer:
    settings.setdefault("static_listing", True)
    async with serving(app, static=(f"{mount}={directory}",), **settings) as served:
        return read_answer(await served.exchange(request(method, target)), method)


def links(answer: Answer) -> list[bytes]:
    return [unquote_to_bytes(link) for link in re.findall(rb'<td><a href="([^"]*)"', answer.body)]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Every kind of thing that a directory may hold, beside something secret."""
    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "other").mkdir()
    for name in ("b.txt", "a.txt", ".hidden", "back\\slash", "in.txt"):
        (site / name).write_text("12345")
    (site / "folder").mkdir()
    (site / ".git").mkdir()
    for name, target in {
        "ok-link": "a.txt",
        "folder-link": "folder",
        "out-link": "../secret",
        "out-folder": "../other",
        "absolute-link": str(site / "a.txt"),  # beneath by luck only: openat2(2), RESOLVE_BENEATH
        "dangling": "nowhere",
        "loop": "loop",
        "pipe-link": "pipe",
    }.items():
        (site / name).symlink_to(target)
    os.mkfifo(site / "pipe")
    return site


async def test_only_what_can_be_asked_for_is_shown(site: Path) -> None:
    answer = await ask(site)
    assert links(answer) == [b"folder/", b"folder-link/", b"a.txt", b"b.txt", b"in.txt", b"ok-link"]
    async with serving(app, static=(f"/={site}",), static_listing=True) as served:
        for link in links(answer):
            got = read_answer(await served.exchange(request("GET", "/" + link.decode())))
            assert got.status == 200
            assert link.endswith(b"/") or got.body == b"12345"


async def test_symlinks_that_lead_out_are_shown_where_they_are_followed(site: Path) -> None:
    shown = links(await ask(site, follow_symlinks=True))
    assert {b"out-link", b"out-folder/", b"absolute-link"} <= set(shown)
    assert not {b"dangling", b"loop", b"pipe", b"pipe-link"} & {name.rstrip(b"/") for name in shown}


async def test_a_listing_is_framed_and_guarded(site: Path) -> None:
    """RFC 9110 §8.6, §9.3.2: HEAD has the head of GET; RFC 9111 §5.2.2.4."""
    got, head = await ask(site), await ask(site, method="HEAD")
    assert (got.status, head.status, head.body) == (200, 200, b"")
    assert got.value("content-length") == head.value("content-length") == str(len(got.body))
    for name, value in {
        "content-type": "text/html; charset=utf-8",
        "cache-control": "no-cache",
        "x-content-type-options": "nosniff",
        "content-security-policy": CONTENT_SECURITY_POLICY.decode(),
    }.items():
        assert got.value(name) == head.value(name) == value
    assert not got.values("etag") + got.values("last-modified")


async def test_the_time_of_a_file_is_the_second_that_has_begun(site: Path) -> None:
    os.utime(site / "a.txt", ns=(0, 1_000_000_000_999_999_999))
    os.utime(site / "b.txt", ns=(0, -1))
    shown = re.findall(rb'title="([^"]* UTC)"', (await ask(site)).body)
    assert {b"2001-09-09 01:46:40 UTC", b"1969-12-31 23:59:59 UTC"} <= set(shown)


@pytest.mark.parametrize(
    ("target", "settings", "status"),
    [
        ("/", {"static_listing": False}, 404),
        ("/", {"static_index": ("none", "b.txt")}, 200),
        ("/folder/", {}, 200),
        ("/folder", {}, 301),
        ("//folder//?a=1", {}, 301),
        ("/.git/", {}, 404),
        ("/pipe/", {}, 404),
        ("/out-folder/", {}, 404),
        ("/a.txt/", {}, 404),
    ],
)
async def test_when_there_is_a_listing(site: Path, target: str, settings: dict[str, object], status: int) -> None:
    answer = await ask(site, target, **settings)
    assert answer.status == status
    assert (b"<table>" in answer.body) == (status == 200 and "static_index" not in settings)
    if status == 301:
        assert answer.value("location") == "/folder/" + ("?a=1" if "?" in target else "")


async def test_names_that_are_no_utf8_can_be_downloaded_by_their_links(tmp_path: Path) -> None:
    names = [
        b"caf\xe9", b"new\nline", b"%41", b"\"<&>'", b"a?b#c", "日本".encode(), b"  x ", b"\xed\xa0\x80", b"a" * 255,
    ]  # fmt: skip
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    async with serving(app, static=(f"/m={tmp_path}",), static_listing=True) as served:
        page = read_answer(await served.exchange(request("GET", "/m/")))
        hrefs = re.findall(rb'<td><a href="([^"]*)"', page.body)
        bodies = [read_answer(await served.exchange(request("GET", f"/m/{href.decode()}"))).body for href in hrefs]
    assert sorted(bodies) == sorted(names)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root reads everything; only what a plain user may not read is left out."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_may_not_be_read_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "open").touch()
    for name in ("closed", "closed-folder"):
        (tmp_path / name).touch() if name == "closed" else (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0)
    tmp_path.chmod(0o755)
    with contextlib.closing(Root(os.fspath(tmp_path))) as root, as_nobody():
        assert [name for name, _ in root.list(())] == [b"open"]
        with pytest.raises(PermissionError):
            root.list((b"closed-folder",))
        with pytest.raises(Absent):
            root.list((b"gone",))
    (tmp_path / "closed-folder").chmod(0o700)


def test_listings_of_one_directory_at_a_time_do_not_share_a_position(tmp_path: Path) -> None:
    """open(2): descriptors made by dup(2) share the offset that readdir(3) moves."""
    for number in range(500):
        (tmp_path / str(number)).touch()
    with contextlib.closing(Root(os.fspath(tmp_path))) as root, ThreadPoolExecutor(4) as pool:
        for listed in pool.map(lambda _: root.list(()), range(40)):
            assert len(listed) == 500


def test_thousands_of_entries_take_milliseconds(tmp_path: Path) -> None:
    """A bound that a slow machine keeps: what matters is that nothing grows with the square."""
    for number in range(5000):
        (tmp_path / f"file {number}.txt").touch()
    with contextlib.closing(Root(os.fspath(tmp_path))) as root:
        started = time.perf_counter()
        listed = root.list(())
        page = build_page(b"/", [Entry(name, False, status.st_size, second_of(status)) for name, status in listed], 0)
        took = time.perf_counter() - started
    assert page.count(b"<tr><td>") == 5000
    assert took < 2


@pytest.mark.slow
def test_in_a_browser_columns_sort_and_nothing_is_blocked(site: Path) -> None:
    """The security policy lets the page's own style and script through: Chromium says so."""
    (site / "large.bin").write_bytes(bytes(5000))
    (site / "folder" / "below").mkdir()
    os.utime(site / "b.txt", (1_000_000_000, 1_000_000_000))
    with command("files", str(site), "-b", "127.0.0.1:0") as running, browser() as page:
        page.open(running.url + "/")
        names = "[...document.querySelectorAll('td a')].map(a => a.textContent)"
        by_name = ["folder/", "folder-link/", "a.txt", "b.txt", "in.txt", "large.bin", "ok-link"]
        assert page.run(names) == by_name
        page.run("document.querySelectorAll('button')[0].click()")
        assert page.run(names) == by_name[1::-1] + by_name[:1:-1]
        page.run("document.querySelectorAll('button')[1].click()")
        assert page.run(names)[2] == "large.bin"
        page.run("document.querySelectorAll('button')[2].click()")
        assert page.run(names)[-1] == "b.txt"
        assert page.run("document.querySelector('[aria-sort]').textContent") == "Modified (UTC)"
        for scheme, background in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 24, 28)")):
            page.look(360, 640, scheme)
            assert page.run("getComputedStyle(document.body).backgroundColor") == background
            assert page.run("document.documentElement.scrollWidth") == 360
        page.follow("td a")
        page.open(running.url + "/folder/below/")
        assert page.run("document.querySelector('td a').textContent") == "../"
        crumbs = page.run("[...document.querySelectorAll('h1 a')].map(a => [a.textContent, a.href])")
        assert crumbs == [["/", running.url + "/"], ["folder/", running.url + "/folder/"]]
        assert page.complaints == []
