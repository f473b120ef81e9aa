"""Ways out of a directory: what may lie in it, what becomes of it meanwhile, and what is beside it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trio_wsgi.disk.root import Absent, AtHand, Directory, Root

SECRET = b"the secret that lies beside the root"


@contextmanager
def rooted(path: Path, **options: Any) -> Iterator[Root]:
    """A root, closed when the block ends."""
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


def lay_traps(site: Path) -> dict[str, bool]:
    """Symlinks by name; True for those that stay within the root."""
    outside = site.parent
    links = {
        "file_out": ("../secret.txt", False),
        "file_out_absolute": (f"{outside}/secret.txt", False),
        "directory_out/s.txt": ("../secrets", False),
        "directory_out_absolute/s.txt": (f"{outside}/secrets", False),
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
        path.symlink_to(leads)
        names[name] = stays
    (site / "loop").symlink_to("loop")
    (site / "nowhere").symlink_to("nothing")
    (site / "chain").symlink_to("file_out")
    return names | {"loop": False, "nowhere": False, "chain": False}


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


def read_meanwhile(once: Callable[[], bytes | None], turns: list[int], wanted: set[bytes | None]) -> set[bytes | None]:
    """What reading gives while directories are swapped: for a while, and until all was seen that is wanted."""
    seen: set[bytes | None] = set()
    began = time.monotonic()
    while time.monotonic() < began + 0.4 or turns[0] <= 50 or not wanted <= seen:
        assert time.monotonic() < began + 60, f"after {turns[0]} turns only {seen}"
        seen.add(once())
    return seen
