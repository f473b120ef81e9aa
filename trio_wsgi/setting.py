"""How a setting is declared, read, checked, shown and placed; its value's form is its kind's (`kind`).

Laws:

* A setting is written once, as one field of a dataclass, whose annotation names its kind.
* A value that cannot be used is a `ConfigError` with the name the user wrote (flag, variable or key), the
  value and the fix.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from trio_wsgi.errors import ConfigError
from trio_wsgi.kind import KINDS, TEXT, Kind

ENVIRONMENT_PREFIX = "TRIO_WSGI_"


class Reach(enum.IntEnum):
    """How much of trio-wsgi somebody uses: a setting counts from its reach on, and is refused before."""

    SERVER = 0  # in a program of somebody's own: Server, serve
    PROCESS = 1  # for the whole process: run, which is handed an application
    COMMAND = 2  # which imports the application itself, and has workers serve it


_INSTEAD = {Reach.SERVER: "", Reach.PROCESS: "do it in your program", Reach.COMMAND: "use the command"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One declared setting.

    Args:
        section: whose it is.
        default: what counts when nobody says anything.
        help: one or two sentences for `--help` and the docs; say here what 0 and none mean.
        reach: who can use it.
        name, kind: those of its field, as `read_settings` finds them.
        flags: further flags beside the one made from the name, such as ``-b``.
        metavar: stands for the value in `--help`; else the choices do, or the kind's own.
        low, high: inclusive bounds of a number; low is the kind's own when not given.
        choices: the only texts allowed.
        no_choice: a hint for who wrote another text, where none of the choices is near, or no number.
        check: called with the value (or each item of it); raises ValueError: what is wrong, the fix.
        may_be_empty: whether a list with a default may be empty, or hold empty texts, which are left out.
        familiar: an environment variable other servers know, heeded when nothing else sets this.
        familiar_form: how its value becomes this setting's text.
        instead: what those do who cannot use it; else do it themselves, or use the command.
    """

    section: Section
    default: Any
    help: str
    reach: Reach
    name: str = ""
    kind: Kind = TEXT
    flags: tuple[str, ...] = ()
    metavar: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    no_choice: str = ""
    check: Callable[[Any], object] | None = None
    may_be_empty: bool = False
    familiar: str = ""
    familiar_form: str = "{}"
    instead: str = ""

    @property
    def key(self) -> str:
        """Its name as it is written in TOML, and after the dashes of its flag."""
        return self.name.replace("_", "-")

    @property
    def flag(self) -> str:
        return "--" + self.key

    @property
    def is_switch(self) -> bool:
        """Whether its flag takes no value: it has a second one, `no_flag`."""
        return self.kind is KINDS["bool"]

    @property
    def no_flag(self) -> str:
        return "--no-" + self.key

    @property
    def aliases(self) -> tuple[str, ...]:
        """Its other names, such as log_file for error_logfile: those of its further flags."""
        return tuple(flag[2:].replace("-", "_") for flag in self.flags if flag.startswith("--"))

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.name.upper()

    def parse(self, text: str | Iterable[str], label: str) -> Any:
        """The checked value from the text of a flag or variable.

        Args:
            text: one text; for a repeatable setting the list of its texts, or one that a shell would split.
            label: what the user wrote, for the error.
        """
        if not isinstance(text, str):
            return self.accept([self._try(self.kind.parse, item, label) for item in text], label)
        if self.kind.repeatable:
            return self.parse(self._try(shlex.split, text, label), label)
        return self.accept(self._try(self.kind.parse, text, label), label)

    def accept(self, value: Any, label: str) -> Any:
        """The checked, immutable form of a Python or TOML value.

        Raises:
            ConfigError: wrong type, out of bounds, not a choice, or refused by the setting's own check.
        """
        value = self._try(self.kind.accept, value, label)
        if self.may_be_empty:
            value = tuple(filter(None, value))
        elif self.kind.repeatable and self.default and not value:
            raise ConfigError(label, "it is empty", f"name at least one, such as {self.show(self.default)}")
        if self.choices and value.lower() in self.choices:
            value = value.lower()  # others write levels of the log in capitals
        if self.choices and value not in self.choices:
            among = ", ".join(self.choices)
            raise ConfigError(label, f"{value!r} is not one of {among}", nearest(value, self.choices) or self.no_choice)
        if self.low is not None and value < self.low:
            raise ConfigError(label, f"{self.kind.show(value)} is too low", self._bounds())
        if self.high is not None and value > self.high:
            raise ConfigError(label, f"{self.kind.show(value)} is too high", self._bounds())
        if self.check is not None:
            for item in value if self.kind.repeatable else () if value is None else (value,):
                try:
                    self.check(item)
                except ValueError as error:
                    raise ConfigError(label, str(error)) from None
        return value

    def says(self, value: Any) -> bool:
        """Whether somebody who gives this value wants something: it is neither the default nor a way to say no."""
        return bool(value) and value != self.default

    def show(self, value: Any) -> str:
        """The value for people, without unit; empty when there is none."""
        if value is None:
            return ""
        return " ".join(map(self.kind.show, value)) if self.kind.repeatable else self.kind.show(value)

    def place(self, value: Any) -> Any:
        """The value with the paths of now, wherever the process stands when they are opened: absolute."""
        if value is None or self.kind.place is None:
            return value
        return tuple(map(self.kind.place, value)) if self.kind.repeatable else self.kind.place(value)

    def show_default(self) -> str:
        """The default for people, such as ``30 s`` or ``64k``; empty where nothing is the default."""
        shown = self.show(self.default)
        return f"{shown} {self.kind.unit}" if shown and self.kind.unit and shown != "none" else shown

    def _bounds(self) -> str:
        low, high = self.low or 0, self.high
        if high is not None:
            return f"write a value from {self.kind.show(low)} to {self.kind.show(high)}"
        return f"write {self.kind.show(low)} or more" + ("; none: no deadline" if self.kind.unit == "s" else "")

    def _try(self, read: Callable[[Any], Any], value: Any, label: str) -> Any:
        try:
            return read(value)
        except ValueError as error:
            hint = f"the default is {self.kind.toml(self.default)}"
            if self.default in (None, (), ""):
                told = isinstance(value, int | float) or self.kind is KINDS["Pairs"]  # by the error itself
                hint = "" if told else f'write "{self.metavar}"'
            elif isinstance(value, str) and self.no_choice:
                hint += f"; {self.no_choice}"
            raise ConfigError(label, f"{value!r} {error}", hint) from None


