"""Rules of --bind: what is listened at, what is refused with one clear line, and what is left behind.

Unix sockets have a file, and rules of their own (test_unix_sockets.py); so have sockets that are inherited.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from listening import listening, reach, refuse
from serving import command

from trio_wsgi import Address, Config, ConfigError, serve
from trio_wsgi.address import parse_address
from trio_wsgi.net.listeners import Listener, open_listeners, open_sibling, resolve, start_listening

# -- TCP ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host"),
    [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "0.0.0.0"), (":0", "0.0.0.0"), ("[::1]:0", "::1"), ("0", "127.0.0.1")],
)
def test_tcp_addresses_and_the_port_the_kernel_chose(text: str, host: str) -> None:
    with listening(text) as (listener,):
        assert listener.address.host == host
        assert listener.address.port > 0
        assert not listener.sock.getblocking()
        assert not listener.sock.get_inheritable()
        assert reach(listener)


def test_ipv6_and_ipv4_of_one_port_are_two_addresses() -> None:
    """IPV6_V6ONLY: [::]:8000 beside 0.0.0.0:8000 is no conflict, and REMOTE_ADDR is never ::ffff:1.2.3.4."""
    refused = []
    for _ in range(20):
        with contextlib.ExitStack() as stack:
            (four,) = stack.enter_context(listening("0.0.0.0:0"))
            try:
                (six,) = stack.enter_context(listening(f"[::]:{four.address.port}"))
            except ConfigError as error:  # somebody else's, on this machine
                refused.append(error)
                continue
            assert reach(six)
            assert reach(four)
            return
    raise AssertionError(refused)


def test_several_binds_are_all_open_before_any_is_used_and_all_closed() -> None:
    with listening("127.0.0.1:0", "127.0.0.1:0", "[::1]:0") as listeners:
        assert len({listener.address for listener in listeners}) == 3
        assert all(map(reach, listeners))
    assert [listener.sock.fileno() for listener in listeners] == [-1, -1, -1]


def test_an_address_in_use_says_so_and_closes_the_others() -> None:
    with listening("127.0.0.1:0") as (first,):
        why = f"bind: {first.address}: Address already in use (is another server running there, or is it named twice?)"
        refuse("127.0.0.1:0", str(first.address), why=why)


def test_an_address_can_be_used_again_at_once() -> None:
    """SO_REUSEADDR: connections of the last server in TIME_WAIT do not keep the next from starting."""
    with listening("127.0.0.1:0") as (first,), socket.create_connection(first.sock.getsockname()) as client:
        accepted, _ = first.sock.accept()
        accepted.close()  # first: its side waits
        assert client.recv(1) == b""
    with listening(str(first.address)):
        pass


def test_a_name_that_is_unknown_says_so() -> None:
    with pytest.raises(ConfigError, match=r"bind: no\.such\.host\.invalid:80: .* \(name a host that resolves here\)"):
        resolve([parse_address("no.such.host.invalid:80")])


def test_a_name_too_long_for_the_resolver_is_an_error_of_the_operator() -> None:
    with pytest.raises(ConfigError, match="bind: "):
        resolve([parse_address("x" * 70 + ".invalid:80")])


def test_of_a_names_addresses_those_this_host_has_are_enough() -> None:
    """localhost stands for ::1, too, on hosts (containers) that have no IPv6."""
    address = parse_address("localhost:0")
    here: tuple[Address, tuple[int, tuple[str, int]]] = (address, (socket.AF_INET, ("127.0.0.1", 0)))
    absent: tuple[Address, tuple[int, tuple[str, int]]] = (address, (socket.AF_INET, ("192.0.2.1", 0)))  # RFC 5737
    with open_listeners([absent, here], 8) as (listener,):
        assert reach(listener)
    with (
        pytest.raises(ConfigError, match="bind: localhost:0: Cannot assign requested address"),
        open_listeners([absent], 8),
    ):
        raise AssertionError


# -- several sockets at one address ------------------------------------------------------------------------------------


def accept_all(listener: Listener) -> int:
    """How many connections wait in its queue; they are closed."""
    for count in itertools.count():
        try:
            accepted, _ = listener.sock.accept()
        except BlockingIOError:
            return count
        accepted.close()
    raise AssertionError


def test_siblings_share_an_address_whose_port_the_kernel_chose() -> None:
    """--reuse-port (SO_REUSEPORT, socket(7)): the kernel spreads connections among them; each has its own queue."""
    with listening("127.0.0.1:0", "[::1]:0", backlog=128, reuse_port=True) as listeners:
        for listener in listeners:
            sibling = open_sibling(listener)
            assert sibling.address == listener.address
            for _ in range(16):  # none of which is dealt to who does not listen yet
                socket.create_connection(listener.sock.getsockname()[:2], 10).close()
            assert accept_all(listener) == 16
            start_listening(sibling, 128)
            clients = [socket.create_connection(listener.sock.getsockname()[:2], 10) for _ in range(64)]
            taken = [accept_all(listener), accept_all(sibling)]
            for client in clients:
                client.close()
            sibling.close()
            assert sum(taken) == 64  # none was lost
            assert all(taken)  # else by a chance of 2 ** -63


def test_without_reuse_port_an_address_is_ours_alone() -> None:
    with listening("127.0.0.1:0") as (listener,):
        with pytest.raises(ConfigError, match="Address already in use"):
            open_sibling(listener)
        refuse(str(listener.address), why="Address already in use", reuse_port=True)


# -- the whole way -----------------------------------------------------------------------------------------------------


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [repr([environ[key] for key in ("SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR")]).encode()]


FAMILIES = {
    ("tcp", False): socket.AF_INET,
    ("tcp", True): socket.AF_INET6,
    ("unix", False): socket.AF_UNIX,
}


async def test_an_ipv4_client_of_a_socket_for_both_is_not_called_ffff() -> None:
    """systemd's ListenStream=8000 is [::]:8000 for both; forwarded_allow_ips and logs go by 127.0.0.1."""
    with trio.fail_after(10), socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as theirs:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, app, Config(half_close="serve"), listeners=[theirs]))
            stream = await trio.open_tcp_stream("127.0.0.1", theirs.getsockname()[1])
            await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
            answer = b"".join([chunk async for chunk in stream])
            assert b"'127.0.0.1']" in answer
            assert b"ffff" not in answer
            await stream.aclose()
            nursery.cancel_scope.cancel()


