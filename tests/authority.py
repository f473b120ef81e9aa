"""Certificates for tests, and clients that speak TLS: an authority made once, in a folder of its own."""

from __future__ import annotations

import atexit
import contextlib
import logging
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass
class Authority:
    """Issues certificates for tests.

    Args:
        folder: where their files are.
    """

    folder: Path
    ca: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.ca.cert_pem.write_to_path(str(self.file("ca.pem")))

    @property
    def ca_certs(self) -> str:
        """Its own certificate."""
        return str(self.file("ca.pem"))

    def file(self, name: str) -> Path:
        """A file in the folder."""
        return self.folder / name

    def issue(self, *names: str, common_name: str | None = None) -> str:
        """A file with a certificate, its chain and its key."""
        path = self.file(f"{len(list(self.folder.iterdir()))}.pem")
        issued = self.ca.issue_cert(*names, common_name=common_name)
        issued.private_key_and_cert_chain_pem.write_to_path(str(path))
        return str(path)

    def issue_split(self, *names: str) -> tuple[str, str]:
        """A file with a certificate, and one with its key."""
        issued = self.ca.issue_cert(*names)
        cert, key = self.issue(*names), self.file(f"{len(list(self.folder.iterdir()))}.key")
        Path(cert).write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return cert, str(key)

    def signer(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """Its certificate and key, for what trustme does not make."""
        key = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return x509.load_pem_x509_certificate(self.ca.cert_pem.bytes()), key

    def client_context(self, certfile: str | None = None) -> ssl.SSLContext:
        """What a client that trusts this authority uses; `certfile` is the client's own."""
        context = ssl.create_default_context(cafile=self.ca_certs)
        if certfile is not None:
            context.load_cert_chain(certfile)
        return context

    def server_context(self, *names: str) -> ssl.SSLContext:
        """For a peer of ours in tests that have no server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.issue(*(names or ("localhost",))))
        return context


@contextmanager
def open_authority() -> Iterator[Authority]:
    """One of the test's own."""
    with tempfile.TemporaryDirectory(prefix="trio-wsgi-tls-") as folder:
        yield Authority(Path(folder))


_shared = ExitStack()
atexit.register(_shared.close)


def remove_shared_authority() -> None:
    """At the end of the tests; a process that shares them may end by a signal, of which atexit does not hear."""
    _shared.close()


@cache
def shared_authority() -> tuple[Authority, str]:
    """One for the whole run, and a certificate of its for localhost and 127.0.0.1; making keys takes its time."""
    authority = _shared.enter_context(open_authority())
    return authority, authority.issue("localhost", "127.0.0.1")


async def connect_tls(
    port: int, context: ssl.SSLContext | None = None, name: str = "localhost", receive_buffer: int | None = None
) -> trio.SSLStream[trio.SocketStream]:
    """A TLS connection to a server on this machine, with hands shaken."""
    sock = trio.socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer)
    await sock.connect(("127.0.0.1", port))
    context = shared_authority()[0].client_context() if context is None else context
    stream = trio.SSLStream(trio.SocketStream(sock), context, server_hostname=name)
    try:
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


class ByHand:
    """A TLS client that hands over what it would send, so that a test can send a part of it.

    Args:
        name: of the server that it asks for.
    """

    def __init__(self, name: str = "localhost") -> None:
        self._arriving, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = shared_authority()[0].client_context()
        self._tls = context.wrap_bio(self._arriving, self._leaving, server_hostname=name)

    def begin(self) -> bytes:
        """The first message of the handshake, which is to be sent."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._leaving.read()

    async def shake_hands(self, stream: trio.SocketStream) -> None:
        """The handshake, or the rest of it."""
        done = False
        while not done:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                await stream.send_all(self._leaving.read())
                self._arriving.write(await stream.receive_some())
        await stream.send_all(self._leaving.read())

    def encrypt(self, data: bytes) -> bytes:
        """What is to be sent for it."""
        self._tls.write(data)
        return self._leaving.read()

    async def receive(self, stream: trio.SocketStream) -> bytes:
        """Some bytes of the peer's; they may be none, where it told something else."""
        self._arriving.write(await stream.receive_some())
        try:
            return self._tls.read(65536)
        except ssl.SSLWantReadError:
            return b""


def complaints(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """What was logged of clients: all but that the kernel could not be asked to encrypt."""
    return [line.getMessage() for line in caplog.records if line.levelno >= level and "kernel TLS" not in line.msg]
