"""The command `trio-wsgi`: from the words of a command line to a running server.

Laws:

* Whatever is wrong is told on standard error, and by the exit code (`ExitCode`).
* The process is prepared (environment, working directory, import path) before the application is imported.
* `files DIR` is the same command with a mount and other defaults: every flag means the same.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trio_wsgi.errors import AppLoadError, BootError, ConfigError
from trio_wsgi.flags import FILES, build_parser, parse_arguments
from trio_wsgi.net.certificates import describe_kernel_tls, open_tls
from trio_wsgi.net.fastcodec import choose_codec
from trio_wsgi.pasteini import name_app, read_server
from trio_wsgi.process.affinity import check_cpus_available
from trio_wsgi.process.early import EarlySignals, Stopped
from trio_wsgi.process.exits import ExitCode
from trio_wsgi.process.failure import describe_failure
from trio_wsgi.process.plan import Plan
from trio_wsgi.process.prepare import load_plan, open_standard_streams, prepare_process
from trio_wsgi.process.privileges import become, decide_identity
from trio_wsgi.process.recycling import check_replaceable
from trio_wsgi.process.signals import ENDING
from trio_wsgi.process.spawn import check_interpreter
from trio_wsgi.process.standing import find_home, find_umask
from trio_wsgi.process.start import serve_plan
from trio_wsgi.process.systemd import take_systemd
from trio_wsgi.reference import format_toml
from trio_wsgi.sources import Loaded, load_config
from trio_wsgi.wsgi.call import WSGIApplication

Allow = Callable[[float], object]

_LEAVES = "trio_wsgi.integrations."
_RELOAD = "write --reload instead"

_FILES_DEFAULTS = {"static_listing": True, "access_logfile": "-"}  # where nobody says otherwise


def main(argv: Sequence[str] | None = None, *, allow: Allow = lambda seconds: None) -> int:
    """Run the command.

    Args:
        argv: the words after the program's name; else those of the process.
        allow: told how many seconds that may take afterwards which the application leaves running, once settings say;
            nobody is where the process goes on.

    Returns:
        The exit code. Errors of the operator are told on stderr, in one line where a line can say it.
    """
    try:
        open_standard_streams()
        return _run(sys.argv[1:] if argv is None else argv, allow)
    except BrokenPipeError:  # nobody reads what was printed, as under `| head`
        return ExitCode.ERROR
    except ConfigError as error:
        _tell(str(error))
        return ExitCode.ERROR
    except AppLoadError as error:
        _tell(describe_failure(error).text)
        return ExitCode.APP_LOAD_ERROR
    except BootError as error:
        _tell(error.text)
        return error.exit_code
    finally:
        _settle_output()


def _tell(text: str) -> None:
    """Say why nothing is served. Where standard error takes nothing, the exit code still tells which kind it was."""
    if sys.stderr is None:  # closed: print() would take standard output instead
        return
    before, end, error = text.rstrip().rpartition("\n")
    with contextlib.suppress(OSError, ValueError):
        print(f"{before}{end}trio-wsgi: error: {error}", file=sys.stderr, flush=True)


def _settle_output() -> None:
    """Where standard output takes nothing, let what is left go nowhere: Python is not to fail at exit over it."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):  # it has no descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValueError:  # the application has closed it
        pass


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """Inside, what was asked for is printed, and by the end it is written; a ConfigError where it cannot be."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError("standard output", f"it takes nothing: {error.strerror}") from error
    except UnicodeEncodeError as error:
        why = f"it takes no {error.object[error.start]!a}, which is not {error.encoding}"
        raise ConfigError("standard output", why, "set PYTHONIOENCODING=utf-8:surrogateescape") from None


def _run(argv: Sequence[str], allow: Allow) -> int:
    parser = build_parser()
    try:
        with _printing():
            options, flags = parse_arguments(parser, argv)
    except SystemExit:  # --help and --version have printed
        return ExitCode.CLEAN
    if options.paste is not None and options.app is not None:
        raise ConfigError("--paste", f"it names the application, and so does {options.app!r}", "name one application")
    if options.paste_global and options.paste is None:
        raise ConfigError("--paste-global", "there is no --paste that it could be for", "write --paste FILE, too")
    if options.print_config or options.check_config:
        return _inspect(options, flags, allow)
    systemd = take_systemd(os.environ)
    umask = find_umask()

    def read_plan() -> Plan:
        home, loaded = _load(options, flags, allow)
        if options.app is None and options.paste is None:
            raise ConfigError("command line", "no application is named", "write trio-wsgi MODULE:APP")
        files = (loaded.file, *([] if options.paste is None else [options.paste.partition("#")[0]]))
        config = systemd.choose_sockets(loaded.config, loaded.is_ours("bind"))
        return Plan(_name_app(options), config, home, umask, tuple(str(Path(file).absolute()) for file in files))

    return serve_plan(read_plan, systemd)


def _inspect(options: argparse.Namespace, flags: Mapping[str, str | list[str]], allow: Allow) -> int:
    """Print or check what would be served, and serve nothing."""
    home, loaded = _load(options, flags, allow)
    if options.print_config:
        with _printing():
            print(format_toml(loaded), end="")
    if options.check_config:
        prepare_process(loaded.config)
        with _printing():
            return _check(options, Plan(_name_app(options), loaded.config, home, find_umask()), loaded)
    return ExitCode.CLEAN


def _load(options: argparse.Namespace, flags: Mapping[str, str | list[str]], allow: Allow) -> tuple[str, Loaded]:
    """Where we are, and the settings as all sources have them now."""
    home = find_home()  # everything else counts from there
    loaded = load_config(flags, os.environ, options.config, read_server(options.paste, options.paste_global))
    if options.directory is not None:
        loaded = mount_directory(loaded, options.directory)
    if loaded.config.script_reloading and (_name_app(options) or "").startswith(_LEAVES):
        raise ConfigError("script_reloading", "it follows one module, and this application is made by many", _RELOAD)
    allow(loaded.config.graceful_timeout)
    return home, loaded


def _name_app(options: argparse.Namespace) -> str | None:
    """The reference that workers load the application by, as the working directory is now; None where there is none."""
    if options.paste is not None:
        return name_app(options.paste, options.paste_global)
    return options.app if options.directory is None else None


def mount_directory(loaded: Loaded, directory: str) -> Loaded:
    """The settings under which `files` serves a directory: they are as given, but for the mount and some defaults.

    Args:
        directory: as the operator wrote it, relative to the working directory of now.

    Raises:
        ConfigError: there is no such directory, or it cannot be read.
    """
    if not directory:  # what a shell makes of a variable that is not set
        raise ConfigError(FILES, "'' names no directory", "name one; this one is a dot")
    path = Path(directory).absolute()
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
    except OSError as error:
        raise ConfigError(FILES, f"{directory!r}: {error.strerror}", "name a directory") from None
    changes: dict[str, Any] = {
        name: value for name, value in _FILES_DEFAULTS.items() if loaded.origins[name] == "default"
    }
    changes["static"] = (f"/={path}", *loaded.config.static)
    return Loaded(loaded.config.replace(**changes), {**loaded.origins, **dict.fromkeys(changes, FILES)}, loaded.file)


def _check(options: argparse.Namespace, plan: Plan, loaded: Loaded) -> int:
    """Tell what would be served; loading the application raises what serving would raise."""
    check_cpus_available(loaded.config.cpu_affinity)
    choose_codec(loaded.config.http, head_size=0)  # for what it raises
    if loaded.config.workers == 0:
        check_replaceable(loaded.config)
    else:
        check_interpreter(loaded.config)
    print(f"settings: {_count_origins(loaded.origins)}")
    print(f"listen at: {', '.join(address.url(loaded.config.wire_scheme) for address in loaded.config.addresses)}")
    if open_tls(loaded.config) is not None:
        print(f"certificates: {', '.join(loaded.config.certfile)}")
        print(f"kernel TLS: {describe_kernel_tls()}")
    if options.directory is not None:
        print(f"directory: {Path(options.directory).absolute()}")
    elif plan.reference is None:
        print("application: none named, so none imported")
    else:
        if os.geteuid() == 0:  # who is not root checks what it can
            become(decide_identity(loaded.config))
        app = _load_app(plan)
        print(f"application: {plan.reference} is a {type(app).__module__}.{type(app).__qualname__}")
    print("ok")
    return ExitCode.CLEAN


def _load_app(plan: Plan) -> WSGIApplication:
    """What `load_plan` gives; a signal that is to end the process ends that, and what is not loaded is not ok."""
    with EarlySignals(ENDING) as early:
        try:
            with early.interrupting():
                return load_plan(plan)
        except Stopped as stop:
            raise BootError(f"{stop}: stopped before the application was loaded", ExitCode.ERROR) from None


def _count_origins(origins: Mapping[str, str]) -> str:
    given = [f"{name} from {origin}" for name, origin in origins.items() if origin != "default"]
    return ", ".join(given) or "all defaults"
