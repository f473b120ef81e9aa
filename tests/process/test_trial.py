"""Rules of USR2 before anything is at stake: what a program must be able to do for a supervisor to become it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import clean_environment
from waiting import wait_until
from workers import is_alive

from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.net.listeners import open_listeners, resolve
from trio_wsgi.process.channel import open_pair
from trio_wsgi.process.child import Child, State
from trio_wsgi.process.pidfile import open_pid_file
from trio_wsgi.process.plan import Plan
from trio_wsgi.process.sockets import Binding
from trio_wsgi.process.stacks import open_stacks
from trio_wsgi.process.trial import start_trial
from trio_wsgi.process.upgrade import Legacy, format_legacy, let_go, parse_legacy

APP = "def app(environ, start_response): ...\n"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that nobody may read, and the command line that serves it."""
    path = Path(tempfile.mkdtemp(prefix="trio-wsgi-test-"))
    path.chmod(0o777)
    (path / "tried_app.py").write_text(APP)
    monkeypatch.setenv("PYTHONPATH", clean_environment()["PYTHONPATH"])
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-m", "trio_wsgi", "tried_app:app", "-w", "1"])
    yield path
    shutil.rmtree(path, ignore_errors=True)


def plan_of(site: Path, timeout: float = 30.0) -> Plan:
    return Plan("tried_app:app", Config(boot_timeout=timeout), str(site), 0o022)


def left(site: Path) -> str:
    return format_legacy(Legacy(plan_of(site), 1, [], [], []))


async def attempt(site: Path, *flags: str, timeout: float = 30.0) -> str:
    sys.orig_argv += flags
    return await start_trial(plan_of(site, timeout), left(site)).wait_verdict()


async def test_nothing_is_wrong_and_nothing_is_left_behind(site: Path) -> None:
    assert await attempt(site, "--pid", "server.pid") == ""
    assert os.listdir(site) == ["tried_app.py"]  # noqa: PTH208


async def test_what_cannot_be_started_is_told(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that is being replaced; a release that has been removed."""
    with monkeypatch.context() as away:
        away.setattr(sys, "executable", "/no/such/python")
        with pytest.raises(FileNotFoundError, match="'/no/such/python'"):
            await attempt(site)
    shutil.rmtree(site)
    with pytest.raises(ConfigError, match=f"working directory: '{site}': No such file or directory"):
        await attempt(site)


@pytest.mark.usefixtures("no_thread")
async def test_a_trial_takes_no_thread_of_ours(site: Path) -> None:
    """At the limit of pids, a supervisor may have none to give."""
    assert await attempt(site) == ""


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--cpu-affinity", "7777"], "cpu_affinity: CPU 7777 is not to be had"),
        (["--user", "4242424"], "user: 4242424 has no entry here that tells its group"),
        (["--pid", "no/such/pid"], "pid: cannot write no/such/pid: No such file or directory"),
    ],
)
async def test_what_would_end_the_new_program_ends_its_trial(site: Path, flags: list[str], why: str) -> None:
    told = await attempt(site, *flags)
    assert told.startswith(why)
    assert told.endswith("\n(exit code 1)")


async def test_our_own_pid_file_is_no_obstacle(site: Path) -> None:
    with open_pid_file(str(site / "server.pid")):
        assert await attempt(site, "--pid", "server.pid") == ""


async def test_what_the_new_program_would_be_left_has_to_be_understood_by_it(site: Path) -> None:
    value = json.loads(left(site))
    value["plan"]["config"]["no_more_known"] = 1
    told = await start_trial(plan_of(site), json.dumps(value)).wait_verdict()
    assert told.startswith("upgrade: this version cannot take over from the one that runs: ")
    assert "no_more_known" in told


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_the_application_is_imported_as_whom_it_is_to_run_as(site: Path) -> None:
    (site / "tried_app.py").write_text(f"import os\nassert os.getuid(), 'root'\nopen('made', 'w').close()\n{APP}")
    assert await attempt(site, "--user", "nobody") == ""
    assert (site / "made").stat().st_uid != 0


async def test_threads_and_programs_of_the_application_keep_nobody_waiting(site: Path) -> None:
    (site / "tried_app.py").write_text(
        "import subprocess, threading, time\n"
        "helper = subprocess.Popen(['sleep', '60'])\n"
        "open('helper', 'w').write(str(helper.pid))\n"
        f"threading.Thread(target=time.sleep, args=(60,)).start()\n{APP}"
    )
    assert await attempt(site) == ""
    helper = int((site / "helper").read_text())
    wait_until(lambda: not is_alive(helper))  # it does not stay behind


@pytest.mark.parametrize("words", [["-c", "print('already running')"], ["-"]])
async def test_a_command_line_that_leads_elsewhere_by_now_is_no_server(
    words: list[str], site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start script that finds us running and ends well; a program that was read from a pipe."""
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, *words])
    told = await attempt(site)
    assert told.startswith("already running\n" if words[0] == "-c" else "the command line")
    command_line = shlex.join([sys.executable, *words])
    assert told.endswith(f"the command line did not lead to the server: {command_line}\n(exit code 0)")


async def test_an_application_that_ends_the_process_ends_its_trial(site: Path) -> None:
    """By whichever code: it would end the workers of the new program, too."""
    (site / "tried_app.py").write_text(f"import os\nos._exit(0)\n{APP}")
    assert "did not lead to the server" in await attempt(site)


async def test_a_trial_that_takes_too_long_is_ended(site: Path) -> None:
    (site / "tried_app.py").write_text("import time\ntime.sleep(60)\n")
    assert await attempt(site, timeout=1.0) == "it took more than 1 s (boot_timeout)"


# -- what is left ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["removed", "replaced"])
def test_the_file_of_a_socket_that_is_not_ours_any_more_is_left_alone(then: str, tmp_path: Path) -> None:
    """Whatever became of it meanwhile: what counts is which file it was."""
    path = tmp_path / "socket"
    channel, theirs = open_pair()
    with open_listeners(resolve(Config(bind=(f"unix:{path}",)).addresses), 10) as listeners, theirs:
        binding = Binding(listeners[0].address, {1: listeners})
        stacks, written = open_stacks()
        child = Child(1, os.getpid(), channel, stacks, State.SERVING)
        legacy = Legacy(Plan(None, Config(), "/", 0o022), 1, [binding], [child], [signal.SIGWINCH, signal.SIGTTIN])
        text = format_legacy(legacy)
        let_go(legacy)
        path.unlink()
        if then == "replaced":
            other = socket.socket(socket.AF_UNIX)
            other.bind(str(path))
            other.close()
        taken = parse_legacy(text)
        assert [(child.number, child.state) for child in taken.children] == [(1, State.SERVING)]
        assert taken.asked == legacy.asked
        os.write(written, b"Thread 1")
        assert taken.children[0].stacks.take() == "Thread 1"
        os.close(written)
        taken.children[0].channel.close()
        taken.children[0].stacks.close()
        taken.bindings[0].close()
        assert path.exists() == (then == "replaced")
