"""What proxies say of their clients, over the wire, and health checks (issue 5, "Behind proxies" and "Many machines").

The rules themselves are held by rules/test_forwarded.py; here they meet connections, logs and mounts.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import trio
from answers import read_answer, read_answers
from asking import Environ, StartResponse, error_lines, request, tell
from serving import Served, receive_all, serving
from waiting import until

FOR = "X-Forwarded-For: 192.0.2.1, 203.0.113.9"
OTHERS = {"forwarded_allow_ips": ("10.0.0.0/8",)}  # 127.0.0.1 is a stranger then


async def environ_of(served: Served, *lines: str) -> dict[str, str]:
    told: dict[str, str] = json.loads(read_answer(await served.exchange(request("GET", "/x", *lines))).body)
    return told


# -- who is believed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [(), ("*",), ("127.0.0.0/8",), ("10.0.0.0/8,127.0.0.1",)])
async def test_a_proxy_of_ours_is_believed(allowed: tuple[str, ...]) -> None:
    """By default those on this machine."""
    settings = {"forwarded_allow_ips": allowed} if allowed else {}
    async with serving(tell, access_logformat="%(h)s", **settings) as served:
        told = await environ_of(served, FOR, "X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example")
        record = await served.record()
    assert (told["REMOTE_ADDR"], told["REMOTE_PORT"]) == ("203.0.113.9", "")
    assert (told["wsgi.url_scheme"], told["HTTPS"]) == ("https", "on")
    assert (told["HTTP_HOST"], told["SERVER_NAME"], told["SERVER_PORT"]) == ("shop.example", "shop.example", "443")
    assert told["trio_wsgi.peer"].startswith("127.0.0.1:")
    assert (record.peer, record.peer_port) == ("203.0.113.9", 0)


@pytest.mark.parametrize("allowed", [("10.0.0.0/8",), (), ("::1",)])
async def test_of_others_nothing_is_seen(allowed: tuple[str, ...]) -> None:
    lines = [FOR, "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example", "Forwarded: for=127.0.0.1"]
    async with serving(tell, forwarded_allow_ips=allowed) as served:
        told = await environ_of(served, *lines)
        record = await served.record()
    assert told["REMOTE_ADDR"] == record.peer == "127.0.0.1"
    assert told["REMOTE_PORT"] == str(record.peer_port)
    assert told["wsgi.url_scheme"] == "http"
    assert told["HTTP_HOST"] == "test"
    assert not [key for key in told if "FORWARDED" in key]


async def test_trust_is_the_same_for_all_requests_of_a_connection() -> None:
    async with serving(tell, **OTHERS) as served:
        sent = f"GET / HTTP/1.1\r\nHost: x\r\n{FOR}\r\n\r\n".encode()
        answers = read_answers(await served.exchange(sent * 2 + request()), ["GET"] * 3)
    assert {json.loads(answer.body)["REMOTE_ADDR"] for answer in answers} == {"127.0.0.1"}


async def test_who_connects_to_a_unix_socket_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(tell, forwarded_allow_ips=("",), bind=(f"unix:{path}",)) as served:
        with trio.fail_after(10):
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(request("GET", "/", FOR))
                told = json.loads(read_answer(await receive_all(stream)).body)
        record = await served.record()
    assert (told["REMOTE_ADDR"], told["trio_wsgi.peer"]) == ("203.0.113.9", "unix")
    assert record.peer == "203.0.113.9"


async def test_only_the_headers_that_are_named() -> None:
    async with serving(tell, trusted_proxy_headers=("X-Forwarded-For, x-forwarded-proto",)) as served:
        told = await environ_of(served, FOR, "X-Forwarded-Host: evil.example", "Forwarded: for=127.0.0.1")
    assert (told["REMOTE_ADDR"], told["HTTP_HOST"]) == ("203.0.113.9", "test")
    assert not {"HTTP_X_FORWARDED_HOST", "HTTP_FORWARDED"} & told.keys()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("X-Forwarded-For: 1.2.3", "malformed address in X-Forwarded-For"),
        ("X-Forwarded-Prefix: //evil.example", "malformed X-Forwarded-Prefix"),
        ("Forwarded: for=198.51.100.1\r\nX-Forwarded-For: 203.0.113.9", "say different things"),
    ],
)
async def test_what_cannot_be_read_is_refused(line: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """The application is not asked; the log tells the operator why."""
    caplog.set_level(logging.INFO)
    asked: list[Environ] = []
    async with serving(lambda environ, start_response: asked.append(environ)) as served:
        answer = read_answer(await served.exchange(request("GET", "/", *line.split("\r\n"))))
        record = await served.record()
    assert answer.status == record.status == 400
    assert record.peer == "127.0.0.1"
    assert asked == []
    (said,) = error_lines(caplog, logging.INFO)
    assert reason in said


# -- logs --------------------------------------------------------------------------------------------------------


async def test_the_logs_name_client_and_proxy(caplog: pytest.LogCaptureFixture) -> None:
    def fail(environ: Environ, start_response: StartResponse) -> list[bytes]:
        raise ValueError("oh")

    caplog.set_level(logging.INFO)
    log_format = "%(h)s %({trio_wsgi.peer}e)s"
    async with serving(fail, access_logformat=log_format) as served:
        await served.exchange(request("GET", "/", FOR))
        await served.exchange(request("GET", "/", "X-Forwarded-For: unknown"))
        await served.exchange(request("GET", "/"))
        await served.record(3)
    lines = [record.getMessage() for record in caplog.records if record.name == "trio_wsgi.access"]
    assert [line.split(":")[0] for line in lines] == ["203.0.113.9 127.0.0.1", "- 127.0.0.1", "127.0.0.1 127.0.0.1"]
    errors = error_lines(caplog)
    assert errors[0].startswith("203.0.113.9 via 127.0.0.1:")
    assert errors[1].startswith("unknown via 127.0.0.1:")
    assert errors[2].startswith("127.0.0.1:")


async def test_what_the_application_makes_of_its_environ_is_not_logged() -> None:
    def change(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["REMOTE_ADDR"] = "9.9.9.9"
        return tell(environ, start_response)

    async with serving(change) as served:
        await served.exchange(request("GET", "/", FOR))
        assert (await served.record()).peer == "203.0.113.9"


async def test_files_of_mounts_are_logged_with_their_client(tmp_path: Path) -> None:
    """No environ is made for them. What cannot be read does not matter to a file; the proxy is logged."""
    (tmp_path / "a").write_bytes(b"a")
    async with serving(tell, static=(f"/s={tmp_path}",)) as served:
        assert read_answer(await served.exchange(request("GET", "/s/a", FOR))).body == b"a"
        assert (await served.record(1)).peer == "203.0.113.9"
        assert read_answer(await served.exchange(request("GET", "/s/a", "X-Forwarded-For: ?"))).body == b"a"
        assert (await served.record(2)).peer == "127.0.0.1"


# -- health ------------------------------------------------------------------------------------------------------


def never(environ: Environ, start_response: StartResponse) -> Any:
    raise AssertionError("the application was asked")


@pytest.mark.parametrize(
    ("method", "status", "body"),
    [("GET", 200, b"ready\n"), ("HEAD", 200, b""), ("POST", 405, None), ("PUT", 405, None)],
)
async def test_health(method: str, status: int, body: bytes | None) -> None:
    async with serving(never, health_path="/healthz") as served:
        answer = read_answer(await served.exchange(request(method, "/healthz?x=1")), method)
        record = await served.record()
    assert answer.status == record.status == status
    assert record.health
    if body is not None:
        assert answer.body == body
        assert answer.value("Content-Length") == "6"
        assert answer.value("Cache-Control") == "no-store"
    else:
        assert answer.value("Allow") == "GET, HEAD"


async def test_health_beside_everything_else(tmp_path: Path) -> None:
    """Before mounts and the prefix; other paths are the application's; the connection lives on."""
    settings: dict[str, Any] = {"health_path": "/healthz", "static": (f"/={tmp_path}",), "url_prefix": "/app"}
    async with serving(tell, **settings) as served:
        sent = b"GET /healthz HTTP/1.1\r\nHost: any.example\r\n\r\n"
        answers = read_answers(await served.exchange(sent * 2 + request("GET", "/healthz/x")), ["GET"] * 3)
    assert [answer.status for answer in answers] == [200, 200, 404]
    async with serving(tell) as served:  # not set: no path is special
        assert b"PATH_INFO" in await served.exchange(request("GET", "/healthz"))


