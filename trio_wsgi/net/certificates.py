"""The certificates of a server, as OpenSSL takes them: a context for each set of names, chosen by the one asked for.

Laws:

* All contexts have the same rules (versions, ciphers, whose client certificates are accepted): which of them is chosen
  decides the certificate and nothing else.
* A context is complete before the first connection sees it and is never changed afterwards: new certificates are new
  contexts, and connections keep those they began with. What nobody keeps is freed at once: no context leads to itself.
* What cannot be loaded is told with the setting, the file and the fix; nobody is asked for a password.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeGuard

from sendfile.tls import describe
from trio_wsgi.config import SETTINGS, Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.rules.certificates import find_named, parse_dns_names, parse_key_algorithm, parse_particulars

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CLIENTS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_KERNEL_OFFERS = Path("/proc/sys/net/ipv4/tcp_available_ulp")
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_MAY_BE_TRUSTED = re.compile("-----BEGIN (TRUSTED|X509) CERTIFICATE-----")  # by what it says itself (openssl-x509(1))


@dataclass(slots=True)
class Tls:
    """What the TLS connections of a server share; several servers may share it, too, each on its own event loop.

    Args:
        context: for the handshakes to come; those that are done do not mind its replacement.
    """

    context: ssl.SSLContext


def is_ours(tls: object) -> TypeGuard[Tls]:
    """Whether it is what `open_tls` gives: another's context has other rules, and sockets that are not ours."""
    return isinstance(tls, Tls) and isinstance(tls.context, ssl.SSLContext) and tls.context.sslsocket_class is TlsSocket


class TlsSocket(ssl.SSLSocket):
    """A TLS socket that remembers the server name its client asked for (SNI); None without one."""

    asked_name: str | None = None

    def getpeername(self) -> Any:
        """None where the peer has left: the handshake tells. `SSLSocket` would fail in its making, and stay open."""
        try:
            return super().getpeername()
        except OSError:
            return None


class _Encrypted(Exception):
    """OpenSSL asks for a key's password."""


def open_tls(config: Config) -> Tls | None:
    """TLS as the settings want it; None where they want none. Reads files, and so blocks.

    Raises:
        ConfigError: as `load_certificates`; or there is no certificate, though other settings would need one.
    """
    if config.certfile:
        return Tls(load_certificates(config))
    for name in ("keyfile", "ca_certs", "cert_reqs", "ciphers", "tls_min"):
        if SETTINGS[name].says(getattr(config, name)):
            raise ConfigError(name, "there is no certificate, and so no TLS", "name one with certfile")
    return None


def load_certificates(config: Config) -> ssl.SSLContext:
    """The context to begin every handshake with. Reads files, and so blocks.

    Raises:
        ConfigError: a file is not there, or is not what it should be; or settings do not fit together.
    """
    if config.keyfile and len(config.keyfile) != len(config.certfile):
        raise ConfigError(
            "keyfile",
            f"{len(config.keyfile)} for {len(config.certfile)} of certfile",
            "name one for each certfile, in the same order",
        )
    shown: list[_Shown] = []
    places: dict[str, int] = {}  # of names, in `shown`
    for certfile, keyfile in zip_longest(config.certfile, config.keyfile):
        context = _open_context(config)
        names, algorithm = _load_pair(context, certfile, keyfile)
        beside = next((each for each in shown if each.takes(names, algorithm)), None)
        if beside is not None:
            _load_pair(beside.context, certfile, keyfile)
            beside.algorithms.add(algorithm)
            continue
        if shown:
            _check_shown(certfile, names, places)
        for name in names:
            places.setdefault(name, len(shown))
        shown.append(_Shown(context, names, {algorithm}))
    first, *others = (each.context for each in shown)
    first.sni_callback = partial(_choose, places, others)
    return first


class _Shown(NamedTuple):
    """Certificates for the same names: OpenSSL shows the one that the client can verify."""

    context: ssl.SSLContext
    names: frozenset[str]
    algorithms: set[str]  # of their keys; OpenSSL has room for one certificate of each

    def takes(self, names: frozenset[str], algorithm: str) -> bool:
        """Whether one more certificate can be shown beside these."""
        return bool(names) and names == self.names and algorithm not in self.algorithms


def _check_shown(certfile: str, names: Collection[str], taken: Collection[str]) -> None:
    """Whether a certificate that is not the first would be shown to anybody."""
    if not names:
        why = f"{certfile!r} names no host, so no client can ask for it"
        raise ConfigError("certfile", why, "put it first, or have one made with a subjectAltName")
    if all(name in taken for name in names):
        why = f"{certfile!r} would never be shown: there are others before it for {', '.join(sorted(names))}"
        raise ConfigError("certfile", why, "leave it out; two for the same names have keys of two kinds, RSA and ECDSA")


def _choose(
    places: Mapping[str, int],
    others: Sequence[ssl.SSLContext],
    sock: ssl.SSLSocket | ssl.SSLObject,
    asked: str | None,
    _: ssl.SSLContext,
) -> None:
    """Show the certificate for the name that is asked for: one of `others`, or of place 0, which is shown anyway."""
    assert isinstance(sock, TlsSocket)
    sock.asked_name = asked
    if place := find_named(places, asked):
        sock.context = others[place - 1]


