"""Certificates for tests, and clients that speak TLS: an authority made once, in a folder of its own."""

from __future__ import annotations

import atexit
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

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


@cache
def shared_authority() -> tuple[Authority, str]:
    """One for the whole run, and a certificate of its for localhost and 127.0.0.1; making keys takes its time."""
    folder = tempfile.mkdtemp(prefix="trio-wsgi-tls-")
    atexit.register(shutil.rmtree, folder)
    authority = Authority(Path(folder))
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


async def read_to_end(stream: trio.abc.ReceiveStream) -> tuple[bytes, str]:
    """All bytes until the peer ends, and how: "closed" with a close_notify, "cut" without one."""
    received = bytearray()
    try:
        while data := await stream.receive_some(65536):
            received += data
    except trio.BrokenResourceError:
        return bytes(received), "cut"
    return bytes(received), "closed"
