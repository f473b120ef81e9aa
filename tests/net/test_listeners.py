"""Rules of --bind: what is listened at, what is refused with one clear line, and what is left behind."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import itertools
import os
import pwd
import re
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from serving import command

from trio_wsgi import Address, Config, ConfigError, serve
from trio_wsgi.address import parse_address
from trio_wsgi.net.listeners import Listener, borrow_listeners, open_listeners, open_sibling, resolve, start_listening
from trio_wsgi.net.unixsocket import Access, find_access
from trio_wsgi.owner import Owner, find_group, find_user, parse_owner


def listening(*texts: str, backlog: int = 8, **options: Any) -> AbstractContextManager[list[Listener]]:
    return open_listeners(resolve(map(parse_address, texts)), backlog, **options)


def refuse(*texts: str, why: str, **options: Any) -> None:
    """They cannot be listened at; `why` is a part of what is said."""
    with pytest.raises(ConfigError, match=re.escape(why)), listening(*texts, **options):
        raise AssertionError


def reach(listener: Listener) -> bool:
    """Whether a client comes in there."""
    name = listener.sock.getsockname()
    with socket.socket(listener.sock.family) as client:
        client.connect(name)
        accepted, _ = listener.sock.accept()
        accepted.close()
    return True


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """sun_path holds 107 characters (unix(7))."""
    yield tmp_path_factory.mktemp("s") / "socket"


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


# -- unix --------------------------------------------------------------------------------------------------------------


def test_a_unix_socket_has_the_mode_of_the_umask_and_is_removed_at_the_end(short_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with listening(f"unix:{short_path}") as (listener,):
            assert stat.S_IMODE(short_path.stat().st_mode) == 0o750
            assert listener.address == Address("unix", path=str(short_path))
            assert reach(listener)
    finally:
        os.umask(before)
    assert not short_path.exists()


def test_it_is_removed_although_the_app_changed_directory(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(short_path.parent)
    with listening("unix:socket"):
        assert short_path.exists()
        monkeypatch.chdir("/")
    assert not short_path.exists()


def test_a_stale_file_is_replaced(short_path: Path) -> None:
    """That of a server that was killed."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(short_path))
        dead.listen()
    assert short_path.exists()
    with listening(f"unix:{short_path}") as (listener,):
        assert reach(listener)


@pytest.mark.parametrize("full", [False, True])
def test_a_live_one_is_refused_and_left_alone(short_path: Path, full: bool) -> None:
    """Also one whose queue is full: connect(2) would wait for it."""
    with listening(f"unix:{short_path}", backlog=0 if full else 8) as (listener,):
        clients = []
        while full:
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].setblocking(False)
            try:
                clients[-1].connect(str(short_path))
            except BlockingIOError:
                break
        refuse(f"unix:{short_path}", why="another server answers there (is another server running")
        for client in clients:
            client.close()
        assert short_path.exists()
        if not full:
            assert reach(listener)


def test_a_file_that_is_no_socket_is_refused_and_left_alone(short_path: Path) -> None:
    short_path.write_text("precious")
    refuse(f"unix:{short_path}", why="there is a file that is no socket (remove it or name another)")
    assert short_path.read_text() == "precious"


def test_a_successors_socket_under_the_same_name_is_left_alone(short_path: Path) -> None:
    """A drain closes first; the next server may start while downloads finish."""
    with listening(f"unix:{short_path}") as (old,):
        old.close()
        assert not short_path.exists()
        with listening(f"unix:{short_path}") as (new,):
            old.close()
            assert reach(new)
    with listening(f"unix:{short_path}") as (old,):
        short_path.unlink()
        short_path.write_text("somebody else's")
    assert short_path.read_text() == "somebody else's"


@pytest.mark.parametrize(
    ("path", "why"), [("x" * 200, "AF_UNIX path too long"), ("/nowhere/at/all/s", "No such file or directory")]
)
def test_a_path_that_cannot_be_is_told(path: str, why: str) -> None:
    refuse(f"unix:{path}", why=why)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777])
