"""No path escapes: whatever a client asks for, whatever lies in the directory, with openat2 and without it."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
from answers import Answer, read_answer, read_answers
from asking import request
from serving import Served, serving

from trio_wsgi.disk import root as root_module
from trio_wsgi.disk.root import Absent, AtHand, Directory, NotAtHand, OpenedFile, Root

SECRET = b"the secret that lies beside the root"


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    start_response("200 OK", [])
    return [b"the app"]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    (root / "sub").mkdir(parents=True)
    (root / "f.txt").write_bytes(b"public")
    (root / "sub" / "g.txt").write_bytes(b"public, below")
    (tmp_path / "secret.txt").write_bytes(SECRET)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "s.txt").write_bytes(SECRET)
    return root


def _refuse(number: int) -> Callable[..., int]:
    def openat2(directory: int, path: bytes) -> int:
        raise OSError(number, os.strerror(number))

    return openat2


def _would_block(directory: int, path: bytes, how: object) -> int:
    raise NotAtHand


@pytest.fixture(params=["openat2", "no openat2", "openat2 forbidden", "openat2 never sure"])
def resolved(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How names are resolved: by this kernel; as on an old one; in a sandbox; while somebody renames without end."""
    number = {"no openat2": errno.ENOSYS, "openat2 forbidden": errno.EPERM, "openat2 never sure": errno.EAGAIN}
    if request.param in number:
        monkeypatch.setattr(root_module, "_openat2", _refuse(number[request.param]))
        monkeypatch.setattr(root_module, "_openat2_cached", _would_block)
    return str(request.param)


@contextmanager
def rooted(path: Path, **options: Any) -> Iterator[Root]:
    root = Root(str(path), **options)
    try:
        yield root
    finally:
        root.close()


def read(root: Root | AtHand, *names: bytes) -> bytes | None:
    """What `open` gives of a file; None where it says that there is none."""
    try:
        opened = root.open(names)
    except Absent:
        return None
    if isinstance(opened, Directory):
        return b"<directory>"
    with opened.file as file:
        return file.read()


async def ask(served: Served, target: str, *headers: str, method: str = "GET") -> Answer:
    return read_answer(await served.exchange(request(method, target, *headers)), method)


# -- what a client writes ---------------------------------------------------------------------------------------------

UP = [
    "..", "%2e%2e", "%2E%2e", ".%2e", "%2e.", "%252e%252e", "..%00", "..%20", "..;", "..;x=1", "...", "..\\",
    "%c0%ae%c0%ae", "%e0%80%ae%e0%80%ae", "%u002e%u002e", "..%c0%af", "%ef%bc%8e%ef%bc%8e", "..%0a", ". .", "..:",
]  # fmt: skip
SLASH = [
    "/",
    "%2f",
    "%2F",
    "%5c",
    "\\",
    "%252f",
    "%c0%af",
    "%e0%80%af",
    "//",
    "/./",
    "/%2e/",
    "%00/",
    "%u2215",
    "%ef%bc%8f",
]
CORPUS = [
    *(f"/s/{up}{slash}secret.txt" for up in UP for slash in SLASH),
    *(f"/s/sub/{up}/{up}/secret.txt" for up in UP),
    *(f"/s/sub{slash}..{slash}..{slash}secret.txt" for slash in SLASH),
    *(f"/s{slash}..{slash}secret.txt" for slash in SLASH),
    "/s/f.txt/../../secret.txt",
    "/s/nothing/../../secret.txt",
    "/s/%2e%2e%2f%2e%2e%2f%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/s/{secret}",
    "/s//{secret}",
    "/s/%2f{secret}",
    "/s/file:{secret}",
    "/s/f.txt%00.html",
    "/s/%00",
    "/s/secret.txt",
    "/s../secret.txt",
    "/s..%2fsecret.txt",
    "/s%2f..%2fsecret.txt",
    "/s/" + "a" * 255,
    "/s/" + "a" * 256,
    "/s/" + "a" * 5000,
    "/s/" + "%61" * 2000,
    "/s/" + "sub/" * 1500,
    "/s/" + "a/" * 4000,
    "/s/" + "../" * 2000 + "etc/passwd",
    "/s/" + "sub/../" * 1000 + "f.txt",
    "/s/" + "/" * 5000 + "nothing",
    "/s/f.txt.",
    "/s/f.txt...",
    "/s/f.txt%20",
    "/s/f.txt::$DATA",
    "/s/F.TXT",
    "/s/f.txt~",
    "/s/con",
    "/s/~root/.ssh",
    "/s/$HOME",
    "/s/%",
    "/s/%f",
    "/s/%zz",
    "/s/\xff\xfe",
    "/s/./f.txtx",
    "/s/%2e/secret.txt",
]


