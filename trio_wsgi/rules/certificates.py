"""What certificates say: the names one is for, and who a client is.

Laws:

* A certificate is read as far as its names (RFC 5280 §4.1); whether it is to be trusted is OpenSSL's matter.
* Names are its dNSNames and nothing else: a common name is not one (RFC 9525 §2). A wildcard stands for exactly one
  label, the left-most (§6.3).
* The variables are Apache's mod_ssl's, as far as they go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from trio_wsgi.rules.environ import wsgi_str

T = TypeVar("T")

_SEQUENCE, _OCTETS, _OID = 0x30, 0x04, 0x06
_EXTENSIONS = 0xA3  # [3] of a TBSCertificate
_DNS_NAME = 0x82  # [2] of a GeneralName
_SUBJECT_ALT_NAME = b"\x55\x1d\x11"  # 2.5.29.17

_SHORT = {  # RFC 4514 §3, and what OpenSSL calls the others
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}

Name = Sequence[Sequence[tuple[str, str]]]  # as `ssl.SSLSocket.getpeercert` has it


class Session(NamedTuple):
    """What a TLS handshake has settled.

    Args:
        protocol: such as "TLSv1.3".
        cipher: its name.
        key_bits: of the cipher.
        asked_name: the server name that the client asked for (SNI); None without one.
        certificate: the client's, verified, as `ssl.SSLSocket.getpeercert` has it; None without one.
        pem: the same as text.
    """

    protocol: str
    cipher: str
    key_bits: int
    asked_name: str | None = None
    certificate: Mapping[str, Any] | None = None
    pem: str = ""


def parse_dns_names(der: bytes) -> tuple[str, ...]:
    """The names that a certificate is for, in lower case; wildcards among them.

    Args:
        der: the certificate.

    Raises:
        ValueError: that is no certificate.

    Spec: RFC 5280 §4.2.1.6; X.690 §8.1.
    """
    (_, certificate), *_ = _read(der)
    (_, signed), *_ = _read(certificate)
    names: list[str] = []
    for tag, extensions in _read(signed):
        if tag == _EXTENSIONS:
            for _, extension in _read(next(_read(extensions))[1]):
                (kind, oid), *rest = _read(extension)
                if kind == _OID and oid == _SUBJECT_ALT_NAME and rest and rest[-1][0] == _OCTETS:
                    general_names = next(_read(rest[-1][1]))[1]
                    names += [name.decode("ascii").lower() for tag, name in _read(general_names) if tag == _DNS_NAME]
    return tuple(names)


def _read(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The values that stand there one after the other, each with its tag."""
    at = 0
    while at < len(der) or not at:
        if len(der) - at < 2:
            raise ValueError("the certificate ends too early")
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:
            more = length & 0x7F
            length = int.from_bytes(der[at : at + more], "big")
            at += more
        if at + length > len(der):
            raise ValueError("the certificate ends too early")
        yield tag, der[at : at + length]
        at += length


def find_named(table: Mapping[str, T], asked: str | None) -> T | None:
    """What a name, or a wildcard that stands for it, has in the table.

    Args:
        table: by names in lower case.
        asked: the server name that the client asked for; None without one.
    """
    if not asked:
        return None
    name = asked.lower().rstrip(".")
    found = table.get(name)
    return table.get("*." + name.partition(".")[2]) if found is None else found


def build_variables(session: Session) -> dict[str, str]:
    """The environ's variables of a TLS connection, the same for all of its requests."""
    variables = {
        "SSL_PROTOCOL": session.protocol,
        "SSL_CIPHER": session.cipher,
        "SSL_CIPHER_USEKEYSIZE": str(session.key_bits),
        "SSL_CLIENT_VERIFY": "NONE",
    }
    if session.asked_name:
        variables["SSL_TLS_SNI"] = variables["SSL_SERVER_NAME"] = wsgi_str(session.asked_name)
    if session.certificate:
        variables |= _describe_client(session.certificate, session.pem)
    return variables


def _describe_client(certificate: Mapping[str, Any], pem: str) -> dict[str, str]:
    subject = certificate.get("subject", ())
    common = [value for relative in subject for kind, value in relative if kind == "commonName"]
    described = {
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_CERT": pem,
        "SSL_CLIENT_S_DN": wsgi_str(format_name(subject)),
        "SSL_CLIENT_I_DN": wsgi_str(format_name(certificate.get("issuer", ()))),
        "SSL_CLIENT_M_SERIAL": certificate.get("serialNumber", ""),
        "SSL_CLIENT_V_START": certificate.get("notBefore", ""),
        "SSL_CLIENT_V_END": certificate.get("notAfter", ""),
    }
    if common:
        described["SSL_CLIENT_S_DN_CN"] = wsgi_str(common[0])
    return described


def format_name(name: Name) -> str:
    """A distinguished name as text, the most special part first (RFC 4514)."""
    return ",".join(
        "+".join(f"{_SHORT.get(kind, kind)}={_escape(value)}" for kind, value in relative)
        for relative in reversed(name)
    )


def _escape(value: str) -> str:
    """RFC 4514 §2.4."""
    escaped = "".join("\\" + char if char in '"+,;<>\\' else char for char in value).replace("\0", "\\00")
    if escaped[:1] in {"#", " "}:
        escaped = "\\" + escaped
    if value[1:].endswith(" "):
        escaped = escaped[:-1] + "\\ "
    return escaped
