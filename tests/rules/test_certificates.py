"""What certificates say: names, whom they are for, and the variables of mod_ssl (issue 5)."""

from __future__ import annotations

import contextlib
import ssl
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from trio_wsgi.rules.certificates import (
    Session,
    build_variables,
    find_named,
    format_name,
    parse_dns_names,
    parse_key_algorithm,
    parse_particulars,
)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def der_of(issued: trustme.LeafCert | trustme.CA) -> bytes:
    pem = issued.cert_pem if isinstance(issued, trustme.CA) else issued.cert_chain_pems[0]
    return ssl.PEM_cert_to_DER_cert(pem.bytes().decode())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["example.org"], ("example.org",)),
        (["Example.ORG", "*.Example.org"], ("example.org", "*.example.org")),
        (["127.0.0.1", "a.test", "::1", "who@a.test"], ("a.test",)),  # only dNSNames (RFC 5280 §4.2.1.6)
        (["127.0.0.1"], ()),
        (["bücher.example"], ("xn--bcher-kva.example",)),
        ([f"host{number}.example" for number in range(300)], tuple(f"host{number}.example" for number in range(300))),
    ],
    ids=["one", "case", "others", "address", "idna", "long"],
)
def test_names_of_a_certificate(names: list[str], expected: tuple[str, ...], ca: trustme.CA) -> None:
    assert parse_dns_names(der_of(ca.issue_cert(*names))) == expected


def test_a_common_name_is_no_name(ca: trustme.CA) -> None:
    """RFC 9525 §2."""
    assert parse_dns_names(der_of(ca.issue_cert("a.test", common_name="b.test"))) == ("a.test",)
    assert parse_dns_names(der_of(ca)) == ()


@pytest.mark.parametrize(
    ("kind", "oid"),  # RFC 3279 §2.3.1, RFC 5480 §2.1.1
    [(trustme.KeyType.RSA, "1.2.840.113549.1.1.1"), (trustme.KeyType.ECDSA, "1.2.840.10045.2.1")],
)
def test_the_algorithm_of_a_key(kind: trustme.KeyType, oid: str, ca: trustme.CA) -> None:
    assert parse_key_algorithm(der_of(ca.issue_cert("a.test", key_type=kind))) == oid


def test_particulars_are_as_python_reads_them(ca: trustme.CA) -> None:
    """Who a client is does not depend on which of the two could read its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca.cert_pem.bytes().decode())
    context.load_default_certs()
    ours = [parse_particulars(der) for der in context.get_ca_certs(binary_form=True)]
    theirs = [{key: certificate[key] for key in ours[0]} for certificate in context.get_ca_certs()]
    assert ours == theirs


@given(st.binary(max_size=200))
def test_what_is_no_certificate_is_told(der: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_dns_names(der), tuple)
    with contextlib.suppress(ValueError):
        assert parse_particulars(der)


@given(st.data())
def test_a_damaged_certificate_never_fails_otherwise(data: st.DataObject) -> None:
    der = bytearray(_DER)
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(der[: data.draw(st.integers(0, len(der)))])
    for parse in (parse_dns_names, parse_particulars, parse_key_algorithm):
        with contextlib.suppress(ValueError):
            parse(damaged)


_DER = der_of(trustme.CA().issue_cert("a.test", "b.test"))


TABLE = {"a.test": "a", "*.a.test": "below a", "b.a.test": "b", "*": "all", "*.test": "below test"}


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("a.test", "a"),
        ("A.Test", "a"),
        ("a.test.", "a"),
        ("b.a.test", "b"),  # the exact one before the wildcard
        ("c.a.test", "below a"),
        ("d.c.a.test", None),  # a wildcard is one label (RFC 9525 §6.3)
        ("x.test", "below test"),
        ("test", None),
        ("localhost", None),
        ("", None),
        (None, None),
    ],
)
def test_which_certificate_a_name_asks_for(asked: str | None, found: str | None) -> None:
    assert find_named(TABLE, asked) == found


@pytest.mark.parametrize(
    ("name", "text"),
    [  # RFC 4514 §4
        ([[("domainComponent", "net")], [("domainComponent", "example")], [("userId", "jsmith")]],
         "UID=jsmith,DC=example,DC=net"),
        ([[("organizationalUnitName", "Sales"), ("commonName", "J.  Smith")]], "OU=Sales+CN=J.  Smith"),
        ([[("commonName", 'James "Jim" Smith, III')]], 'CN=James \\"Jim\\" Smith\\, III'),
        ([[("commonName", "Before\rAfter")]], "CN=Before\rAfter"),
        ([[("commonName", "#1")], [("commonName", " x ")]], "CN=\\ x\\ ,CN=\\#1"),
        ([[("commonName", "a+b;c<d>e\\f\0")]], "CN=a\\+b\\;c\\<d\\>e\\\\f\\00"),
        ([[("emailAddress", "a@b")]], "emailAddress=a@b"),
        ([], ""),
    ],
)  # fmt: skip
def test_a_distinguished_name_as_text(name: Any, text: str) -> None:
    assert format_name(name) == text


def test_the_variables_of_a_connection_without_a_client_certificate() -> None:
    assert build_variables(Session("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, "a.test")) == {
        "SSL_PROTOCOL": "TLSv1.3",
        "SSL_CIPHER": "TLS_AES_256_GCM_SHA384",
        "SSL_CIPHER_USEKEYSIZE": "256",
        "SSL_CLIENT_VERIFY": "NONE",
        "SSL_TLS_SNI": "a.test",
        "SSL_SERVER_NAME": "a.test",
    }
    assert "SSL_TLS_SNI" not in build_variables(Session("TLSv1.2", "X", 128))


def test_of_a_client_that_nobody_can_describe_the_certificate_itself_is_told() -> None:
    """It is verified all the same."""
    shown = build_variables(Session("TLSv1.3", "X", 256, None, {}, "PEM"))
    assert {key: value for key, value in shown.items() if "CLIENT" in key} == {
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_CERT": "PEM",
    }


def test_the_variables_of_a_client_certificate() -> None:
    certificate = {
        "subject": ((("organizationName", "Müller"),), (("commonName", "anna"),)),
        "issuer": ((("commonName", "CA"),),),
        "serialNumber": "0A",
        "notBefore": "Jan  1 00:00:00 2020 GMT",
        "notAfter": "Jan  1 00:00:00 2040 GMT",
    }
    variables = build_variables(Session("TLSv1.3", "X", 256, None, certificate, "-----BEGIN..."))
    assert variables["SSL_CLIENT_VERIFY"] == "SUCCESS"
    assert variables["SSL_CLIENT_S_DN"].encode("latin-1").decode() == "CN=anna,O=Müller"  # PEP 3333: bytes as latin-1
    assert variables["SSL_CLIENT_S_DN_CN"] == "anna"
    assert variables["SSL_CLIENT_I_DN"] == "CN=CA"
    assert variables["SSL_CLIENT_M_SERIAL"] == "0A"
    assert variables["SSL_CLIENT_V_START"] == "Jan  1 00:00:00 2020 GMT"
    assert variables["SSL_CLIENT_V_END"] == "Jan  1 00:00:00 2040 GMT"
    assert variables["SSL_CLIENT_CERT"] == "-----BEGIN..."
    assert all(value.encode("latin-1") is not None for value in variables.values())
