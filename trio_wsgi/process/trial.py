"""The trial of a program before a supervisor becomes it: a process of its own gets as far as having the application.

Laws:

* Whatever would end the new program after exec(2) ends the trial, where that can be known: settings, the user, files,
  what its former self leaves. It opens no socket, and writes no pid file.
* It becomes the user before it imports the application, as a worker does.
* It is over when its verdict is told. Threads and programs that the application has started are not waited for: they
  end with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from typing import NoReturn

import trio

from trio_wsgi.net.inthread import needing_thread
from trio_wsgi.process.exits import ExitCode, describe_exit
from trio_wsgi.process.failure import describe_failure
from trio_wsgi.process.logs import open_logs
from trio_wsgi.process.pidfile import check_pid_file
from trio_wsgi.process.plan import Plan, check_supervised
from trio_wsgi.process.prepare import check_workers, load_plan, prepare_imports
from trio_wsgi.process.privileges import become
from trio_wsgi.process.standing import stand
from trio_wsgi.process.upgrade import STATE_VARIABLE, build_command_line, check_legacy

TRIAL_VARIABLE = "_TRIO_WSGI_CHECK"


async def try_program(plan: Plan, legacy: str) -> str:
    """Start the program anew as if it were to serve, up to having the application.

    Args:
        plan: says where it was started, and how long its boot may take.
        legacy: what it would be left, from `format_legacy`.

    Returns:
        What is wrong with it; empty when nothing is.

    Cancellation: it is killed.
    """
    try:
        with tempfile.TemporaryFile() as said:  # no pipe: that ends only with the last who has it
            with needing_thread():
                process = await trio.lowlevel.open_process(
                    build_command_line(),
                    env={**os.environ, TRIAL_VARIABLE: "1", STATE_VARIABLE: legacy},
                    cwd=plan.home,
                    umask=plan.umask,
                    stdin=subprocess.DEVNULL,
                    stdout=said.fileno(),
                    stderr=subprocess.STDOUT,
                    process_group=0,
                )
            code = await _wait_verdict(process, plan.config.boot_timeout)
            said.seek(0)
            text = said.read().decode(errors="replace").rstrip()
    except OSError as error:
        return f"the program cannot be started: {error}"
    if code is None:
        return f"it took more than {plan.config.boot_timeout:g} s (boot_timeout)"
    return f"{text}\n({describe_exit(code)})".lstrip() if code else ""


async def _wait_verdict(process: trio.Process, timeout: float) -> int | None:
    """Its exit code; None if it takes longer than so many seconds. Its process group has ended then."""
    try:
        with trio.move_on_after(timeout):
            return await process.wait()
        return None
    finally:
        with contextlib.suppress(OSError):  # nobody is left
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()


def be_tried(plan: Plan, legacy: str) -> NoReturn:
    """Be the process that is tried, and tell by its exit code and on standard error how that went.

    Args:
        legacy: as in `try_program`.
    """
    code: int = ExitCode.CLEAN
    try:
        _rehearse(plan, legacy)
    except Exception as error:
        failed = describe_failure(error)
        code = failed.exit_code
        print(failed.text, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, full, or the application's own
            stream.flush()
    os._exit(code)


def _rehearse(plan: Plan, legacy: str) -> None:
    """Get as far as a supervisor and its worker would.

    Raises:
        ConfigError, AppLoadError: they could not.
    """
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
