"""HTTPS with real clients: curl, openssl s_client, httpx; certificates by name, and those of clients (issue 5)."""

from __future__ import annotations

import logging
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from asking import KEPT, PLAIN, Environ, StartResponse
from authority import Authority, connect_tls, open_authority, shared_authority
from riding import receive
from serving import Served, serving
from tools import require_tool

import trio_wsgi
from trio_wsgi import Config, Server
from trio_wsgi.errors import ConfigError

LARGE = bytes(range(256)) * 20_000
KEEP, FILE = (b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path for path in (b"/", b"/file"))
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "large"
    path.write_bytes(LARGE)
    return path


@pytest.fixture
async def served(large: Path) -> AsyncIterator[Served]:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        match environ["PATH_INFO"]:
            case "/file":
                start_response("200 OK", [("Content-Type", "application/octet-stream")])
                return environ["wsgi.file_wrapper"](large.open("rb"))
            case "/blocks":
                start_response("200 OK", [])
                return (LARGE[at : at + 70_000] for at in range(0, len(LARGE), 70_000))
            case "/echo":
                body = environ["wsgi.input"].read()
                start_response("200 OK", [("Content-Length", str(len(body)))])
                return [body]
        start_response("200 OK", PLAIN)
        shown = ["wsgi.url_scheme", "HTTPS", "SERVER_PORT", *sorted(key for key in environ if key.startswith("SSL_"))]
        return ["".join(f"{key}={environ[key]}\n" for key in shown).encode()]

    async with serving(app, certfile=(shared_authority()[1],), threads=2) as running:
        yield running


