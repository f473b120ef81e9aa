"""systemd: the sockets it hands over, and what it is told of us. Nothing of this happens where it did not start us.

Laws:

* Its variables are taken out of the environment, so that no child takes our sockets for its own or speaks for us. They
  are put back for one purpose: that this same process can replace its own program.
* Sockets count only where LISTEN_PID is us (sd_listen_fds(3)). They are served where no address is named; where some
  are, ``fd://NAME`` and ``fd://3`` choose among them.
* That systemd does not listen is no error, and nobody waits for it for longer than a moment (sd_notify(3)).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field

import trio

from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError

log = logging.getLogger("trio_wsgi.error")

FIRST_FD = 3  # SD_LISTEN_FDS_START
SEND_TIMEOUT = 1.0  # seconds that a busy systemd has to take a message
_VARIABLES = (
    "LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Systemd:
    """What systemd gave this process; without arguments: nothing, as it did not start it.

    Args:
        names: of the descriptors from 3 on (FileDescriptorName=); several may have the same.
        notify_address: where it listens for messages; a leading ``@`` means Linux' abstract name space.
        watchdog: seconds without a sign of life after which it kills us; None: it does not.
        variables: those that were taken from the environment.
        is_misled: whether it handed sockets to the process that started this one.
    """

    names: tuple[str, ...] = ()
    notify_address: str = ""
    watchdog: float | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    is_misled: bool = False

    def choose_sockets(self, config: Config, named: bool) -> Config:
        """The settings with descriptors' numbers for what was handed over.

        Args:
            named: whether `bind` is what the operator wrote; else all that was handed over takes its place.
        """
        if not self.names:
            return config
        handed = [(f"fd://{fd}", name) for fd, name in enumerate(self.names, FIRST_FD)]
        chosen: dict[str, None] = {}  # each once, in order
        for text, address in zip(config.bind, config.addresses, strict=True):
            chosen |= dict.fromkeys([fd for fd, name in handed if address.name and name == address.name] or [text])
        if not named:
            chosen = dict.fromkeys(fd for fd, _ in handed)
        return config.replace(bind=tuple(chosen))

    def warn(self, config: Config) -> None:
        """Log what was handed over in vain, by a configuration from `choose_sockets`; for when the logs are open."""
        if self.is_misled:
            fix = "let it end in 'exec trio-wsgi ...'"
            log.warning("systemd's sockets are for the process that started this one: %s", fix)
        for fd, name in enumerate(self.names, FIRST_FD):
            if f"fd://{fd}" not in config.bind:
                log.warning("systemd's socket %s is not served: bind names others, and not fd://%s", name, name)

    def give_back(self, environ: MutableMapping[str, str]) -> None:
        """Let the program that this process executes next find what we found."""
        environ.update(self.variables)
        for fd in range(FIRST_FD, FIRST_FD + len(self.names)):
            os.set_inheritable(fd, True)

    def notify(self, *assignments: str) -> None:
        """Send NAME=VALUE lines, if anybody listens. May block for `SEND_TIMEOUT`, where systemd is that busy."""
        if not self.notify_address.startswith(("/", "@")):
            return
        where = self.notify_address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(SEND_TIMEOUT)
            sock.connect("\0" + where[1:] if where.startswith("@") else where)
            sock.send("\n".join(line.replace("\n", " ") for line in assignments).encode("utf-8", "surrogateescape"))

    def tell_ready(self, status: str) -> None:
        """We serve: the start, or a reload, has ended; `systemctl status` shows the text."""
        self.notify("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")

    def tell_reloading(self) -> None:
        """A reload begins; `tell_ready` is to follow, whether it succeeds or not (Type=notify-reload)."""
        self.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def tell_stopping(self, status: str) -> None:
        """No new connection is accepted from here on."""
        self.notify("STOPPING=1", f"STATUS={status}")

    async def keep_alive(self, is_alive: Callable[[], bool] = lambda: True) -> None:
        """Give the watchdog a sign of life each half of its time, while `is_alive`; return only where there is none."""
        while self.watchdog is not None:
            if is_alive():
                self.notify("WATCHDOG=1")
            await trio.sleep(self.watchdog / 2)


UNKNOWN = Systemd()  # of a process that systemd has not started


def take_systemd(environ: MutableMapping[str, str]) -> Systemd:
    """Take what systemd gave this process out of its environment.

    Raises:
        ConfigError: it does not hold what it says.
    """
    taken = {name: environ.pop(name) for name in _VARIABLES if name in environ}
    pid = str(os.getpid())
    names: tuple[str, ...] = ()
    if taken.get("LISTEN_PID") == pid:
        names = _take_sockets(taken)
    watchdog = taken.get("WATCHDOG_USEC", "0") if taken.get("WATCHDOG_PID", pid) == pid else "0"
    return Systemd(
        names,
        taken.get("NOTIFY_SOCKET", ""),
        int(watchdog) / 1e6 if watchdog.isdigit() and int(watchdog) else None,
        {name: value for name, value in taken.items() if name != "LISTEN_PID" or value == pid},
        taken.get("LISTEN_PID") == str(os.getppid()),
    )


def _take_sockets(taken: Mapping[str, str]) -> tuple[str, ...]:
    count = taken.get("LISTEN_FDS", "")
    if not count.isdigit() or int(count) > os.sysconf("SC_OPEN_MAX"):
        raise ConfigError("LISTEN_FDS", f"{count!r} is no number of sockets", "it is systemd's: do not set it by hand")
    names = taken["LISTEN_FDNAMES"].split(":") if "LISTEN_FDNAMES" in taken else []
    for fd in range(FIRST_FD, FIRST_FD + int(count)):
        try:
            os.set_inheritable(fd, False)
        except OSError as exc:
            why = f"descriptor {fd} of {count}: {exc.strerror}"
            raise ConfigError("LISTEN_FDS", why, "it is systemd's: do not set it by hand") from exc
    return tuple((names + ["unknown"] * int(count))[: int(count)])  # unknown: sd_listen_fds_with_names(3)'s word
