"""A proxy that nobody has named is found in the log: what it says of its clients is dropped, and that is said once."""

from __future__ import annotations

import logging

import pytest
from asking import request, tell
from serving import Served, serving

from trio_wsgi.net.unbelieved import TOLD_MAX, Unbelieved

STRANGER = {"forwarded_allow_ips": ("10.0.0.0/8", "::1")}  # 127.0.0.1 is one then
PROTO = "X-Forwarded-Proto: https"


@pytest.fixture(autouse=True)
def informed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_wsgi.error")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of headers that were dropped."""
    return [record.getMessage() for record in caplog.records if "which is dropped" in record.getMessage()]


async def ask(served: Served, *lines: str, target: str = "/") -> None:
    assert (await served.exchange(request("GET", target, *lines))).startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("line", [PROTO, "Forwarded: proto=https", "x-forwarded-ssl: on"])
async def test_who_is_not_named_is_told_of_once_with_the_fix(line: str, caplog: pytest.LogCaptureFixture) -> None:
    """It names the header, the peer, the setting with its value, and what to write."""
    async with serving(tell, **STRANGER) as served:
        await ask(served)
        assert told(caplog) == []
        for _ in range(3):
            await ask(served, line)
    (said,) = told(caplog)
    assert said.startswith(f"127.0.0.1 sends {line.partition(':')[0].title()}, which is dropped")
    assert "forwarded_allow_ips does not name it (10.0.0.0/8, ::1)" in said
    assert "add --forwarded-allow-ips 127.0.0.1" in said


@pytest.mark.parametrize("allowed", ["127.0.0.1", "*"])
async def test_a_proxy_of_ours_is_not_told_of(allowed: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tell, forwarded_allow_ips=(allowed,)) as served:
        await ask(served, PROTO)
    assert told(caplog) == []


async def test_health_checks_and_other_headers_are_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """What a load balancer asks of the server itself concerns no application; other headers say nothing of clients."""
    async with serving(tell, health_path="/health", **STRANGER) as served:
        await ask(served, PROTO, target="/health")
        await ask(served, "X-Real-IP: 192.0.2.1", "X_Forwarded_For: 192.0.2.1", "Proxy: x", "Content-Length: 0")
    assert told(caplog) == []


async def test_a_client_behind_the_proxy_protocol_is_not_proposed_as_a_proxy(caplog: pytest.LogCaptureFixture) -> None:
    """To trust it would be to believe whatever it sends."""
    async with serving(tell, proxy_protocol=True) as served:
        header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n"
        assert (await served.exchange(header + request("GET", "/", PROTO))).startswith(b"HTTP/1.1 200")
    assert told(caplog) == []


def test_strangers_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Nor the memory: whoever has many addresses is told of by a few."""
    unbelieved = Unbelieved(())
    for number in range(100):
        for _ in range(2):
            unbelieved.note((f"192.0.2.{number}", 1), b"x-forwarded-for")
    assert len(told(caplog)) == TOLD_MAX
    assert "does not name it (nobody)" in told(caplog)[0]