async def run(*command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(30):
        return await trio.run_process(
            [require_tool(command[0]), *command[1:]], stdin=stdin, capture_stdout=True, capture_stderr=True, check=False
        )


async def curl(served: Served, path: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    url = f"https://localhost:{served.port}{path}"
    ca_certs = shared_authority()[0].ca_certs
    return await run("curl", "-sS", "--max-time", "20", "--cacert", ca_certs, *options, url)


# -- curl --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_curl(version: str, served: Served, large: Path) -> None:
    options = ("--tls-max", version, f"--tlsv{version}")
    said = await curl(served, "/", *options)
    assert said.returncode == 0, said.stderr
    variables = dict(line.split("=") for line in said.stdout.decode().splitlines())
    assert variables["wsgi.url_scheme"] == "https"
    assert variables["HTTPS"] == "on"
    assert variables["SERVER_PORT"] == str(served.port)
    assert variables["SSL_PROTOCOL"] == f"TLSv{version}"
    assert variables["SSL_CLIENT_VERIFY"] == "NONE"
    assert variables["SSL_SERVER_NAME"] == variables["SSL_TLS_SNI"] == "localhost"
    assert (await curl(served, "/file", *options)).stdout == LARGE
    assert (await curl(served, "/file", *options, "-r", "1000000-1999999")).stdout == LARGE[1_000_000:2_000_000]
    assert (await curl(served, "/blocks", *options)).stdout == LARGE
    assert (await curl(served, "/echo", *options, "--data-binary", f"@{large}")).stdout == LARGE
    assert (await curl(served, "/echo", *options, "-H", "Expect: 100-continue", "-T", str(large))).stdout == LARGE


async def test_curl_says_plain_http_to_the_tls_port(served: Served) -> None:
    """As nginx has it: "The plain HTTP request was sent to HTTPS port"."""
    said = await run("curl", "-sS", "--max-time", "20", "-i", f"http://127.0.0.1:{served.port}/")
    assert said.stdout.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in said.stdout
    assert b"text/plain" in said.stdout
    assert b"use https://" in said.stdout
    assert (await served.record()).outcome.value == "refused"


async def test_curl_wants_http2_and_gets_http1(served: Served) -> None:
    """ALPN (RFC 7301) names the only protocol we speak."""
    said = await curl(served, "/", "--http2", "-o", "/dev/null", "-w", "%{http_version}")
    assert said.stdout == b"1.1"


# -- httpx -------------------------------------------------------------------------------------------------------------


async def test_httpx_keeps_its_connection(served: Served) -> None:
    async with httpx.AsyncClient(verify=shared_authority()[0].client_context(), timeout=20) as client:
        url = f"https://localhost:{served.port}"
        for _ in range(3):
            answer = await client.get(f"{url}/file")
            assert answer.content == LARGE
        answer = await client.post(f"{url}/echo", content=LARGE)
        assert answer.content == LARGE
    await served.record(4)
    assert len({record.peer_port for record in served.records}) == 1


# -- openssl s_client --------------------------------------------------------------------------------------------------


async def s_client(served: Served, *options: str, stdin: bytes = GET) -> str:
    """What it prints; -ign_eof has it wait for the answer after stdin has ended."""
    where = ("-connect", f"127.0.0.1:{served.port}", "-CAfile", shared_authority()[0].ca_certs)
    said = await run("openssl", "s_client", *where, *options, stdin=stdin)
    return (said.stdout + said.stderr).decode("utf-8", "replace")


async def test_what_is_negotiated(served: Served) -> None:
    said = await s_client(served, "-tls1_3", "-alpn", "h2,http/1.1", "-ign_eof")
    assert "Verify return code: 0 (ok)" in said
    assert "ALPN protocol: http/1.1" in said
    assert "Compression: NONE" in said
    assert "HTTP/1.1 200 OK" in said


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
async def test_old_versions_are_refused(version: str, served: Served) -> None:
    """RFC 8996."""
    said = await s_client(served, version, "-cipher", "DEFAULT@SECLEVEL=0")
    assert "HTTP/1.1 200" not in said
    assert "alert protocol version" in said


async def test_sessions_are_resumed(served: Served) -> None:
    said = await s_client(served, "-tls1_2", "-reconnect", stdin=b"")
    assert len(re.findall(r"^Reused, TLSv1.2", said, re.MULTILINE)) == 5


async def test_a_renegotiation_is_refused(served: Served) -> None:
    """CVE-2011-1473: it costs us ten times what it costs the client; TLS 1.3 has none (RFC 8446 §4.1.2)."""
    said = await s_client(served, "-tls1_2", stdin=b"R\n")
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said
    assert (await curl(served, "/")).returncode == 0


@pytest.mark.parametrize("asks", [b"K\n", b"k\n"])
async def test_new_keys_are_taken_and_given(asks: bytes, served: Served) -> None:
    """RFC 8446 §4.6.3: K has us change ours, too."""
    where = ("-connect", f"127.0.0.1:{served.port}", "-tls1_3", "-no_ign_eof", "-servername", "localhost")
    client = await trio.lowlevel.open_process(
        [require_tool("openssl"), "s_client", *where],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert client.stdin is not None and client.stdout is not None
    said = bytearray()
    try:
        with trio.fail_after(20):
            # A line of one letter is a command to s_client, where it is all that it reads at once.
            for line, answer in [
                (asks, b"KEYUPDATE"),
                (KEEP, b"TLSv1.3"),
                (FILE, LARGE),
                (asks, b"KEYUPDATE"),
                (GET, b"on"),
            ]:
                await client.stdin.send_all(line)
                already = len(said)
                while answer not in said[already:]:
                    data = await client.stdout.receive_some(1 << 20)
                    assert data, bytes(said[-1000:])
                    said += data
    finally:
        client.kill()
        await client.wait()
        await client.stdin.aclose()
        await client.stdout.aclose()
    assert said.count(b"HTTP/1.1 200 OK") == 3


# -- certificates by name ----------------------------------------------------------------------------------------------


async def shown_to(port: int, name: str | None, authority: Authority) -> tuple[str, ...]:
    """The names in the certificate that a client gets who asks for `name`."""
    context = authority.client_context()
    context.check_hostname = False
    stream = await connect_tls(port, context, name)  # type: ignore[arg-type]
    certificate = stream.getpeercert()
    await trio.aclose_forcefully(stream)
    return tuple(value for _, value in certificate["subjectAltName"])


def hello(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", PLAIN)
    return [environ.get("SSL_SERVER_NAME", "no name").encode()]


async def test_the_name_that_is_asked_for_chooses_the_certificate() -> None:
    with open_authority() as authority:
        split, key = authority.issue_split("*.b.test")
        certfile = (authority.issue("a.test", "www.a.test"), split, authority.issue("x.b.test"))
        keyfile = (certfile[0], key, certfile[2])
        async with serving(hello, certfile=certfile, keyfile=keyfile) as served:
            assert await shown_to(served.port, "www.a.test", authority) == ("a.test", "www.a.test")
            assert await shown_to(served.port, "Y.B.Test", authority) == ("*.b.test",)
            assert await shown_to(served.port, "x.b.test", authority) == ("x.b.test",)
            for other in ("z.y.b.test", "b.test", "unknown.test", None):
                assert await shown_to(served.port, other, authority) == ("a.test", "www.a.test")
            stream = await connect_tls(served.port, authority.client_context(), "y.b.test")
            await stream.send_all(GET)
            assert (await stream.receive_some()).endswith(b"y.b.test")
            await trio.aclose_forcefully(stream)


# -- certificates of clients -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authorities() -> Iterator[tuple[Authority, Authority]]:
    """Ours for clients, and somebody else's."""
    with open_authority() as ours, open_authority() as theirs:
        yield ours, theirs


def who(environ: Environ, start_response: StartResponse) -> list[bytes]:
    keys = ("SSL_CLIENT_VERIFY", "SSL_CLIENT_S_DN_CN", "SSL_CLIENT_M_SERIAL", "SSL_CLIENT_CERT", "SSL_CLIENT_S_DN")
    start_response("200 OK", PLAIN)
    return ["|".join(environ.get(key, "-") for key in keys).encode("latin-1")]


async def ask_as(served: Served, certfile: str | None) -> str:
    """What a client with this certificate is told; "refused" if it is not."""
    said = b""
    try:
        stream = await connect_tls(served.port, shared_authority()[0].client_context(certfile))
        try:
            for _ in range(2):  # on the same connection
                await stream.send_all(KEEP)
                said = await stream.receive_some()
        finally:
            await trio.aclose_forcefully(stream)
    except trio.BrokenResourceError:  # under TLS 1.3 only after the client's own handshake
        return "refused"
    return said.partition(b"\r\n\r\n")[2].decode("latin-1")


def der_of(certfile: str) -> bytes:
    """The certificate in a file that has its key first."""
    text = Path(certfile).read_text()
    begin, end = text.index("-----BEGIN CERTIFICATE"), "-----END CERTIFICATE-----\n"
    return ssl.PEM_cert_to_DER_cert(text[begin : text.index(end) + len(end)])


@pytest.mark.parametrize("cert_reqs", ["optional", "required"])
async def test_client_certificates(
    cert_reqs: str, authorities: tuple[Authority, Authority], caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = authorities
    anna, eve = ours.issue("anna.test", common_name="anna"), theirs.issue("eve.test", common_name="anna")
    settings = {"certfile": (shared_authority()[1],), "ca_certs": ours.ca_certs, "cert_reqs": cert_reqs}
    caplog.set_level(logging.INFO, "trio_wsgi.error")
    async with serving(who, **settings) as served:
        verified, name, serial, pem, subject = (await ask_as(served, anna)).split("|")
        assert ssl.PEM_cert_to_DER_cert(pem) == der_of(anna)
        assert (verified, name) == ("SUCCESS", "anna")
        assert subject.startswith("CN=anna")
        assert re.fullmatch("[0-9A-F]+", serial)
        caplog.clear()
        assert await ask_as(served, eve) == "refused"
        without = await ask_as(served, None)
        assert without == ("refused" if cert_reqs == "required" else "NONE|-|-|-|-")
        lines = [line for line in caplog.messages if "no TLS" in line]
        assert len(lines) == (2 if cert_reqs == "required" else 1)
        assert "certificate verify failed" in lines[0]
        assert "peer did not return a certificate" in lines[-1] or cert_reqs == "optional"


async def test_nobody_is_asked_for_a_certificate_by_default(served: Served, authorities: Any) -> None:
    stream = await connect_tls(served.port, shared_authority()[0].client_context(authorities[0].issue("anna.test")))
    await stream.send_all(GET)
    assert b"SSL_CLIENT_VERIFY=NONE" in await stream.receive_some()
    await trio.aclose_forcefully(stream)


# -- what is not configured well ---------------------------------------------------------------------------------------


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def encrypted(authority: Authority, folder: Path) -> str:
    """The key of a certificate, with a password."""
    _, key = authority.issue_split("a.test")
    out = str(folder / "encrypted.key")
    convert = ["openssl", "pkey", "-in", key, "-aes128", "-passout", "pass:secret", "-out", out]
    subprocess.run([require_tool(convert[0]), *convert[1:]], check=True)
    return out


def test_what_cannot_be_used_is_told_with_its_fix(tmp_path: Path) -> None:
    authority, good = shared_authority()
    cert, key = authority.issue_split("b.test")
    other, _ = authority.issue_split("c.test")
    nameless = authority.issue("127.0.0.1")
    empty, noise = write(tmp_path / "empty", ""), write(tmp_path / "noise", b"\0\xff" * 100)
    broken = write(tmp_path / "broken", Path(good).read_text().replace("M", "N"))
    for settings, expected in [
        ({"certfile": ("/none.pem",)}, "certfile: '/none.pem': No such file or directory (name a PEM file"),
        ({"certfile": (empty,)}, f"certfile: {empty!r} holds no certificate"),
        ({"certfile": (noise,)}, f"certfile: {noise!r} holds no certificate"),
        ({"certfile": (key,)}, f"certfile: {key!r} holds no certificate"),
        ({"certfile": (cert,)}, f"certfile: {cert!r} holds no private key (name its key with keyfile"),
        ({"certfile": (cert,), "keyfile": ("/none.key",)}, "keyfile: '/none.key': No such file or directory"),
        ({"certfile": (cert,), "keyfile": (empty,)}, f"keyfile: {empty!r} holds no private key"),
        (
            {"certfile": (other,), "keyfile": (key,)},
            f"keyfile: the key in {key!r} is not that of the first certificate in",
        ),
        ({"certfile": (cert,), "keyfile": (encrypted(authority, tmp_path),)}, "is encrypted (write it without:"),
        ({"certfile": (broken,)}, f"certfile: {broken!r}"),
        ({"certfile": (good, cert), "keyfile": (good,)}, "keyfile: 1 for 2 of certfile"),
        ({"certfile": (good, nameless)}, f"certfile: {nameless!r} names no host"),
        ({"keyfile": (key,)}, "keyfile: there is no certificate"),
        ({"cert_reqs": "required"}, "cert_reqs: there is no certificate"),
        ({"ca_certs": good}, "ca_certs: there is no certificate"),
        ({"tls_min": "1.3"}, "tls_min: there is no certificate"),
        ({"ciphers": "ECDHE+AESGCM"}, "ciphers: there is no certificate"),
        ({"certfile": (good,), "cert_reqs": "required"}, "cert_reqs: 'required' without ca_certs"),
        ({"certfile": (good,), "ca_certs": good}, "ca_certs: no client is asked for a certificate"),
        ({"certfile": (good,), "cert_reqs": "optional", "ca_certs": "/none"}, "ca_certs: '/none': No such file"),
        ({"certfile": (good,), "cert_reqs": "optional", "ca_certs": empty}, f"ca_certs: {empty!r}: "),
        ({"certfile": (good,), "ciphers": "NONSENSE"}, "ciphers: OpenSSL knows no cipher of 'NONSENSE'"),
    ]:
        with pytest.raises(ConfigError) as caught:
            Server(hello, Config(**settings))
        assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "options", "works"),
    [
        ({"tls_min": "1.3"}, ["--tls-max", "1.2"], False),
        ({"tls_min": "1.3"}, [], True),
        ({"ciphers": "ECDHE+AESGCM"}, ["--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256"], True),
        ({"ciphers": "ECDHE+AESGCM"}, ["--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-CHACHA20-POLY1305"], False),
    ],
)
async def test_versions_and_ciphers_can_be_chosen(settings: Any, options: list[str], works: bool) -> None:
    async with serving(hello, certfile=(shared_authority()[1],), **settings) as served:
        assert ((await curl(served, "/", *options)).returncode == 0) is works


async def test_a_client_that_broke_off_is_not_taken_for_another() -> None:
    """OpenSSL's errors are kept by thread, not by connection: cpython#148594, with Python 3.13 and OpenSSL 3.5."""
    async with serving(hello, certfile=(shared_authority()[1],)) as served:
        stays = await connect_tls(served.port)
        for _ in range(3):
            await trio.aclose_forcefully(await connect_tls(served.port))
            await served.wait_connections(1)
            await stays.send_all(KEPT)
            assert (await receive(stays, len("localhost"))).endswith(b"localhost")
        await trio.aclose_forcefully(stays)


# -- new certificates --------------------------------------------------------------------------------------------------


async def test_certificates_are_read_anew_while_we_serve() -> None:
    """What was begun goes on with the old ones; broken ones change nothing."""
    with open_authority() as authority:
        certfile = authority.issue("old.test")
        async with serving(hello, certfile=(certfile,)) as served:
            stream = await connect_tls(served.port, authority.client_context(), "old.test")
            shutil.copy(authority.issue("new.test"), certfile)
            assert await shown_to(served.port, "new.test", authority) == ("old.test",)
            await served.server.reload_certificates()
            assert await shown_to(served.port, "new.test", authority) == ("new.test",)
            await stream.send_all(GET)
            assert (await stream.receive_some()).endswith(b"old.test")
            await trio.aclose_forcefully(stream)
            write(Path(certfile), "nonsense")
            with pytest.raises(ConfigError, match="holds no certificate"):
                await served.server.reload_certificates()
            assert await shown_to(served.port, "new.test", authority) == ("new.test",)


async def test_without_tls_there_is_nothing_to_reload() -> None:
    async with serving(hello) as served:
        await served.server.reload_certificates()


# -- embedded, and on a unix socket ------------------------------------------------------------------------------------


async def test_embedded_on_a_unix_socket(tmp_path: Path) -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", PLAIN)
        return [f"{environ['wsgi.url_scheme']} {environ['SERVER_PORT']}".encode()]

    path = tmp_path / "socket"
    config = Config(bind=(f"unix:{path}",), certfile=(shared_authority()[1],))
    async with trio.open_nursery() as nursery:
        await nursery.start(trio_wsgi.serve, app, config)
        said = await run(
            "curl", "-sS", "--max-time", "20", "--unix-socket", str(path), "--cacert", shared_authority()[0].ca_certs,
            "https://localhost/",
        )  # fmt: skip
        assert said.stdout == b"https 443", said.stderr
        nursery.cancel_scope.cancel()
