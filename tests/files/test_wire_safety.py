"""No path escapes: whatever a client asks for, whatever lies in the directory, with openat2 and without it."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from answers import read_answers
from asking import request
from escapes import SECRET, lay_traps, swapping
from mounted import app, ask
from serving import serving

from trio_wsgi.disk.root import AtHand, Directory, OpenedFile, Root

# -- what a client writes ---------------------------------------------------------------------------------------------

UP = [
    "..", "%2e%2e", "%2E%2e", ".%2e", "%2e.", "%252e%252e", "..%00", "..%20", "..;", "..;x=1", "...", "..\\",
    "%c0%ae%c0%ae", "%e0%80%ae%e0%80%ae", "%u002e%u002e", "..%c0%af", "%ef%bc%8e%ef%bc%8e", "..%0a", ". .", "..:",
]  # fmt: skip
SLASH = [
    "/", "%2f", "%2F", "%5c", "\\", "%252f", "%c0%af", "%e0%80%af", "//", "/./", "/%2e/", "%00/", "%u2215",
    "%ef%bc%8f",
]  # fmt: skip
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


async def test_path_traversal_corpus(resolved: str, guarded: Path) -> None:
    """Nothing outside of the root, no error of the server's, nothing but 200, 301, 400, 404 and 414."""
    targets = [target.replace("{secret}", str(guarded.parent / "secret.txt")) for target in CORPUS]
    seen = set()
    async with serving(app, static=(f"/s={guarded}",)) as served:
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
                if answer.status == 200:  # what is not under the mount's URL at all, or never leaves it
                    assert answer.body == (b"public" if target.endswith("/../f.txt") else b"the app"), target
            targets = targets[len(answers) :]
    assert 404 in seen
    if resolved == "openat2":  # a head of this size needs a raised limit to arrive at all
        long = "/s/" + "a/" * 10_000 + "f"
        async with serving(app, static=(f"/s={guarded}",), limit_request_line=100_000) as served:
            assert (await ask(served, long)).status == 404
            assert (await ask(served, "/s/" + "sub/../" * 10_000 + "f")).status == 404


# -- what lies in the directory ---------------------------------------------------------------------------------------


async def test_symlinks(resolved: str, guarded: Path) -> None:
    """None leads out. Within the root the kernel follows them; where it cannot be asked, none is followed at all."""
    names = lay_traps(guarded)
    async with serving(app, static=(f"/s={guarded}",)) as served:
        for name, stays in names.items():
            answer = await ask(served, f"/s/{name}")
            followed = stays and resolved == "openat2"
            assert (answer.status, answer.body.startswith(b"public")) == (200 if followed else 404, followed), name
            assert SECRET not in answer.body


async def test_follow_symlinks(guarded: Path) -> None:
    """`--follow-symlinks`: the operator's word."""
    names = [name for name in lay_traps(guarded) if name not in ("loop", "nowhere", "proc", "magic")]
    async with serving(app, static=(f"/s={guarded}",), follow_symlinks=True) as served:
        for name in names:
            assert (await ask(served, f"/s/{name}")).status == 200, name
        for name in ("loop", "nowhere", "magic/..", "sub/../../secret.txt"):
            assert (await ask(served, f"/s/{name}")).status in (301, 404), name


async def test_special_files(resolved: str, guarded: Path) -> None:
    """Only regular files: pipes, sockets and devices are as if they were not there, and nobody waits for one."""
    os.mkfifo(guarded / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(guarded / "socket"))
        names = ["pipe", "socket"]
        if os.geteuid() == 0:
            os.mknod(guarded / "null", 0o666 | 0o020000, os.makedev(1, 3))
            os.mknod(guarded / "zero", 0o666 | 0o020000, os.makedev(1, 5))
            os.mknod(guarded / "nothing behind", 0o666 | 0o060000, os.makedev(250, 77))
            names += ["null", "zero", "nothing%20behind"]
        async with serving(app, static=(f"/s={guarded}",), accel=(f"/p/={guarded}",)) as served:
            for name in names:
                with trio.fail_after(2):
                    assert (await ask(served, f"/s/{name}")).status == 404, name
            assert (await ask(served, "/s/sub")).status == 301
            assert (await ask(served, "/s/sub/")).status == 404


async def test_a_pipe_is_not_even_opened(resolved: str, guarded: Path) -> None:
    """Opening it for a moment would let its writer go on, and then kill it with SIGPIPE (fifo(7))."""
    os.mkfifo(guarded / "pipe")
    opened = threading.Event()

    def write() -> None:
        os.close(os.open(guarded / "pipe", os.O_WRONLY))
        opened.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        async with serving(app, static=(f"/s={guarded}",)) as served:
            for _ in range(10):
                assert (await ask(served, "/s/pipe")).status == 404
        assert not opened.is_set()
    finally:
        while writer.is_alive():
            os.close(os.open(guarded / "pipe", os.O_RDONLY | os.O_NONBLOCK))
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


async def test_unreadable_files(resolved: str, guarded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """403, without a word about what is there; also for a directory that cannot be entered."""
    as_nobody(monkeypatch, Root)
    as_nobody(monkeypatch, AtHand)
    (guarded / "f.txt").chmod(0)
    (guarded / "sub").chmod(0o600)
    (guarded / "open.css").write_bytes(b"open")
    (guarded / "open.css.gz").write_bytes(b"closed")
    (guarded / "open.css.gz").chmod(0)

    def naming(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [("X-Accel-Redirect", "/p/f.txt")])
        return []

    try:
        async with serving(naming, static=(f"/s={guarded}",), accel=(f"/p/={guarded}",)) as served:
            for target in ("/s/f.txt", "/s/sub/g.txt", "/s/sub/nothing", "/app") * 2:
                answer = await ask(served, target)
                assert (answer.status, answer.body) == (403, b"403 Forbidden\n"), target
            assert (await ask(served, "/s/open.css", "Accept-Encoding: gzip")).body == b"open"
    finally:
        (guarded / "sub").chmod(0o700)


async def test_a_race_with_symlinks_over_the_wire(resolved: str, guarded: Path) -> None:
    """The same for a mount and for a file that the app names."""

    def naming(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [("X-Accel-Redirect", "/p/swap/s.txt")])
        return []

    one = b"GET /s/swap/s.txt HTTP/1.1\r\nHost: t\r\n\r\nGET /app HTTP/1.1\r\nHost: t\r\n\r\n"
    seen = set()
    async with serving(naming, static=(f"/s={guarded}",), accel=(f"/p/={guarded}",)) as served:
        with swapping(guarded, "../secrets"):
            for _ in range(4):
                raw = await served.exchange(one * 10 + request())
                assert SECRET not in raw
                seen |= {(answer.status, answer.body) for answer in read_answers(raw, ["GET"] * 21)}
    assert seen <= {(200, b"public"), (404, b"404 Not Found\n")}