async def test_one_server_serves_all_kinds_at_once(short_path: Path) -> None:
    config = Config(bind=("127.0.0.1:0", "[::1]:0", f"unix:{short_path}", f"unix:@trio-wsgi-{os.getpid()}-all"))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(serve, app, config)
            assert [address.kind for address in addresses] == ["tcp", "tcp", "unix", "unix"]
            answers = []
            for address in addresses:
                sock = socket.socket(FAMILIES[address.kind, ":" in address.host])
                sock.setblocking(False)
                client = trio.socket.from_stdlib_socket(sock)
                await client.connect(address.path.replace("@", "\0") or (address.host, address.port))
                await client.send(b"GET / HTTP/1.0\r\n\r\n")
                answer = b""
                while data := await client.recv(9999):
                    answer += data
                client.close()
                answers.append(answer.partition(b"\r\n\r\n")[2].decode())
            nursery.cancel_scope.cancel()
    assert answers[0] == f"['127.0.0.1', '{addresses[0].port}', '127.0.0.1']"
    assert answers[1] == f"['::1', '{addresses[1].port}', '::1']"
    assert answers[2] == answers[3] == "['localhost', '80', '']"


def test_an_address_in_use_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "bind_app.py").write_text("def app(environ, start_response): ...\n")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with command("bind_app:app", "-b", f"127.0.0.1:{port}", cwd=tmp_path, wait=False) as run:
            assert run.wait() == 1
            assert run.log == (
                f"trio-wsgi: error: bind: 127.0.0.1:{port}: Address already in use "
                "(is another server running there, or is it named twice?)\n"
            )


def test_port_of_the_environment_means_every_interface(tmp_path: Path) -> None:
    """PORT, as gunicorn and the platforms have it; --bind wins."""
    (tmp_path / "port_app.py").write_text("def app(environ, start_response): ...\n")
    with command("port_app:app", cwd=tmp_path, PORT="0") as run:
        assert run.url.startswith("http://0.0.0.0:")
    with command("port_app:app", "-b", "127.0.0.1:0", cwd=tmp_path, PORT="1") as run:
        assert run.url.startswith("http://127.0.0.1:")
