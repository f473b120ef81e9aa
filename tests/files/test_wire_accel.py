"""X-Accel-Redirect and X-Sendfile over the wire: the app names a file, the server sends it, and nothing else leaks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from answers import Answer, read_answer
from asking import error_lines, request
from downloads import connected, known_bytes
from serving import Served, serving

from trio_wsgi.disk.root import Root

DATA = known_bytes(100_000)
OWN = b"the app's own body, which nobody is to see"


class Names:
    """An app that names what the query says by the header it is made with."""

    def __init__(self, header: str, value: str, kind: str = "list", status: str = "200 OK", headers: Any = ()) -> None:
        self.header, self.value, self.kind, self.status, self.headers = header, value, kind, status, headers
        self.closed = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response(self.status, [(self.header, self.value), *self.headers])
        if self.kind == "write":
            write(OWN)
            return []
        if self.kind == "file":
            return environ["wsgi.file_wrapper"](Path(__file__).open("rb"))
        return [OWN] if self.kind == "list" else self._generate()

    def _generate(self) -> Iterator[bytes]:
        try:
            yield OWN
            yield OWN
        finally:
            self.closed += 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "private files"
    (directory / "sub").mkdir(parents=True)
    (directory / "f.bin").write_bytes(DATA)
    (directory / "empty").write_bytes(b"")
    (directory / "sub" / "page.html").write_bytes(DATA)
    (tmp_path / "secret").write_bytes(b"secret")
    return directory


async def ask(served: Served, *headers: str, method: str = "GET") -> Answer:
    return read_answer(await served.exchange(request(method, "/", *headers)), method)


async def named(root: Path, header: str, value: str, *headers: str, method: str = "GET", **more: Any) -> Answer:
    """What comes of naming `value`, with `root` mapped to /protected/."""
    async with serving(Names(header, value, **more), accel=(f"/protected/={root}",)) as served:
        answer = await ask(served, *headers, method=method)
        assert OWN not in answer.body
        for ours in ("x-accel-redirect", "x-sendfile"):
            assert answer.values(ours) == []
        return answer


@pytest.mark.parametrize("kind", ["list", "generator", "write", "file"])
@pytest.mark.parametrize("by", ["X-Accel-Redirect", "X-Sendfile", "x-aCCel-ReDirect"])
async def test_the_file_goes_out_in_place_of_the_body(kind: str, by: str, root: Path) -> None:
    """Whatever the app gives beside the name is dropped, and its generator closed."""
    app = Names(by, f"{root}/f.bin" if by == "X-Sendfile" else "/protected/f.bin", kind)
    async with serving(app, accel=(f"/protected/={root}",)) as served, connected(served) as client:
        for _ in range(2):
            reply = await client.ask("/")
            assert (reply.status, reply.body == DATA) == (200, True)
            assert reply.headers[b"content-length"] == b"%d" % len(DATA)
            assert {b"etag", b"last-modified", b"accept-ranges"} <= set(reply.headers)
            assert not {b"x-accel-redirect", b"x-sendfile"} & set(reply.headers)
        head = await client.ask("/", "HEAD")
        assert (head.status, head.headers[b"content-length"], head.body) == (200, b"%d" % len(DATA), b"")
    assert app.closed == (3 if kind == "generator" else 0)


async def test_the_apps_headers_stay_but_those_of_its_body(root: Path) -> None:
    """As in nginx: type, disposition, cookies and caching are the app's; length, coding and validators are not."""
    headers = [
        ("Content-Type", "application/x-mine"), ("Content-Disposition", 'attachment; filename="x"'),
        ("Set-Cookie", "a=b"), ("Set-Cookie", "c=d"),
        ("Cache-Control", "private"), ("Content-Length", str(len(OWN))), ("ETag", '"mine"'),
        ("Last-Modified", "Thu, 01 Jan 2015 00:00:00 GMT"), ("Content-Encoding", "gzip"),
        ("X-Accel-Buffering", "no"), ("X-Accel-Limit-Rate", "off"), ("X-Accel-Expires", "60"),
        ("X-Accel-Charset", "utf-8"),
    ]  # fmt: skip
    answer = await named(root, "X-Accel-Redirect", "/protected/f.bin", headers=headers)
    assert answer.body == DATA
    assert answer.value("content-type") == "application/x-mine"
    assert answer.values("set-cookie") == ["a=b", "c=d"]
    assert answer.value("cache-control") == "private"
    assert answer.value("content-disposition") == 'attachment; filename="x"'
    assert answer.value("content-length") == str(len(DATA))
    for inside in (
        "content-encoding",
        *(f"x-accel-{order}" for order in ("buffering", "limit-rate", "expires", "charset")),
    ):
        assert answer.values(inside) == []
    plain = await named(root, "X-Accel-Redirect", "/protected/f.bin")
    for of_the_file in ("etag", "last-modified"):
        assert answer.value(of_the_file) == plain.value(of_the_file)
    tag = plain.value("etag")
    fresh = await named(root, "X-Accel-Redirect", "/protected/f.bin", f"If-None-Match: {tag}", headers=headers)
    assert (fresh.status, fresh.values("set-cookie")) == (304, ["a=b", "c=d"])


