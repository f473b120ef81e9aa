"""Files and directories of every name, over the wire: each is found by its encoded form, and only so."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from mounted import app, ask
from serving import serving

NAMES = [
    b"a b", b" a", b"a ", b"100%", b"a%20b", b"%2e%2e", b"a+b", b"a;b", b"a;b=c", b"a&b", b"a=b", b"a#b", b"a?b",
    b"a:b", b"a@b", b"a'b", b'a"b', b"<a>", b"a|b", b"a*b", b"~a", b"-a", b"a\tb", b"a\nb", b"a\r\nb: c", b"\x01",
    b"\x7f", b"a.", b"a..",
    b"..a", b"...", "café".encode(), "cafe\u0301".encode(), "日本語.txt".encode(), "😀".encode(),
    "\u202etxt.exe".encode(), b"\xff\xfe", b"latin\xe9", b"\xc0\xae\xc0\xae", b"x" * 255,
]  # fmt: skip


async def test_odd_names(resolved: str, guarded: Path) -> None:
    """Every name without a dot before it or a backslash in it is found by its encoded form, and only so: NFC and NFD
    are two names, and nothing is decoded twice."""
    for number, name in enumerate(NAMES):
        if name != b"..." and not name.startswith(b"."):
            (guarded / os.fsdecode(name)).write_bytes(b"%d" % number)
    async with serving(app, static=(f"/s={guarded}",)) as served:
        for number, name in enumerate(NAMES):
            answer = await ask(served, f"/s/{quote(name, safe='')}")
            if name.startswith(b"."):
                assert answer.status == 404
            else:
                assert (answer.status, answer.body) == (200, b"%d" % number), name


async def test_a_directory_with_an_odd_name_redirects_to_itself(guarded: Path) -> None:
    """The Location leads to where the client was, and holds no byte that a header or a URI may not have."""
    async with serving(app, static=(f"/s={guarded}",)) as served:
        for name in NAMES:
            if name.startswith(b".") or len(name) > 200:
                continue
            path = guarded / os.fsdecode(name)
            path.mkdir()
            (path / "index.html").write_bytes(name)
            answer = await ask(served, f"/s/{quote(name, safe='')}")
            location = answer.value("location")
            assert answer.status == 301
            assert location.isascii()
            assert location.isprintable()
            assert (await ask(served, location)).body == name
