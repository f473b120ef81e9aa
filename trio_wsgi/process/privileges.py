"""Becoming another user, once what only root may do is done.

Laws:

* Groups go before the user: whoever is no longer root may not change them. Then it is looked at whether the system
  agrees, and whether the way back is closed; a process that is still what it was does not serve.
* Without `user`, `group` changes the group alone. Without `group`, it is the user's; the user's further groups come
  along (initgroups(3)).
* Who is not root can only stay who it is, and is told so before anything is bound. So is a supervisor that could not
  end its workers once they are somebody else.
* The umask takes no rights to set, and counts from the beginning: for log files and sockets, too.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.owner import User, find_heir, find_user

_HOW = "start as root, or leave user and group to the service manager"
_CAPABILITIES = "it takes the capabilities SETUID and SETGID, and KILL where there are workers"
_CAP_KILL = 5  # linux/capability.h


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a process is to become.

    Args:
        user: None: whoever it is.
        gid: its group.
    """

    user: User | None
    gid: int


def decide_identity(config: Config) -> Identity | None:
    """Look up whom the settings name; None where they name nobody.

    Raises:
        ConfigError: there is no such user or group, or only root could become it.
    """
    if config.user is None and config.group is None:
        return None
    user = None if config.user is None else find_user(config.user, "user")
    gid = find_heir(config).gid
    if gid < 0:
        raise ConfigError("user", f"{config.user} has no entry here that tells its group", "name one with --group")
    identity = Identity(user, gid)
    if os.geteuid() != 0 and not _is(identity):
        raise ConfigError("user" if config.group is None else "group", "only root can become somebody else", _HOW)
    return identity


def check_supervisor(identity: Identity | None) -> None:
    """See that this process can send signals to workers that have become somebody.

    Raises:
        ConfigError: it is root without the right to.
    """
    user = None if identity is None else identity.user
    if user is not None and user.uid != os.geteuid() and not _may_kill():
        raise ConfigError("user", f"workers of {user.name or user.uid} could not be sent a signal", _CAPABILITIES)


def _may_kill() -> bool:
    """Whether processes of others can be sent signals, where that is not simply root's to do (capabilities(7))."""
    try:
        found = re.search(r"^CapEff:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found is None or bool(int(found[1], 16) >> _CAP_KILL & 1)


def become(identity: Identity | None) -> None:
    """Give up what we are, for good, in all threads of this process (nptl(7)).

    HOME, USER and LOGNAME that told of the former user tell of the new one.

    Raises:
        ConfigError: the system refuses; the process may be half of each then, and is to end.
    """
    if identity is None or (os.geteuid() != 0 and _is(identity)):
        return
    former = os.getuid()
    user, gid = identity.user, identity.gid
    try:
        if user is not None and user.name:
            os.initgroups(user.name, gid)
        else:
            os.setgroups([gid])
        os.setgid(gid)
        if user is not None:
            os.setuid(user.uid)
    except OSError as exc:
        why = f"cannot become {_describe(identity)}: {exc.strerror}"
        raise ConfigError("user", why, _CAPABILITIES) from exc
    if not _is(identity) or (user is not None and user.uid != 0 and _regains_root()):
        raise ConfigError("user", f"the system has not made us {_describe(identity)}", _HOW)
    if user is not None:
        _rename_home(former, user)


def set_umask(config: Config) -> None:
    """Take from all files that this process makes the permissions that `umask` names."""
    if config.umask:
        os.umask(int(config.umask, 8))


def _is(identity: Identity) -> bool:
    uid = os.geteuid() if identity.user is None else identity.user.uid
    return {*_read_ids("getresuid", os.getuid, os.geteuid)} == {uid} and {
        *_read_ids("getresgid", os.getgid, os.getegid)
    } == {identity.gid}


def _read_ids(all_three: str, *real_and_effective: Callable[[], int]) -> tuple[int, ...]:
    """With the saved one, which is the way back, where the system tells it."""
    ids: tuple[int, ...] = getattr(os, all_three, lambda: tuple(get() for get in real_and_effective))()
    return ids


def _regains_root() -> bool:
    try:
        os.setuid(0)
    except OSError:
        return False
    return True


def _rename_home(former: int, user: User) -> None:
    with contextlib.suppress(KeyError):  # root has no entry; whatever the variables say, they are not about it
        entry = pwd.getpwuid(former)
        for variable, was, becomes in (
            ("HOME", entry.pw_dir, user.home or "/"),
            ("USER", entry.pw_name, user.name or str(user.uid)),
            ("LOGNAME", entry.pw_name, user.name or str(user.uid)),
        ):
            if os.environ.get(variable) == was:
                os.environ[variable] = becomes


def _describe(identity: Identity) -> str:
    if identity.user is None:
        return f"group {identity.gid}"
    return f"user {identity.user.name or identity.user.uid}, group {identity.gid}"
