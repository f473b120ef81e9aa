"""Names that break the rules, from clients: in their certificates, and as the server name that they ask for."""

from __future__ import annotations

import datetime
import logging
import socket
from pathlib import Path

import pytest
import trio
from asking import PLAIN, Environ, StartResponse, error_lines
from authority import Authority, ByHand, connect_tls, shared_authority
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID
from serving import command, receive_to_end, serving

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# RFC 5280 §4.2.1: each names something in bytes that are neither ASCII nor UTF-8
MAIL = (ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x06\x81\x04\xff\xfe@b")
HOST = (ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x06\x82\x04\xfcber")
POINT = (ExtensionOID.CRL_DISTRIBUTION_POINTS, b"\x30\x0e\x30\x0c\xa0\x0a\xa0\x08\x86\x06http\xff/")
ALERT = b"\x15"  # RFC 8446 §5.1
APP = """
class Fails:
    def __del__(self):
        b"of the application's own \\xff".decode("ascii")

def app(environ, start_response):
    Fails()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return []
"""
ASKED = ("VERIFY", "S_DN", "I_DN", "S_DN_CN", "M_SERIAL", "V_START", "V_END")


def issue(authority: Authority, oid: x509.ObjectIdentifier, value: bytes) -> str:
    """A file with the certificate of Jürgen, which has this extension, and its key."""
    ca, signer = authority.signer()
    key = ec.generate_private_key(ec.SECP256R1())
    parts = {NameOID.ORGANIZATION_NAME: "A, B", NameOID.COMMON_NAME: "Jürgen"}
    name = x509.Name([x509.NameAttribute(kind, text) for kind, text in parts.items()])
    built = (
        x509.CertificateBuilder(ca.subject, name, key.public_key(), 0xABC)
        .not_valid_before(datetime.datetime(2020, 1, 2))
        .not_valid_after(datetime.datetime(2999, 12, 31, 23, 59, 58))
        .add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        .sign(signer, hashes.SHA256())
    )
    path = authority.file(f"{len(list(authority.folder.iterdir()))}.pem")
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(built.public_bytes(form[0]) + key.private_bytes(*form))
    return str(path)


@pytest.mark.parametrize(("oid", "value"), [MAIL, HOST, POINT], ids=["mail", "host", "point"])
async def test_a_client_whose_certificate_has_an_extension_that_is_no_text(
    oid: x509.ObjectIdentifier, value: bytes, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """It is verified, and so it is served, and described by what can be read."""

    def who(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", PLAIN)
        return ["|".join(environ[f"SSL_CLIENT_{key}"] for key in ASKED).encode("latin-1")]

    settings = {"certfile": (shared_authority()[1],), "ca_certs": authority.ca_certs, "cert_reqs": "required"}
    async with serving(who, **settings) as served:
        context = shared_authority()[0].client_context(issue(authority, oid, value))
        async with await connect_tls(served.port, context) as stream:
            await stream.send_all(GET)
            said = (await stream.receive_some()).partition(b"\r\n\r\n")[2].decode().split("|")
    issuer = said.pop(2)
    assert said == [
        "SUCCESS", "CN=Jürgen,O=A\\, B", "Jürgen", "0ABC", "Jan  2 00:00:00 2020 GMT", "Dec 31 23:59:58 2999 GMT"
    ]  # fmt: skip
    assert "O=trustme" in issuer
    assert error_lines(caplog, logging.INFO)[1:] == []


# -- the server name ---------------------------------------------------------------------------------------------------


def hello(asked: bytes) -> bytes:
    """The beginning of a handshake with a server name as it should not be."""
    stands = "z" * len(asked)
    return ByHand(stands).begin().replace(stands.encode(), asked)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # inside a program the hook is its own
async def test_a_server_name_that_is_not_ascii_ends_its_handshake_with_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """RFC 6066 §3: a server name is ASCII. Anybody can send another, so it is worth no more than DEBUG."""
    caplog.set_level(logging.DEBUG, "trio_wsgi.error")

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        raise AssertionError

    async with serving(app, certfile=(shared_authority()[1],)) as served:
        async with await served.connect() as stream:
            await stream.send_all(hello(b"b\xc3\xbccher.example"))
            with trio.fail_after(10):
                await receive_to_end(stream)
        await served.wait_connections(0)
    assert [line.partition(": ")[2] for line in error_lines(caplog, logging.DEBUG) if "no TLS" in line] == [
        "no TLS: in the handshake: the server name that it asks for is not ASCII"
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_command_prints_no_traceback_for_a_server_name(workers: int, tmp_path: Path) -> None:
    """Nor does it hide anything else that Python cannot raise."""
    (tmp_path / "odd_app.py").write_text(APP)
    arguments = ("odd_app:app", "-b", "127.0.0.1:0", "--certfile", shared_authority()[1])
    with command(*arguments, cwd=tmp_path, workers=workers) as running:
        for asked in (b"b\xc3\xbccher.example", b"\xff"):
            with socket.create_connection(("127.0.0.1", running.port), 10) as sock:
                sock.settimeout(10)
                sock.sendall(hello(asked))
                assert sock.recv(1000)[:1] == ALERT
        context = shared_authority()[0].client_context()
        with socket.create_connection(("127.0.0.1", running.port), 10) as sock:
            sock.settimeout(10)
            with context.wrap_socket(sock, server_hostname="localhost") as stream:
                stream.sendall(GET)
                assert stream.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert running.log.count("Traceback") == running.log.count("of the application's own") == 1, running.log
