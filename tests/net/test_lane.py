"""Rules of the lane: a thread serves clients that ask without a rest, and the loop hears only of what it must."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
from asking import CLOSE, KEPT, Environ, StartResponse
from filekinds import Noted
from riding import TRIES, App, ask_for, board, counting_steps, receive, say
from serving import receive_all, serving
from waiting import until

from trio_wsgi import Outcome
from trio_wsgi.disk.root import AtHand, NotAtHand
from trio_wsgi.net.status import State

SIZE = 100_000


@pytest.mark.usefixtures("each_engine")
async def test_a_brisk_client_is_served_by_one_thread_and_without_the_loop() -> None:
    app = App()
    async with serving(app) as served:
        for _ in range(TRIES):
            async with await board(served, 5) as client, counting_steps() as steps:
                app.threads.clear()
                for _ in range(20):
                    await client.send_all(KEPT)
                    assert (await receive(client, 5)).endswith(b"\r\n\r\nhello")
                if (len(set(app.threads)), steps.count) == (1, 0):
                    return
    raise AssertionError("the loop had a part in it, each time")


async def test_every_request_has_its_record_though_the_client_says_nothing_more() -> None:
    async with serving(App()) as served, await board(served, 5) as client:
        known = len(served.records)
        for count in range(1, 4):
            await client.send_all(KEPT)
            await receive(client, 5)
            record = await served.record(known + count)
            assert (record.outcome, record.body_sent, record.status) == (Outcome.FINISHED, 5, 200)
            assert 0 < record.duration < 5


async def test_a_file_is_closed_where_its_closing_may_block(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(SIZE))
    Noted.closed_in.clear()

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [("Content-Length", str(SIZE))])
        return environ["wsgi.file_wrapper"](Noted(io.FileIO(tmp_path / "file")))

    async with serving(app) as served, await board(served, SIZE) as client:
        for _ in range(5):
            await client.send_all(KEPT)
            await receive(client, SIZE)
        await client.send_all(CLOSE)
        await receive_all(client)
        await until(lambda: not served.server.statistics().connections)
        assert Noted.closed_in == ["trio-wsgi app"] * len(served.records)


async def test_what_the_kernel_does_not_take_at_once_leaves_without_the_thread() -> None:
    """A slow reader holds no thread, wherever its request was served; afterwards it may ride again."""
    size = 8_000_000

    def app(environ: Environ, start_response: StartResponse) -> Any:
        return say(start_response, bytes(size if environ["PATH_INFO"] == "/big" else 5))

    async with serving(app, threads=1) as served, await board(served, 5) as client:
        await client.send_all(ask_for("/big"))
        await until(lambda: State.SENDING in served.server.statistics().by_state)
        await until(lambda: served.server.statistics().threads.busy == 0)
        async with await served.connect() as other:
            await other.send_all(KEPT)
            await receive(other, 5)
        assert len(await receive(client, size)) > size
        await client.send_all(KEPT)
        await receive(client, 5)


async def test_who_asks_ahead_is_answered_in_order() -> None:
    """RFC 9112 §9.3.2; and more than are served before others have their turn."""
    app = App(**{str(number): lambda environ: environ["PATH_INFO"].encode() for number in range(50)})
    async with serving(app) as served, await board(served, 5) as client:
        await client.send_all(b"".join(ask_for(f"/{number}") for number in range(50)))
        received = b""
        with trio.fail_after(10):
            while not received.endswith(b"/49"):
                received += await client.receive_some()
        answers = [line.rpartition(b"\r\n\r\n")[2] for line in received.split(b"HTTP/1.1 ")[1:]]
        assert answers == [f"/{number}".encode() for number in range(50)]


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("pause", [0.0, 0.02])
async def test_a_request_in_pieces_and_one_with_a_body(pause: float) -> None:
    app = App(upload=lambda environ: environ["wsgi.input"].read())
    upload = b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nupload"
    async with serving(app) as served, await board(served, 5) as client:
        for sent, answer in ((KEPT, b"hello"), (upload, b"upload"), (KEPT, b"hello")):
            for byte in sent if pause == 0 else [sent[:9], sent[9:-3], sent[-3:]]:
                await client.send_all(bytes([byte]) if isinstance(byte, int) else byte)
                await trio.sleep(pause)
            assert (await receive(client, len(answer))).endswith(b"\r\n\r\n" + answer)


@pytest.mark.parametrize(
    ("sent", "status", "outcome"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400", Outcome.REFUSED),
        (ask_for("/fails"), b"500", Outcome.APP_ERROR),
        (ask_for("/leaves"), b"500", Outcome.APP_ERROR),
        (ask_for("/unsendable"), b"500", Outcome.APP_ERROR),
    ],
)
async def test_what_goes_wrong_is_answered_as_everywhere(sent: bytes, status: bytes, outcome: Outcome) -> None:
    def leaves(environ: Environ) -> bytes:
        raise SystemExit(3)

    def unsendable(environ: Environ) -> bytes:
        environ["trio_wsgi.limit_rate"] = "fast"
        return b"hello"

    app = App(fails=lambda environ: b"%d" % (1 // 0), leaves=leaves, unsendable=unsendable)
    async with serving(app) as served, await board(served, 5) as client:
        known = len(served.records)
        await client.send_all(sent)
        assert (await receive(client, 0)).startswith(b"HTTP/1.1 " + status)
        assert (await served.record(known + 1)).outcome is outcome
        async with await board(served, 5):  # it goes on
            pass


async def test_a_client_that_leaves_in_silence_leaves_nothing_behind() -> None:
    async with serving(App()) as served:
        client = await board(served, 5)
        await client.aclose()
        await until(lambda: not served.server.statistics().connections)
        assert {record.outcome for record in served.records} == {Outcome.FINISHED}


async def test_files_of_mounts_are_served_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"from the mount")
    async with serving(App(), static=(f"/static={tmp_path}",)) as served, await board(served, 5) as client:
        await client.send_all(ask_for("/static/file"))
        await receive(client, 14)  # from now on the kernel has it at hand
        for _ in range(TRIES):
            async with await board(served, 5) as rider, counting_steps() as steps:
                for target, body in (("/static/file", b"from the mount"), ("/", b"hello")):
                    await rider.send_all(ask_for(target))
                    assert (await receive(rider, len(body))).endswith(body)
                if steps.count == 0:
                    return
    raise AssertionError("the loop had a part in it, each time")


async def test_files_that_are_not_at_hand_come_from_the_disks_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def would_block(at_hand: AtHand, names: Any) -> Any:
        asked.append(threading.get_ident())
        raise NotAtHand

    monkeypatch.setattr(AtHand, "open", would_block)
    (tmp_path / "file").write_bytes(b"from the mount")
    async with serving(App(), static=(f"/static={tmp_path}",)) as served, await board(served, 5) as client:
        for _ in range(3):
            await client.send_all(ask_for("/static/file"))
            assert (await receive(client, 14)).endswith(b"from the mount")
        assert len(asked) == 3  # it is not looked for twice
