"""The settings for readers: docs/configuration.md and the text of `--print-config`.

Laws:

* Nothing about a setting is said here that its declaration does not say.
* What `--print-config` prints is TOML that `-c` reads back as the same settings.

``python -m trio_wsgi.reference > docs/configuration.md`` writes the page; a test holds it current.
"""

from __future__ import annotations

from trio_wsgi.config import SETTINGS
from trio_wsgi.setting import Reach, Setting
from trio_wsgi.sources import Loaded

_INTRO = """\
# Configuration

<!-- Made from trio_wsgi/config.py by `python -m trio_wsgi.reference > docs/configuration.md`: edit there. -->

Every setting can be given in five places. The first that names it counts; a list is replaced, not added to:

1. a flag: `--header-timeout 10`
2. the environment: `TRIO_WSGI_HEADER_TIMEOUT=10`; several values are separated as a shell does:
   `TRIO_WSGI_BIND="127.0.0.1:8000 unix:/run/app.sock"`
3. under `--paste FILE`, its `[server:main]`, where that says `use = egg:trio-wsgi#main`
4. a TOML file: `-c FILE` (or `TRIO_WSGI_CONFIG`), else `pyproject.toml` in the working directory. The keys
   stand in a table `[tool.trio-wsgi]` or `[trio-wsgi]`, or, in a file of its own, at the top:
   `header-timeout = 10`, with dashes or underscores
5. variables that other servers know, too:
   {familiar}

In Python they are the fields of `trio_wsgi.Config`: `Config(header_timeout=10)`. What would have no effect is refused:

- by `run(app, ...)`, to which an imported application is handed, and which has no supervisor:
  {command}
- by `Server` and `serve`, in a program of your own, these and what that program has to see to:
  {process}

How they are written:

- Where a setting has several long flags, each is a variable and a key, too: `--error-logfile`, `TRIO_WSGI_LOG_FILE`,
  `log-file`.
- A *duration* is in seconds: `30`, `1.5`, also `500ms`, `5m`, `1h`; `none` switches the deadline off, where
  there may be none.
- A *size* is in bytes: `8190`, also `64k`, `1m`, `1g` (powers of 1024).
- *Yes and no* are `--sendfile` and `--no-sendfile`, `TRIO_WSGI_SENDFILE=0`, `sendfile = false`.
- A *path* that is relative counts from the directory in which the application is imported (`--chdir`), or the `Server`
  made; to which directory the application changes later does not matter. That of a unix socket counts from where the
  `Server` begins to serve: absolute, it might be longer than the system lets the path of a socket be.
- *KEY=VALUE* is a table in TOML: `env = { MODE = "production" }`.

`--check-config` reads every name and value, loads the certificates and imports the application and its middleware.
It looks for the directories of `--chdir` and `--temp-path`, and not for those of mounts, nor for log files, pid files
and sockets; as root it becomes `--user` and `--group` to import the application. `--print-config` shows every value and
where it came from.

A wrong name or value ends the process with exit code 1. With workers, an application whose code raises ends it with
3, one that is not there, or misses a module, with 4; with `--workers 0` and `--check-config` all are 4.
"""


def format_markdown() -> str:
    """The page docs/configuration.md."""
    intro = _INTRO.replace("{familiar}", _familiar())
    for reach in (Reach.COMMAND, Reach.PROCESS):
        intro = intro.replace(f"{{{reach.name.lower()}}}", _needing(reach))
    parts = [intro]
    for section, settings in SETTINGS.by_section():
        rows = ["| Setting | Default | Meaning |", "|---|---|---|", *map(_row, settings)]
        parts.append("\n".join([f"## {section.title}", "", *([section.intro, ""] if section.intro else []), *rows, ""]))
    return "\n".join(parts)


def _familiar() -> str:
    """The variables that others know, each with the setting it is for."""
    known = [setting for setting in SETTINGS.values() if setting.familiar]
    return ", ".join(f"`{setting.familiar}` (`{setting.flag}`)" for setting in known)


def _needing(reach: Reach) -> str:
    """The settings that need so much of trio-wsgi, and no more."""
    return ", ".join(f"`{name}`" for name, setting in SETTINGS.items() if setting.reach is reach)


def format_toml(loaded: Loaded) -> str:
    """Every setting with its value and, as a comment, where it came from; unset ones are commented out."""
    parts = []
    for section, settings in SETTINGS.by_section():
        parts.append(f"# {section.title}")
        for setting in settings:
            value = getattr(loaded.config, setting.name)
            line = f"# {setting.key} is not set" if value is None else f"{setting.key} = {setting.kind.toml(value)}"
            parts.append(f"{line}  # {loaded.origins[setting.name]}")
        parts.append("")
    return "\n".join(parts)


def _row(setting: Setting) -> str:
    if setting.is_switch:
        names = f"`{setting.flag}`, `{setting.no_flag}`"
    else:
        metavar = setting.metavar.replace("|", "\\|")
        names = ", ".join(f"`{flag} {metavar}`" for flag in (*setting.flags, setting.flag))
    default = setting.show_default()
    return f"| {names} | {f'`{default}`' if default else ''} | {setting.help.replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    print(format_markdown(), end="")
