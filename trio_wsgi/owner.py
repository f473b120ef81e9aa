"""Users and groups: by name or number, from the databases of this host.

Laws:

* A name counts before a number that looks like it (POSIX chown). A number needs no entry: containers have none.
* A look into them may read files and ask the network (nsswitch.conf(5)): it is never taken on the event loop.
* What is not known is a ConfigError that names the setting.
"""

from __future__ import annotations

import grp
import pwd
from dataclasses import dataclass
from typing import NamedTuple

from trio_wsgi.config import Config
from trio_wsgi.errors import ConfigError

_HIGHEST = 2**32 - 2  # one more is (uid_t) -1, which chown(2) and setresuid(2) take for "leave it"


class Owner(NamedTuple):
    """Whom a file is to belong to; -1 leaves that part as it is (chown(2))."""

    uid: int = -1
    gid: int = -1


@dataclass(frozen=True, slots=True)
class User:
    """Somebody whom a process may become.

    Args:
        gid, name, home: of the entry in the user database; a number without an entry has none.
    """

    uid: int
    gid: int | None = None
    name: str = ""
    home: str = ""


def find_user(text: str, setting: str) -> User:
    """Look a user up, by name or number."""
    try:
        entry = pwd.getpwnam(text)
    except KeyError:
        number = _parse_number(text)
        if number is None:
            raise ConfigError(setting, f"there is no user {text!r} here", "name one, or write its number") from None
        try:
            entry = pwd.getpwuid(number)
        except KeyError:
            return User(number)
    return User(entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir)


def find_group(text: str, setting: str) -> int:
    """The number of a group, by name or number."""
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        number = _parse_number(text)
        if number is None:
            raise ConfigError(setting, f"there is no group {text!r} here", "name one, or write its number") from None
        return number


def parse_owner(text: str, setting: str) -> Owner:
    """Read USER, USER:GROUP or :GROUP."""
    user, _, group = text.partition(":")
    return Owner(
        find_user(user, setting).uid if user else -1,
        find_group(group, setting) if group else -1,
    )


def find_heir(config: Config) -> Owner:
    """Whom files should belong to that we make before `user` and `group` take effect: whoever we become."""
    user = None if config.user is None else find_user(config.user, "user")
    if config.group is not None:
        gid = find_group(config.group, "group")
    else:
        gid = -1 if user is None or user.gid is None else user.gid
    return Owner(-1 if user is None else user.uid, gid)


def _parse_number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and int(text) <= _HIGHEST else None