async def test_path_traversal_corpus(resolved: str, site: Path) -> None:
    """Nothing outside of the root, no error of the server's, nothing but 200, 301, 400, 404 and 414."""
    targets = [target.replace("{secret}", str(site.parent / "secret.txt")) for target in CORPUS]
    seen = set()
    async with serving(app, static=(f"/s={site}",)) as served:
        while targets:
            raw = await served.exchange(
                b"".join(f"GET {target} HTTP/1.1\r\nHost: t\r\n\r\n".encode("latin-1") for target in targets[:50])
            )
            assert SECRET not in raw
            assert b"root:" not in raw
            answers = read_answers(raw, ["GET"] * len(targets[:50]))  # a refused request ends the connection
            assert answers
            for target, answer in zip(targets, answers, strict=False):
                assert answer.status in (200, 301, 400, 404, 414), target
                seen.add(answer.status)
                if answer.status == 200:  # what is not under the mount's URL at all
                    assert answer.body == b"the app", target
            targets = targets[len(answers) :]
    assert 404 in seen
    if resolved == "openat2":  # a head of this size needs a raised limit to arrive at all
        long = "/s/" + "a/" * 10_000 + "f"
        async with serving(app, static=(f"/s={site}",), limit_request_line=100_000) as served:
            assert (await ask(served, long)).status == 404
            assert (await ask(served, "/s/" + "sub/../" * 10_000 + "f")).status == 404


# -- what lies in the directory ---------------------------------------------------------------------------------------


def lay_traps(site: Path) -> dict[str, bool]:
    """Symlinks by name; True for those that stay within the root."""
    outside = site.parent
    links = {
        "file_out": ("../secret.txt", False),
        "file_out_absolute": (f"{outside}/secret.txt", False),
        "directory_out/s.txt": ("../secrets", False),
        "directory_out_absolute/s.txt": (f"{outside}/secrets", False),
        "sub/up/../secret.txt": ("..", None),
        "sub/parent_out/secret.txt": ("../..", False),
        "absolute_inside": (f"{site}/f.txt", False),  # the kernel resolves it from /, which is outside
        "out_and_back": (f"../{site.name}/f.txt", False),
        "proc": (f"/proc/{os.getpid()}/environ", False),
        "magic": ("/proc/self/cwd", False),
        "inside": ("sub/g.txt", True),
        "sub/inside_up": ("../f.txt", True),
        "inside_directory/g.txt": ("sub", True),
    }
    names = {}
    for name, (leads, stays) in links.items():
        path = site
        for part in name.split("/"):
            path = path / part
            if not path.is_dir():
                break
        if stays is not None:
            path.symlink_to(leads)
            names[name] = stays
    (site / "loop").symlink_to("loop")
    (site / "nowhere").symlink_to("nothing")
    (site / "chain").symlink_to("file_out")
    return names | {"loop": False, "nowhere": False, "chain": False}


async def test_symlinks(resolved: str, site: Path) -> None:
    """None leads out. Within the root the kernel follows them; where it cannot be asked, none is followed at all."""
    names = lay_traps(site)
    async with serving(app, static=(f"/s={site}",)) as served:
        for name, stays in names.items():
            answer = await ask(served, f"/s/{name}")
            followed = stays and resolved == "openat2"
            assert (answer.status, answer.body.startswith(b"public")) == (200 if followed else 404, followed), name
            assert SECRET not in answer.body


