"""Rules of socket activation and of sd_notify: with systemd's own programs, or what stands in for them."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing
from serving import command
from tools import require_tool
from waiting import wait_until

import trio_wsgi
from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.flags import build_parser, parse_arguments
from trio_wsgi.net.listeners import resolve
from trio_wsgi.net.unixsocket import Access
from trio_wsgi.process.sockets import Sockets
from trio_wsgi.process.systemd import Systemd, take_systemd
from trio_wsgi.sources import load_config

WORKERS = [0, 1]

# -- what is taken from the environment --------------------------------------------------------------------------------


def ours(**variables: str) -> dict[str, str]:
    return {"PATH": "/bin", "LISTEN_PID": str(os.getpid()), **variables}


def test_nothing_is_taken_where_systemd_did_not_start_us() -> None:
    assert take_systemd({"PATH": "/bin"}) == Systemd()


def test_its_variables_are_gone_for_our_children_and_can_be_given_back() -> None:
    """sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3), each with unset_environment."""
    variables = {
        **ours(LISTEN_FDS="0", LISTEN_PIDFDID="7", LISTEN_FDNAMES="", NOTIFY_SOCKET="/run/notify"),
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
    take_systemd({"LISTEN_FDS": "1", "LISTEN_PID": str(os.getppid())}).warn(Config())
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
    THREE.warn(THREE.choose_sockets(Config(bind=("fd://web",)), named=True))
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
        self._sock.settimeout(60)

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


@pytest.fixture
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """The receiver of one process."""
    receiver = Receiver(str(tmp_path_factory.mktemp("n") / "notify"))
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


# -- the command, started as systemd does it ---------------------------------------------------------------------------

APP = """
import os, subprocess, sys
def app(environ, start_response):
    children = subprocess.run(["/bin/ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True).stdout
    told = [name for name in os.environ if name.startswith(("LISTEN_", "NOTIFY_", "WATCHDOG_"))]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [repr((told, children.count(b"socket:"), environ["SERVER_NAME"])).encode()]
"""
UNSEEN = "([], 0, {!r})"  # neither variables nor sockets

# What stands in for systemd: the sockets at 3, 4, ..., and the variables with the process's own number.
START = """
import os, socket, sys
names = sys.argv[1]
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in filter(None, names.split(":"))]
assert [each.fileno() for each in sockets] == [*range(3, 3 + len(sockets))]
for each in sockets:
    os.set_inheritable(each.fileno(), True)
pid = str(os.getpid())
os.environ.update(LISTEN_FDS=str(len(sockets)), LISTEN_FDNAMES=names, LISTEN_PID=pid, WATCHDOG_PID=pid)
os.execv(sys.executable, [sys.executable, "-m", "trio_wsgi", *sys.argv[2:]])
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "unit_app.py").write_text(APP)
    return tmp_path


def started(names: str) -> tuple[str, ...]:
    return ("-c", START, names)


