"""Rules of HUP: new code and new settings in new workers, while the old ones finish; or nothing at all (issue 5)."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Command, command
from waiting import wait_until
from workers import answering_pid, ask, end, held_request, supervised, wait_log, worker_pids, write_app


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_app(folder)
    (folder / "site.toml").write_text("")
    return folder


@pytest.fixture(scope="module")
def running(site: Path) -> Iterator[Command]:
    """One server with a file of settings, used by test after test."""
    with supervised(site, "-c", "site.toml", workers=2) as run:
        yield run


def reload(run: Command) -> None:
    """Until the new workers serve; an old one that has not heard of it yet may still accept."""
    before = run.log.count("listening at ")
    run.send_signal(signal.SIGHUP)
    wait_log(run, "listening at ", before + 1)


def refuse(run: Command, why: str) -> None:
    """A reload that is to change nothing, and says so."""
    pids, before = set(worker_pids(run)), run.log.count("SIGHUP: nothing changes")
    run.send_signal(signal.SIGHUP)
    wait_log(run, "SIGHUP: nothing changes", before + 1)
    assert why in run.log[run.log.rindex("SIGHUP: nothing changes") :]
    wait_until(lambda: set(worker_pids(run)) <= pids)  # some may have been leaving
    assert answering_pid(run) in pids


def test_new_workers_have_the_new_code_and_the_new_settings(site: Path, running: Command) -> None:
    old = set(worker_pids(running))
    write_app(site, "two")
    (site / "site.toml").write_text("ident = 'another'\n[env]\nRELOADED = 'yes'\n")
    reload(running)
    wait_until(lambda: not old & set(worker_pids(running)))  # one that has not heard of it yet may still accept
    assert ask(running).startswith("two ")
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b"\r\nServer: another\r\n" in client.recv(9999)
    assert b"RELOADED=yes" in Path(f"/proc/{answering_pid(running)}/environ").read_bytes()


def test_a_request_that_is_under_way_is_finished_by_the_old_code(site: Path, running: Command) -> None:
    write_app(site, "two")
    reload(running)
    with held_request(running, site) as held:
        write_app(site, "three")
        reload(running)
        wait_until(lambda: ask(running).startswith("three "))
        assert held.let_go().startswith("two ")


def test_an_application_that_cannot_boot_leaves_all_as_it_was(site: Path, running: Command) -> None:
    """PAINS 42, 43. The log says why, with the traceback."""
    (site / "workers_app.py").write_text("def app(:\n")
    refuse(running, "SyntaxError")
    assert 'workers_app.py", line 1' in running.log
    write_app(site)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("threads = 0", "threads in site.toml: 0 is too low"),
        ("thread = 1", "there is no such setting (did you mean threads?)"),
        ("threads = ", "site.toml is not TOML"),
        ("x = " + "[" * 3000, "site.toml is not TOML: maximum recursion depth exceeded"),
        ('chdir = "/tmp\\u0000x"', "chdir in site.toml: '/tmp\\x00x' has a NUL"),
        ("bind = ['fd://2147483648']", "'fd://2147483648' is beyond all descriptors"),
        ("chdir = '/no/such/directory'", "chdir: cannot change to '/no/such/directory'"),
        ("middleware = ['no_such_module:wrap']", "there is no module 'no_such_module'"),
    ],
)
def test_settings_that_cannot_be_used_leave_all_as_it_was(site: Path, running: Command, text: str, why: str) -> None:
    (site / "site.toml").write_text(text)
    refuse(running, why)
    (site / "site.toml").write_text("")


BROKEN = """
import os, sys
import trio_wsgi.process.supervisor as supervisor

def read_anew(read_plan, served, read=supervisor.read_anew):
    if os.path.exists("broken"):
        raise LookupError("nobody has thought of this")
    return read(read_plan, served)

supervisor.read_anew = read_anew
from trio_wsgi.cli import main
sys.exit(main())
"""


def test_an_error_that_nobody_has_thought_of_leaves_all_as_it_was(tmp_path: Path) -> None:
    """It is ours; the log has its traceback, and clients are served."""
    write_app(tmp_path)
    arguments = ["workers_app:app", "-b", "127.0.0.1:0"]
    with command(*arguments, cwd=tmp_path, workers=1, program=("-c", BROKEN)) as run:
        (tmp_path / "broken").touch()
        refuse(run, "LookupError: nobody has thought of this")
        assert "in read_anew" in run.log
        (tmp_path / "broken").unlink()
        write_app(tmp_path, "two")
        reload(run)
        wait_until(lambda: ask(run).startswith("two "))
        assert end(run, signal.SIGTERM) == 0


def test_a_user_whom_workers_could_not_become_is_told_before_one_is_started(site: Path, running: Command) -> None:
    """A mistake in the settings is none of the application's, and the log does not blame that."""
    (site / "site.toml").write_text("user = '4242424'\n")
    refuse(running, "SIGHUP: nothing changes: user: 4242424 has no entry here that tells its group")
    (site / "site.toml").write_text("")


