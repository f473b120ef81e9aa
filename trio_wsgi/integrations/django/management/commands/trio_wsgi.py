"""``manage.py trio_wsgi [addrport]``: the project's WSGI application, served by the command `trio-wsgi`.

Laws:

* Workers import the application by the name in WSGI_APPLICATION, with DJANGO_SETTINGS_MODULE from the environment and
  the import path of ``manage.py``.
* Flags are those of ``trio-wsgi``, but for the few that Django has itself: ``-v``, ``--version``, ``--pythonpath``.
  Others' flags are answered with what to write instead, as there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from trio_wsgi.cli import main
from trio_wsgi.errors import ConfigError
from trio_wsgi.flags import add_flags, find_unknown, format_words
from trio_wsgi.process.exits import ExitCode

ANY_APPLICATION = "django.core.wsgi:get_wsgi_application()"  # where the settings name none


class Command(BaseCommand):  # type: ignore[misc]  # Django has no types
    """The command; system checks run before it, as for any other."""

    help = "Serve the project's WSGI application with trio-wsgi."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what runserver takes, and every flag of ours that is free."""
        parser.allow_abbrev = False  # a later flag would change what an abbreviation means
        parser.add_argument("addrport", nargs="?", help="port, or address:port; more of them with --bind")
        add_flags(parser, taken=parser._option_string_actions)

    def run_from_argv(self, argv: list[str]) -> None:
        """Run as every command of Django does, unless a flag is unknown: Django would say no more of it than that.

        Raises:
            SystemExit: with the exit code, unless that is 0.
        """
        parser = self.create_parser(argv[0], argv[1])
        try:
            find_unknown(parser, parser.parse_known_args(argv[2:])[1])
        except ConfigError as error:
            self.stderr.write(f"CommandError: {error}")
            raise SystemExit(ExitCode.ERROR) from None
        except CommandError:  # something else is wrong, and told below
            pass
        super().run_from_argv(argv)

    def handle(self, *_: object, **options: Any) -> None:
        """Serve until a signal ends it.

        Raises:
            CommandError: as `translate`.
            SystemExit: with the command's exit code, unless that is 0.
        """
        code = main([*translate(options), name_application()])
        if code:
            raise SystemExit(code)


def translate(options: Mapping[str, Any]) -> list[str]:
    """The words of `trio-wsgi` for the options of the command.

    Raises:
        CommandError: two places to listen at are named in two ways.
    """
    given = dict(options)
    if (addrport := given.get("addrport")) is not None:
        if given.get("bind"):
            raise CommandError("Name where to listen as addrport or with --bind, not both.")
        given["bind"] = [addrport]
    given["pythonpath"] = ",".join(_import_path(given.get("pythonpath")))
    return format_words(given)


def name_application() -> str:
    """The application of the settings as ``module:attribute``."""
    dotted: str | None = settings.WSGI_APPLICATION
    if dotted is None:
        return ANY_APPLICATION
    module, _, attribute = dotted.rpartition(".")
    return f"{module}:{attribute}"


def _import_path(option: str | None) -> list[str]:
    """What Python and Django's ``--pythonpath`` have put first, for interpreters that do not start from manage.py.

    The last is to be first, as `prepare_process` puts one after the other in front.
    """
    return [str(Path(path).resolve()) for path in reversed(sys.path[: 1 if option is None else 2])]
