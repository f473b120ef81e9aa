"""What the values of settings look like: read from text, taken from Python or TOML, shown, and put in their place.

Laws:

* A setting's annotation names its kind, by its very words (`KINDS`).
* What a kind shows as TOML reads back as the same value; so does what it shows for people.
* What cannot be read is a ValueError whose text follows the value and tells what was expected.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Annotations of settings. To a type checker they are plain types; their names choose the kind.
Size = int  # bytes
Seconds = float  # math.inf: no deadline
Strings = tuple[str, ...]
Account = str  # a user or group, by name or number
File = str  # or directory, which is opened, or opened anew, when an application can have changed directory
Files = tuple[str, ...]
Mounts = tuple[str, ...]  # URL=DIR
Pairs = tuple[tuple[str, str], ...]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

_FLAGS = re.IGNORECASE | re.ASCII  # without the second, the sign of Kelvin is a k, and the long s an s
_SIZE = re.compile(r"([0-9]+) ?([kmgt]?)(?:i?b)?", _FLAGS)
_SIZE_SHIFT = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_SECONDS = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?(ms|s|m|h|d|)", _FLAGS)
_SECONDS_FACTOR = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NO_DEADLINE = frozenset({"none", "inf", "never"})
_YES, _NO = ("1", "y", "yes", "true", "on"), ("0", "n", "no", "false", "off")
_BOOLS = dict.fromkeys(_YES, True) | dict.fromkeys(_NO, False)


# Reading.


def parse_bool(text: str) -> bool:
    try:
        return _BOOLS[text.strip().lower()]
    except KeyError:
        raise ValueError("is neither yes nor no; write 1 or 0") from None


def parse_int(text: str) -> int:
    if re.fullmatch(r"[+-]?[0-9]+", text.strip()) is None:
        raise ValueError("is not a whole number")
    return int(text)


def parse_size(text: str) -> int:
    """Bytes from ``65536``, ``64k``, ``1m``, ``1 GiB``: all suffixes are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("is not a size; write bytes, or a number with k, m or g, such as 64k")
    return int(match[1]) << _SIZE_SHIFT[match[2].lower()]


def parse_seconds(text: str) -> float:
    """Seconds from ``30``, ``1.5``, ``500ms``, ``5m``; ``none`` is infinity."""
    text = text.strip().lower()
    if text in _NO_DEADLINE:
        return math.inf
    match = _SECONDS.fullmatch(text)
    if match is None:
        raise ValueError("is not a duration; write seconds, such as 30 or 1.5, or none")
    return float(match[1]) * _SECONDS_FACTOR[match[2]]


def parse_pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError("has no equals sign; write KEY=VALUE")
    return _accept_pair((key, value))


def _refuse_quotes(value: Any, parse: Callable[[str], Any]) -> None:
    """Tell who has put quotes around what is a value without them."""
    try:
        meant = parse(value) if isinstance(value, str) else None
    except ValueError:  # it is no value either way, and the caller says so
        return
    if meant is not None:
        raise ValueError(f"is a text; write {json.dumps(meant)}, without quotes")


def _accept_bool(value: Any) -> bool:
    _refuse_quotes(value, parse_bool)
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false")
    return value


def _accept_int(value: Any) -> int:
    _refuse_quotes(value, parse_int)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("is not a whole number")
    return value


def _accept_size(value: Any) -> int:
    return parse_size(value) if isinstance(value, str) else _accept_int(value)


def _accept_seconds(value: Any) -> float:
    if isinstance(value, str):
        return parse_seconds(value)
    if value is None:
        raise ValueError("is not a number of seconds; where there is to be no deadline, write math.inf or 'none'")
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:  # which is nan
        raise ValueError("is not a number of seconds")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("is more than can be counted; where there is to be no deadline, write none") from None


