"""Behind real nginx and real HAProxy, set up as docs/proxies.md says (issue 5, "Behind proxies").

The URL that an application makes has to be the one that the client asked for, its client the one that sat there, and no
client can say otherwise.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from downloads import MIB, make_file
from realproxies import RealProxy, haproxy_checks, open_haproxy, open_nginx
from serving import Command, command
from waiting import wait_until

TESTS = Path(__file__).parent.parent
DOCS = TESTS.parent / "docs" / "proxies.md"
SOURCE = "127.0.0.2"  # of clients: 127.0.0.1 is a proxy of ours by default
SPOOFED = {
    "X-Forwarded-For": "127.0.0.1",
    "X-Forwarded-Proto": "gopher",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "1",
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": "for=127.0.0.1;proto=https",
}


@dataclass
class Servers:
    """Two servers: one for HTTP proxies, at TCP and at a unix socket, one for those that send a PROXY header."""

    http: Command
    proxied: Command
    unix: Path
    data: bytes


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    data = make_file(folder / "data", 8 * MIB + 12345)
    common = ["proxiedapp:app", "--pythonpath", str(TESTS), "--health-path", "/healthz"]
    unix = folder / "web.sock"
    with (
        command(*common, "--bind=127.0.0.1:0", f"--bind=unix:{unix}", PROXIED_FILE=str(folder / "data")) as http,
        command(*common, "--bind=127.0.0.1:0", "--proxy-protocol", PROXIED_FILE=str(folder / "data")) as proxied,
    ):
        yield Servers(http, proxied, unix, data)


def ask(
    port: int,
    path: str = "/",
    headers: dict[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    source: str = "",
) -> dict[str, str]:
    """What the application was told of one request, from the address `source`."""
    place: Any = (source, 0) if source else None
    connection = (
        http.client.HTTPConnection("127.0.0.1", port, 60, place)
        if tls is None
        else http.client.HTTPSConnection("localhost", port, timeout=60, source_address=place, context=tls)
    )
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        told: dict[str, str] = json.loads(body)
        return told
    finally:
        connection.close()


def download(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/file")
        response = connection.getresponse()
        digest = hashlib.sha256()
        while piece := response.read(65536):
            digest.update(piece)
        return digest.hexdigest()
    finally:
        connection.close()


def upload(port: int, data: bytes) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/", data)
        told: dict[str, str] = json.loads(connection.getresponse().read())
        return told["sha256"]
    finally:
        connection.close()


# -- nginx -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nginx(servers: Servers, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealProxy]:
    """Ports: the documented configuration over TCP; over the unix socket; with TLS; with a prefix."""
    folder = tmp_path_factory.mktemp("nginx")
    pem = authority.issue("localhost")
    (documented,) = re.findall(r"```nginx\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert "server 127.0.0.1:8000;" in documented
    assert "listen 80;" in documented
    settings = re.sub(r"proxy_pass [^;]*;", "", re.findall(r"location / \{(.*?)\}", documented, re.DOTALL)[0])
    host, _, port = servers.http.url.removeprefix("http://").rpartition(":")

    def configure(ports: list[int]) -> str:
        tcp = documented.replace("server 127.0.0.1:8000;", f"server {host}:{port};")
        unix = documented.replace("server 127.0.0.1:8000;", f"server unix:{servers.unix};").replace("app", "local")
        return f"""
            {tcp.replace("listen 80;", f"listen 127.0.0.1:{ports[0]};")}
            {unix.replace("listen 80;", f"listen 127.0.0.1:{ports[1]};")}
            server {{
                listen 127.0.0.1:{ports[2]} ssl; ssl_certificate {pem}; ssl_certificate_key {pem};
                location / {{ proxy_pass http://app; {settings} }}
            }}
            server {{
                listen 127.0.0.1:{ports[3]};
                location /shop/ {{
                    proxy_pass http://app/;
                    {settings.replace('X-Forwarded-Prefix "";', "X-Forwarded-Prefix /shop;")}
                }}
            }}
        """

    with open_nginx(folder, configure, 4) as proxy:
        yield proxy


@pytest.mark.parametrize("upstream", ["tcp", "unix"])
def test_nginx_tells_its_client(nginx: RealProxy, upstream: str) -> None:
    port = nginx.ports[("tcp", "unix").index(upstream)]
    told = ask(port, "/a%20b?c=d", source=SOURCE)
    assert told["url"] == f"http://127.0.0.1:{port}/a%20b?c=d"
    assert told["REMOTE_ADDR"] == SOURCE
    assert told["SERVER_PORT"] == str(port)
    assert (told["trio_wsgi.peer"] == "unix") == (upstream == "unix")


@pytest.mark.parametrize("upstream", ["tcp", "unix"])
def test_no_client_of_nginx_can_pretend(nginx: RealProxy, upstream: str) -> None:
    """What it sends of its own is cleared by the documented configuration, or stands left of what nginx saw."""
    port = nginx.ports[("tcp", "unix").index(upstream)]
    told = ask(port, "/x", SPOOFED, source=SOURCE)
    assert told["REMOTE_ADDR"] == SOURCE
    assert told["url"] == f"http://127.0.0.1:{port}/x"
    assert told["SCRIPT_NAME"] == ""


def test_nginx_with_tls(nginx: RealProxy, authority: Authority) -> None:
    told = ask(nginx.ports[2], "/x", tls=authority.client_context())
    assert told["url"] == f"https://localhost:{nginx.ports[2]}/x"
    assert told["HTTPS"] == "on"


def test_nginx_beneath_a_path(nginx: RealProxy) -> None:
    told = ask(nginx.ports[3], "/shop/cart?x=1")
    assert (told["SCRIPT_NAME"], told["PATH_INFO"]) == ("/shop", "/cart")
    assert told["url"] == f"http://127.0.0.1:{nginx.ports[3]}/shop/cart?x=1"


@pytest.mark.parametrize("upstream", ["tcp", "unix"])
def test_large_bodies_through_nginx(nginx: RealProxy, servers: Servers, upstream: str) -> None:
    port = nginx.ports[("tcp", "unix").index(upstream)]
    digest = hashlib.sha256(servers.data).hexdigest()
    assert download(port) == digest
    assert upload(port, servers.data) == digest


def test_nginx_keeps_its_connections(nginx: RealProxy) -> None:
    """`keepalive` in the upstream: its clients come and go, the connection to us stays."""
    peers = {ask(nginx.ports[0])["trio_wsgi.peer"] for _ in range(20)}
    assert len(peers) < 5


# -- HAProxy -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def haproxy(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealProxy]:
    """Ports: `mode http` with headers; `mode tcp` with a PROXY header, version 1 and version 2."""
    folder = tmp_path_factory.mktemp("haproxy")
    path = folder / "stats"
    plain, proxied = (server.url.removeprefix("http://") for server in (servers.http, servers.proxied))

    def configure(ports: list[int]) -> str:
        check = "check inter 100ms"
        return f"""
global
    stats socket unix@{path} level admin
defaults
    timeout connect 30s
    timeout check 30s
    timeout client 60s
    timeout server 60s
    option httpchk GET /healthz
    http-check expect string ready
listen headers
    mode http
    bind 127.0.0.1:{ports[0]}
    option forwardfor
    http-request set-header X-Forwarded-Proto http
    http-request del-header X-Forwarded-Host
    http-request del-header X-Forwarded-Port
    http-request del-header X-Forwarded-Prefix
    http-request del-header Forwarded
    server one {plain} {check}
listen v1
    mode tcp
    bind 127.0.0.1:{ports[1]}
    server one {proxied} send-proxy check-send-proxy {check}
listen v2
    mode tcp
    bind 127.0.0.1:{ports[2]}
    server one {proxied} send-proxy-v2 check-send-proxy {check}
listen v2ssl
    mode http
    bind 127.0.0.1:{ports[3]}
    server one {proxied} send-proxy-v2-ssl-cn proxy-v2-options unique-id,crc32c check-send-proxy {check}
"""

    with open_haproxy(folder, configure, 4) as proxy:
        names = [f"{name}/one" for name in ("headers", "v1", "v2", "v2ssl")]

        def checked() -> bool:
            found = haproxy_checks(path)
            return all(found.get(name) == "L7OK" for name in names)

        wait_until(checked, "all servers pass HAProxy's check of --health-path")
        yield proxy


@pytest.mark.parametrize("headers", [{}, SPOOFED], ids=["honest", "spoofed"])
def test_haproxy_tells_its_client(haproxy: RealProxy, headers: dict[str, str]) -> None:
    told = ask(haproxy.ports[0], "/x", headers, source=SOURCE)
    assert told["REMOTE_ADDR"] == SOURCE
    assert told["url"] == f"http://127.0.0.1:{haproxy.ports[0]}/x"


@pytest.mark.parametrize("headers", [{}, SPOOFED], ids=["honest", "spoofed"])
@pytest.mark.parametrize("way", ["v1", "v2", "v2 with extensions"])
def test_the_proxy_protocol(haproxy: RealProxy, way: str, headers: dict[str, str]) -> None:
    port = haproxy.ports[1 + ("v1", "v2", "v2 with extensions").index(way)]
    told = ask(port, "/x", headers, source=SOURCE)
    assert told["REMOTE_ADDR"] == SOURCE
    assert (told["PROXY_PROTOCOL"], told["PROXY_ADDR"], told["PROXY_PORT"]) == ("TCP4", "127.0.0.1", str(port))
    assert told["url"] == f"http://127.0.0.1:{port}/x"
    assert not [key for key in told if "FORWARDED" in key]


@pytest.mark.parametrize("number", range(3))
def test_large_bodies_through_haproxy(haproxy: RealProxy, servers: Servers, number: int) -> None:
    digest = hashlib.sha256(servers.data).hexdigest()
    assert download(haproxy.ports[number]) == digest
    assert upload(haproxy.ports[number], servers.data) == digest


def test_checks_are_no_noise(haproxy: RealProxy, servers: Servers) -> None:
    """HAProxy has checked both servers since they were up, with and without a PROXY header: no line of it anywhere."""
    assert "healthz" not in servers.http.log + servers.proxied.log
    assert "PROXY header" not in servers.proxied.log
