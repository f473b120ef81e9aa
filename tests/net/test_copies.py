"""Rules of what forked children keep of a server's sockets: nothing, so that an end of ours is one for the peer."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from asking import KEPT, PLAIN, Environ, StartResponse, request
from authority import connect_tls
from forking import Children, find_sockets, open_children
from riding import board, receive
from serving import receive_to_end, serving
from tlsapps import TLS
from waiting import until

from sendfile import senders
from trio_wsgi import Config, Server
from trio_wsgi.net import accepting
from trio_wsgi.net.certificates import TlsSocket

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

SIZE = 8_000_000  # bytes of an answer that the kernel does not take at once


class Forking:
    """An application that forks a child, and answers by the path.

    Args:
        fork: in which way.
    """

    def __init__(self, fork: Callable[[], object]) -> None:
        self._fork = fork

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        if environ["PATH_INFO"] == "/large":
            start_response("200 OK", [*PLAIN, ("Content-Length", str(SIZE))])
            return [b"x" * SIZE]
        if environ["PATH_INFO"] != "/":
            self._fork()
        start_response("200 OK", PLAIN)
        return {"/blocks": (b"block" for _ in range(3)), "/cut": self._fail()}.get(environ["PATH_INFO"], [b"hello"])

    def _fail(self) -> Iterator[bytes]:
        yield b"part"
        raise RuntimeError("because")


@pytest.fixture
def children() -> Iterator[Children]:
    with open_children() as opened:
        yield opened


@pytest.fixture(params=["thread", "loop"])
def app(request: pytest.FixtureRequest, children: Children) -> Forking:
    """It forks in its own thread, or on the event loop."""
    return Forking(children.fork if request.param == "thread" else lambda: trio.from_thread.run_sync(children.fork))


async def ask(stream: trio.abc.Stream, target: str, version: str = "1.1") -> tuple[bytes, str]:
    """The body, up to the end, and how that was."""
    with trio.fail_after(10):
        await stream.send_all(request(target=target, version=version))
        received, how = await receive_to_end(stream)
        return received.partition(b"\r\n\r\n")[2], how


async def test_who_reads_up_to_the_end_sees_it(app: Forking, children: Children) -> None:
    """A client of HTTP/1.0, such as nginx, while a child lives that the view has started."""
    async with serving(app) as served:
        async with await served.connect() as stream:
            assert await ask(stream, "/blocks", "1.0") == (b"blockblockblock", "closed")
        assert children.live()


async def test_who_reads_from_a_unix_socket_sees_the_end(app: Forking, children: Children, short_path: Path) -> None:
    """As over TCP."""
    async with serving(app, bind=(f"unix:{short_path}",)), await trio.open_unix_socket(str(short_path)) as stream:
        assert await ask(stream, "/blocks", "1.0") == (b"blockblockblock", "closed")
        assert children.live()


@pytest.mark.parametrize("settings", [{}, TLS], ids=["tcp", "tls"])
async def test_a_cut_is_seen(settings: dict[str, Any], app: Forking, children: Children) -> None:
    """A response whose end is only the close is reset, and under TLS without a close_notify."""
    async with serving(app, **settings) as served:
        stream = await (connect_tls(served.port) if settings else served.connect())
        async with stream:
            assert (await ask(stream, "/cut", "1.0"))[1] == "cut"
        assert children.live()


async def test_who_is_silent_for_too_long_sees_it(app: Forking, children: Children) -> None:
    """keep_alive holds for a connection that was idle when somebody else's view forked."""
    async with serving(app, keep_alive=0.5) as served, await served.connect() as stream:
        await stream.send_all(KEPT)
        await receive(stream, 5)
        async with await served.connect() as other:
            assert await ask(other, "/fork") == (b"hello", "closed")
        with trio.fail_after(10):
            assert await receive_to_end(stream) == (b"", "closed")
        assert children.live()


