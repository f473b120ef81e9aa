"""`ca_certs`: authorities, and what they have revoked."""

from __future__ import annotations

import datetime
import logging
import re
from pathlib import Path

import pytest
import trio
from asking import PLAIN, Environ, StartResponse, error_lines
from authority import Authority, connect_tls, shared_authority
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from serving import Served, serving

from trio_wsgi import Config, Server
from trio_wsgi.errors import ConfigError

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(1)


def hello(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", PLAIN)
    return [environ["SSL_CLIENT_VERIFY"].encode()]


def revoke(authority: Authority, *certfiles: str, lasts: datetime.timedelta = DAY) -> bytes:
    """The authority's list with these certificates on it."""
    ca, key = authority.signer()
    built = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(NOW - 2 * DAY)
        .next_update(NOW + lasts)
    )
    for certfile in certfiles:
        serial = x509.load_pem_x509_certificate(Path(certfile).read_bytes()).serial_number
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - DAY).build()
        built = built.add_revoked_certificate(revoked)
    return built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


async def ask_as(served: Served, certfile: str) -> str:
    """What a client with this certificate is told; "refused" if it is not."""
    try:
        stream = await connect_tls(served.port, shared_authority()[0].client_context(certfile))
        try:
            await stream.send_all(GET)
            return (await stream.receive_some()).partition(b"\r\n\r\n")[2].decode()
        finally:
            await trio.aclose_forcefully(stream)
    except trio.BrokenResourceError:  # under TLS 1.3 only after the client's own handshake
        return "refused"


def settings(ca_certs: Path) -> dict[str, object]:
    return {"certfile": (shared_authority()[1],), "ca_certs": str(ca_certs), "cert_reqs": "required"}


async def test_a_client_whose_certificate_was_revoked_is_refused(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 5280 §5; and from the moment that the file is read anew, also for who could resume a session."""
    caplog.set_level(logging.INFO, "trio_wsgi.error")
    anna, eve = authority.issue("anna.test"), authority.issue("eve.test")
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.ca.cert_pem.bytes() + revoke(authority, anna))
    async with serving(hello, **settings(file)) as served:
        assert await ask_as(served, eve) == "SUCCESS"
        assert await ask_as(served, anna) == "refused"
        file.write_bytes(authority.ca.cert_pem.bytes() + revoke(authority, eve))
        await served.server.reload_certificates()
        assert await ask_as(served, eve) == "refused"
        assert await ask_as(served, anna) == "SUCCESS"
    assert sum("certificate revoked" in line for line in error_lines(caplog, logging.INFO)) == 2


async def test_a_list_that_is_past_its_date_lets_nobody_in(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who withholds the next one must not have a client let in that it names."""
    caplog.set_level(logging.INFO, "trio_wsgi.error")
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.ca.cert_pem.bytes() + revoke(authority, lasts=-DAY))
    async with serving(hello, **settings(file)) as served:
        assert await ask_as(served, authority.issue("anna.test")) == "refused"
    assert "CRL has expired" in error_lines(caplog, logging.INFO)[-1]


def test_a_file_without_a_root_is_refused(authority: Authority, tmp_path: Path) -> None:
    """No chain would end in it: nobody could come in."""
    own, between = tmp_path / "own.pem", tmp_path / "between.pem"
    own.write_bytes(Path(authority.issue("anna.test")).read_bytes())
    between.write_bytes(authority.ca.create_child_ca().cert_pem.bytes())
    lists = tmp_path / "lists.pem"
    lists.write_bytes(revoke(authority))
    for file in (own, between, lists):
        with pytest.raises(ConfigError, match=f"ca_certs: {re.escape(repr(str(file)))} holds no certificate that has"):
            Server(hello, Config(**settings(file)))  # type: ignore[arg-type]


async def test_a_client_can_be_its_own_authority(tmp_path: Path) -> None:
    """Where each client's own certificate is named, without any authority over them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anna")])
    built = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - DAY, NOW + DAY).sign(key, hashes.SHA256())
    pem = built.public_bytes(serialization.Encoding.PEM)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    own, known = tmp_path / "own.pem", tmp_path / "known.pem"
    own.write_bytes(pem + key.private_bytes(*form))
    known.write_bytes(pem)
    async with serving(hello, **settings(known)) as served:
        assert await ask_as(served, str(own)) == "SUCCESS"