async def test_validators_and_coding_beside_x_sendfile_are_the_files(root: Path) -> None:
    """Flask's send_file makes them of the file that it names: a `t.css.gz` is text/css, and packed."""
    headers = [("ETag", '"mine"'), ("Last-Modified", "Thu, 01 Jan 2015 00:00:00 GMT"), ("Content-Encoding", "gzip")]
    answer = await named(root, "X-Sendfile", f"{root}/f.bin", headers=headers)
    assert [(name, answer.value(name)) for name, _ in headers] == headers
    fresh = await named(root, "X-Sendfile", f"{root}/f.bin", 'If-None-Match: "mine"', headers=headers)
    assert fresh.status == 304


async def test_the_type_is_guessed_where_the_app_sets_none(root: Path) -> None:
    """By the name of the file that is sent."""
    answer = await named(root, "X-Accel-Redirect", "/protected/sub/page.html")
    assert answer.value("content-type") == "text/html; charset=utf-8"


async def test_ranges_preconditions_and_nothing(root: Path) -> None:
    """RFC 9110 §13, §14 hold for named files as for all."""
    whole = await named(root, "X-Accel-Redirect", "/protected/f.bin")
    tag = whole.value("etag")
    part = await named(root, "X-Accel-Redirect", "/protected/f.bin", "Range: bytes=7-99", f"If-Range: {tag}")
    assert (part.status, part.body) == (206, DATA[7:100])
    assert (await named(root, "X-Accel-Redirect", "/protected/f.bin", f"If-None-Match: {tag}")).status == 304
    assert (await named(root, "X-Accel-Redirect", "/protected/f.bin", 'If-Match: "x"')).status == 412
    assert (await named(root, "X-Accel-Redirect", "/protected/f.bin", "Range: bytes=100000-")).status == 416
    empty = await named(root, "X-Accel-Redirect", "/protected/empty")
    assert (empty.status, empty.value("content-length"), empty.body) == (200, "0", b"")


