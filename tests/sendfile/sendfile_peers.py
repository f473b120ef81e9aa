"""Two ends of a TLS connection, for the tests of `sendfile`."""

from __future__ import annotations

import ssl
from concurrent.futures import ThreadPoolExecutor

import pytest
import trio
from authority import shared_authority
from sendfile_wires import Pair, tighten

from sendfile import PIECE, Parts, TlsSender

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
ONE_VERSION = pytest.mark.parametrize("peers", ["1.3"], indirect=True)


class Peers:
    """Two ends of a TLS connection over TCP; the near one has a small buffer and the sender."""

    def __init__(self, pair: Pair, version: ssl.TLSVersion) -> None:
        authority, certfile = shared_authority()
        server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), authority.client_context()
        server.load_cert_chain(certfile)
        server.maximum_version = version
        for sock in pair:
            sock.settimeout(10)
        with ThreadPoolExecutor(1) as other:
            shaking = other.submit(client.wrap_socket, pair[1], server_hostname="localhost")
            self.near = server.wrap_socket(pair[0], server_side=True)
            self.far = shaking.result()
        self.near.setblocking(False)
        self.far.setblocking(False)
        tighten(self.near)
        self.sender = TlsSender(self.near, bytearray(PIECE))

    def close(self) -> None:
        self.near.close()
        self.far.close()

    def received(self, most: int = 1 << 30) -> bytes:
        """What has arrived by now, decrypted."""
        data = bytearray()
        try:
            while len(data) < most and (piece := self.far.recv(min(1 << 16, most - len(data)))):
                data += piece
        except ssl.SSLWantReadError:
            pass
        return bytes(data)

    async def receive(self, count: int) -> bytes:
        """The next bytes, decrypted."""
        data = self.received(count)
        while len(data) < count:
            await trio.lowlevel.wait_readable(self.far)
            data += self.received(count - len(data))
        return data

    def fill(self, parts: Parts, limit: int = PIECE) -> int:
        """Take steps until the kernel is full within a record; returns the bytes that have left."""
        sent = 0
        with pytest.raises(trio.WouldBlock):
            while True:
                sent += self.sender.step(parts, limit)
        assert self.sender.owed
        return sent

    async def read_all_of(self, parts: Parts, total: int, limit: int = PIECE) -> bytes:
        """Take steps until all has left, and return the `total` bytes that arrive."""
        data = b""
        while parts:
            try:
                self.sender.step(parts, limit)
            except trio.WouldBlock:
                data += self.received()
                await trio.lowlevel.wait_writable(self.near)
        return data + await self.receive(total - len(data))
