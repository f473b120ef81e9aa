"""What of a mount the kernel has at hand is answered without a thread, and just as a thread would."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
from answers import Answer, read_answers
from asking import request
from mounted import app, ask, noting_opened, see_all_closed
from serving import serving

from trio_wsgi.disk import root as root_module
from trio_wsgi.disk.mount import Mount
from trio_wsgi.disk.openat2 import AT_HAND, OpenHow
from trio_wsgi.disk.root import AtHand, NotAtHand, OpenedFile, Root


@pytest.fixture
def tells(packed: Path) -> Path:
    """`packed`, where the kernel can open what is in its caches only."""
    root = Root(str(packed))
    try:
        for one in (root, root.at_hand):
            opened = one.open([b"style.css"])
            assert isinstance(opened, OpenedFile)
            opened.file.close()
    except NotAtHand:
        pytest.skip("nothing is at hand in this file system, or with this kernel")
    finally:
        root.close()
    return packed


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads that answer for mounts with leave to wait."""
    threads: list[int] = []
    real = Mount.answer

    def answer(mount: Mount, *args: Any) -> Any:
        threads.append(threading.get_ident())
        return real(mount, *args)

    monkeypatch.setattr(Mount, "answer", answer)
    return threads


ASKED = [
    ("/s/style.css", "Accept: */*"), ("/s/style.css", "Accept-Encoding: gzip"), ("/s/style.css", "Range: bytes=5-9"),
    ("/s/style.css", "If-None-Match: *"), ("/s/style.css", "Range: bytes=0-0,5-7"), ("/s/nothing", "Accept: */*"),
    ("/s/", "Accept: */*"), ("/s", "Accept: */*"), ("/s/style.css/", "Accept: */*"),
]  # fmt: skip


async def test_what_is_at_hand_takes_no_thread(tells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the kernel knows the names, that of the file and those of siblings that are not there; what is not, too."""
    threads = counting(monkeypatch)
    async with serving(app, static=(f"/s={tells}",)) as served:
        for target, said in ASKED:
            await ask(served, target, said)
        took = len(threads)
        for target, said in ASKED:
            for method in ("GET", "HEAD"):
                await ask(served, target, said, method=method)
    assert threads[took:] == []
    assert threading.get_ident() not in threads


async def test_both_ways_give_one_answer(tells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte, but for the date and what is random."""
    answers: dict[str, list[Answer]] = {"at hand": [], "in a thread": []}
    async with serving(app, static=(f"/s={tells}",)) as served:
        for way, collected in answers.items():
            if way == "in a thread":
                monkeypatch.setattr(Mount, "answer_nowait", lambda *_: _would_block())
            for target, said in ASKED:
                collected.append(await ask(served, target, said))
    for one, other in zip(*answers.values(), strict=True):
        assert one.status == other.status
        if one.body.startswith(b"\r\n--"):
            assert len(one.body) == len(other.body)
        else:
            assert one.body == other.body
            drop = {b"date"}
            assert [h for h in one.headers if h[0] not in drop] == [h for h in other.headers if h[0] not in drop]


def _would_block() -> Any:
    raise NotAtHand


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("sibling", [False, True])
async def test_what_the_kernel_does_not_have_goes_to_a_thread(
    number: int, sibling: bool, tells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EAGAIN is openat2's word for it; whatever else it says, a thread is told the truth. The client sees no
    difference, and what was opened before is closed."""
    real = root_module.openat2

    def openat2(directory: int, path: bytes, how: OpenHow) -> int:
        refused = how.resolve & AT_HAND and path.endswith(b".gz") is sibling
        return -number if refused else real(directory, path, how)

    monkeypatch.setattr(root_module, "openat2", openat2)
    threads, opened = counting(monkeypatch), noting_opened(monkeypatch, AtHand)
    async with serving(app, static=(f"/s={tells}",)) as served:
        for _ in range(2):
            answer = await ask(served, "/s/style.css", "Accept-Encoding: gzip")
            assert (answer.status, answer.value("content-encoding")) == (200, "gzip")
    assert len(threads) == 2
    assert threading.get_ident() not in threads
    assert len(opened) == (6 if sibling else 0)
    assert all(found.file.closed for found in opened)


@pytest.mark.parametrize("said", ["Accept: */*", "Accept-Encoding: gzip", "If-None-Match: *"])
async def test_every_file_at_hand_is_closed_after_its_answer(
    said: str, tells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of it, or of its siblings, was sent."""
    await see_all_closed(tells, said, noting_opened(monkeypatch, AtHand))


async def test_a_directory_is_opened_and_read_in_a_thread(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the mount itself is open already, but to be read."""
    (site / "index.html").unlink()
    threads = counting(monkeypatch)
    async with serving(app, static=(f"/s={site}",), static_listing=True) as served:
        for target in ("/s/", "/s/bare/", "/s/deep/") * 2:
            assert (await ask(served, target)).status == 200
    assert len(threads) == 6
    assert threading.get_ident() not in threads


async def test_who_asks_ahead_gives_way(tells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred requests in one packet, none of which has to wait for anything: others have their turns between."""
    turns, seen = 0, []
    real = Mount.answer_nowait

    def answer_nowait(mount: Mount, *args: Any) -> Any:
        seen.append(turns)
        return real(mount, *args)

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    monkeypatch.setattr(Mount, "answer_nowait", answer_nowait)
    one = b"GET /s/nothing HTTP/1.1\r\nHost: t\r\n\r\n"
    async with serving(app, static=(f"/s={tells}",)) as served, trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        answers = read_answers(await served.exchange(one * 99 + request("GET", "/s/nothing")), ["GET"] * 100)
        nursery.cancel_scope.cancel()
    assert [answer.status for answer in answers] == [404] * 100
    assert seen[-1] - seen[0] >= 98
