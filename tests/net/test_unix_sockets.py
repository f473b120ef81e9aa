"""Rules of --bind with a unix socket: whose file it is, with which mode, what it replaces, what it leaves behind."""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from listening import listening, reach, refuse

from trio_wsgi import Address, Config, ConfigError, serve
from trio_wsgi.net.unixsocket import Access, find_access
from trio_wsgi.owner import Owner, find_group, find_user, parse_owner


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


async def test_a_server_that_ends_does_not_wait_on_its_loop_for_a_locked_directory(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_wsgi.net.unixsocket._TURN_TIMEOUT", 60)
    fd = os.open(short_path.parent, os.O_RDONLY)
    config = Config(bind=(f"unix:{short_path}",))
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, lambda environ, start_response: [], config)
        fcntl.flock(fd, fcntl.LOCK_EX)
        began = time.monotonic()
        nursery.cancel_scope.cancel()
    os.close(fd)
    assert time.monotonic() - began < 30  # a server that starts waits for its turn
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