async def test_a_handshake_that_stalls_ends(app: Forking, children: Children) -> None:
    """A client that says nothing sees the end of its connection, though a child was forked meanwhile."""
    async with serving(app, **TLS, handshake_timeout=1.0) as served, await served.connect() as stream:
        await served.wait_connections(1)
        async with await connect_tls(served.port) as other:
            assert (await ask(other, "/fork")) == (b"hello", "closed")
        with trio.fail_after(10):
            assert await receive_to_end(stream) == (b"", "closed")
        assert children.live()


async def test_an_address_is_free_once_the_server_has_ended(app: Forking, children: Children) -> None:
    """Though the child lives on: another server can listen there."""
    async with serving(app) as served, await served.connect() as stream:
        await ask(stream, "/fork")
    children.told()  # it has run, and so given up what it had copied
    assert children.live()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((served.host, served.port))
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind((served.host, served.port))
        again.listen()


async def test_others_are_served_as_before(app: Forking, children: Children) -> None:
    """An answer that is under way, and a client that rides, lose nothing by a fork."""
    async with serving(app, threads=4) as served:
        large, rider = await served.connect(4096), await board(served, 5)
        async with large, rider:
            await large.send_all(request(target="/large"))
            assert await large.receive_some(1)
            for _ in range(3):
                async with await served.connect() as stream:
                    await ask(stream, "/fork")
            await rider.send_all(KEPT)
            assert (await receive(rider, 5)).endswith(b"hello")
            with trio.fail_after(30):
                received, how = await receive_to_end(large)
            assert len(received.partition(b"\r\n\r\n")[2]) == SIZE
            assert how == "closed"
        assert children.live()