@dataclass(frozen=True, slots=True)
class Section:
    """A block of settings under one heading in `--help` and the docs.

    Args:
        reach: that of its settings, where they do not say otherwise.
    """

    title: str
    intro: str = ""
    reach: Reach = Reach.SERVER

    def setting(self, default: Any, help: str, **more: Any) -> Any:
        """Declare a setting: the right-hand side of a field whose annotation is a key of `KINDS`.

        Args:
            default, help, more: those of `Setting`; its reach is the section's where nothing else is said.
        """
        draft = Setting(section=self, default=default, help=help, **{"reach": self.reach} | more)
        return dataclasses.field(default=default, metadata={"setting": draft})


class Settings(dict[str, Setting]):
    """All that are declared, by name, in order."""

    def by_section(self) -> Iterator[tuple[Section, list[Setting]]]:
        """All of them in order, those of a section together."""
        for section, settings in groupby(self.values(), key=lambda setting: setting.section):
            yield section, list(settings)

    def find(self, key: str) -> str | None:
        """The name of the setting that a key means, written with dashes or underscores; None when there is none."""
        spelt = key.replace("-", "_")
        return spelt if spelt in self else next((each.name for each in self.values() if spelt in each.aliases), None)

    def resolve(self, key: str, label: str, hint: str = "") -> str:
        """The name of the setting that a key means, as `find`.

        Args:
            label: what the user wrote, for the error.
            hint: what to write where there is none; else the nearest name.

        Raises:
            ConfigError: there is no such setting.
        """
        name = self.find(key)
        if name is None:
            raise ConfigError(label, "there is no such setting", hint or nearest(key.replace("-", "_"), self))
        return name

    def accept(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The checked values of keys that nobody has checked, by the names of their settings (`resolve`)."""
        accepted = {}
        for key, value in values.items():
            name = self.resolve(key, key)
            accepted[name] = self[name].accept(value, key)
        return accepted


def read_settings(declaration: type) -> Settings:
    """The settings that a dataclass declares.

    Raises:
        KeyError: a field's annotation is not a key of `KINDS` (our mistake).
    """
    settings = Settings()
    for field in dataclasses.fields(declaration):
        draft: Setting = field.metadata["setting"]
        kind = KINDS[str(field.type)]
        settings[field.name] = dataclasses.replace(
            draft,
            name=field.name,
            kind=kind,
            low=kind.low if draft.low is None else draft.low,
            metavar=draft.metavar or "|".join(draft.choices) or kind.metavar,
            instead=draft.instead or _INSTEAD[draft.reach],
        )
    return settings


def nearest(word: object, words: Iterable[str]) -> str:
    """A hint such as ``did you mean threads?``, or nothing when no word is near."""
    found = difflib.get_close_matches(str(word), list(words), n=1, cutoff=0.7)
    return f"did you mean {found[0]}?" if found else ""