async def test_a_body_that_nobody_wants() -> None:
    async with serving(tell, health_path="/healthz") as served:
        post = request("POST", "/healthz", body=b"x" * 1000).replace(b"Connection: close\r\n", b"")
        answers = read_answers(await served.exchange(post + request("GET", "/healthz")), ["POST", "GET"])
        assert [answer.status for answer in answers] == [405, 200]
        expecting = request("POST", "/healthz", "Expect: 100-continue", "Content-Length: 5")
        assert read_answer(await served.exchange(expecting.replace(b"Connection: close\r\n", b""))).closes


async def test_health_while_every_thread_is_busy() -> None:
    busy, done = trio.Event(), trio.Event()

    def wait(environ: Environ, start_response: StartResponse) -> list[bytes]:
        trio.from_thread.run_sync(busy.set)
        trio.from_thread.run(done.wait)
        return tell(environ, start_response)

    async with serving(wait, health_path="/healthz", threads=1, queue_size=0) as served, await served.connect() as one:
        await one.send_all(request())
        with trio.fail_after(10):
            await busy.wait()
        assert read_answer(await served.exchange(request("GET", "/healthz"))).status == 200
        done.set()
        with trio.fail_after(10):
            assert read_answer(await receive_all(one)).status == 200


async def test_health_while_draining() -> None:
    """What was under way when the drain began is told so; those who come now are refused, which says as much."""
    async with serving(tell, health_path="/healthz") as served, await served.connect() as stream:
        with trio.fail_after(10):
            await stream.send_all(b"GET /healthz HT")  # a connection with a request under way is not idle
            await until(lambda: any(each.state.value != "idle" for each in served.server.statistics().connections))
            served.server.drain()
            await stream.send_all(b"TP/1.1\r\nHost: x\r\n\r\n")
            answer = read_answer(await receive_all(stream))
        assert (answer.status, answer.body, answer.closes) == (503, b"draining\n", True)
        with trio.fail_after(10):
            while True:
                try:
                    await (await trio.open_tcp_stream(served.host, served.port)).aclose()
                except OSError:
                    break
                await trio.sleep(0.005)


async def test_health_checks_do_not_fill_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trio_wsgi.access")
    async with serving(tell, health_path="/healthz", access_logformat="%(U)s") as served:
        await served.exchange(request("GET", "/healthz"))
        await served.exchange(request("GET", "/x"))
        await served.record(2)
    said = [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "trio_wsgi.access"]
    assert said == [(logging.DEBUG, "/healthz"), (logging.INFO, "/x")]