def _open_context(config: Config) -> ssl.SSLContext:
    """The rules that hold whichever certificate is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = TlsSocket
    context.minimum_version = _VERSIONS[config.tls_min]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # a connection that is cut is not one that has ended
    if hasattr(ssl, "OP_ENABLE_KTLS"):
        context.options |= ssl.OP_ENABLE_KTLS
    context.set_alpn_protocols(["http/1.1"])
    if config.ciphers:
        try:
            context.set_ciphers(config.ciphers)
        except ssl.SSLError:
            why, hint = f"OpenSSL knows no cipher of {config.ciphers!r}", "see openssl ciphers -v 'LIST'"
            if "TLS_" in config.ciphers:
                why, hint = f"{config.ciphers!r} is of TLS 1.3, whose ciphers OpenSSL chooses", "name those for TLS 1.2"
            raise ConfigError("ciphers", why, hint) from None
    if config.cert_reqs != "none" and config.ca_certs is None:
        raise ConfigError("cert_reqs", f"{config.cert_reqs!r} without ca_certs", "name the authorities of your clients")
    if config.ca_certs is not None:
        if config.cert_reqs == "none":
            raise ConfigError("ca_certs", "no client is asked for a certificate", "set cert_reqs to required")
        _load_authorities(context, config.ca_certs)
    context.verify_mode = _CLIENTS[config.cert_reqs]
    return context


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    """Load the certificates of those who issue our clients', and what they have revoked."""
    text = _read("ca_certs", path)
    try:
        context.load_verify_locations(cafile=path)
    except OSError as exc:  # an SSLError is one
        raise ConfigError("ca_certs", f"{path!r}: {_reason(exc)}", "name a PEM file") from None
    if context.cert_store_stats()["crl"]:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    if not _MAY_BE_TRUSTED.search(text) and not any(map(_is_root, _CERTIFICATE.findall(text))):
        why = f"{path!r} holds no certificate that has signed itself, so no client's leads to one that is trusted"
        raise ConfigError("ca_certs", why, "add that of the authority itself")


def _is_root(pem: str) -> bool:
    try:
        particulars = parse_particulars(ssl.PEM_cert_to_DER_cert(pem))
    except ValueError:  # OpenSSL could read it
        return True
    return bool(particulars["subject"] == particulars["issuer"])


def _load_pair(context: ssl.SSLContext, certfile: str, keyfile: str | None) -> tuple[frozenset[str], str]:
    """Load a certificate with its key, and return the names it is for, and the algorithm that its key is for."""
    text = _read("certfile", certfile)
    first = _CERTIFICATE.search(text)
    if first is None:
        raise ConfigError("certfile", f"{certfile!r} holds no certificate", "name a PEM file")
    setting, path = ("certfile", certfile) if keyfile is None else ("keyfile", keyfile)
    key = text if keyfile is None else _read("keyfile", keyfile)
    if "PRIVATE KEY-----" not in key:
        hint = "name its key with keyfile" if keyfile is None else "name a PEM file"
        raise ConfigError(setting, f"{path!r} holds no private key", hint)
    try:
        context.load_cert_chain(certfile, keyfile, password=_refuse_password)
        der = ssl.PEM_cert_to_DER_cert(first[0])
        return frozenset(parse_dns_names(der)), parse_key_algorithm(der)
    except _Encrypted:
        hint = "write it without: openssl pkey -in KEY -out NEW"
        raise ConfigError(setting, f"the key in {path!r} is encrypted", hint) from None
    except ssl.SSLError as exc:
        if exc.reason in {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}:
            why = f"the key in {path!r} is not that of the first certificate in {certfile!r}"
            hint = "the server's own comes before its chain; name each key in the order of certfile"
            raise ConfigError(setting, why, hint) from None
        if exc.reason is None:  # of whatever OpenSSL could not make sense of
            setting, what = (
                (setting, f"the key in {path!r}") if _is_readable(certfile) else ("certfile", repr(certfile))
            )
            raise ConfigError(setting, f"{what} is cut off or damaged", "have it copied or made anew") from None
        raise ConfigError("certfile", f"{certfile!r} with the key in {path!r}: {_reason(exc)}") from None
    except UnicodeDecodeError as exc:
        why = f"{certfile!r} is for {exc.object.decode('utf-8', 'backslashreplace')!r}, and clients ask in ASCII"
        raise ConfigError("certfile", why, "have one made for that name as it is in the DNS, xn--...") from None
    except ValueError as exc:
        raise ConfigError("certfile", f"{certfile!r}: {exc}", "name a PEM file") from None


def _is_readable(certfile: str) -> bool:
    """Whether OpenSSL can read the certificates, whatever there may be to say of the key."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=certfile)
    except OSError:
        return False
    return True


def _read(setting: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="latin-1")
    except OSError as exc:
        raise ConfigError(setting, f"{path!r}: {exc.strerror}", "name a PEM file that we may read") from None


def _refuse_password() -> NoReturn:
    raise _Encrypted


def _reason(exc: OSError) -> str:
    return describe(exc).removeprefix("TLS: ") if isinstance(exc, ssl.SSLError) else exc.strerror or str(exc)


def describe_kernel_tls() -> str:
    """Whether the kernel encrypts what we send; whether it does for one connection depends on its cipher, too."""
    if not hasattr(ssl, "OP_ENABLE_KTLS"):
        return "not in this Python (3.12 has it)"
    try:
        offered = _KERNEL_OFFERS.read_text().split()
    except OSError:
        return "not in this kernel"
    return "on, where OpenSSL and the cipher allow it" if "tls" in offered else "not in this kernel (modprobe tls)"
