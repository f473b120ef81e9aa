"""Rules of --user, --group and --umask: who we are once the sockets are bound, and what is told where that fails."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from serving import Command, command
from waiting import wait_until

import trio_wsgi
from trio_wsgi.cli import main
from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.process.plan import Plan
from trio_wsgi.process.privileges import decide_identity, set_umask
from trio_wsgi.process.standing import stand

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
WORKERS = [0, 1]
NOBODY = pwd.getpwnam("nobody")
NUMBER = 4242424  # no entry in any database

PROGRAM = """
import json, os, sys, threading
from trio_wsgi.config import make_config
from trio_wsgi.errors import ConfigError
from trio_wsgi.process.privileges import become, decide_identity
os.environ.update(HOME="/root", USER="root", LOGNAME="somebody")
ids = lambda: [os.getresuid(), os.getresgid(), sorted(os.getgroups())]
told, of_thread, go = "", [], threading.Event()
thread = threading.Thread(target=lambda: (go.wait(), of_thread.extend(ids())))
thread.start()
try:
    os.setgroups([7, 8])
    for settings in json.loads(sys.argv[1]):
        become(decide_identity(make_config(settings)))
except ConfigError as error:
    told = str(error)
go.set()
thread.join()
names = [os.environ[name] for name in ("HOME", "USER", "LOGNAME")]
print(json.dumps([ids(), of_thread, names, told]))
"""


def become_all(*each: dict[str, Any]) -> tuple[list[Any], list[str], str]:
    """Real, effective and saved ids, and groups, after becoming one after the other; names; what was told."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(each)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(Path(trio_wsgi.__file__).parent.parent)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    ids, of_thread, names, told = json.loads(done.stdout)
    assert ids == of_thread  # a change is the whole process's (nptl(7)): log and application threads, too
    return ids, names, told


@needs_root
def test_a_user_by_name_brings_its_groups_and_its_home() -> None:
    ids, names, told = become_all({"user": "nobody"})
    groups = sorted(os.getgrouplist("nobody", NOBODY.pw_gid))
    assert told == ""
    assert ids == [[NOBODY.pw_uid] * 3, [NOBODY.pw_gid] * 3, groups]
    assert names == [NOBODY.pw_dir, "nobody", "somebody"]


@needs_root
def test_a_number_without_an_entry_needs_a_group() -> None:
    """As of a container; nothing of root's groups stays."""
    ids, names, told = become_all({"user": str(NUMBER), "group": "4343434"})
    assert told == ""
    assert ids == [[NUMBER] * 3, [4343434] * 3, [4343434]]
    assert names == ["/", str(NUMBER), "somebody"]
    with pytest.raises(ConfigError, match=f"user: {NUMBER} has no entry here that tells its group .name one with"):
        decide_identity(Config(user=str(NUMBER)))


@needs_root
def test_a_group_alone() -> None:
    ids, names, told = become_all({"group": "nogroup"})
    gid = NOBODY.pw_gid
    assert told == ""
    assert ids == [[0] * 3, [gid] * 3, [gid]]
    assert names == ["/root", "root", "somebody"]


@needs_root
def test_there_is_no_way_back_and_staying_is_allowed() -> None:
    ids, _, told = become_all({"user": "nobody"}, {"user": "nobody"}, {"user": str(NOBODY.pw_uid)}, {"user": "root"})
    assert ids[0] == [NOBODY.pw_uid] * 3
    assert told == (
        "user: only root can become somebody else (start as root, or leave user and group to the service manager)"
    )
    _, _, told = become_all({"user": "nobody"}, {"group": "0"})
    assert told.startswith("group: only root can become somebody else")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"user": "no_such_user_here"}, "user: there is no user 'no_such_user_here' here"),
        ({"user": "nobody", "group": "no_such_group"}, "group: there is no group 'no_such_group' here"),
        ({"group": "-5"}, "group: there is no group '-5' here"),
    ],
)
def test_who_is_not_known_is_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        decide_identity(Config(**settings))


def test_nobody_named_is_nothing_done() -> None:
    assert decide_identity(Config()) is None


@pytest.mark.parametrize(("umask", "mode"), [("", 0o604), ("027", 0o640), ("0o7", 0o660)])
def test_the_umask(umask: str, mode: int, tmp_path: Path) -> None:
    before = os.umask(0o062)
    try:
        set_umask(Config(umask=umask))
        (tmp_path / "file").touch(0o666)
        assert (tmp_path / "file").stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)


