"""Where the values of settings come from, and which of them counts.

Laws:

* Flags beat the environment (TRIO_WSGI_*), it beats the section of a PasteDeploy file, that beats the TOML file, that
  beats the variables other servers know (PORT, SENDFILE), and they beat the defaults. A list is replaced, not added to.
* Every value keeps its origin in words, for `--print-config` and for errors.
* A name that is no setting is an error with the nearest one, wherever it was written. Kubernetes' own names are no
  errors: it gives every container those of a Service, and a Service may be called trio-wsgi.
"""

from __future__ import annotations

import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from trio_wsgi.config import SETTINGS, Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.flags import NO_SETTINGS
from trio_wsgi.foreign import find_hint
from trio_wsgi.setting import ENVIRONMENT_PREFIX, nearest

DEFAULT_FILE = "pyproject.toml"
TABLE_NAMES = ("trio-wsgi", "trio_wsgi")
_PLACES = f"settings stand at the top, in [{TABLE_NAMES[0]}] or in [tool.{TABLE_NAMES[0]}]"
PASTE_ORIGIN = "[server:main]"
FILE_VARIABLE = ENVIRONMENT_PREFIX + "CONFIG"  # as -c
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_OF_A_SERVICE = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_PORT_OF_A_SERVICE = re.compile(r"(\w+_)?PORT=(tcp|udp|sctp)://.*")
_FOREIGN_FILES = {  # what others' -c takes
    ".py": "write the settings of gunicorn.conf.py in TOML: docs/migrating.md",
    ".ini": "for a PasteDeploy file, write --paste FILE",
}


class Given(NamedTuple):
    value: Any
    origin: str


