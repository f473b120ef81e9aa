"""A worker, as its supervisor sees it.

Laws:

* Whoever gives no sign of life for `timeout`, or does not boot within `boot_timeout`, is asked for its stacks, and
  killed. So is who was told to leave, after `graceful_timeout`; who does give signs may have a download that moves.
* Whom the system keeps from our signals (an LSM's rules, seccomp) is told to leave by the end of its channel.
* Of who cannot boot, nothing is logged here: whoever has started it says why, and that is all there is to say.
* It is known by its number, its channel and its stacks; so a supervisor that has become another program can go on
  with it.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterable

import trio

from trio_wsgi.config import Config
from trio_wsgi.process.channel import Channel
from trio_wsgi.process.exits import ExitCode, describe_exit, wait_exit
from trio_wsgi.process.messages import SILENT_SPELLS, Booted, Drain, Failed, Imported, Replace, parse_message
from trio_wsgi.process.signals import SIGNAL_STACKS
from trio_wsgi.process.stacks import Stacks

log = logging.getLogger("trio_wsgi.error")

STACKS_TIMEOUT = 5.0  # seconds for the stacks to be written
END_SLACK = 3.0  # seconds beyond `graceful_timeout`: two signs, and for who is well to end without us
_TOLD = {0, -signal.SIGTERM, -signal.SIGINT}  # exit codes of workers that were told to leave, maybe as they booted

HearImports = Callable[[Iterable[str], float], None]  # the files of an `Imported`, and since when


def ignore_imports(files: Iterable[str], since: float) -> None:
    """Nobody watches them."""


class State(enum.Enum):
    """What a worker is at."""

    BOOTING = "booting"
    SERVING = "serving"
    LEAVING = "leaving"
    ENDED = "ended"


class Child:
    """One worker.

    Args:
        number: from 1; its successors have the same.
        pid: of its process, which is our child.
        channel, stacks: closed when it has ended.
        order: the first line that it is told; empty where it has been.
    """

    def __init__(
        self,
        number: int,
        pid: int,
        channel: Channel,
        stacks: Stacks,
        state: State = State.BOOTING,
        order: bytes = b"",
    ) -> None:
        self.number = number
        self.pid = pid
        self.channel = channel
        self.stacks = stacks
        self.state = state
        self.settled = trio.Event()  # it serves, or never will
        self.needs_successor = trio.Event()  # it asked for one, or has ended
        self.failure: Failed | None = None  # why it did not boot
        self.lived = math.inf  # seconds, once it has ended, or is worn
        self._order = order
        self._last_silence = math.inf  # seconds without a sign of life, since it was told to leave
        self._listening = trio.CancelScope()  # until that changes
        self._hear_imports: HearImports = ignore_imports
        self._born = time.monotonic()
        if state is not State.BOOTING:
            self.settled.set()

    def __str__(self) -> str:
        return f"worker {self.number} (pid {self.pid})"

    __repr__ = __str__

    @property
    def has_booted(self) -> bool:
        """Whether it serves, or has served."""
        return self.settled.is_set() and self.failure is None

    def send_signal(self, number: int) -> bool:
        """Send it, unless the process has ended; whether we may. If not, the log says so."""
        if self.state is not State.ENDED:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass
            except PermissionError:
                log.error("%s cannot be sent %s: the system does not permit it", self, signal.Signals(number).name)
                return False
        return True

    def leave(self, graceful_timeout: float) -> None:
        """Let it finish what is under way, then go. May be called again, with another `Drain.graceful_timeout`."""
        booting = self.state is State.BOOTING
        self._begin_leaving(graceful_timeout)
        self.channel.tell(Drain(graceful_timeout))
        if booting:
            self.stop(signal.SIGTERM, graceful_timeout)

    def stop(self, number: int, graceful_timeout: float = math.inf) -> None:
        """Let it go as this signal says.

        Args:
            graceful_timeout: seconds after which it is to have ended, or to give signs of life.
        """
        self._begin_leaving(graceful_timeout)
        if not self.send_signal(number):
            self.channel.hang_up()

    def _begin_leaving(self, graceful_timeout: float) -> None:
        if self.state is not State.ENDED:
            self.state = State.LEAVING
        if graceful_timeout + END_SLACK < self._last_silence:
            self._last_silence = graceful_timeout + END_SLACK
            self._listening.cancel()

    async def watch(self, config: Config, hear_imports: HearImports = ignore_imports) -> None:
        """Look after it until it has ended.

        Args:
            hear_imports: is told which files it consists of, under `reload`.

        Cancellation: the process goes on, its channel and stacks stay open; it can be looked after again.
        """
        self._hear_imports = hear_imports
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, config)
                code = await wait_exit(self.pid)
                nursery.cancel_scope.cancel()
        finally:
            self._tell_stacks()
        with contextlib.suppress(BlockingIOError):
            while (lines := self.channel.receive_nowait()) is not None:
                self._heed(lines)
        self.channel.close()
        self.stacks.close()
        self._note_end(code)

    def _note_end(self, code: int) -> None:
        how = describe_exit(code)
        if self.state is State.SERVING and self.needs_successor.is_set() and code == 0:  # by TERM to it alone
            self.state = State.LEAVING
        if self.state is State.SERVING:
            log.error("%s died: %s", self, how)
        elif self.state is State.LEAVING and code not in _TOLD and self.failure is None:
            log.warning("%s has ended: %s", self, how)
        elif self.state is State.LEAVING and self.failure is None:
            log.info("%s has ended", self)
        if not self.settled.is_set() and self.failure is None:
            self.failure = Failed(f"it ended while it booted: {how}", ExitCode.BOOT_ERROR)
        self.state = State.ENDED
        self.lived = min(self.lived, self._age())
        self.settled.set()
        self.needs_successor.set()

    def _age(self) -> float:
        return time.monotonic() - self._born

    async def _listen(self, config: Config) -> None:
        """Listen to it until there is a reason to kill it, and kill it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear_stacks)
            why = await self._hear_boot(config) or await self._hear_signs_of_life(config.timeout)
            nursery.cancel_scope.cancel()
        await self._kill(why)

    async def _hear_boot(self, config: Config) -> str:
        """Give it its order, and listen until it serves or leaves; why it is to be killed, if that takes too long."""
        with trio.move_on_after(config.boot_timeout) as booting:
            with contextlib.suppress(OSError):
                await self.channel.send_all(self._order)
            while not self.settled.is_set() and self.state is State.BOOTING:
                await self._hear()
        if self.settled.is_set() or not booting.cancelled_caught:
            return ""
        why = f"did not boot within {config.boot_timeout:g} s (boot_timeout)"
        self.failure = Failed(f"it {why}", ExitCode.BOOT_ERROR)
        return why

    async def _hear_signs_of_life(self, timeout: float) -> str:
        """Listen for as long as it gives signs of life; why it is to be killed then."""
        while True:
            with trio.CancelScope() as self._listening:
                limit, setting = timeout, "timeout"
                if self._last_silence < timeout:
                    limit, setting = self._last_silence, "graceful_timeout"
                await self._wait_silent(limit)
                return f"gave no sign of life for {limit:g} s ({setting})"

    async def _wait_silent(self, timeout: float) -> None:
        spells = 0
        while spells < SILENT_SPELLS:
            spells += 1
            with trio.move_on_after(timeout / SILENT_SPELLS):
                await self._hear()
                spells = 0

    async def _hear(self) -> None:
        """Wait for lines and heed them; for ever once there will be none: then its end is what counts."""
        lines = await self.channel.receive()
        if not lines:
            await trio.sleep_forever()
        self._heed(lines)

    async def _kill(self, why: str) -> None:
        """Kill it, with its stacks in the log."""
        self.send_signal(SIGNAL_STACKS)
        with trio.move_on_after(STACKS_TIMEOUT):
            await self.stacks.wait_written()
        stacks = self.stacks.take() or "(not known)"
        log.error("%s %s: it is killed. Where its threads were:\n%s", self, why, stacks)
        self.send_signal(signal.SIGKILL)

    async def _hear_stacks(self) -> None:
        while True:
            await self.stacks.wait_written()
            self._tell_stacks()

    def _tell_stacks(self) -> None:
        """Log what it has written of its threads, if anything."""
        if text := self.stacks.take():
            log.warning("%s says:\n%s", self, text)

    def _heed(self, lines: Iterable[bytes]) -> None:
        """Heed what it says."""
        texts: list[str] = []
        for line in filter(None, lines):
            match parse_message(line):
                case Booted() if self.state is State.BOOTING:
                    self.state = State.SERVING
                    log.info("%s is ready", self)
                    self.settled.set()
                case Failed(text) if self.state is State.SERVING:
                    log.error("%s fails: %s", self, text)
                case Failed() as failure:
                    self.failure = failure
                    self.state = State.LEAVING
                    self.settled.set()
                case Replace(reason, worn) if self.state is State.SERVING and not self.needs_successor.is_set():
                    log.info("%s asks for a successor: %s", self, reason)
                    self.lived = self._age() if worn else math.inf
                    self.needs_successor.set()
                case Imported(files, since):
                    self._hear_imports(files, since)
                case None:
                    texts.append(line.decode(errors="replace"))
        if texts:
            log.warning("%s says:\n%s", self, "\n".join(texts))
