"""What signals mean to our processes. README.md tells operators."""

from __future__ import annotations

import signal

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)  # the first lets people finish, the others are quick
SIGNAL_DUMP = getattr(signal, "SIGPWR", getattr(signal, "SIGINFO", None))  # as Puma has it: on Linux, on BSD
SIGNAL_UPGRADE = signal.SIGUSR2  # to a supervisor; a process without one says that nothing changes
SIGNAL_STACKS = signal.SIGUSR2  # to a worker: it writes the stacks of its threads, be the event loop blocked or not
JOBS = (signal.SIGHUP, SIGNAL_UPGRADE, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH)  # done one after another

SERVER_SIGNALS = tuple(filter(None, (*ENDING, signal.SIGHUP, signal.SIGUSR1, SIGNAL_DUMP)))
SUPERVISOR_SIGNALS = tuple(filter(None, (*ENDING, *JOBS, signal.SIGUSR1, SIGNAL_DUMP)))


def do_nothing(number: int, frame: object) -> None:
    """A handler, since what is ignored would be so for programs that the application starts."""