async def test_a_connection_that_was_only_just_accepted_is_given_up(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread may fork when accept(2) has returned and nobody knows of the connection yet."""
    build = accepting.build_peer

    def build_peer(*args: Any) -> Any:
        children.fork()
        return build(*args)

    monkeypatch.setattr(accepting, "build_peer", build_peer)
    async with serving(Forking(str)) as served:
        async with await served.connect() as stream:
            assert await ask(stream, "/blocks", "1.0") == (b"blockblockblock", "closed")
        assert children.live()


async def test_a_connection_that_goes_over_to_tls_is_given_up(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread may fork when one object has let go of the socket, and the other is not whole yet."""
    find = TlsSocket.getpeername

    def getpeername(sock: TlsSocket) -> Any:
        children.fork()
        return find(sock)

    async with serving(Forking(str), **TLS, handshake_timeout=0.5) as served:
        monkeypatch.setattr(TlsSocket, "getpeername", getpeername)
        async with await served.connect() as stream:
            with trio.fail_after(10):
                assert await receive_to_end(stream) == (b"", "closed")
        assert children.live()


async def test_a_child_has_none_of_our_sockets_and_their_numbers_are_taken(children: Children) -> None:
    """What still goes by a number, such as an object that is freed, does not touch what the child opens."""
    numbers: list[int] = []
    served_at: list[int] = []

    def look() -> tuple[list[int], list[bool]]:
        return find_sockets(served_at[0]), [os.fstat(fd).st_ino in before for fd in numbers]

    before: set[int] = set()
    async with serving(Forking(lambda: children.fork(look))) as served:
        served_at.append(served.port)
        async with await served.connect(), await served.connect() as stream:
            await served.wait_connections(2)
            (listener,) = [fd for fd in find_sockets(served.port) if not is_connected(fd)]
            numbers += [fd for fd in find_sockets(served.port) if fd != listener]
            before |= {os.fstat(fd).st_ino for fd in numbers}
            await ask(stream, "/fork")
            assert children.told() == "([], [False, False])"


async def test_a_child_has_no_copy_that_a_thread_sends_by(
    children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads as fast as it is sent to has a thread, and so one descriptor more, for some time."""
    size = 64 << 20
    with (tmp_path / "large").open("wb") as file:
        file.truncate(size)

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", PLAIN)
        return environ["wsgi.file_wrapper"]((tmp_path / "large").open("rb"))

    def send_turn(*args: Any) -> int:
        if not copies:
            copies.append(len(find_sockets(served_at[0])))
            children.fork(lambda: find_sockets(served_at[0]))
        return turn(*args)

    copies: list[int] = []
    served_at: list[int] = []
    turn = senders._send_turn
    monkeypatch.setattr(senders, "_send_turn", send_turn)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    async with serving(app) as served, await served.connect() as stream:
        served_at.append(served.port)
        body, how = await ask(stream, "/")
        assert (len(body), how) == (size, "closed")
    assert copies == [3], "the listener, the connection and its copy"
    assert children.told() == "[]"


async def test_a_child_gives_up_our_sockets_where_those_of_unix_are_forbidden(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by systemd's RestrictAddressFamilies, which lets socketpair(2) pass (systemd.exec(5))."""
    make = socket.socket.__init__

    def make_allowed(
        self: socket.socket, family: int = -1, type: int = -1, proto: int = -1, fileno: Any = None
    ) -> None:
        if family == socket.AF_UNIX and fileno is None:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        make(self, family, type, proto, fileno)

    monkeypatch.setattr(socket.socket, "__init__", make_allowed)
    async with serving(Forking(children.fork)) as served, await served.connect() as stream:
        assert await ask(stream, "/blocks", "1.0") == (b"blockblockblock", "closed")
        assert children.live()


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize(
    ("how", "code"), [("by an answer", 1), ("by a block", 1), ("by an error", 1), ("by sys.exit", 3)]
)
async def test_a_child_that_comes_back_from_the_application_ends(how: str, code: int, children: Children) -> None:
    """It would wait for clients beside its parent, for good: in the lane even in the same epoll."""
    ends: dict[str, BaseException] = {"by an error": RuntimeError("because"), "by sys.exit": SystemExit(code)}

    def app(environ: Environ, start_response: StartResponse) -> Any:
        if how != "by a block" and children.fork_here() and how in ends:
            raise ends[how]
        start_response("200 OK", PLAIN)
        return blocks() if how == "by a block" else [b"hello"]

    def blocks() -> Iterator[bytes]:
        yield b"hel"
        children.fork_here()
        yield b"lo"

    async with serving(app) as served, await served.connect() as stream:
        assert await ask(stream, "/", "1.0") == (b"hello", "closed")
        await until(lambda: children.code() is not None)
        assert children.code() == code


def is_connected(fd: int) -> bool:
    sock = socket.socket(fileno=fd)
    try:
        return not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    finally:
        sock.detach()


async def test_a_listener_that_was_handed_over_stays_its_owners(children: Children) -> None:
    """A program that serves at a socket of its own may want it in its children; ours is a duplicate."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with trio.open_nursery() as nursery:
            server = Server(Forking(lambda: children.fork(lambda: find_sockets(port))), Config(half_close="serve"))
            await nursery.start(server.serve, [listener])
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await ask(stream, "/fork")
            nursery.cancel_scope.cancel()
        assert children.told() == str([listener.fileno()])


async def test_a_childs_own_children_keep_what_it_has_opened(children: Children, tmp_path: Path) -> None:
    """It may have taken the numbers for files of its own, as a daemon does that closes all it was born with."""
    numbers: list[int] = []

    def look() -> bool:
        with (tmp_path / "file").open("w") as file:
            for fd in numbers:
                os.dup2(file.fileno(), fd)
            pid = os.fork()
            if pid == 0:
                os._exit(not all(os.path.sameopenfile(fd, file.fileno()) for fd in numbers))
            return os.waitpid(pid, 0)[1] == 0

    async with serving(Forking(lambda: children.fork(look))) as served, await served.connect() as stream:
        await served.wait_connections(1)
        numbers += [fd for fd in find_sockets(served.port) if is_connected(fd)]
        await ask(stream, "/fork")
        assert children.told() == "True"