ODD_NAMES = [
    b"a b", b"100%", b"a+b", b"a;b", b"a?b", b"a#b", b"%41", b"caf\xc3\xa9", b"cafe\xcc\x81", b"\xff\xfe", b'"q"',
    b"\xe2\x82\xac", b"back\\slash",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_odd_names(name: bytes, root: Path) -> None:
    """X-Accel-Redirect is percent-encoded, all or in parts, as in nginx; X-Sendfile is the name, bytes as latin-1."""
    (root / os.fsdecode(name)).write_bytes(DATA)
    assert (await named(root, "X-Accel-Redirect", f"/protected/{quote(name)}")).body == DATA
    path = os.fsencode(root) + b"/" + name
    assert (await named(root, "X-Sendfile", path.decode("latin-1"))).body == DATA
    assert (await named(root, "X-Sendfile", quote(path, safe=""))).body == DATA
    assert (await named(root, "X-Accel-Redirect", quote(b"/protected/.//" + name, safe=""))).body == DATA
    if b"%" not in name and b"?" not in name:  # raw bytes name the file, too: many apps do not encode
        assert (await named(root, "X-Accel-Redirect", "/protected/" + name.decode("latin-1"))).body == DATA


async def test_the_root_may_be_known_by_a_symlink(root: Path, tmp_path: Path) -> None:
    """The operator writes --accel with a link (a "current" release), the app has its path from there, or resolved."""
    (tmp_path / "current").symlink_to(root)
    for known_as in (tmp_path / "current", root):
        app = Names("X-Sendfile", f"{known_as}/f.bin")
        async with serving(app, accel=(f"/p/={tmp_path / 'current'}",)) as served:
            assert (await ask(served)).body == DATA


OUTSIDE = [
    ("X-Accel-Redirect", "/elsewhere/f.bin"),
    ("X-Accel-Redirect", "/protectedf.bin"),
    ("X-Accel-Redirect", "protected/f.bin"),
    ("X-Accel-Redirect", "@named"),
    ("X-Accel-Redirect", ""),
    ("X-Sendfile", "/etc/passwd"),
    ("X-Sendfile", "{root}"),
    ("X-Sendfile", "{root}x/f.bin"),
    ("X-Sendfile", "{root}/../secret"),
    ("X-Sendfile", "{root}/sub/../f.bin"),
    ("X-Sendfile", "{root}/./f.bin"),
    ("X-Sendfile", "f.bin"),
    ("X-Sendfile", ""),
]


@pytest.mark.parametrize(("header", "value"), OUTSIDE)
async def test_outside_is_a_500_and_one_line(
    header: str, value: str, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The app's mistake: the operator learns of it, the client of nothing, and no body of any kind goes out."""
    value = value.replace("{root}", str(root))
    for kind in ("list", "generator"):
        answer = await named(root, header, value, kind=kind)
        assert (answer.status, answer.body) == (500, b"500 Internal Server Error\n")
        (line,) = error_lines(caplog)
        assert header.lower() in line
        assert repr(value)[1:-1] in line
        caplog.clear()


async def test_what_is_not_there_is_a_404(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also a directory, a pipe, a symlink that leads out, and as in nginx a path with "..". The log names it."""
    os.mkfifo(root / "pipe")
    (root / "out").symlink_to("../secret")
    (root / "gone").symlink_to("nowhere")
    names = ("nothing", "sub", "sub/", "pipe", "out", "gone", "f.bin/x", "f.bin/", "", "a" * 300)
    climbing = ("../secret", "%2e%2e/secret", "..%2fsecret", "sub/../../secret", "sub/../f.bin", "f.bin%00", "%zz")
    values = [("X-Accel-Redirect", f"/protected/{name}") for name in (*names, *climbing)]
    for header, value in (*values, *(("X-Sendfile", f"{root}/{name}") for name in names)):
        answer = await named(root, header, value)
        assert (answer.status, answer.body) == (404, b"404 Not Found\n"), value
        (line,) = error_lines(caplog)
        assert value in line
        caplog.clear()


@pytest.mark.parametrize(("lacking", "status"), [(errno.EACCES, 403), (errno.EIO, 500)])
async def test_what_cannot_be_opened_is_no_error_of_the_apps(
    lacking: int, status: int, root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a mount: the log says of which file, and why, without a traceback."""

    def refuse(*_: object) -> None:
        raise OSError(lacking, os.strerror(lacking))

    monkeypatch.setattr(Root, "open", refuse)
    answer = await named(root, "X-Accel-Redirect", "/protected/f.bin")
    assert answer.status == status
    assert error_lines(caplog) == [f"x-accel-redirect: '/protected/f.bin': {os.strerror(lacking)}"]


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden", "302 Found", "206 Partial Content", "500 Oops"])
async def test_only_in_place_of_a_200(status: str, root: Path) -> None:
    """An app that says no means no: its body goes out, the header does not."""
    app = Names("X-Accel-Redirect", "/protected/f.bin", status=status)
    async with serving(app, accel=(f"/protected/={root}",)) as served:
        answer = await ask(served)
        assert (answer.status, answer.body, answer.values("x-accel-redirect")) == (int(status[:3]), OWN, [])


@pytest.mark.parametrize("header", ["X-Accel-Redirect", "X-Sendfile"])
async def test_off_unless_configured(header: str, root: Path) -> None:
    """Without --accel it is a header like any other: it may be meant for the nginx in front of us."""
    async with serving(Names(header, f"{root}/f.bin")) as served:
        answer = await ask(served)
        assert (answer.status, answer.body, answer.value(header)) == (200, OWN, f"{root}/f.bin")


async def test_the_client_cannot_name_files(root: Path) -> None:
    """Orders are taken from the app's answer and never from the request."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [])
        return [OWN]

    async with serving(app, accel=(f"/protected/={root}",)) as served:
        for target in ("/", "/protected/f.bin"):
            raw = await served.exchange(request("GET", target, "X-Accel-Redirect: /protected/f.bin"))
            assert read_answer(raw).body == OWN


async def test_an_error_after_the_name_replaces_it(root: Path) -> None:
    """start_response with exc_info begins anew (PEP 3333): the file is not sent with the error page."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [("X-Accel-Redirect", "/protected/f.bin")])
        yield b"dropped"
        try:
            raise RuntimeError
        except RuntimeError:
            import sys

            start_response("500 Oops", [], sys.exc_info())
        yield b"sorry"

    async with serving(app, accel=(f"/protected/={root}",)) as served:
        answer = await ask(served)
        assert (answer.status, answer.body) == (500, b"sorry")


async def test_longest_internal_prefix_wins(root: Path) -> None:
    """As with mounts."""
    (root / "sub" / "f.bin").write_bytes(b"below")
    app = Names("X-Accel-Redirect", "/p/q/f.bin")
    async with serving(app, accel=(f"/p/={root}", f"/p/q/={root / 'sub'}")) as served:
        assert (await ask(served)).body == b"below"


@pytest.mark.parametrize("value", ["fast", "-1", "9" * 19, "9" * 30, ""])
async def test_a_rate_that_is_none_says_nothing(value: str, root: Path) -> None:
    """As in nginx: the file is sent."""
    answer = await named(root, "X-Accel-Redirect", "/protected/f.bin", headers=[("X-Accel-Limit-Rate", value)])
    assert (answer.status, answer.body) == (200, DATA)