def test_a_unix_socket_that_somebody_has_removed_is_made_anew(tmp_path: Path) -> None:
    """Its address stays, but nobody could connect. Where the reload fails, what was queued is served all the same."""
    write_app(tmp_path)
    path = tmp_path / "socket"
    with supervised(tmp_path, "-b", f"unix:{path}") as run, socket.socket(socket.AF_UNIX) as early:
        early.connect(str(path))
        path.unlink()
        (tmp_path / "workers_app.py").write_text("def app(:\n")
        refuse(run, "SyntaxError")
        assert not path.exists()
        assert ask_through(early).endswith(b"one %d" % answering_pid(run))
        write_app(tmp_path, "two")
        reload(run)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            assert ask_through(client).endswith(b"two %d" % answering_pid(run))
        inode = path.stat().st_ino
        reload(run)
        assert path.stat().st_ino == inode
        path.unlink()
        path.write_text("another's")
        refuse(run, "there is a file that is no socket")
        assert end(run, signal.SIGTERM) == 0
        assert path.read_text() == "another's"


def ask_through(client: socket.socket) -> bytes:
    client.settimeout(30)
    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    return b"".join(iter(lambda: client.recv(65536), b""))


def test_workers_that_come_after_a_reload_has_failed_while_there_were_none_are_ended_as_well(tmp_path: Path) -> None:
    write_app(tmp_path)
    with supervised(tmp_path) as run:
        run.send_signal(signal.SIGWINCH)
        wait_until(lambda: not worker_pids(run))
        (tmp_path / "workers_app.py").write_text("def app(:\n")
        run.send_signal(signal.SIGHUP)
        wait_log(run, "SIGHUP: nothing changes")
        wait_until(lambda: not worker_pids(run))
        write_app(tmp_path)
        run.send_signal(signal.SIGTTIN)
        wait_log(run, "is ready", 2)
        assert end(run, signal.SIGTERM) == 0


IMPATIENT = """
import sys
import trio_wsgi.process.fleet as fleet
fleet.HOPELESS = 1
from trio_wsgi.cli import main
sys.exit(main())
"""


def test_a_reload_that_mends_all_is_not_cut_off_because_the_old_code_cannot_boot(tmp_path: Path) -> None:
    """However often that has failed: what is under way may be what ends it."""
    write_app(tmp_path)
    app, go = tmp_path / "workers_app.py", tmp_path / "go"
    waits = f"import os, time\nprint('waiting', flush=True)\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
    arguments = ["workers_app:app", "-b", "127.0.0.1:0"]
    with command(*arguments, cwd=tmp_path, workers=1, program=("-c", IMPATIENT)) as run:
        (victim,) = worker_pids(run)
        app.write_text(waits + app.read_text())
        run.send_signal(signal.SIGHUP)
        wait_log(run, "waiting")
        app.write_text("raise ValueError('broken')\n")
        os.kill(victim, signal.SIGKILL)
        wait_log(run, "cannot boot: ")
        go.touch()
        wait_log(run, "listening at ", 2)
        assert end(run, signal.SIGTERM) == 0


def test_reloads_that_come_while_one_is_under_way_are_one_more(site: Path, running: Command) -> None:
    write_app(site, "four")
    before = running.log.count("SIGHUP: starting new workers")
    running.send_signal(signal.SIGHUP)
    wait_log(running, "SIGHUP: starting new workers", before + 1)
    write_app(site, "five")
    for _ in range(5):
        running.send_signal(signal.SIGHUP)
    wait_until(lambda: ask(running).startswith("five "))
    wait_until(lambda: len(worker_pids(running)) == 2)
    assert running.log.count("SIGHUP: starting new workers") == before + 2


