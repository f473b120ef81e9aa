"""Precompressed siblings of a mount's files, over the wire: which form a client gets, what becomes of the others."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mounted import SIBLINGS, STYLE, app, ask, noting_opened, see_all_closed
from serving import serving

from trio_wsgi.disk import mount as mount_module
from trio_wsgi.disk.root import Directory, OpenedFile, Root
from trio_wsgi.net import mounts


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


async def test_conditions_are_of_the_encoded_form(packed: Path) -> None:
    """RFC 9110 §8.8.3.3: the tag of one form does not validate another."""
    async with serving(app, static=(f"/s={packed}",)) as served:
        for coding in SIBLINGS:
            accept = f"Accept-Encoding: {coding}"
            tag = (await ask(served, "/s/style.css", accept)).value("etag")
            fresh = await ask(served, "/s/style.css", accept, f"If-None-Match: {tag}")
            assert (fresh.status, fresh.value("vary"), fresh.value("etag")) == (304, "Accept-Encoding", tag)
            assert (await ask(served, "/s/style.css", f"If-None-Match: {tag}")).status == 200
        head = await ask(served, "/s/style.css", "Accept-Encoding: gzip", method="HEAD")
        assert head.value("content-length") == str(len(SIBLINGS["gzip"]))


async def test_ranges_are_of_the_file_itself(packed: Path) -> None:
    """As in nginx: what unpacks a piece of a packed file (requests, urllib3) fails. If-Range of the packed one: all."""
    async with serving(app, static=(f"/s={packed}",)) as served:
        plain = await ask(served, "/s/style.css")
        assert plain.value("accept-ranges") == "bytes"
        for coding in SIBLINGS:
            accept = f"Accept-Encoding: {coding}"
            whole = await ask(served, "/s/style.css", accept)
            assert (whole.values("content-encoding"), whole.values("accept-ranges")) == ([coding], [])
            for if_range, status, body in [
                ([], 206, STYLE[3:10]),
                ([f"If-Range: {plain.value('etag')}"], 206, STYLE[3:10]),
                ([f"If-Range: {whole.value('etag')}"], 200, STYLE),
            ]:
                part = await ask(served, "/s/style.css", accept, "Range: bytes=3-9", *if_range)
                assert (part.status, part.body, part.values("content-encoding")) == (status, body, [])
                assert (part.value("vary"), part.value("etag")) == ("Accept-Encoding", plain.value("etag"))


async def test_a_stale_sibling_is_ignored(packed: Path) -> None:
    """The file was changed and not packed again: its own bytes go out."""
    os.utime(packed / "style.css.br", (1, 1))
    async with serving(app, static=(f"/s={packed}",)) as served:
        assert (await ask(served, "/s/style.css", "Accept-Encoding: br")).body == STYLE
        assert (await ask(served, "/s/style.css", "Accept-Encoding: br, gzip")).value("content-encoding") == "gzip"
        # of one second are alike: what packs files may keep the times of whole seconds only
        os.utime(packed / "style.css", ns=(0, 2_000_000_000_999_999_999))
        os.utime(packed / "style.css.br", (0, 2_000_000_000))
        assert (await ask(served, "/s/style.css", "Accept-Encoding: br")).value("content-encoding") == "br"


async def test_that_there_is_no_sibling_is_believed_for_a_second(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not longer: who packs files while a server runs need not tell it. That there is one is never believed."""
    now = 1000.0
    monkeypatch.setattr(mount_module, "time", SimpleNamespace(monotonic=lambda: now))
    packed = site / "style.css.gz"

    async def gives() -> list[str]:
        return (await ask(served, "/s/style.css", "Accept-Encoding: gzip")).values("content-encoding")

    async with serving(app, static=(f"/s={site}",)) as served:
        assert await gives() == []
        packed.write_bytes(SIBLINGS["gzip"])
        assert await gives() == []
        now += 1
        assert await gives() == ["gzip"]
        packed.unlink()
        assert await gives() == []


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


class FailsBeside(Root):
    """A disk, or a lack of descriptors, that spares the file and hits its sibling."""

    opened: list[OpenedFile] = []  # noqa: RUF012

    def open(self, names: Any) -> OpenedFile | Directory:
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
        assert (await ask(served, "/s/style.css", "Accept-Encoding: br")).status == 503
    assert len(FailsBeside.opened) == 3
    assert all(opened.file.closed for opened in FailsBeside.opened)


@pytest.mark.parametrize("said", ["Accept: */*", "Accept-Encoding: gzip", "Range: bytes=0-0", "Range: bytes=99999999-",
                                  "If-None-Match: *", 'If-Match: "x"'])  # fmt: skip
@pytest.mark.usefixtures("nothing_at_hand")
async def test_every_file_is_closed_after_its_answer(said: str, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of it, or of its siblings, was sent."""
    await see_all_closed(packed, said, noting_opened(monkeypatch, Root))
