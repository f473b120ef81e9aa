"""`Root` and what is at hand of one: nothing outside of it is opened, nothing is left open, and whose word counts."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from escapes import lay_traps, read, read_meanwhile, rooted, swapping
from opened import count_descriptors

from trio_wsgi.disk import root as root_module
from trio_wsgi.disk.openat2 import OpenHow
from trio_wsgi.disk.root import NotAtHand, Root


def test_descriptors(resolved: str, guarded: Path) -> None:
    """Nothing stays open, whatever was found, and a deep walk does not hold a descriptor per directory."""
    lay_traps(guarded)
    deep = [b"d"] * 300
    here = os.open(guarded, os.O_RDONLY)
    for name in deep:
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with rooted(guarded) as root:
        before = count_descriptors()
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
        assert count_descriptors() == before
        assert read(root, *deep) == b"<directory>"


def test_an_openat2_that_is_unsure_is_asked_again(guarded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """openat2(2), EAGAIN: a rename anywhere while a `..` was resolved; it is not the client's trouble."""
    (guarded / "sub" / "up").symlink_to("../f.txt")
    real, calls = root_module.openat2, [0]

    def unsure(directory: int, path: bytes, how: OpenHow) -> int:
        calls[0] += 1
        return -errno.EAGAIN if calls[0] < 4 else real(directory, path, how)

    monkeypatch.setattr(root_module, "openat2", unsure)
    with rooted(guarded) as root:
        assert read(root, b"sub", b"up") == b"public"


def test_the_root_may_be_a_symlink_and_stays_what_it_was(guarded: Path, tmp_path: Path) -> None:
    """Its own symlinks are the operator's; it is opened once, so that renaming it later moves nothing."""
    (tmp_path / "current").symlink_to("site")
    with rooted(tmp_path / "current") as root:
        assert read(root, b"f.txt") == b"public"
        (tmp_path / "current").unlink()
        (tmp_path / "current").symlink_to("secrets")
        assert read(root, b"s.txt") is None
        assert read(root, b"f.txt") == b"public"


@pytest.mark.parametrize("out", ["../secrets", "absolute"])
def test_a_race_with_symlinks_against_the_root(resolved: str, out: str, guarded: Path) -> None:
    """A directory that becomes a symlink outward between any two moments: never a byte of what is outside."""
    leads = str(guarded.parent / "secrets") if out == "absolute" else out
    with swapping(guarded, leads) as turns, rooted(guarded) as root:
        seen = read_meanwhile(lambda: read(root, b"swap", b"s.txt"), turns, {b"public", None})
    assert seen == {b"public", None}


# -- what is at hand --------------------------------------------------------------------------------------------------


def read_at_hand(root: Root, *names: bytes) -> bytes | None:
    """What is given at once; NotAtHand where it is not certain."""
    read(root, *names)  # now the kernel knows
    return read(root.at_hand, *names)


def test_what_is_at_hand_lies_within_the_root(guarded: Path) -> None:
    """As by the disk's thread: no symlink leads out; one that does not is followed. Only files are opened."""
    names = lay_traps(guarded)
    os.mkfifo(guarded / "pipe")
    with rooted(guarded) as root:
        for name, stays in names.items():
            parts = [part.encode() for part in name.split("/")]
            try:
                got = read_at_hand(root, *parts)
            except NotAtHand:
                assert not stays, name
            else:
                assert got == (read(root, *parts) if stays else None), name
        before = count_descriptors()
        assert read_at_hand(root, b"f.txt") == b"public"
        assert read_at_hand(root) == b"<directory>"
        assert read_at_hand(root, b"nothing") is None
        for name in (b"sub", b"pipe"):
            with pytest.raises(NotAtHand):
                read_at_hand(root, name)
        assert count_descriptors() == before


@pytest.mark.parametrize("follow", [False, True])
def test_nothing_is_at_hand_where_open_may_wait(follow: bool) -> None:
    """On a file system that is not known for it, or behind a mount point; wherever the disk's thread may go."""
    with rooted(Path("/proc"), follow_symlinks=follow) as proc, rooted(Path("/"), follow_symlinks=follow) as top:
        for root, names in ((proc, [b"version"]), (top, [b"proc", b"version"])):
            assert read(root, *names) is not None
            with pytest.raises(NotAtHand):
                root.at_hand.open(names)


def test_a_name_that_was_never_looked_up_is_not_at_hand(guarded: Path) -> None:
    """Whether it is there is on the disk."""
    with rooted(guarded) as root:
        for number in range(3):
            with pytest.raises(NotAtHand):
                root.at_hand.open([b"never asked for, %d" % number])


def test_a_race_with_symlinks_at_hand(guarded: Path) -> None:
    """As above against the disk's thread."""
    with swapping(guarded, "../secrets") as turns, rooted(guarded) as root:

        def once() -> bytes | None:
            try:
                return read_at_hand(root, b"swap", b"s.txt")
            except NotAtHand:
                return b"a thread is asked"

        seen = read_meanwhile(once, turns, {b"public"})
    assert seen <= {b"public", None, b"a thread is asked"}
