"""Rules of sockets that somebody else has made: what is taken, what is refused, and what is left as it was."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from listening import listening, reach, refuse

from trio_wsgi import ConfigError
from trio_wsgi.address import parse_address
from trio_wsgi.net.listeners import borrow_listeners, resolve
from trio_wsgi.net.unixsocket import Access


def test_fd_is_a_listening_socket_that_the_parent_made() -> None:
    """fd://N, as gunicorn; a child of the app's does not inherit it on."""
    with socket.create_server(("127.0.0.1", 0)) as parent:
        number = os.dup(parent.fileno())
        os.set_inheritable(number, True)
        with listening(f"fd://{number}") as (listener,):
            assert str(listener.address) == f"127.0.0.1:{parent.getsockname()[1]}"
            assert not os.get_inheritable(number)
            assert reach(listener)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)


def test_an_fd_that_is_not_open_is_told() -> None:
    refuse("fd://987654", why="fd://987654: Bad file descriptor")


def test_an_fd_that_is_no_socket_is_told(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        why = "Socket operation on non-socket (hand in a listening socket)"
        refuse(f"fd://{file.fileno()}", why=why)
        file.write("still open")


def test_what_is_inherited_must_listen_for_streams() -> None:
    """Of a socket unit with ListenDatagram= or Accept=yes, and of a parent that forgot to listen. It stays open."""
    connected, peer = socket.socketpair()
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    for sock, why in [
        (socket.socket(type=socket.SOCK_DGRAM), "it is no stream socket (in its unit, write ListenStream=)"),
        (socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), "it is no stream socket"),
        (connected, "it is a connection (in its unit, write Accept=no)"),
        (bound, "it does not listen"),
    ]:
        with sock:
            refuse(f"fd://{sock.fileno()}", why=f"fd://{sock.fileno()}: {why}")
            os.fstat(sock.fileno())
    peer.close()


def test_what_is_inherited_keeps_its_backlog_and_its_file(short_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as parent:
        parent.bind(str(short_path))
        parent.listen(0)
        number = os.dup(parent.fileno())
        with listening(f"fd://{number}", backlog=100, access=Access(0o666)) as (listener,):
            mode = stat.S_IMODE(short_path.stat().st_mode)
            assert str(listener.address) == f"unix:{short_path}"
            clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
            for client in clients:
                client.setblocking(False)
            clients[0].connect(str(short_path))
            with pytest.raises(BlockingIOError):
                clients[1].connect(str(short_path))
            for client in clients:
                client.close()
        assert short_path.exists()
        assert mode != 0o666


def test_an_fd_that_is_named_twice_counts_once() -> None:
    """Two sockets of one descriptor would close it twice, and the second time whatever had its number by then."""
    with socket.create_server(("127.0.0.1", 0)) as parent:
        number = os.dup(parent.fileno())
        with listening(f"fd://{number}", f"fd://{number}") as listeners:
            assert len(listeners) == 1


@pytest.mark.parametrize("inheritable", [True, False])
@pytest.mark.parametrize("standard", [True, False])
@pytest.mark.parametrize("later", [True, False])
def test_where_nothing_comes_of_a_start_it_stays_as_it_was(inheritable: bool, standard: bool, later: bool) -> None:
    """Under its number, for the next attempt; whether an address after it cannot be had, or a setting is refused."""
    before = os.dup(0)
    with socket.create_server(("127.0.0.1", 0)) as parent:
        number = os.dup2(parent.fileno(), 0) if standard else os.dup(parent.fileno())
        os.set_inheritable(number, inheritable)
        if later:
            with pytest.raises(ConfigError, match="http"), listening(f"fd://{number}"):
                raise ConfigError("http", "there is no such parser")
        else:
            refuse(f"fd://{number}", "fd://987654", why="Bad file descriptor")
        try:
            assert os.path.samestat(os.fstat(number), os.fstat(parent.fileno()))
            assert os.get_inheritable(number) is inheritable
        finally:
            if standard:
                os.dup2(before, 0)
            else:
                os.close(number)
            os.close(before)


def test_a_name_that_systemd_did_not_give_is_told() -> None:
    with pytest.raises(ConfigError, match="bind: fd://web: systemd has handed over no socket of this name"):
        resolve([parse_address("fd://web")])


def test_listeners_that_are_handed_in_stay_their_owners() -> None:
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        with borrow_listeners([theirs]) as (listener,):
            assert reach(listener)
            listener.close()
        theirs.setblocking(True)
        with socket.create_connection(theirs.getsockname()):
            accepted, _ = theirs.accept()
            accepted.close()


def test_what_does_not_listen_is_told() -> None:
    with socket.socket() as theirs:
        with pytest.raises(ConfigError, match="listeners: number 0: it does not listen"), borrow_listeners([theirs]):
            raise AssertionError
        theirs.close()
        with pytest.raises(ConfigError, match="listeners: number 0: Bad file descriptor"), borrow_listeners([theirs]):
            raise AssertionError
