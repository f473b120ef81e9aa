"""Rules of socket activation and of sd_notify: with systemd's own programs, or what stands in for them."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.process.systemd import Systemd, take_systemd

# -- what is taken from the environment --------------------------------------------------------------------------------


def ours(**variables: str) -> dict[str, str]:
    return {"PATH": "/bin", "LISTEN_PID": str(os.getpid()), **variables}


def test_nothing_is_taken_where_systemd_did_not_start_us() -> None:
    assert take_systemd({"PATH": "/bin"}) == Systemd()


def test_its_variables_are_gone_for_our_children_and_can_be_given_back() -> None:
    """sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3), each with unset_environment."""
    variables = {
        **ours(LISTEN_FDS="0", LISTEN_FDNAMES="", NOTIFY_SOCKET="/run/notify"),
        "WATCHDOG_USEC": "2500000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    environ = dict(variables)
    systemd = take_systemd(environ)
    assert environ == {"PATH": "/bin"}
    assert (systemd.names, systemd.notify_address, systemd.watchdog) == ((), "/run/notify", 2.5)
    assert take_systemd(environ) == Systemd()
    systemd.give_back(environ)
    assert environ == variables


@pytest.mark.parametrize(
    ("variables", "watchdog"),
    [({"WATCHDOG_USEC": "1000"}, 0.001), ({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, None)]
    + [({"WATCHDOG_USEC": text}, None) for text in ("", "0", "-1", "soon")],
)
def test_the_watchdog_is_ours_or_nobodys(variables: dict[str, str], watchdog: float | None) -> None:
    assert take_systemd(variables).watchdog == watchdog


def test_sockets_of_another_process_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """LISTEN_PID; one that we were started by is likely a shell that did not `exec` us, which is said."""
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": "0", "LISTEN_FDNAMES": "web"}
    assert take_systemd(environ).names == ()
    assert (environ, caplog.text) == ({}, "")
    take_systemd({"LISTEN_FDS": "1", "LISTEN_PID": str(os.getppid())})
    assert "let it end in 'exec trio-wsgi ...'" in caplog.text


@pytest.mark.parametrize(
    ("count", "told"),
    [("many", "LISTEN_FDS: 'many' is no number of sockets"), ("-1", "LISTEN_FDS: '-1'"), ("99999999", "LISTEN_FDS: ")],
)
def test_a_count_that_is_none_is_told(count: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        take_systemd(ours(LISTEN_FDS=count))


# -- which of them are served ------------------------------------------------------------------------------------------

THREE = Systemd(("web", "admin", "web"))


@pytest.mark.parametrize(
    ("bind", "named", "chosen"),
    [
        (["127.0.0.1:8000"], False, ["fd://3", "fd://4", "fd://5"]),  # the default, or PORT: no flag is needed
        (["fd://web"], True, ["fd://3", "fd://5"]),
        (["fd://admin", "127.0.0.1:1", "fd://web", "fd://admin"], True, ["fd://4", "127.0.0.1:1", "fd://3", "fd://5"]),
        (["fd://4"], True, ["fd://4"]),
        (["127.0.0.1:1"], True, ["127.0.0.1:1"]),
        (["fd://other"], True, ["fd://other"]),  # refused when it is to be listened at
    ],
)
def test_which_sockets_are_served(bind: list[str], named: bool, chosen: list[str]) -> None:
    assert list(THREE.choose_sockets(Config(bind=tuple(bind)), named).bind) == chosen


def test_without_systemd_bind_stays_as_it_is() -> None:
    config = Config(bind=("fd://web",))
    assert Systemd().choose_sockets(config, named=False) is config


def test_a_socket_that_nobody_will_answer_at_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """systemd listens there all the same: clients wait for ever."""
    THREE.choose_sockets(Config(bind=("fd://web",)), named=True)
    assert [record.getMessage() for record in caplog.records] == [
        "systemd's socket admin is not served: bind names others, and not fd://admin"
    ]


# -- what it is told ---------------------------------------------------------------------------------------------------


class Receiver:
    """What systemd does with NOTIFY_SOCKET: a datagram socket, each message some lines."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        self._sock.settimeout(20)

    def receive(self) -> dict[str, str]:
        """The next message."""
        return dict(line.split("=", 1) for line in self._sock.recv(65536).decode().split("\n"))

    def receive_until(self, name: str) -> dict[str, str]:
        """The next message with this variable."""
        while name not in (message := self.receive()):
            pass
        return message

    def fill(self) -> None:
        """Let its queue be full (net.unix.max_dgram_qlen)."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(BlockingIOError):
            sender.setblocking(False)
            while True:
                sender.sendto(b"STATUS=", self._sock.getsockname())

    def close(self) -> None:
        self._sock.close()


@pytest.fixture(params=["path", "abstract"])
def receiver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    path = tmp_path_factory.mktemp("n") / "notify"
    receiver = Receiver(str(path) if request.param == "path" else f"@trio-wsgi-{os.getpid()}-notify")
    yield receiver
    receiver.close()


def test_messages(receiver: Receiver) -> None:
    """sd_notify(3); MONOTONIC_USEC in the very message of RELOADING, by the clock of systemd (CLOCK_MONOTONIC)."""
    systemd = Systemd(notify_address=receiver.address)
    systemd.tell_ready("listening at\nhttp://127.0.0.1:8000")
    assert receiver.receive() == {
        "READY": "1",
        "MAINPID": str(os.getpid()),
        "STATUS": "listening at http://127.0.0.1:8000",
    }
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    systemd.tell_reloading()
    message = receiver.receive()
    assert before <= int(message.pop("MONOTONIC_USEC")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert message == {"RELOADING": "1"}
    systemd.tell_stopping("draining")
    assert receiver.receive() == {"STOPPING": "1", "STATUS": "draining"}


@pytest.mark.parametrize(
    "address", ["", "/no/such/socket", "@nobody-listens-here", "vsock:2:1234", "relative", "x" * 200]
)
def test_nobody_to_tell_is_no_error(address: str) -> None:
    Systemd(notify_address=address).tell_ready("serving")


def test_a_receiver_that_never_reads_or_is_gone_is_no_error(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_wsgi.process.systemd.SEND_TIMEOUT", 0.01)
    systemd = Systemd(notify_address=receiver.address)
    receiver.fill()
    systemd.notify("STATUS=there is no room for this")
    receiver.close()
    systemd.notify("STATUS=nor for this")


async def test_the_watchdog_hears_of_us_at_half_its_time_and_while_all_is_well(
    receiver: Receiver, autojump_clock: trio.testing.MockClock
) -> None:
    systemd = Systemd(notify_address=receiver.address, watchdog=20.0)
    alive = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(systemd.keep_alive, lambda: alive)
        await trio.sleep(35)  # at 0, 10, 20 and 30
        assert [receiver.receive() for _ in range(4)] == [{"WATCHDOG": "1"}] * 4
        alive = False
        await trio.sleep(100)
        systemd.notify("STATUS=next")
        assert receiver.receive() == {"STATUS": "next"}
        nursery.cancel_scope.cancel()


async def test_without_a_watchdog_nothing_is_sent() -> None:
    await Systemd().keep_alive()
