"""What certificates say: the names one is for, and who a client is.

Laws:

* A certificate is read as far as its names and dates (RFC 5280 §4.1); whether it is to be trusted is OpenSSL's matter.
* Names are its dNSNames and nothing else: a common name is not one (RFC 9525 §2). A wildcard stands for exactly one
  label, the left-most (§6.3).
* The variables are Apache's mod_ssl's, as far as they go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from trio_wsgi.rules.dates import MONTHS
from trio_wsgi.rules.environ import wsgi_str

T = TypeVar("T")

_SEQUENCE, _OCTETS, _OID, _UTC_TIME = 0x30, 0x04, 0x06, 0x17
_VERSION, _EXTENSIONS = 0xA0, 0xA3  # [0] and [3] of a TBSCertificate
_DNS_NAME = 0x82  # [2] of a GeneralName
_SUBJECT_ALT_NAME = b"\x55\x1d\x11"  # 2.5.29.17

_CODINGS = {  # of the strings in names (X.680 §8.6), as OpenSSL takes them
    0x0C: "utf-8", 0x12: "latin-1", 0x13: "latin-1", 0x14: "latin-1", 0x16: "latin-1", 0x1A: "latin-1",
    0x1C: "utf-32-be", 0x1E: "utf-16-be",
}  # fmt: skip
_KINDS = {  # of what names consist of, by their OIDs, as OpenSSL calls them
    "0.9.2342.19200300.100.1.1": "userId", "0.9.2342.19200300.100.1.25": "domainComponent",
    "1.2.840.113549.1.9.1": "emailAddress", "2.5.4.3": "commonName", "2.5.4.4": "surname", "2.5.4.5": "serialNumber",
    "2.5.4.6": "countryName", "2.5.4.7": "localityName", "2.5.4.8": "stateOrProvinceName",
    "2.5.4.9": "streetAddress", "2.5.4.10": "organizationName", "2.5.4.11": "organizationalUnitName",
    "2.5.4.12": "title", "2.5.4.17": "postalCode", "2.5.4.42": "givenName", "2.5.4.43": "initials",
    "2.5.4.46": "dnQualifier", "2.5.4.65": "pseudonym", "2.5.4.97": "organizationIdentifier",
}  # fmt: skip
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
        certificate: what the client's says, verified, as `ssl.SSLSocket.getpeercert` has it; empty where nobody can
            read it, None without one.
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
    names: list[str] = []
    for tag, extensions in _read_signed(der):
        if tag == _EXTENSIONS:
            for _, extension in _read(next(_read(extensions))[1]):
                (kind, oid), *rest = _read(extension)
                if kind == _OID and oid == _SUBJECT_ALT_NAME and rest and rest[-1][0] == _OCTETS:
                    general_names = next(_read(rest[-1][1]))[1]
                    names += [name.decode("ascii").lower() for tag, name in _read(general_names) if tag == _DNS_NAME]
    return tuple(names)


def parse_particulars(der: bytes) -> dict[str, Any]:
    """Subject, issuer, serial number and dates of a certificate, as `ssl.SSLSocket.getpeercert` has them.

    That function looks at the extensions as well, and fails where one of them holds text that is not UTF-8.

    Args:
        der: the certificate.

    Raises:
        ValueError: that is no certificate, or a name in it is not what it says it is.

    Spec: RFC 5280 §4.1.2.
    """
    serial, _, issuer, validity, subject, *_ = _read_fields(der)
    begins, ends, *_ = [*_read(validity), (0, b"")]
    return {
        "subject": _parse_name(subject),
        "issuer": _parse_name(issuer),
        "serialNumber": _format_serial(int.from_bytes(serial, "big", signed=True)),
        "notBefore": _parse_time(*begins),
        "notAfter": _parse_time(*ends),
    }


def parse_key_algorithm(der: bytes) -> str:
    """The OID of the algorithm that a certificate's key is for, such as that of RSA or of elliptic curves.

    Args:
        der: the certificate.

    Raises:
        ValueError: that is no certificate.

    Spec: RFC 5280 §4.1.2.7.
    """
    _, algorithm = next(_read(_read_fields(der)[5]))
    return _parse_oid(next(_read(algorithm))[1])


def _read_fields(der: bytes) -> list[bytes]:
    """What every certificate has, in its order: from the serial number to the public key."""
    fields = [value for tag, value in _read_signed(der) if tag != _VERSION]
    if len(fields) < 6:
        raise ValueError("the certificate ends too early")
    return fields


def _parse_name(name: bytes) -> Name:
    return tuple(
        tuple(_parse_part(part) for _, part in _read(relative)) for _, relative in (_read(name) if name else ())
    )


def _parse_part(part: bytes) -> tuple[str, str]:
    (_, oid), (tag, value), *_ = [*_read(part), (0, b"")]
    dotted = _parse_oid(oid)
    if tag not in _CODINGS:
        raise ValueError(f"{dotted} in a name is no text")
    return _KINDS.get(dotted, dotted), value.decode(_CODINGS[tag])


def _parse_oid(oid: bytes) -> str:
    """X.690 §8.19."""
    numbers = [0]
    for byte in oid:
        numbers[-1] = numbers[-1] << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(0)
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:-1])))


def _format_serial(number: int) -> str:
    digits = f"{abs(number):X}"
    return "-" * (number < 0) + "0" * (len(digits) % 2) + digits


def _parse_time(tag: int, value: bytes) -> str:
    """RFC 5280 §4.1.2.5: with seconds, and in UTC."""
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    if len(text) != 15 or not (text[:14].isdecimal() and text.endswith("Z") and 1 <= int(text[4:6]) <= 12):
        raise ValueError(f"{text!r} is no time of a certificate")
    month = MONTHS[int(text[4:6]) - 1]
    return f"{month} {int(text[6:8]):2} {text[8:10]}:{text[10:12]}:{text[12:14]} {int(text[:4])} GMT"


def _read_signed(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a certificate that its issuer has signed."""
    (_, certificate), *_ = _read(der)
    (_, signed), *_ = _read(certificate)
    return _read(signed)


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
    if session.certificate is not None:
        variables |= _describe_client(session.certificate, session.pem)
    return variables


def _describe_client(certificate: Mapping[str, Any], pem: str) -> dict[str, str]:
    subject = certificate.get("subject", ())
    common = [value for relative in subject for kind, value in relative if kind == "commonName"]
    described = {"SSL_CLIENT_VERIFY": "SUCCESS", "SSL_CLIENT_CERT": pem}
    if not certificate:
        return described
    described |= {
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
