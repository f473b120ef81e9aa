"""What is told of certificates, keys and ciphers that cannot be used: the file that is meant, and what to do."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest
import trustme
from authority import Authority
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from trio_wsgi import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.net.certificates import load_certificates

HINT = "(the server's own comes before its chain; name each key in the order of certfile)"


def told(cert: Path, key: Path, **settings: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_certificates(Config(certfile=(str(cert),), keyfile=(str(key),), **settings))  # type: ignore[arg-type]
    return str(caught.value)


def issue(authority: Authority, folder: Path, kind: trustme.KeyType = trustme.KeyType.ECDSA) -> tuple[Path, Path]:
    """A certificate with its chain, and its key."""
    cert, key = folder / f"{kind.name}.pem", folder / f"{kind.name}.key"
    issued = authority.ca.create_child_ca().issue_cert("a.test", key_type=kind)
    cert.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    return cert, key


def test_a_key_of_another_kind_and_a_chain_in_the_wrong_order(authority: Authority, tmp_path: Path) -> None:
    """Both are a key that is not the first certificate's."""
    cert, key = issue(authority, tmp_path)
    other, other_key = issue(authority, tmp_path, trustme.KeyType.RSA)
    assert told(cert, other_key) == (
        f"keyfile: the key in '{other_key}' is not that of the first certificate in '{cert}' {HINT}"
    )
    for each, its_key in ((cert, key), (other, other_key)):
        first, *chain = re.findall("-----BEGIN.*?END CERTIFICATE-----\n", each.read_text(), re.DOTALL)
        turned = tmp_path / "turned.pem"
        turned.write_text("".join([*chain, first]))
        assert told(turned, its_key).startswith(f"keyfile: the key in '{its_key}' is not that of the first certificate")


def test_what_is_damaged_is_the_file_that_is_named(authority: Authority, tmp_path: Path) -> None:
    cert, key = issue(authority, tmp_path)
    text, key_text = cert.read_text(), key.read_text()
    bad, bad_key = tmp_path / "bad.pem", tmp_path / "bad.key"
    for damaged in (key_text[:100], key_text.replace("M", "!", 1), re.sub("(?m)^M.*\n", "", key_text, count=1)):
        bad_key.write_text(damaged)
        assert told(cert, bad_key) == (
            f"keyfile: the key in '{bad_key}' is cut off or damaged (have it copied or made anew)"
        )
    bad.write_text(text.replace("MII", "MIX", 1))
    assert told(bad, key) == f"certfile: '{bad}' is cut off or damaged (have it copied or made anew)"


def test_a_name_that_is_not_ascii(authority: Authority, tmp_path: Path) -> None:
    """RFC 5280 §4.2.1.6: a dNSName is; nobody could ask for it."""
    ca, signer = authority.signer()
    key = ec.generate_private_key(ec.SECP256R1())
    name = b"b\xc3\xbccher.example"
    extension = x509.UnrecognizedExtension(
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME, bytes([0x30, len(name) + 2, 0x82, len(name), *name])
    )
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder(ca.subject, ca.subject, key.public_key(), 1, now, now + datetime.timedelta(1))
        .add_extension(extension, critical=False)
        .sign(signer, hashes.SHA256())
    )
    cert, key_file = tmp_path / "cert.pem", tmp_path / "cert.key"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    cert.write_bytes(built.public_bytes(form[0]))
    key_file.write_bytes(key.private_bytes(*form))
    assert told(cert, key_file) == (
        f"certfile: '{cert}' is for 'bücher.example', and clients ask in ASCII "
        "(have one made for that name as it is in the DNS, xn--...)"
    )


def test_ciphers_of_another_version(authority: Authority, tmp_path: Path) -> None:
    """Those of TLS 1.3 are not in OpenSSL's lists (SSL_CTX_set_cipher_list(3))."""
    assert told(*issue(authority, tmp_path), ciphers="TLS_AES_128_GCM_SHA256") == (
        "ciphers: 'TLS_AES_128_GCM_SHA256' is of TLS 1.3, whose ciphers OpenSSL chooses (name those for TLS 1.2)"
    )