def test_addresses_come_and_go_and_what_stays_is_never_closed(tmp_path: Path) -> None:
    write_app(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    (tmp_path / "site.toml").write_text(f"bind = ['127.0.0.1:0', 'unix:{first}']\n")
    with command("workers_app:app", cwd=tmp_path, workers=1, TRIO_WSGI_CONFIG="site.toml") as run:
        port = run.port
        inode = first.stat().st_ino
        settings = f"bind = ['127.0.0.1:0', 'unix:{first}', 'unix:{second}']\numask = '077'\n"
        (tmp_path / "site.toml").write_text(settings)
        reload(run)
        assert run.port == port  # port 0 chose it once
        assert first.stat().st_ino == inode
        assert second.stat().st_mode & 0o777 == 0o700
        assert answers(second)
        (tmp_path / "site.toml").write_text(f"bind = ['127.0.0.1:0', 'unix:{second}']\n")
        reload(run)
        assert not first.exists()
        assert answers(second)
        (tmp_path / "site.toml").write_text(f"bind = ['127.0.0.1:0', '127.0.0.1:{port}']\n")
        refuse(run, "is another server running there, or is it named twice?")  # we ourselves, under another name
        assert answers(second)
        assert end(run, signal.SIGTERM) == 0
        assert not second.exists()


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return client.recv(12) == b"HTTP/1.1 200"


def test_the_number_of_workers_and_the_logs_follow_the_settings(tmp_path: Path) -> None:
    write_app(tmp_path)
    old, new = tmp_path / "old.log", tmp_path / "new.log"
    (tmp_path / "site.toml").write_text(f"error_logfile = '{old}'\nbind = 'unix:{tmp_path}/socket'\n")
    with command("workers_app:app", "-c", "site.toml", cwd=tmp_path, workers=1, wait=False) as run:
        wait_until(lambda: old.exists() and "listening at " in old.read_text())
        run.send_signal(signal.SIGTTIN)
        wait_until(lambda: len(worker_pids(run)) == 2)
        (tmp_path / "site.toml").write_text(f"error_logfile = '{new}'\nbind = 'unix:{tmp_path}/socket'\n")
        run.send_signal(signal.SIGHUP)
        wait_until(lambda: new.exists() and "workers: 1" in new.read_text())
        new.rename(tmp_path / "moved.log")
        run.send_signal(signal.SIGUSR1)
        wait_until(lambda: new.exists() and "reopening" in (tmp_path / "moved.log").read_text() + new.read_text())
        assert end(run, signal.SIGTERM) == 0
        assert "stopped" in new.read_text()
        assert "stopped" not in old.read_text()


def make_releases(folder: Path) -> Path:
    """Two versions, `one` and `two`, each with a PasteDeploy file that tells its own; and a symlink to the first."""
    for release in ("one", "two"):
        (folder / release).mkdir()
        write_app(folder / release, release)
        ini = f"[app:main]\npaste.app_factory = workers_paste:make\nname = ini {release}\n"
        (folder / release / "site.ini").write_text(ini)
        (folder / release / "workers_paste.py").write_text(
            "def make(everything, name):\n"
            "    def app(environ, start_response):\n"
            "        start_response('200 OK', [])\n"
            "        return [name.encode()]\n"
            "    return app\n"
        )
    current = folder / "current"
    current.symlink_to("one")
    return current


def test_the_file_that_names_the_application_is_looked_up_anew_as_well(tmp_path: Path) -> None:
    current = make_releases(tmp_path)
    words = ["--paste", "site.ini", "-b", "127.0.0.1:0"]
    with command(*words, cwd=current, workers=1, PWD=str(current)) as run:
        assert ask(run) == "ini one"
        current.unlink()
        current.symlink_to("two")
        reload(run)
        wait_until(lambda: ask(run) == "ini two")
        assert end(run, signal.SIGTERM) == 0


def test_the_directory_is_looked_up_by_its_name_so_that_a_symlink_may_lead_elsewhere(tmp_path: Path) -> None:
    """Deployments switch `current` from one release to the next."""
    current = make_releases(tmp_path)
    with supervised(current, PWD=str(current)) as run:
        assert ask(run).startswith("one ")
        current.unlink()
        current.symlink_to("two")
        reload(run)
        wait_until(lambda: ask(run).startswith("two "))
        (victim,) = {answering_pid(run)}
        os.kill(victim, signal.SIGKILL)
        wait_log(run, f"(pid {victim}) died")
        assert ask(run).startswith("two ")
        assert end(run, signal.SIGTERM) == 0