def test_the_mode_is_as_asked_whatever_umask_says(short_path: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        with listening(f"unix:{short_path}", access=Access(mode)) as (listener,):
            assert stat.S_IMODE(short_path.stat().st_mode) == mode
            assert reach(listener)
    finally:
        os.umask(before)


def test_nobody_comes_in_before_the_mode_is_right(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """connect(2) is refused until listen(2), and that comes last."""
    seen: list[int] = []
    listen = socket.socket.listen

    def looking_listen(sock: socket.socket, backlog: int) -> None:
        with socket.socket(socket.AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
            early.connect(str(short_path))
        seen.append(stat.S_IMODE(short_path.stat().st_mode))
        listen(sock, backlog)

    monkeypatch.setattr(socket.socket, "listen", looking_listen)
    with listening(f"unix:{short_path}", access=Access(0o606)):
        assert seen == [0o606]


def test_what_cannot_be_given_away_leaves_no_file(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chown(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", chown)  # root could
    why = f"unix_socket_owner: cannot give {short_path} to user 12, group -1: Operation not permitted (only root may"
    refuse(f"unix:{short_path}", why=why, access=Access(None, Owner(12)))
    assert not short_path.exists()


def test_mode_and_owner_are_never_set_through_a_symlink(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may write to the directory could put one there, to a file that is root's."""
    precious = short_path.parent / "precious"
    precious.touch(0o600)
    bind = socket.socket.bind

    def bind_and_swap(sock: socket.socket, path: str) -> None:
        bind(sock, path)
        short_path.unlink()
        short_path.symlink_to(precious)

    monkeypatch.setattr(socket.socket, "bind", bind_and_swap)
    refuse(f"unix:{short_path}", why="somebody has put a symlink there", access=Access(0o666, Owner()))
    assert stat.S_IMODE(precious.stat().st_mode) == 0o600


def test_of_servers_that_start_at_once_one_has_the_name(short_path: Path) -> None:
    """A stale file is seen by all of them; none may remove the socket that another has made meanwhile."""
    for _ in range(30):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(short_path))
        start = threading.Barrier(4)
        lost: list[str] = []
        kept: list[bool] = []

        def run(start: threading.Barrier = start, lost: list[str] = lost, kept: list[bool] = kept) -> None:
            start.wait(10)
            try:
                with listening(f"unix:{short_path}") as (listener,):
                    start.wait(10)  # all have tried
                    kept.append(reach(listener))
            except ConfigError as error:
                lost.append(str(error))
                start.wait(10)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert kept == [True]
        assert len(lost) == 3
        assert all("another server answers there" in line for line in lost)
        assert not short_path.exists()


def test_a_directory_that_somebody_else_has_locked_keeps_nobody_from_starting(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_wsgi.net.unixsocket._TURN_TIMEOUT", 0.05)
    fd = os.open(short_path.parent, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with listening(f"unix:{short_path}") as (listener,):
        assert reach(listener)
    os.close(fd)
    assert not short_path.exists()


async def test_a_server_that_ends_does_not_wait_on_its_loop_for_a_locked_directory(short_path: Path) -> None:
    fd = os.open(short_path.parent, os.O_RDONLY)
    config = Config(bind=(f"unix:{short_path}",))
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, lambda environ, start_response: [], config)
        fcntl.flock(fd, fcntl.LOCK_EX)
        began = time.monotonic()
        nursery.cancel_scope.cancel()
    os.close(fd)
    assert time.monotonic() - began < 1  # where 2 s are waited at the start
    assert not await trio.Path(short_path).exists()


# Users and groups that every system has by number; 4294967294 has no entry anywhere.
ROOT = pwd.getpwuid(0)


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        (ROOT.pw_name, Owner(0, -1)),
        ("0", Owner(0, -1)),
        ("4294967294:4294967294", Owner(4294967294, 4294967294)),
        (f"{ROOT.pw_name}:{grp.getgrgid(0).gr_name}", Owner(0, 0)),
        (":0", Owner(-1, 0)),
    ],
)
def test_owners_are_named_or_numbered(text: str, owner: Owner) -> None:
    assert parse_owner(text, "unix_socket_owner") == owner


@pytest.mark.parametrize("text", ["no_such_user_here", "4294967295", "-1", "99999999999999999999"])
def test_who_is_not_known_is_told(text: str) -> None:
    """4294967295 is (uid_t) -1, which chown(2) and setresuid(2) take for: leave it as it is."""
    with pytest.raises(ConfigError, match=f"user: there is no user '{text}' here"):
        find_user(text, "user")
    with pytest.raises(ConfigError, match=f"group: there is no group '{text}' here"):
        find_group(text, "group")


def test_sockets_belong_to_whom_the_process_becomes() -> None:
    """As gunicorn's; unless an owner is named."""
    assert find_access(Config()) == Access(None, Owner(-1, -1))
    assert find_access(Config(user="0")) == Access(None, Owner(0, 0))
    assert find_access(Config(user="4294967294")) == Access(None, Owner(4294967294, -1))
    assert find_access(Config(user="0", group="12", unix_socket_perms="660")) == Access(0o660, Owner(0, 12))
    assert find_access(Config(user="0", unix_socket_owner=":7", unix_socket_perms="0o606")) == Access(
        0o606, Owner(-1, 7)
    )


def test_an_abstract_socket_has_no_file() -> None:
    name = f"@trio-wsgi-test-{os.getpid()}"
    with listening(f"unix:{name}") as (listener,):
        assert str(listener.address) == f"unix:{name}"
        assert reach(listener)
        refuse(f"unix:{name}", why="Address already in use")


# -- inherited ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(("number", "why"), [(987654, "Bad file descriptor"), (10**30, "")])
def test_an_fd_that_is_not_open_is_told(number: int, why: str) -> None:
    refuse(f"fd://{number}", why=f"fd://{number}: {why}")


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
