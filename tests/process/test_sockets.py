"""Rules of a supervisor's sockets: by what they are known, and what a worker gets of them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from trio_wsgi.config import Config
from trio_wsgi.net.listeners import resolve, start_listening
from trio_wsgi.net.unixsocket import Access
from trio_wsgi.process.sockets import Sockets


@contextmanager
def opened(config: Config) -> Iterator[Sockets]:
    with contextlib.closing(Sockets()) as sockets:
        sockets.open_missing(config, resolve(sockets.missing(config)), Access())
        yield sockets


@pytest.mark.parametrize("reuse_port", [False, True])
def test_an_address_that_is_written_twice_counts_once(reuse_port: bool) -> None:
    """Else a worker would take one descriptor for two sockets, and close it under itself."""
    config = Config(bind=("127.0.0.1:0", "127.0.0.1:0"), reuse_port=reuse_port)
    with opened(config) as sockets:
        assert len(sockets.listeners(config)) == 1
        assert [len(sockets.listeners_of(config, number)) for number in (1, 2)] == [1, 1]


def test_an_inherited_socket_leaves_the_number_of_a_standard_stream() -> None:
    """inetd's way, fd://0: a worker has a standard input of its own there."""
    before = os.dup(0)
    try:
        with socket.create_server(("127.0.0.1", 0)) as parent:
            os.dup2(parent.fileno(), 0)
            config, where = Config(bind=("fd://0",)), parent.getsockname()
        with opened(config) as sockets, socket.create_connection(where) as client:
            (listener,) = sockets.listeners_of(config, 1)
            assert listener.sock.fileno() > 2
            assert os.path.samestat(os.fstat(0), os.stat(os.devnull))  # noqa: PTH116
            listener.sock.accept()[0].close()
            assert client.recv(1) == b""
        with pytest.raises(ConnectionRefusedError), socket.create_connection(where):
            pass
    finally:
        os.dup2(before, 0)
        os.close(before)


def test_of_sockets_that_workers_have_of_their_own_one_listens_at_all_times() -> None:
    """Under --reuse-port, who cannot boot is given nothing; where nobody else listens, clients wait in the queue."""
    config = Config(bind=("127.0.0.1:0",), reuse_port=True)
    with opened(config) as sockets:
        (second,) = sockets.listeners_of(config, 2)
        where = second.sock.getsockname()

        def heard() -> list[bool]:
            return [sockets.listeners_of(config, number)[0].is_listening for number in (1, 2)]

        assert heard() == [True, False]
        sockets.abandon(config, 1)
        assert heard() == [True, False]
        start_listening(second, 8)
        for _ in range(2):
            sockets.abandon(config, 1)
            assert heard() == [False, True]
        without = config.replace(reuse_port=False)  # after a reload: who listens there is to go on
        assert sockets.listeners_of(without, 2) == [second]
        sockets.abandon_beyond(config, 1)
        assert heard() == [True, False]
        assert sockets.listeners_of(config, 1)[0].sock.getsockname() == where
