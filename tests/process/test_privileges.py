"""Rules of --user, --group and --umask: who we are once the sockets are bound, and what is told where that fails."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import trio_wsgi
from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.process.privileges import decide_identity, set_umask

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
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
