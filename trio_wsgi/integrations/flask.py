"""Flask: the command ``flask --app hello trio-wsgi``.

Laws:

* Which application is meant, Flask itself says: modules, files, factories, FLASK_APP, ``wsgi.py`` and ``app.py`` are
  found by its rules, in the worker as in the command.
* ``-h`` and ``-p`` are Flask's own: host and port. All other flags are those of ``trio-wsgi``, long ones wherever a
  short one is taken.
* Under ``flask --debug`` the server reloads and shows tracebacks, unless flags say otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import click
from flask import Flask
from flask.cli import ScriptInfo
from flask.helpers import get_debug_flag

from trio_wsgi.address import DEFAULT_HOST, DEFAULT_PORT, join_host
from trio_wsgi.cli import main
from trio_wsgi.errors import ConfigError
from trio_wsgi.flags import Parser, add_flags, find_unknown, format_words

_DEBUG = {"reload": True, "expose_tracebacks": True}


class _Words(click.Command):
    """Leaves its words to `build_parser`, which knows them all."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return ctx.args


@click.command("trio-wsgi", cls=_Words, add_help_option=False, short_help="Serve the application with trio-wsgi.")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Serve the application with trio-wsgi."""
    info = ctx.ensure_object(ScriptInfo)
    try:
        words = translate(ctx.args, info)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    ctx.exit(main(words))


def build_parser() -> Parser:
    """The parser of the command's words."""
    parser = Parser(
        prog="flask trio-wsgi",
        description="Serve the application with trio-wsgi.",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("--help", action="help", help="show this help message and exit")
    parser.add_argument("-h", "--host", help=f"host to listen at (default: {DEFAULT_HOST})")
    parser.add_argument("-p", "--port", help=f"port to listen at (default: {DEFAULT_PORT})")
    add_flags(parser, taken=("-h", "-p"))
    return parser


def translate(words: Sequence[str], info: ScriptInfo) -> list[str]:
    """The words of `trio-wsgi` for those of ``flask trio-wsgi``.

    Raises:
        ConfigError: an unknown flag, or an application that no worker can import.
    """
    parser = build_parser()
    options, rest = parser.parse_known_args(words)
    find_unknown(parser, rest)
    if rest:
        raise ConfigError("command line", f"{rest[0]!r} is one word too many", "name the application with flask --app")
    if info.create_app is not None:
        raise ConfigError("command line", "no worker can import this application", "name it with flask --app")
    given = (_DEBUG if get_debug_flag() else {}) | vars(options)
    if options.host is not None or options.port is not None:
        if "bind" in given:
            raise ConfigError("--bind", "--host or --port is there, too", "keep one")
        host = DEFAULT_HOST if options.host is None else options.host
        given["bind"] = [join_host(host, options.port or DEFAULT_PORT)]
    return [*format_words(given), f"{__name__}:find_app({info.app_import_path!r})"]


def find_app(path: str | None) -> Flask:
    """The application that ``flask --app PATH`` means.

    Args:
        path: module, file, ``module:name`` or ``module:factory(arguments)``; None: ``wsgi.py`` or ``app.py``.

    Raises:
        flask.cli.NoAppException: there is none; and whatever importing it raises.
    """
    return ScriptInfo(app_import_path=path).load_app()
