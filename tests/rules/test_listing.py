"""The page of a directory: names that survive as links and are harmless as text, order, sizes, its security policy."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from urllib.parse import urljoin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsgi.rules.listing import CONTENT_SECURITY_POLICY, Entry, build_page, format_size, show_name
from trio_wsgi.rules.paths import encode_name, refuse_name, split_mount

NAMES = st.binary(min_size=1, max_size=30).filter(lambda name: not refuse_name(name))


class Read(HTMLParser):
    """The page as it is without its script: rows of (link, text), the heading's names, all links, the texts of style
    and script.
    """

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.heading: list[str] = []
        self.links: list[str] = []
        self.texts: dict[str, str] = {}
        self.titles: list[str] = []
        self._href = ""
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        assert not {name for name in values if name.startswith("on") or name in ("style", "src")}
        if tag == "tr" and "tbody" in self.tags:
            self.rows.append([])
        if tag == "a":
            self._href = values.get("href") or ""
            if "href" in values:
                self.links.append(self._href)
        if values.get("title"):
            self.titles.append(values["title"] or "")

    def handle_endtag(self, tag: str) -> None:
        self.tags.append("/" + tag)

    def handle_data(self, data: str) -> None:
        tag = self.tags[-1] if self.tags else ""
        self.texts[tag] = self.texts.get(tag, "") + data
        if "tbody" not in self.tags and tag in ("a", "b"):
            self.heading.append(data)
        elif "tbody" in self.tags and tag == "a":
            self.rows[-1] += [self._href, data]


def file(name: bytes, size: int = 0, modified: int = 0) -> Entry:
    return Entry(name, False, size, modified)


def folder(name: bytes) -> Entry:
    return Entry(name, True, 4096, 0)


@given(st.lists(NAMES, unique=True, max_size=8), NAMES)
def test_the_link_of_every_name_leads_back_to_its_bytes(names: list[bytes], parent: bytes) -> None:
    """RFC 3986 §5.2: resolved against the page's own URL, as a browser does it."""
    path = b"/m/" + encode_name(parent) + b"/"
    page = Read(build_page(path, [file(name) for name in names], depth=1))
    base = "http://host" + path.decode()
    split = [split_mount(urljoin(base, row[0]).removeprefix("http://host").encode(), b"/m") for row in page.rows[1:]]
    assert sorted(path.names[-1] for path in split if path) == sorted(names)
    assert all(path and path.names[0] == parent and not path.directory for path in split)


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=8))
def test_a_name_is_never_markup(names: list[bytes]) -> None:
    """WHATWG HTML §13.1: whatever the names are, the page has the tags of one with harmless names."""
    harmless = Read(build_page(b"/a/", [file(b"x")] * len(names), depth=0))
    assert Read(build_page(b"/a/", [file(name) for name in names], depth=0)).tags == harmless.tags


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"<script>alert(1)</script>", "<script>alert(1)</script>"),
        (b'"onclick="', '"onclick="'),
        (b"a&amp;b", "a&amp;b"),
        ("Grüße".encode(), "Grüße"),
        (b"latin-\xe4", "latin-\ufffd"),
        (b"line\nfeed\r", "line\u240afeed\u240d"),
        (b"esc\x1b[31m\x7f", "esc\u241b[31m\u2421"),
        ("\u202egpj.exe".encode(), "\ufffdgpj.exe"),
        ("\x85".encode(), "\ufffd"),
        (b"  two  ", "  two  "),
    ],
)
def test_a_name_is_shown_as_text(name: bytes, shown: str) -> None:
    assert show_name(name) == shown
    (row,) = Read(build_page(b"/", [file(name)], depth=0)).rows
    assert "".join(row[1::2]) == shown


def test_directories_come_first_and_numbers_count() -> None:
    entries = [
        *(file(name) for name in (b"b10.txt", b"b9.txt", b"A.txt", b"\xff", b"10", b"9", b"9" * 200)),
        *(folder(name) for name in (b"z", b"a")),
    ]
    page = Read(build_page(b"/", entries, depth=0))
    assert [row[0] for row in page.rows] == ["a/", "z/", "9", "10", "9" * 200, "A.txt", "b9.txt", "b10.txt", "%FF"]
    assert page.rows[0][1] == "a/"
    assert page.texts["footer"].endswith("2 directories, 7 files, 0 B")


def test_only_the_digits_that_people_type_are_numbers() -> None:
    """A name may begin with a digit of any script; one that was counted as a number made the whole page fail."""
    names = ["\u0663", "\u07c0", "x", "3", "\u00b3"]
    page = Read(build_page(b"/a/", [file(name.encode()) for name in names], depth=0))
    assert sorted(row[1] for row in page.rows) == sorted(names)


@pytest.mark.parametrize(
    ("path", "depth", "heading"),
    [
        (b"/", 0, ["/"]),
        (b"/static/", 0, ["/static/"]),
        (b"/x/y/", 0, ["/x/y/"]),
        (b"/a/", 1, ["/", "a/"]),
        (b"/x/y/a/b%20c/", 2, ["/x/y/", "a/", "b c/"]),
        (b"/%3Cb%3E/", 1, ["/", "<b>/"]),
    ],
)
def test_the_way_up_is_one_link_and_ends_at_the_mount(path: bytes, depth: int, heading: list[str]) -> None:
    """fsspec passes over `../` alone: by `../../` it left the directory, and came back to it without an end."""
    page = Read(build_page(path, [folder(b"z")], depth))
    assert page.heading == heading
    assert page.links == (["../"] if depth else []) + ["z/"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (10_188, "9.9 KiB"),
        (10_189, "10 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (1_500_000, "1.4 MiB"),
        (3 << 40, "3.0 TiB"),
        (2**63 - 1, "8.0 EiB"),
        (2**70, "1024 EiB"),
    ],
)
def test_sizes(count: int, shown: str) -> None:
    assert format_size(count) == shown
    assert f"{count:,} bytes" in Read(build_page(b"/", [file(b"a", count)], depth=0)).titles


@pytest.mark.parametrize(
    ("modified", "shown"),
    [
        (0, "1970-01-01 00:00:00 UTC"),
        (1_700_000_000, "2023-11-14 22:13:20 UTC"),
        (-86_400, "1969-12-31 00:00:00 UTC"),
        (253_402_300_799, "9999-12-31 23:59:59 UTC"),
        (253_402_300_800, ""),
        (-(10**18), ""),
    ],
)
def test_dates(modified: int, shown: str) -> None:
    titles = Read(build_page(b"/", [file(b"a", 0, modified)], depth=0)).titles
    assert [title for title in titles if "UTC" in title] == ([shown] if shown else [])


def test_the_policy_allows_the_pages_own_style_and_script_and_nothing_else() -> None:
    """CSP Level 3 §8.3: hashes of the elements' exact texts."""
    page = Read(build_page(b"/a/", [file(b"x"), folder(b"y")], depth=1))
    policy = dict(part.strip().split(" ", 1) for part in CONTENT_SECURITY_POLICY.decode().split(";"))
    for tag in ("style", "script"):
        assert page.tags.count(tag) == 1
        digest = base64.b64encode(hashlib.sha256(page.texts[tag].encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|//cdn", build_page(b"/", [], 0).decode())
