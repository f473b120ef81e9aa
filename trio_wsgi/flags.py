"""The words of a command line: made into options and the texts of settings, and out of them.

Laws:

* Flags are made from `SETTINGS`; only what is no setting (the application, --config, ...) is written here.
* Whoever has a parser of their own (Flask, Django) adds our flags to it, and hands us words that mean the same.
* A word that is no flag of ours is told the nearest, or what to write instead of another server's.
"""

from __future__ import annotations

import argparse
from collections.abc import Container, Mapping, Sequence
from typing import NoReturn

from trio_wsgi.config import SETTINGS
from trio_wsgi.errors import ConfigError
from trio_wsgi.foreign import find_hint
from trio_wsgi.setting import Setting, nearest
from trio_wsgi.version import __version__

FILES = "files"  # in place of an application; a module of this name is served as files:app
NO_SETTINGS = ("--paste", "--paste-global", "--config", "--check-config", "--print-config")  # that are flags as well
_MODES = {"auto", "v1", "v2", "off"}  # gunicorn's, after --proxy-protocol

_USAGE = "%(prog)s [options] MODULE:APP\n       %(prog)s files DIR [options]"
_DESCRIPTION = (
    "Serve a WSGI application; its files leave from the kernel. Or, with 'files', serve a directory at once: "
    "pages that list it, downloads that resume, an access log on stdout."
)
_EPILOG = (
    "Sizes may be written as 64k, 1m or 1g, durations as 30, 5m or none. Every setting can also be given "
    "as TRIO_WSGI_<NAME> in the environment, and in TOML: -c FILE, or [tool.trio-wsgi] in ./pyproject.toml."
)


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are told as those of settings are."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of ending the process."""
        raise ConfigError("command line", message, f"see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The parser; settings that were not given are absent from its result."""
    parser = Parser(
        prog="trio-wsgi",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument(
        "app",
        nargs="?",
        metavar="MODULE:APP",
        help="the application: module:attribute, module:factory(), or a module with application or app in it; "
        "or files DIR",
    )
    parser.add_argument(
        "--paste",
        "--paster",
        metavar="FILE[#APP]",
        help="the application, from a PasteDeploy file; settings of its [server:main] count beneath flags",
    )
    parser.add_argument(
        "--paste-global",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a variable that the PasteDeploy file uses, as %%(KEY)s; repeatable",
    )
    parser.add_argument("-v", "--version", action="version", version=f"%(prog)s {__version__}")
    add_flags(parser)
    return parser


def add_flags(parser: argparse.ArgumentParser, taken: Container[str] = ()) -> None:
    """Add the flags of every setting, and those of the command that need no application.

    Args:
        taken: flags that mean something else to this parser, and are left out.
    """
    parser.add_argument("-c", "--config", metavar="FILE", help="TOML file to read settings from")
    parser.add_argument("--check-config", action="store_true", help="check settings and application, serve nothing")
    parser.add_argument("--print-config", action="store_true", help="print every setting and where it came from")
    for section, settings in SETTINGS.by_section():
        group = parser.add_argument_group(section.title, section.intro)
        for setting in settings:
            flags = [flag for flag in (*setting.flags, setting.flag) if flag not in taken]
            if flags:
                _add_setting(group, setting, flags)


def _add_setting(group: argparse._ArgumentGroup, setting: Setting, flags: Sequence[str]) -> None:
    default = setting.show_default()
    text = (setting.help + (f" (default: {default})" if default else "")).replace("%", "%%")
    if setting.is_switch:
        group.add_argument(*flags, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        return
    group.add_argument(
        *flags,
        dest=setting.name,
        action="append" if setting.kind.repeatable else "store",
        default=argparse.SUPPRESS,
        metavar=setting.metavar,
        help=text,
    )


def parse_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, dict[str, str | list[str]]]:
    """The command's own options, and the texts of the settings that were given.

    `directory` among the options is what `files` names, else None.

    Raises:
        ConfigError: an unknown flag (with the nearest one), a missing value, or too many words.
    """
    options, rest = parser.parse_known_args(argv)
    find_unknown(parser, rest)
    options.directory = None
    if options.app == FILES:
        if not rest:
            raise ConfigError(FILES, "no directory is named", "write trio-wsgi files DIR")
        options.directory = rest.pop(0)
    if rest and options.app in _MODES and getattr(options, "proxy_protocol", False):
        meant = "write --no-proxy-protocol" if options.app == "off" else "leave it out: it reads both versions"
        raise ConfigError("--proxy-protocol", f"it takes no {options.app!r}", meant)
    if rest:
        raise ConfigError("command line", f"{rest[0]!r} is one word too many", "name one application")
    given = {name: value for name, value in vars(options).items() if name in SETTINGS}
    return options, {name: _as_text(value) for name, value in given.items()}


def find_unknown(parser: argparse.ArgumentParser, rest: Sequence[str]) -> None:
    """Look for flags among the words that a parser did not know.

    Raises:
        ConfigError: there is one; with what to write where another server has it, else with the nearest of ours.
    """
    for word in rest:
        if word.startswith("-"):
            flag = word.partition("=")[0]
            if flag in parser._option_string_actions:
                raise ConfigError(flag, "behind -- it is a word like others", "write it before --")
            hint = find_hint(flag) or nearest(flag, parser._option_string_actions)
            raise ConfigError(flag, "there is no such flag", hint)


def _as_text(value: bool | str | list[str]) -> str | list[str]:
    return ("yes" if value else "no") if isinstance(value, bool) else value


def format_words(options: Mapping[str, object]) -> list[str]:
    """The words of a command line that `parse_arguments` reads as these options.

    Args:
        options: as a parser with our flags gives them (`add_flags`); names that are not ours are passed over.
    """
    words = [f"--config={options['config']}"] if options.get("config") else []
    words += [f"--{name.replace('_', '-')}" for name in ("check_config", "print_config") if options.get(name)]
    for name, value in options.items():
        if name not in SETTINGS or value is None:
            continue
        flag = SETTINGS[name].flag
        if isinstance(value, bool):
            words.append(flag if value else SETTINGS[name].no_flag)
        else:
            words += [f"{flag}={item}" for item in (value if isinstance(value, list | tuple) else [value])]
    return words
