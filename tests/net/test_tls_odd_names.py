"""Names that break the rules, from clients: in their certificates, and as the server name that they ask for."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator

import pytest
from asking import PLAIN, Environ, StartResponse, error_lines
from authority import Authority, connect_tls, open_authority, shared_authority
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID
from serving import serving

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# RFC 5280 §4.2.1: each names something in bytes that are neither ASCII nor UTF-8
MAIL = (ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x06\x81\x04\xff\xfe@b")
HOST = (ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x06\x82\x04\xfcber")
POINT = (ExtensionOID.CRL_DISTRIBUTION_POINTS, b"\x30\x0e\x30\x0c\xa0\x0a\xa0\x08\x86\x06http\xff/")
ASKED = ("VERIFY", "S_DN", "I_DN", "S_DN_CN", "M_SERIAL", "V_START", "V_END")


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    with open_authority() as opened:
        yield opened


def issue(authority: Authority, oid: x509.ObjectIdentifier, value: bytes) -> str:
    """A file with the certificate of Jürgen, which has this extension, and its key."""
    ca = x509.load_pem_x509_certificate(authority.ca.cert_pem.bytes())
    signer = serialization.load_pem_private_key(authority.ca.private_key_pem.bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
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