async def test_follow_symlinks(site: Path) -> None:
    """`--follow-symlinks`: the operator's word."""
    names = [name for name in lay_traps(site) if name not in ("loop", "nowhere", "proc", "magic")]
    async with serving(app, static=(f"/s={site}",), follow_symlinks=True) as served:
        for name in names:
            assert (await ask(served, f"/s/{name}")).status == 200, name
        for name in ("loop", "nowhere", "magic/..", "sub/../../secret.txt"):
            assert (await ask(served, f"/s/{name}")).status in (301, 404), name


async def test_special_files(resolved: str, site: Path) -> None:
    """Only regular files: pipes, sockets and devices are as if they were not there, and nobody waits for one."""
    os.mkfifo(site / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(site / "socket"))
        names = ["pipe", "socket"]
        if os.geteuid() == 0:
            os.mknod(site / "null", 0o666 | 0o020000, os.makedev(1, 3))
            os.mknod(site / "zero", 0o666 | 0o020000, os.makedev(1, 5))
            os.mknod(site / "nothing behind", 0o666 | 0o060000, os.makedev(250, 77))
            names += ["null", "zero", "nothing%20behind"]
        async with serving(app, static=(f"/s={site}",), accel=(f"/p/={site}",)) as served:
            for name in names:
                with trio.fail_after(2):
                    assert (await ask(served, f"/s/{name}")).status == 404, name
            assert (await ask(served, "/s/sub")).status == 301
            assert (await ask(served, "/s/sub/")).status == 404


async def test_a_pipe_is_not_even_opened(resolved: str, site: Path) -> None:
    """Opening it for a moment would let its writer go on, and then kill it with SIGPIPE (fifo(7))."""
    os.mkfifo(site / "pipe")
    opened = threading.Event()

    def write() -> None:
        os.close(os.open(site / "pipe", os.O_WRONLY))
        opened.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        async with serving(app, static=(f"/s={site}",)) as served:
            for _ in range(10):
                assert (await ask(served, "/s/pipe")).status == 404
        assert not opened.is_set()
    finally:
        while writer.is_alive():
            os.close(os.open(site / "pipe", os.O_RDONLY | os.O_NONBLOCK))
            writer.join(0.01)


def as_nobody(monkeypatch: pytest.MonkeyPatch, where: type[Root | AtHand]) -> None:
    """Have it opened as by one who is not root: tests may run as root, who may read everything."""
    libc, real = ctypes.CDLL(None), where.open

    def open_as_nobody(root: Any, names: Any) -> OpenedFile | Directory:
        libc.setfsuid(65534)  # setfsuid(2): of this thread alone, and with it the right to override modes
        try:
            return real(root, names)
        finally:
            libc.setfsuid(os.geteuid())

    monkeypatch.setattr(where, "open", open_as_nobody)