def test_a_umask_that_is_not_set_any_more_is_the_inherited_one() -> None:
    before = os.umask(0)
    try:
        seen = []
        for setting in ("", "077", ""):
            stand(Plan(None, Config(umask=setting), str(Path.cwd()), 0o026))
            seen.append(os.umask(0))
        assert seen == [0o026, 0o077, 0o026]
    finally:
        os.umask(before)


# -- the command -------------------------------------------------------------------------------------------------------

APP = """
import json, os
imported_as = os.getresuid()
def app(environ, start_response):
    try:
        open("private").read()
        private = "read"
    except OSError as error:
        private = error.strerror
    start_response("200 OK", [])
    told = imported_as, os.getresuid(), os.getresgid(), os.getgroups(), os.environ.get("HOME"), private
    return [json.dumps(told).encode()]
"""


@pytest.fixture
def site() -> Iterator[Path]:
    """A directory that nobody may read; pytest's own are root's alone."""
    path = Path(tempfile.mkdtemp(prefix="trio-wsgi-test-"))
    path.chmod(0o755)
    (path / "user_app.py").write_text(APP)
    (path / "private").touch(0o600)
    yield path
    shutil.rmtree(path)


def find_low_address() -> str:
    """A port that only root may bind (ip(7), ip_unprivileged_port_start), at a loopback address of this process."""
    high, low = divmod(os.getpid(), 256)
    return f"127.{1 + high // 256}.{high % 256}.{low}:980"


def ask(run: Command) -> list[Any]:
    told: list[Any] = httpx.get(run.url, timeout=20, verify=False).json()
    return told


@needs_root
def test_a_check_imports_the_application_as_whom_it_is_to_run_as(site: Path) -> None:
    (site / "user_app.py").write_text(f"import os\nprint('imported by', os.getuid())\n{APP}")
    words = ["--check-config", "--user", "nobody", "user_app:app"]
    with command(*words, cwd=site, wait=False) as run:
        assert run.wait(60) == 0, run.log
        assert f"imported by {NOBODY.pw_uid}\n" in run.log


# Runs what follows without a right that root has elsewhere.
WITHOUT = """
import os, sys
bounding = ["--bounding-set", sys.argv[1], "--inh-caps", sys.argv[1]]
os.execvp("setpriv", ["setpriv", *bounding, sys.executable, "-m", "trio_wsgi", *sys.argv[2:]])
"""


@needs_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv(1) takes the right away")
def test_root_who_could_not_end_its_workers_starts_none(site: Path) -> None:
    """As in a container that dropped the capability KILL: neither TERM nor what hangs could be seen to. Who needs no
    such right does without."""
    words = ("-b", "127.0.0.1:0", "user_app:app")
    without = ("-c", WITHOUT, "-kill")
    with command("--user", "nobody", *words, cwd=site, workers=1, program=without, wait=False) as run:
        assert run.wait(60) == 1, run.log
        assert run.log == (
            "trio-wsgi: error: user: workers of nobody could not be sent a signal "
            "(it takes the capabilities SETUID and SETGID, and KILL where there are workers)\n"
        )
    for workers, user in ((0, "nobody"), (1, "root")):
        with command("--user", user, *words, cwd=site, workers=workers, program=without) as run:
            run.send_signal(signal.SIGTERM)
            assert run.wait(60) == 0, run.log


@needs_root
@pytest.mark.parametrize("workers", WORKERS)
def test_ports_files_and_sockets_are_roots_to_open_and_the_application_is_nobodys(workers: int, site: Path) -> None:
    """Done as root: a low port, a unix socket, logs and the pid file where nobody may write, a key to read."""
    path = site / "socket"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(site / "key.pem"))
    (site / "key.pem").chmod(0o600)
    with command(
        *("-b", find_low_address(), "-b", f"unix:{path}", "--unix-socket-perms", "660"),
        *("--certfile", "key.pem"),
        *("--user", "nobody", "--pid", "server.pid", "--access-logfile", "access.log", "user_app:app"),
        cwd=site,
        workers=workers,
        HOME="/root",
    ) as run:
        uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
        imported_as, ids, gids, groups, home, private = ask(run)
        assert imported_as == ids == [uid] * 3
        assert gids == [gid] * 3
        assert sorted(groups) == sorted(os.getgrouplist("nobody", gid))
        assert home == NOBODY.pw_dir
        assert private == "Permission denied"
        assert path.stat().st_mode & 0o777 == 0o660
        assert {(each.stat().st_uid, each.stat().st_gid) for each in (path, site / "access.log")} == {(uid, gid)}
        assert int((site / "server.pid").read_text()) == run.process.pid
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == 0, run.log
        assert "Traceback" not in run.log
    assert (site / "server.pid").exists() == (workers == 0)  # we were root no more; the next start replaces it


