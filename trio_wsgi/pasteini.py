"""What a PasteDeploy file says: which application it names, and our settings in its `[server:main]`.

Laws:

* Only the text is read here; the application is made by PasteDeploy itself, where it runs (`integrations.paste`).
* Settings count where `use = egg:trio-wsgi#main`; a file for another server brings none, and may name one.
* Names are those of `Config`, with dashes or underscores, and what waitress' and gunicorn's users write: host, port,
  listen. An unknown name is a `ConfigError` with the nearest.

Spec: https://docs.pylonsproject.org/projects/pastedeploy/ ("Basic Usage").
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from trio_wsgi.address import DEFAULT_HOST, DEFAULT_PORT, join_host
from trio_wsgi.config import SETTINGS
from trio_wsgi.errors import ConfigError
from trio_wsgi.foreign import find_hint
from trio_wsgi.kind import parse_pair

MAIN = "main"
SERVER = f"server:{MAIN}"
_OURS = re.compile(r"egg:\s*trio[-_.]wsgi(#main)?", re.IGNORECASE)
_PLACES = ("host", "port", "listen")


def name_app(text: str, variables: Sequence[str] = ()) -> str:
    """The reference by which a worker loads the application: ``module:attribute`` with literals.

    Args:
        text: FILE, or FILE#NAME for ``[app:NAME]``; relative to the working directory of now.
        variables: each KEY=VALUE, for what the file uses and does not define.

    Raises:
        ConfigError: there is no such file, or a variable without an equals sign.
    """
    path, name = _split(text)
    words = [repr(str(path)), repr(name), *([repr(_parse_variables(variables))] if variables else [])]
    return f"trio_wsgi.integrations.paste:load_app({', '.join(words)})"


def read_server(text: str | None, variables: Sequence[str] = ()) -> dict[str, str]:
    """The texts of the settings under ``[server:main]``, by name; none where the section is another server's.

    Args:
        text, variables: as for `name_app`; None: there is no file, and so no settings.

    Raises:
        ConfigError: the file cannot be read, or names what is no setting.
    """
    if text is None:
        return {}
    path, _ = _split(text)
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    known = {"here": str(path.parent), "__file__": str(path)} | _parse_variables(variables)
    try:
        parser.read_string(path.read_text("utf-8"), str(path))
        for key, value in known.items():
            parser["DEFAULT"].setdefault(key, value.replace("%", "%%"))
        items = dict(parser.items(SERVER)) if parser.has_section(SERVER) else {}
        given = parser.defaults()
    except configparser.InterpolationError as error:
        hint = "a variable is given with --paste-global KEY=VALUE"
        raise ConfigError("--paste", f"{path}: {error.message}", hint) from None
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        why = " ".join(str(error).split())
        raise ConfigError("--paste", f"{path} cannot be read: {why}", "name a PasteDeploy file") from None
    if not is_ours(items.get("use", "")):
        return {}
    local: dict[str, str] = {}
    for key, value in items.items():
        if key.startswith("get "):
            local[key.removeprefix("get ").strip()] = parser.get("DEFAULT", value, fallback="")
        elif key not in given and key != "use" and not key.startswith("set "):
            local[key] = value
    return read_settings(local, str(path))


def is_ours(use: str) -> bool:
    """Whether the server that a section uses is this one."""
    return _OURS.fullmatch(use.strip()) is not None


def read_settings(local: Mapping[str, str], where: str) -> dict[str, str]:
    """What a ``[server:main]`` says, as texts of settings.

    Args:
        local: its keys and values, without ``use``.
        where: the file, for errors.

    Raises:
        ConfigError: a name that is no setting, or one that is written twice.
    """
    texts = _read_places(local, where)
    for key, value in local.items():
        if key in _PLACES:
            continue
        label = f"{key} in {where}"
        name = SETTINGS.resolve(key, label, find_hint(key))
        if name in texts:
            raise ConfigError(label, f"{name} is written twice", "keep one")
        texts[name] = value
    return texts


def _read_places(local: Mapping[str, str], where: str) -> dict[str, str]:
    """`bind`, from what waitress and gunicorn call host, port and listen."""
    if "listen" in local:
        if "host" in local or "port" in local:
            raise ConfigError(f"listen in {where}", "host and port are there, too", "keep one")
        places = [f":{place[2:]}" if place.startswith("*:") else place for place in local["listen"].split()]
    elif "host" in local or "port" in local:
        places = [join_host(local.get("host", DEFAULT_HOST), local.get("port", DEFAULT_PORT))]
    else:
        return {}
    return {"bind": " ".join(places)}


def _parse_variables(variables: Sequence[str]) -> dict[str, str]:
    known = {}
    for text in variables:
        try:
            key, value = parse_pair(text)
        except ValueError as error:
            raise ConfigError("--paste-global", f"{text!r} {error}") from None
        known[key] = value
    return known


def _split(text: str) -> tuple[Path, str]:
    file, _, name = text.removeprefix("config:").partition("#")
    path = Path(file).absolute()
    if not path.is_file():
        raise ConfigError("--paste", f"there is no file {str(path)!r}", "write FILE, or FILE#APP")
    return path, name or MAIN