def _accept_str(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError("is a number, where a text is wanted; put it in quotes as you have written it")
    if not isinstance(value, str):
        raise ValueError("is not a text")
    return value


def _accept_optional(value: Any) -> str | None:
    return None if value is None else _accept_str(value) or None


def _accept_filled(value: Any) -> str:
    text = _accept_str(value)
    if not text:
        raise ValueError("is empty; name one, or leave it out")
    return text


def _accept_account(value: Any) -> str | None:
    """Empty, it would be whoever we are: root, where a variable that somebody wrote here is not set."""
    return None if value is None else _accept_filled(value)


def _accept_strings(value: Any) -> Strings:
    items = (value,) if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise ValueError("is not a list of texts")
    return tuple(_accept_str(item) for item in items)


def _accept_files(value: Any) -> Strings:
    return tuple(map(_accept_filled, _accept_strings(value)))


def _accept_pair(value: Any) -> tuple[str, str]:
    if isinstance(value, str):
        return parse_pair(value)
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("is not KEY=VALUE")
    key, content = value
    if not isinstance(key, str) or not isinstance(content, str):
        raise ValueError("has a key or value that is not a text; put it in quotes")
    if not key or "=" in key or "\0" in key + content:
        raise ValueError("has an empty key, a key with an equals sign, or a NUL")
    return key, content


def _accept_pairs(value: Any) -> Pairs:
    if isinstance(value, str):
        value = (value,)
    items = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(items, list | tuple):
        raise ValueError("is not a table of texts")
    return tuple(dict(_accept_pair(item) for item in items).items())  # the last one of a key wins


# Showing.


def show_size(value: int) -> str:
    """The shortest text that `parse_size` reads back: 65536 → ``64k``."""
    for suffix in "tgmk":
        if value and value % (1 << _SIZE_SHIFT[suffix]) == 0:
            return f"{value >> _SIZE_SHIFT[suffix]}{suffix}"
    return str(value)


def show_seconds(value: float) -> str:
    if math.isinf(value):
        return "none"
    return str(int(value)) if value == int(value) else repr(value)


def _toml_str(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_list(values: Iterable[str]) -> str:
    return "[" + ", ".join(map(_toml_str, values)) + "]"


def _toml_table(pairs: Pairs) -> str:
    return "{" + ", ".join(f"{_toml_str(key)} = {_toml_str(value)}" for key, value in pairs) + "}"


# Placing.


def _place_file(path: str) -> str:
    """Absolute, from the working directory; its symlinks stay, for they may lead elsewhere by the next time."""
    if path == "-":  # a standard stream
        return path
    try:
        return str(Path(path).absolute())
    except OSError:  # that directory is no more: whoever opens the file tells
        return path


def _place_mount(text: str) -> str:
    url, _, directory = text.partition("=")
    return f"{url}={_place_file(directory)}"


@dataclass(frozen=True, slots=True)
class Kind:
    """What values of one annotation look like.

    Args:
        metavar: stands for the value in `--help`.
        parse: reads one value (of a repeatable kind: one item) from text.
        accept: takes a Python or TOML value, returns the checked and immutable one.
        show: for people and for the environment; of a repeatable kind one item.
        toml: as TOML; reads back as the same value.
        low: the least value of a number, where its setting says none.
        repeatable: the flag may be given several times, the value is a tuple.
        unit: follows the value in help texts.
        place: makes paths absolute, from the working directory; of a repeatable kind those of one item.
    """

    metavar: str
    parse: Callable[[str], Any]
    accept: Callable[[Any], Any]
    show: Callable[[Any], str]
    toml: Callable[[Any], str]
    low: int | None = None
    repeatable: bool = False
    unit: str = ""
    place: Callable[[str], str] | None = None


TEXT = Kind("TEXT", str, _accept_str, str, _toml_str)
TEXTS = Kind("TEXT", str, _accept_strings, str, _toml_list, repeatable=True)
FILE = dataclasses.replace(TEXT, metavar="FILE", accept=_accept_filled, place=_place_file)
KINDS: Mapping[str, Kind] = {
    "bool": Kind("", parse_bool, _accept_bool, lambda v: "yes" if v else "no", lambda v: str(v).lower()),
    "int": Kind("N", parse_int, _accept_int, str, str, low=0),
    "Size": Kind("SIZE", parse_size, _accept_size, show_size, str, low=0),
    "Seconds": Kind("SECONDS", parse_seconds, _accept_seconds, show_seconds, repr, low=0, unit="s"),
    "str": TEXT,
    "str | None": dataclasses.replace(TEXT, accept=_accept_optional),
    "Account | None": dataclasses.replace(TEXT, accept=_accept_account),
    "Strings": TEXTS,
    "File": FILE,
    "File | None": dataclasses.replace(FILE, accept=_accept_optional),
    "Files": dataclasses.replace(TEXTS, metavar="FILE", accept=_accept_files, place=_place_file),
    "Mounts": dataclasses.replace(TEXTS, place=_place_mount),
    "Pairs": Kind("KEY=VALUE", parse_pair, _accept_pairs, "=".join, _toml_table, repeatable=True),
}