Layer = dict[str, Given]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A Config, and for each setting where its value came from: ``default``, a flag, a variable or a file.

    Args:
        file: that was read, or would have been if it were there.
    """

    config: Config
    origins: Mapping[str, str]
    file: str = DEFAULT_FILE

    def is_ours(self, name: str) -> bool:
        """Whether somebody has set this for us: it is no default, nor from a variable that others know, too."""
        return self.origins[name] not in ("default", SETTINGS[name].familiar)


def load_config(
    flags: Mapping[str, str | Sequence[str]],
    environ: Mapping[str, str],
    file: str | None = None,
    ini: Mapping[str, str] = MappingProxyType({}),
) -> Loaded:
    """Gather every source into one Config.

    Args:
        flags: the texts given on the command line, by setting; lists for repeatable ones.
        environ: the process environment.
        file: a TOML file to read; else that of TRIO_WSGI_CONFIG; else ./pyproject.toml if it has our table.
        ini: the texts in a PasteDeploy file, by setting.

    Raises:
        ConfigError: a file that cannot be read, an unknown name, or a value that cannot be used.
    """
    if file == "":
        raise ConfigError("--config", "'' names no file", "write a TOML file, or leave it out")
    file = file or environ.get(FILE_VARIABLE) or None
    layers = (
        _read_familiar(environ),
        _read_default_file() if file is None else _read_file(Path(file)),
        {name: _parse(name, text, PASTE_ORIGIN, f"{name} in {PASTE_ORIGIN}") for name, text in ini.items()},
        _read_environment(environ),
        {name: _parse(name, text, SETTINGS[name].flag) for name, text in flags.items()},
    )
    given: Layer = {}
    for layer in layers:
        given |= layer
    config = Config(**{name: value for name, (value, _) in given.items()})
    origins = {name: given[name].origin if name in given else "default" for name in SETTINGS}
    return Loaded(config, origins, file or DEFAULT_FILE)


def _parse(name: str, text: str | Sequence[str], origin: str, label: str = "") -> Given:
    return Given(SETTINGS[name].parse(text, label or origin), origin)


def _read_familiar(environ: Mapping[str, str]) -> Layer:
    layer = {}
    for name, setting in SETTINGS.items():
        text = environ.get(setting.familiar) if setting.familiar else None
        if text or (text is not None and setting.may_be_empty):  # else an empty one is as good as none
            layer[name] = _parse(name, setting.familiar_form.format(text), setting.familiar)
    return layer


def _read_environment(environ: Mapping[str, str]) -> Layer:
    layer: Layer = {}
    for variable, text in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == FILE_VARIABLE:
            continue
        rest = variable.removeprefix(ENVIRONMENT_PREFIX)
        if _OF_A_SERVICE.fullmatch(rest) or _PORT_OF_A_SERVICE.fullmatch(f"{rest}={text}"):
            continue
        name = SETTINGS.find(rest.lower())
        if name is None or variable != variable.upper():
            known = [setting.variable for setting in SETTINGS.values()]
            raise ConfigError(variable, "there is no such setting", nearest(variable.upper(), known))
        if name in layer:
            raise ConfigError(variable, f"{layer[name].origin} is there, too", "keep one")
        layer[name] = _parse(name, text, variable)
    return layer


def _read_default_file() -> Layer:
    path = Path(DEFAULT_FILE)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return {}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        why = f"it cannot be looked into for {path}: {error.strerror}"
        raise ConfigError("working directory", why, "start in another, or name a file with -c") from None
    table = _find_table(_read_toml(path, "working directory"), path)
    return {} if table is None else _read_table(table, path)


def _read_file(path: Path) -> Layer:
    if path.suffix in _FOREIGN_FILES or str(path).startswith(("file:", "python:")):
        hint = _FOREIGN_FILES.get(path.suffix, _FOREIGN_FILES[".py"])
        raise ConfigError("--config", f"{path} is no TOML file", hint)
    content = _read_toml(path, "--config")
    table = _find_table(content, path)
    if table is None and path.name == DEFAULT_FILE:
        raise ConfigError("--config", f"{path} has no table [tool.trio-wsgi]", "add one")
    return _read_table(content if table is None else table, path)


def _read_toml(path: Path, named_by: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(named_by, f"{path} cannot be read: {error.strerror}", "write a TOML file") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, a number too long, or nested too deep
        raise ConfigError(named_by, f"{path} is not TOML: {error}", "see https://toml.io") from None


def _find_table(content: dict[str, Any], path: Path) -> dict[str, Any] | None:
    """Our table, at the top or under [tool], and there alone; None when there is neither and all keys are ours."""
    tool = content.get("tool")
    places = (("tool.", tool if isinstance(tool, dict) else {}), ("", content))
    found = {f"[{where}{name}]": tables.get(name) for where, tables in places for name in TABLE_NAMES}
    ours = {label: table for label, table in found.items() if isinstance(table, dict)}
    if not ours:
        return None
    (label, table), *others = ours.items()
    if others:
        raise ConfigError(f"{others[0][0]} in {path}", f"{label} is there, too", "keep one")
    for key, value in content.items() if path.name != DEFAULT_FILE else ():
        if not isinstance(value, dict) or SETTINGS.find(key) is not None:
            raise ConfigError(f"{key} in {path}", f"it stands outside of {label}", "move it into that table")
    return table


def _find_flag(key: str) -> str:
    """What to do with a key that is no setting, but a flag of the command."""
    flag = "--" + key.replace("_", "-")
    return f"it is a flag of the command: write {flag}" if flag in NO_SETTINGS else ""


def _read_table(table: dict[str, Any], path: Path) -> Layer:
    layer: Layer = {}
    for key, value in table.items():
        label = f"{key} in {path}"
        hint = find_hint(key) or _find_flag(key) or (_PLACES if isinstance(value, dict) else "")
        name = SETTINGS.resolve(key, label, hint)
        if name in layer:
            raise ConfigError(label, "it is written twice, by two of its names", "keep one")
        layer[name] = Given(SETTINGS[name].accept(value, label), str(path))
    return layer