@needs_root
def test_what_was_left_behind_without_the_right_to_remove_it_is_replaced(site: Path) -> None:
    words = ("-b", f"unix:{site / 'socket'}", "--user", "nobody", "--pid", "server.pid", "user_app:app")
    for _ in range(2):
        with command(*words, cwd=site) as run:
            assert int((site / "server.pid").read_text()) == run.process.pid
            run.send_signal(signal.SIGTERM)
            assert run.wait(60) == 0, run.log
        assert (site / "socket").exists()


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "directory", "created"),
    [
        (0, ".", True),  # root's: logrotate's `create 640 nobody` makes it
        (0, "nobodys", False),  # nobody's, who makes it
        (1, ".", False),  # root's: so is the supervisor, who makes it
    ],
)
def test_logs_are_opened_anew_after_the_privileges_are_gone(
    workers: int, directory: str, created: bool, site: Path
) -> None:
    """USR1 after a log was moved away. The new one belongs to whom we have become, whoever has made it."""
    (site / "nobodys").mkdir()
    os.chown(site / "nobodys", NOBODY.pw_uid, -1)
    log = site / directory / "access.log"
    words = ("-b", "127.0.0.1:0", "--user", "nobody", "--access-logfile", str(log), "user_app:app")
    with command(*words, cwd=site, workers=workers) as run:
        ask(run)
        wait_until(lambda: log.read_text().count("GET /") == 1)
        log.rename(log.with_suffix(".1"))
        if created:
            log.touch(0o640)
            os.chown(log, NOBODY.pw_uid, NOBODY.pw_gid)
        run.send_signal(signal.SIGUSR1)
        wait_until(log.exists)
        ask(run)
        wait_until(lambda: log.read_text().count("GET /") == 1)
        assert log.with_suffix(".1").read_text().count("GET /") == 1
        assert log.stat().st_uid == NOBODY.pw_uid
        assert "cannot reopen" not in run.log


@needs_root
def test_a_log_that_was_there_stays_whose_it_is_and_goes_on_where_it_cannot_be_opened_anew(site: Path) -> None:
    """To give it away would be wrong: where the directory is the application's, it could be a link to anything."""
    log, moved = site / "access.log", site / "access.1"
    log.touch(0o600)
    words = ("-b", "127.0.0.1:0", "--user", "nobody", "--access-logfile", "access.log", "user_app:app")
    with command(*words, cwd=site) as run:
        ask(run)
        wait_until(lambda: log.read_text().count("GET /") == 1)
        assert log.stat().st_uid == 0
        log.rename(moved)
        run.send_signal(signal.SIGUSR1)
        wait_until(lambda: f"cannot reopen {log}: Permission denied; going on in the old file" in run.log)
        ask(run)
        wait_until(lambda: moved.read_text().count("GET /") == 2)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--user", "no_such_user_here"], "user: there is no user 'no_such_user_here' here"),
        (["--unix-socket-owner", ":no_such_group"], "unix_socket_owner: there is no group 'no_such_group' here"),
        (["--pid", "no/such/file"], "pid: cannot write no/such/file: No such file or directory"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_1(
    words: list[str], told: str, workers: int, site: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(site)
    assert main(["-b", "127.0.0.1:0", "-w", str(workers), *words, "user_app:app"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"trio-wsgi: error: {told}")
    assert err.count("\n") == 1


def test_the_umask_counts_from_the_beginning(site: Path) -> None:
    """For sockets, logs, and what the application makes."""
    (site / "umask_app.py").write_text("open('made', 'w').close()\ndef app(environ, start_response): ...\n")
    with command(
        *("-b", f"unix:{site / 'socket'}", "-m", "0027", "--access-logfile", "access.log", "umask_app:app"),
        cwd=site,
        workers=1,
    ):
        modes = [(site / name).stat().st_mode & 0o777 for name in ("socket", "access.log", "made")]
    assert modes == [0o750, 0o640, 0o640]
