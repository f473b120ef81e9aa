"""The write callable: one suite that block, raise and buffer all pass; which one a request has; what block promises."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
from answers import read_answer, read_answers
from asking import CLOSE, KEPT
from downloads import Client, known_bytes, make_file
from faults import OneByteAtATime, StopsReading, Vanishes
from producing import REQUESTS, SMALL, TINY, Write, app_of, ask, ask_to_end, cut_body, cut_up, write_all
from serving import receive_all, serving

from trio_wsgi import Outcome
from trio_wsgi.errors import ClientGone

POLICIES = ["block", "raise", "buffer"]

policies = pytest.mark.parametrize("policy", POLICIES)


# -- all three ---------------------------------------------------------------------------------------------------


@policies
@pytest.mark.parametrize("framing", REQUESTS)
@pytest.mark.parametrize("seed", [1, 2])
async def test_the_same_bytes_arrive(policy: str, framing: str, seed: int) -> None:
    """PAINS 6 of the peers: three have no write() at all. PAINS 14 (bjoern#144): nothing is repeated or lost when the
    kernel is full.
    """
    data = known_bytes(1_500_000, seed)
    request, length = REQUESTS[framing]
    async with serving(app_of(data, seed, length), write_policy=policy) as served:
        answer = read_answer(await ask(served, request, TINY))
        assert hashlib.sha256(answer.body).digest() == hashlib.sha256(data).digest()
        record = await served.record()
    assert (record.outcome, record.body_sent) == (Outcome.FINISHED, len(data))
    if policy == "buffer" or length:
        assert answer.value("content-length") == str(len(data))


@policies
async def test_one_byte_at_a_time(policy: str) -> None:
    data = known_bytes(700_000)
    async with serving(app_of(data), write_policy=policy) as served:
        with trio.fail_after(20):
            async with await served.connect(TINY) as stream:
                await stream.send_all(CLOSE)
                raw = await OneByteAtATime(stream, 2000).run()
        assert read_answer(raw).body == data


@policies
async def test_head_is_get_without_its_body(policy: str) -> None:
    """RFC 9110 §9.3.2."""
    data = known_bytes(300_000)
    async with serving(app_of(data), write_policy=policy) as served:
        get = read_answer(await ask(served, CLOSE))
        head = read_answer(await ask(served, CLOSE.replace(b"GET", b"HEAD")), "HEAD")
    assert head.body == b""
    assert [pair for pair in head.headers if pair[0] != b"date"] == [pair for pair in get.headers if pair[0] != b"date"]


@policies
@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_no_body_with_statuses_that_have_none(policy: str, status: str) -> None:
    """RFC 9110 §15.3.5, §15.4.5."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write_all(environ, start_response(status, []), [b"never sent"] * 3)
        return []

    async with serving(app, write_policy=policy) as served:
        raw = await ask(served, CLOSE)
    assert raw.startswith(b"HTTP/1.1 " + status.encode()[:3])
    assert raw.endswith(b"\r\n\r\n")
    assert raw.count(b"\r\n\r\n") == 1


@policies
@pytest.mark.parametrize("kind", ["list", "generator"])
@pytest.mark.parametrize("framing", REQUESTS)
async def test_write_then_an_iterable(policy: str, kind: str, framing: str) -> None:
    """PEP 3333: what was written comes before what is iterated."""
    data, rest = known_bytes(400_000), [b"the", b"", b" rest " * 10_000, b"!"]
    request, length = REQUESTS[framing]

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        total = len(data) + sum(map(len, rest))
        write = start_response("200 OK", [("Content-Length", str(total))] if length else [])
        write_all(environ, write, cut_up(data, 3))
        return rest if kind == "list" else (block for block in rest)

    async with serving(app, write_policy=policy) as served:
        assert read_answer(await ask(served, request)).body == data + b"".join(rest)


@policies
@pytest.mark.parametrize("sendfile", [True, False])
async def test_write_then_a_file_wrapper(policy: str, sendfile: bool, tmp_path: Any) -> None:
    """A returned file comes after what was written, framed like the rest (waitress breaks it)."""
    data = known_bytes(300_000, 1)
    path = tmp_path / "file"
    content = make_file(path, 500_000, 2)

    def wrap(environ: dict[str, Any]) -> Any:
        file = path.open("rb")
        file.seek(1000)
        return environ["wsgi.file_wrapper"](file)

    async with serving(app_of(data, returns=wrap), write_policy=policy, sendfile=sendfile) as served:
        assert read_answer(await ask(served, CLOSE)).body == data + content[1000:]


@policies
async def test_write_inside_the_generator(policy: str) -> None:
    """Not forbidden by PEP 3333: the order is that of the calls."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", [])

        def blocks() -> Iterator[bytes]:
            for number in range(50):
                write_all(environ, write, [b"w%03d" % number * 1000])
                yield b"y%03d" % number * 1000

        return blocks()

    async with serving(app, write_policy=policy) as served:
        body = read_answer(await ask(served, CLOSE)).body
    assert body == b"".join(b"w%03d" % n * 1000 + b"y%03d" % n * 1000 for n in range(50))


@policies
async def test_no_more_than_content_length(policy: str) -> None:
    """PEP 3333, "Handling the Content-Length Header"; web2py#2658: never into the next response."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write_all(environ, start_response("200 OK", [("Content-Length", "5")]), [b"12", b"34567", b"8"])
        return [b"9"]

    async with serving(app, write_policy=policy) as served:
        client = Client(await served.connect())
        async with client.stream:
            for _ in range(3):
                reply = await client.ask()
                assert (reply.body, reply.whole) == (b"12345", True)


@policies
async def test_less_than_content_length_is_cut(policy: str) -> None:
    """The client can tell that it is not all."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write_all(environ, start_response("200 OK", [("Content-Length", "10")]), [b"123"])
        return []

    async with serving(app, write_policy=policy) as served:
        client = Client(await served.connect())
        async with client.stream:
            reply = await client.ask()
        assert (reply.body, reply.whole) == (b"123", False)
        assert (await served.record()).outcome is Outcome.APP_ERROR


@policies
async def test_keep_alive_in_order(policy: str) -> None:
    """RFC 9112 §9.3.2: the next response begins after the last byte of this one, lent bytes included."""
    data = known_bytes(900_000)
    async with serving(app_of(data), write_policy=policy, threads=1) as served:
        async with await served.connect(SMALL) as stream:
            with trio.fail_after(20):
                await stream.send_all(KEPT * 2 + CLOSE)
                raw = await receive_all(stream)
        assert [answer.body == data for answer in read_answers(raw, ["GET"] * 3)] == [True] * 3


@policies
async def test_an_error_before_anything_was_written_is_a_500(policy: str) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [("X-Mine", "1")])(b"")
        raise ValueError("before the first byte")

    async with serving(app, write_policy=policy) as served:
        answer = read_answer(await ask(served, CLOSE))
        assert (answer.status, answer.values("x-mine")) == (500, [])
        assert (await served.record()).outcome is Outcome.APP_ERROR


@policies
@pytest.mark.parametrize("framing", REQUESTS)
async def test_an_error_half_way(policy: str, framing: str) -> None:
    """buffer: a clean 500. Else: all that was accepted, then a cut that no client takes for the end."""
    data = known_bytes(1_000_000)
    request, length = REQUESTS[framing]

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", [("Content-Length", "2000000")] if length else [])
        write_all(environ, write, cut_up(data, 4))
        raise ValueError("half-way")

    async with serving(app, write_policy=policy) as served:
        raw, end = await ask_to_end(served, request)
        record = await served.record()
    assert record.outcome is Outcome.APP_ERROR
    if policy == "buffer":
        answer = read_answer(bytes(raw))
        assert answer.status == 500
        assert b"half-way" not in answer.body
        return
    assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
    if framing == "http/1.0":
        assert end == "cut"
    elif length:
        assert raw.endswith(data)
    else:
        assert not raw.endswith(b"0\r\n\r\n")
        assert b"".join(cut_body(bytes(raw))) == data
    assert record.body_sent == len(data)


@policies
async def test_the_client_stops_reading(policy: str) -> None:
    """The write deadline reaches the app as an OSError that names the setting and its seconds; buffer never waits."""
    seen: list[BaseException | None] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        try:
            write_all(environ, start_response("200 OK", []), itertools.repeat(bytes(65536), 160))
        except BaseException as error:
            seen.append(error)
            raise
        seen.append(None)
        return []

    async with serving(app, write_policy=policy, write_timeout=0.3, threads=1) as served:
        async with await served.connect(SMALL) as stream:
            await stream.send_all(CLOSE)
            await StopsReading(stream, 1000).run()
            record = await served.record()
        assert record.outcome is Outcome.WRITE_TIMEOUT
        assert "write_timeout" in record.reason
    (error,) = seen
    if policy == "buffer":
        assert error is None
    else:
        assert isinstance(error, OSError)
        assert not isinstance(error, BlockingIOError)
        assert "write_timeout" in str(error)
        assert "0.3 s" in str(error)


@policies
@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
async def test_the_client_vanishes(policy: str, reset: bool) -> None:
    """PAINS 33 (waitress#308), 34 (hypercorn#210): the app gets an OSError, and its thread is free for the next."""
    seen: list[BaseException | None] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", [])
        if environ["PATH_INFO"] == "/next":
            return [b"next"]
        try:
            write_all(environ, write, itertools.repeat(bytes(65536), 160))
        except BaseException as error:
            seen.append(error)
            raise
        seen.append(None)
        return []

    async with serving(app, write_policy=policy, threads=1) as served:
        stream = await served.connect(SMALL)
        await stream.send_all(CLOSE)
        await Vanishes(stream, 0 if policy == "buffer" else 5000, reset).run()
        assert (await served.record()).outcome is Outcome.CLIENT_GONE
        assert read_answer(await ask(served, CLOSE.replace(b"/ ", b"/next "))).body == b"next"
    (error,) = seen
    if policy == "buffer":
        assert error is None
    else:  # whoever notices first: the write, or the watch that cancels the request (PAINS 33)
        assert isinstance(error, ClientGone | trio.Cancelled)


@pytest.mark.parametrize("policy", ["block", "raise"])
async def test_a_swallowed_failure_stays_one(policy: str) -> None:
    """Every later write fails as the first did, and an app that goes on regardless piles nothing up."""
    depths: list[int] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", [])
        errors = 0
        for _ in range(2000):
            try:
                write(bytes(65536))
            except BlockingIOError:
                time.sleep(0.001)
            except BaseException as error:
                errors += 1
                depth, traceback = 0, error.__traceback__
                while traceback is not None:
                    depth, traceback = depth + 1, traceback.tb_next
                depths.append(depth)
        return [b"as if nothing had been"]

    async with serving(app, write_policy=policy) as served:
        stream = await served.connect(SMALL)
        await stream.send_all(CLOSE)
        await Vanishes(stream, 100).run()
        assert (await served.record()).outcome is Outcome.CLIENT_GONE
    assert len(depths) > 100
    assert max(depths) < 20


@policies
async def test_write_after_the_end_is_refused(policy: str) -> None:
    """A write kept beyond its request does not reach into the next response on the connection."""
    kept: list[Write] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        for write in kept:
            with pytest.raises(Exception, match="after the application had returned"):
                write(b"too late")
        write = start_response("200 OK", [("Content-Length", "2")])
        kept.append(write)
        write(b"ok")
        return []

    async with serving(app, write_policy=policy) as served:
        client = Client(await served.connect())
        async with client.stream:
            for _ in range(3):
                reply = await client.ask()
                assert (reply.status, reply.body, reply.whole) == (200, b"ok", True)


async def test_write_after_a_500_is_refused() -> None:
    """Nor does one whose request failed."""
    kept: list[Write] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", [("Content-Length", "4")])
        if not kept:
            kept.append(write)
            raise ValueError
        with pytest.raises(Exception, match="the response has ended"):
            kept[0](b"late")
        return [b"good"]

    async with serving(app) as served:
        client = Client(await served.connect())
        async with client.stream:
            assert (await client.ask()).status == 500
            assert (await client.ask()).body == b"good"


@pytest.mark.slow
@policies
@pytest.mark.parametrize("size", [4000, 9_000_000], ids=["small blocks", "large blocks"])
async def test_a_slow_reader_is_not_a_stalled_one(policy: str, size: int) -> None:
    """A download that makes progress is never cut, even while the kernel has no room for more of it."""
    data = known_bytes(9_000_000)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", [])
        blocks = (data[at : at + size] for at in range(0, len(data), size))
        for block in blocks:
            while True:
                try:
                    write(block)
                    break
                except BlockingIOError:
                    environ["trio_wsgi.wait_writable"](0.05)
        return []

    config: dict[str, Any] = {"write_policy": policy, "write_timeout": 0.4}
    async with serving(app, **config) as served, await served.connect(SMALL) as stream:
        await stream.send_all(CLOSE)
        received = bytearray()
        with trio.fail_after(20):
            for _ in range(12):
                await trio.sleep(0.1)
                received += await stream.receive_some(12_000)
            received += await receive_all(stream)
        assert read_answer(bytes(received)).body == data
        assert (await served.record()).outcome is Outcome.FINISHED


@pytest.mark.slow
@policies
async def test_waiting_for_the_client_is_no_time_of_the_app(policy: str) -> None:
    """app_timeout counts its work; a client that is slow for longer than that is cut by nothing."""
    data = known_bytes(8_000_000)
    async with serving(app_of(data), write_policy=policy, app_timeout=0.5) as served:
        async with await served.connect(SMALL) as stream:
            await stream.send_all(CLOSE)
            await trio.sleep(0.9)
            with trio.fail_after(20):
                assert read_answer(await receive_all(stream)).body == data
        assert (await served.record()).outcome is Outcome.FINISHED


# -- which one ---------------------------------------------------------------------------------------------------


async def test_the_policy_is_chosen_per_request() -> None:
    """environ['trio_wsgi.write_policy'] holds the configured one, and may be set until the first write."""
    seen: list[str] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        seen.append(environ["trio_wsgi.write_policy"])
        write = start_response("200 OK", [])
        environ["trio_wsgi.write_policy"] = environ["QUERY_STRING"]
        write(b"body")
        environ["trio_wsgi.write_policy"] = "too late to matter"
        write(b", more")
        return []

    async with serving(app, write_policy="raise") as served:
        for policy in POLICIES:
            answer = read_answer(await ask(served, CLOSE.replace(b"/ ", b"/?%b " % policy.encode())))
            assert answer.body == b"body, more"
            assert bool(answer.values("content-length")) == (policy == "buffer")
    assert seen == ["raise"] * 3


@pytest.mark.parametrize("name", ["wait", "", None, 7, ["block"]])
async def test_a_wrong_name_is_an_error_that_lists_the_right_ones(name: object, caplog: Any) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        environ["trio_wsgi.write_policy"] = name
        start_response("200 OK", [])(b"body")
        return []

    async with serving(app) as served:
        assert read_answer(await ask(served, CLOSE)).status == 500
    assert f"environ['trio_wsgi.write_policy'] is {name!r}: it must be one of 'block', 'raise', 'buffer'" in caplog.text


# -- block -------------------------------------------------------------------------------------------------------


async def test_block_returns_when_the_kernel_has_it_all() -> None:
    """When write() returns, no byte of it is left in this process: a client gets it without our help."""
    block = known_bytes(12_000_000)
    wrote, go_on = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", [("Content-Length", str(len(block) + 1))])
        write(block)
        wrote.set()
        go_on.wait(10)
        return [b"!"]

    async with serving(app) as served, await served.connect(SMALL) as stream:
        await stream.send_all(CLOSE)
        await trio.sleep(0.1)
        assert not wrote.is_set()
        received = bytearray()
        with trio.fail_after(20):
            while not received.endswith(block[-100:]):
                received += await stream.receive_some(65536)
        assert wrote.wait(1)
        go_on.set()