@pytest.mark.parametrize("workers", WORKERS)
def test_started_by_systemd_socket_activate(workers: int, site: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """systemd's own program: it waits for the first client, and executes us with the sockets. No --bind is needed."""
    path = tmp_path_factory.mktemp("s") / "socket"
    curl = require_tool("curl")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = str(Path(trio_wsgi.__file__).parent.parent)
    words = [require_tool("systemd-socket-activate"), "-l", f"127.0.0.1:{port}", "-l", str(path)]
    words += ["-E", f"PYTHONPATH={root}", "-E", "PORT=1", sys.executable, "-m", "trio_wsgi", "-w", str(workers)]
    with subprocess.Popen([*words, "unit_app:app"], cwd=site, stderr=subprocess.PIPE) as process:
        try:
            wait_until(path.exists)
            url = f"http://127.0.0.1:{port}/"
            quietly = [curl, "-sS", "--max-time", "60"]
            by_tcp = subprocess.run([*quietly, url], capture_output=True, text=True, timeout=90)
            assert (by_tcp.stdout, by_tcp.stderr) == (UNSEEN.format("127.0.0.1"), "")
            by_unix = subprocess.run(
                [*quietly, "--unix-socket", path, "http://localhost/"], capture_output=True, text=True, timeout=90
            )
            assert (by_unix.stdout, by_unix.stderr) == (UNSEEN.format("localhost"), "")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert path.exists()  # it is systemd's, who has it open
        finally:
            process.kill()


@pytest.mark.parametrize("workers", WORKERS)
def test_bind_chooses_among_them_by_name(workers: int, site: Path) -> None:
    """Which one is left is told in the log, as all else."""
    bind = ("-b", "fd://admin", "-b", "127.0.0.1:0")
    with command(*bind, "unit_app:app", cwd=site, workers=workers, program=started("web:admin")) as run:
        assert "] [WARNING] systemd's socket web is not served: bind names others, and not fd://web\n" in run.log
        assert httpx.get(run.url, timeout=20).text == UNSEEN.format("127.0.0.1")


def test_a_name_that_was_not_handed_over_is_exit_code_1(site: Path) -> None:
    words = ("-b", "fd://amdin", "unit_app:app")
    with command(*words, cwd=site, workers=1, program=started("web"), wait=False) as run:
        assert run.wait(60) == 1
        assert "trio-wsgi: error: bind: fd://amdin: systemd has handed over no socket of this name" in run.log


@pytest.mark.parametrize("workers", WORKERS)
def test_it_is_told_of_a_life(workers: int, site: Path, manager: Receiver) -> None:
    """Ready once clients are served, alive at half the watchdog's time, stopping."""
    variables = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000"}
    with command("unit_app:app", cwd=site, workers=workers, program=started("web"), **variables) as run:
        ready = manager.receive_until("READY")
        assert ready["MAINPID"] == str(run.process.pid)
        assert ready["STATUS"].startswith(f"listening at {run.url}")
        assert httpx.get(run.url, timeout=20).text == UNSEEN.format("127.0.0.1")
        for _ in range(3):
            assert manager.receive() == {"WATCHDOG": "1"}
        run.send_signal(signal.SIGTERM)
        assert manager.receive_until("STOPPING")["STATUS"] == "finishing what is under way"
        assert run.wait(60) == 0, run.log


@pytest.mark.slow
def test_reload_and_upgrade_are_reported_and_keep_what_was_handed_over(site: Path, manager: Receiver) -> None:
    """Type=notify-reload: HUP is answered by RELOADING, and that by READY. The program that USR2 brings in is the same
    process, and finds the sockets and the variables where its former self found them."""
    (site / "unit.toml").write_text("threads = 3")
    words = ("-c", "unit.toml", "unit_app:app")
    variables = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"}
    with command(*words, cwd=site, workers=1, program=started("web:admin"), **variables) as run:
        ready = manager.receive_until("READY")
        for number, content in [(signal.SIGHUP, "threads = 4"), (signal.SIGUSR2, ""), (signal.SIGHUP, "threads = -1")]:
            (site / "unit.toml").write_text(content)
            before = time.monotonic_ns() // 1000
            run.send_signal(number)
            assert int(manager.receive_until("RELOADING")["MONOTONIC_USEC"]) >= before
            assert manager.receive_until("READY") == ready  # MAINPID too
            assert httpx.get(run.url, timeout=20).text == UNSEEN.format("127.0.0.1")
        assert manager.receive() == {"WATCHDOG": "1"}
        run.send_signal(signal.SIGTERM)
        assert manager.receive_until("STOPPING")["STATUS"] == "finishing what is under way"
        assert run.wait(60) == 0, run.log
        assert run.log.count("the program has replaced itself") == 1
        assert run.log.count("nothing changes") == 1


def test_what_was_handed_over_stays_open_though_a_reload_does_not_name_it() -> None:
    """Nobody would hand it over again; the next reload may name it."""
    with socket.create_server(("127.0.0.1", 0)) as parent, contextlib.closing(Sockets()) as sockets:
        fd = os.dup(parent.fileno())
        config, other = Config(bind=(f"fd://{fd}",)), Config(bind=("127.0.0.1:0",))
        sockets.open_missing(config, resolve(config.addresses), Access())
        sockets.open_missing(other, resolve(other.addresses), Access())
        sockets.close_others(other)
        assert sockets.missing(config) == []
        os.fstat(fd)
        sockets.close_others(config)
        assert sockets.missing(other) == list(other.addresses)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_notify_socket_that_is_gone_hurts_nobody(site: Path) -> None:
    variables = {"NOTIFY_SOCKET": str(site / "gone"), "WATCHDOG_USEC": "20000"}
    with command("-b", "127.0.0.1:0", "unit_app:app", cwd=site, **variables) as run:
        assert httpx.get(run.url, timeout=20).status_code == 200
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == 0, run.log


# -- docs/sockets.md ---------------------------------------------------------------------------------------------------

PAGE = (Path(trio_wsgi.__file__).parent.parent / "docs" / "sockets.md").read_text().replace("\\\n", "")
COMMAND = re.compile(r"^(?:[$#] .*?|ExecStart=\S*)\btrio-wsgi (.*?)(?:&|>.*)?$", re.MULTILINE)


@pytest.mark.parametrize("words", COMMAND.findall(PAGE))
def test_commands_of_the_page_are_commands_of_ours(words: str) -> None:
    options, flags = parse_arguments(build_parser(), shlex.split(words))
    assert options.app
    load_config(flags, {})


def test_flags_of_the_page_are_flags_of_ours() -> None:
    flags = {flag for flag in re.findall(r"`(--[a-z-]+)", PAGE) if flag != "--daemon"}
    assert len(flags) > 10
    assert flags <= build_parser()._option_string_actions.keys()