async def test_unreadable_files(resolved: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """403, without a word about what is there; also for a directory that cannot be entered."""
    as_nobody(monkeypatch, Root)
    as_nobody(monkeypatch, AtHand)
    (site / "f.txt").chmod(0)
    (site / "sub").chmod(0o600)
    (site / "open.css").write_bytes(b"open")
    (site / "open.css.gz").write_bytes(b"closed")
    (site / "open.css.gz").chmod(0)

    def naming(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [("X-Accel-Redirect", "/p/f.txt")])
        return []

    try:
        async with serving(naming, static=(f"/s={site}",), accel=(f"/p/={site}",)) as served:
            for target in ("/s/f.txt", "/s/sub/g.txt", "/s/sub/nothing", "/app") * 2:
                answer = await ask(served, target)
                assert (answer.status, answer.body) == (403, b"403 Forbidden\n"), target
            assert (await ask(served, "/s/open.css", "Accept-Encoding: gzip")).body == b"open"
    finally:
        (site / "sub").chmod(0o700)


# -- races ------------------------------------------------------------------------------------------------------------


@contextmanager
def swapping(site: Path, out: str) -> Iterator[list[int]]:
    """While it lasts, `site/swap` is by turns a directory and a symlink out of the root; gives the number of turns."""
    stop, turns = threading.Event(), [0]
    (site / "honest").mkdir()
    (site / "honest" / "s.txt").write_bytes(b"public")
    (site / "honest").rename(site / "swap")
    (site / "link").symlink_to(out)

    def swap() -> None:
        while not stop.is_set():
            (site / "swap").rename(site / "honest")
            (site / "link").rename(site / "swap")
            (site / "swap").rename(site / "link")
            (site / "honest").rename(site / "swap")
            turns[0] += 1

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield turns
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("out", ["../secrets", "absolute"])
def test_a_race_with_symlinks_against_the_root(resolved: str, out: str, site: Path) -> None:
    """A directory that becomes a symlink outward between any two moments: never a byte of what is outside."""
    seen: dict[bytes | None, int] = {}
    with (
        swapping(site, str(site.parent / "secrets") if out == "absolute" else out) as turns,
        rooted(site) as root,
    ):
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            got = read(root, b"swap", b"s.txt")
            seen[got] = seen.get(got, 0) + 1
    assert set(seen) == {b"public", None}
    assert turns[0] > 50


async def test_a_race_with_symlinks_over_the_wire(resolved: str, site: Path) -> None:
    """The same for a mount and for a file that the app names."""

    def naming(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [("X-Accel-Redirect", "/p/swap/s.txt")])
        return []

    one = b"GET /s/swap/s.txt HTTP/1.1\r\nHost: t\r\n\r\nGET /app HTTP/1.1\r\nHost: t\r\n\r\n"
    seen = set()
    async with serving(naming, static=(f"/s={site}",), accel=(f"/p/={site}",)) as served:
        with swapping(site, "../secrets"):
            for _ in range(4):
                raw = await served.exchange(one * 10 + request())
                assert SECRET not in raw
                seen |= {(answer.status, answer.body) for answer in read_answers(raw, ["GET"] * 21)}
    assert seen <= {(200, b"public"), (404, b"404 Not Found\n")}


# -- names ------------------------------------------------------------------------------------------------------------

NAMES = [
    b"a b", b" a", b"a ", b"100%", b"a%20b", b"%2e%2e", b"a+b", b"a;b", b"a;b=c", b"a&b", b"a=b", b"a#b", b"a?b",
    b"a:b", b"a@b", b"a'b", b'a"b', b"<a>", b"a|b", b"a*b", b"~a", b"-a", b"a\tb", b"a\nb", b"a\r\nb: c", b"\x01",
    b"\x7f", b"a.", b"a..",
    b"..a", b"...", "café".encode(), "cafe\u0301".encode(), "日本語.txt".encode(), "😀".encode(),
    "\u202etxt.exe".encode(), b"\xff\xfe", b"latin\xe9", b"\xc0\xae\xc0\xae", b"x" * 255,
]  # fmt: skip


async def test_odd_names(resolved: str, site: Path) -> None:
    """Every name without a dot before it or a backslash in it is found by its encoded form, and only so: NFC and NFD
    are two names, and nothing is decoded twice."""
    for number, name in enumerate(NAMES):
        if name != b"..." and not name.startswith(b"."):
            (site / os.fsdecode(name)).write_bytes(b"%d" % number)
    async with serving(app, static=(f"/s={site}",)) as served:
        for number, name in enumerate(NAMES):
            answer = await ask(served, f"/s/{quote(name, safe='')}")
            if name.startswith(b"."):
                assert answer.status == 404
            else:
                assert (answer.status, answer.body) == (200, b"%d" % number), name


async def test_a_directory_with_an_odd_name_redirects_to_itself(site: Path) -> None:
    """The Location leads to where the client was, and holds no byte that a header or a URI may not have."""
    async with serving(app, static=(f"/s={site}",)) as served:
        for name in NAMES:
            if name.startswith(b".") or len(name) > 200:
                continue
            path = site / os.fsdecode(name)
            path.mkdir()
            (path / "index.html").write_bytes(name)
            answer = await ask(served, f"/s/{quote(name, safe='')}")
            location = answer.value("location")
            assert answer.status == 301
            assert location.isascii()
            assert location.isprintable()
            assert (await ask(served, location)).body == name


# -- what is at hand --------------------------------------------------------------------------------------------------


def read_at_hand(root: Root, *names: bytes) -> bytes | None:
    """What is given at once; NotAtHand where it is not certain."""
    read(root, *names)  # now the kernel knows
    return read(root.at_hand, *names)


def test_what_is_at_hand_lies_within_the_root(site: Path) -> None:
    """As by the disk's thread: no symlink leads out; one that does not is followed. Only files are opened."""
    names = lay_traps(site)
    os.mkfifo(site / "pipe")
    with rooted(site) as root:
        for name, stays in names.items():
            parts = [part.encode() for part in name.split("/")]
            try:
                got = read_at_hand(root, *parts)
            except NotAtHand:
                assert not stays, name
            else:
                assert got == (read(root, *parts) if stays else None), name
        before = _descriptors()
        assert read_at_hand(root, b"f.txt") == b"public"
        assert read_at_hand(root) == b"<directory>"
        assert read_at_hand(root, b"nothing") is None
        for name in (b"sub", b"pipe"):
            with pytest.raises(NotAtHand):
                read_at_hand(root, name)
        assert _descriptors() == before


@pytest.mark.parametrize("follow", [False, True])
def test_nothing_is_at_hand_where_open_may_wait(follow: bool) -> None:
    """On a file system that is not known for it, or behind a mount point; wherever the disk's thread may go."""
    with rooted(Path("/proc"), follow_symlinks=follow) as proc, rooted(Path("/"), follow_symlinks=follow) as top:
        for root, names in ((proc, [b"version"]), (top, [b"proc", b"version"])):
            assert read(root, *names) is not None
            with pytest.raises(NotAtHand):
                root.at_hand.open(names)


def test_a_name_that_was_never_looked_up_is_not_at_hand(site: Path) -> None:
    """Whether it is there is on the disk."""
    with rooted(site) as root:
        for number in range(3):
            with pytest.raises(NotAtHand):
                root.at_hand.open([b"never asked for, %d" % number])


def test_a_race_with_symlinks_at_hand(site: Path) -> None:
    """As below against the disk's thread."""
    seen = set()
    with swapping(site, "../secrets") as turns, rooted(site) as root:
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            try:
                seen.add(read_at_hand(root, b"swap", b"s.txt"))
            except NotAtHand:
                seen.add(b"a thread is asked")
    assert seen <= {b"public", None, b"a thread is asked"}
    assert b"public" in seen
    assert turns[0] > 50


# -- the root itself --------------------------------------------------------------------------------------------------


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors(resolved: str, site: Path) -> None:
    """Nothing stays open, whatever was found, and a deep walk does not hold a descriptor per directory."""
    lay_traps(site)
    deep = [b"d"] * 300
    here = os.open(site, os.O_RDONLY)
    for name in deep:
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with rooted(site) as root:
        before = _descriptors()
        for names in (
            [b"f.txt"],
            [b"sub"],
            [],
            [b"nothing"],
            [b"loop"],
            [b"file_out"],
            [b"f.txt", b"x"],
            deep,
            [*deep, b"x"],
        ):
            read(root, *names)
        assert _descriptors() == before
        assert read(root, *deep) == b"<directory>"


def test_an_openat2_that_is_unsure_is_asked_again(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """openat2(2), EAGAIN: a rename anywhere while a `..` was resolved; it is not the client's trouble."""
    (site / "sub" / "up").symlink_to("../f.txt")
    real, calls = root_module._openat2, [0]

    def unsure(directory: int, path: bytes) -> int:
        calls[0] += 1
        if calls[0] < 4:
            raise OSError(errno.EAGAIN, "try again")
        return real(directory, path)

    monkeypatch.setattr(root_module, "_openat2", unsure)
    with rooted(site) as root:
        assert read(root, b"sub", b"up") == b"public"


def test_the_root_may_be_a_symlink_and_stays_what_it_was(site: Path, tmp_path: Path) -> None:
    """Its own symlinks are the operator's; it is opened once, so that renaming it later moves nothing."""
    (tmp_path / "current").symlink_to("site")
    with rooted(tmp_path / "current") as root:
        assert read(root, b"f.txt") == b"public"
        (tmp_path / "current").unlink()
        (tmp_path / "current").symlink_to("secrets")
        assert read(root, b"s.txt") is None
        assert read(root, b"f.txt") == b"public"
