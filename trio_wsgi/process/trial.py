"""The trial of a program before a supervisor becomes it: a process of its own gets as far as having the application.

Laws:

* Whatever would end the new program after exec(2) ends the trial, where that can be known: settings, the user, files,
  what its former self leaves. It opens no socket, and writes no pid file.
* It becomes the user before it imports the application, as a worker does.
* That nothing is wrong has to be said, through a pipe that is there for this alone: a command line may lead elsewhere
  by now, as a start script does that finds us running, and end well.
* It is over when its verdict is told. Threads and programs that the application has started are not waited for: they
  end with it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import tempfile
from dataclasses import dataclass
from typing import IO, NoReturn

import trio

from trio_wsgi.process.exits import ExitCode, describe_exit, wait_exit
from trio_wsgi.process.failure import describe_failure
from trio_wsgi.process.logs import open_logs
from trio_wsgi.process.pidfile import check_pid_file
from trio_wsgi.process.plan import Plan, check_supervised
from trio_wsgi.process.prepare import check_workers, load_plan, prepare_imports
from trio_wsgi.process.privileges import become
from trio_wsgi.process.spawn import spawn
from trio_wsgi.process.standing import at_home, stand
from trio_wsgi.process.upgrade import STATE_VARIABLE, build_command_line, check_legacy

TRIAL_VARIABLE = "_TRIO_WSGI_CHECK"


@dataclass(frozen=True, slots=True)
class Trial:
    """A process that tries the program.

    Args:
        pid: of the process, which is our child, and leads a process group of its own.
        said: the file that it writes to.
        verdict: where it says that nothing is wrong; read without blocking, as others may have the other end as well.
        timeout: seconds that it may take.
    """

    pid: int
    said: IO[bytes]
    verdict: IO[bytes]
    timeout: float

    async def wait_verdict(self) -> str:
        """What is wrong with the program; empty when nothing is. Its process has ended then. To be called once.

        Cancellation: it is killed.
        """
        code = None
        with self.said, self.verdict:
            try:
                with trio.move_on_after(self.timeout):
                    code = await wait_exit(self.pid)
            finally:
                with contextlib.suppress(OSError):  # nobody is left
                    os.killpg(self.pid, signal.SIGKILL)
                if code is None:
                    with trio.CancelScope(shield=True):
                        await wait_exit(self.pid)
            self.said.seek(0)
            text = self.said.read().decode(errors="replace").rstrip()
            is_well = bool(self.verdict.read(1))
        if code is None:
            return f"it took more than {self.timeout:g} s (boot_timeout)"
        if code == ExitCode.CLEAN and is_well:
            return ""
        if code == ExitCode.CLEAN:
            text += f"\nthe command line did not lead to the server: {shlex.join(build_command_line())}"
        return f"{text}\n({describe_exit(code)})".lstrip()


def start_trial(plan: Plan, legacy: str) -> Trial:
    """Start the program anew as if it were to serve, up to having the application.

    Args:
        plan: says where it was started, and how long its boot may take.
        legacy: what it would be left, from `format_legacy`.

    Raises:
        ConfigError, OSError: it cannot be started.
    """
    with contextlib.ExitStack() as failing:
        said = failing.enter_context(tempfile.TemporaryFile())  # no pipe: that ends only with the last who has it
        reader, writer = os.pipe()
        verdict = failing.enter_context(os.fdopen(reader, "rb", buffering=0))
        os.set_blocking(reader, False)
        with os.fdopen(writer, "wb", buffering=0), at_home(plan):
            environ = {**os.environ, TRIAL_VARIABLE: str(writer), STATE_VARIABLE: legacy}
            pid = spawn(build_command_line(), environ, {1: said.fileno(), 2: said.fileno(), writer: writer})
        failing.pop_all()
    return Trial(pid, said, verdict, plan.config.boot_timeout)


def be_tried(plan: Plan, verdict: int, legacy: str) -> NoReturn:
    """Be the process that `start_trial` starts, and tell by its exit code and on standard error how that went.

    Args:
        verdict: the descriptor to say it to where nothing is wrong, by `TRIAL_VARIABLE`.
    """
    code: int = ExitCode.CLEAN
    os.set_inheritable(verdict, False)
    try:
        _rehearse(plan, legacy)
        os.write(verdict, b"+")
    except Exception as error:
        failed = describe_failure(error)
        code = failed.exit_code
        print(failed.text, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, full, or the application's own
            stream.flush()
    os._exit(code)


def _rehearse(plan: Plan, legacy: str) -> None:
    """Get as far as a supervisor and its worker would, or raise what ends them."""
    config = plan.config
    check_supervised(plan)
    check_legacy(legacy)
    stand(plan)
    identity = check_workers(config)
    check_pid_file(config.pid, os.getppid())
    os.environ.update(config.env)
    prepare_imports(config)
    with open_logs(config):
        become(identity)
        load_plan(plan)
