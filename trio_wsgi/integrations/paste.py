"""PasteDeploy: the server that ``pserve`` starts, and the application that ``--paste`` names.

Laws:

* Under ``pserve`` the application is there already, so it is served in that process. Workers, which import it anew, are
  had by ``trio-wsgi --paste FILE``; asking for them in the file is an error that says so.
* The entry point is ``main`` of the group ``paste.server_runner``: ``use = egg:trio-wsgi#main``.
"""

from __future__ import annotations

import configparser
import logging.config
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from trio_wsgi.errors import AppLoadError, ConfigError
from trio_wsgi.pasteini import SERVER, is_ours, read_settings
from trio_wsgi.process.prepare import prepare_process
from trio_wsgi.process.standalone import serve_standalone
from trio_wsgi.process.systemd import take_systemd
from trio_wsgi.sources import load_config
from trio_wsgi.wsgi.call import WSGIApplication
from trio_wsgi.wsgi.loading import apply_middleware

try:
    from paste.deploy import loadapp
except ImportError:
    loadapp = None

_APPLICATIONS = {"app", "application", "composite", "composit", "pipeline", "filter-app"}  # kinds of sections

log = logging.getLogger("trio_wsgi.error")


def serve_paste(app: WSGIApplication, global_conf: Mapping[str, str] | None = None, **local: str) -> None:
    """Serve `app` until a signal ends it: what PasteDeploy calls a server runner.

    Args:
        global_conf: ``[DEFAULT]`` of the file, and its name as ``__file__``.
        local: the keys of ``[server:main]``: settings with dashes or underscores; host, port, listen; config, a TOML
            file.

    Raises:
        ConfigError: a setting cannot be used, or there is none of that name.
        SystemExit: with the exit code, unless that is 0.
    """
    where = (global_conf or {}).get("__file__", "[server:main]")
    file = local.pop("config", None)
    loaded = load_config({}, os.environ, file, {"workers": "0"} | read_settings(local, where))
    systemd = take_systemd(os.environ)
    config = systemd.choose_sockets(loaded.config, loaded.is_ours("bind"))
    if config.workers:
        raise ConfigError("workers", f"{config.workers} cannot be had under pserve", f"start trio-wsgi --paste {where}")
    if config.script_reloading:
        raise ConfigError("script_reloading", "an application that is handed over has no name", "write pserve --reload")
    prepare_process(config)
    code = serve_standalone(lambda: apply_middleware(app, config.middleware), config, systemd)
    if code:
        raise SystemExit(code)


def load_app(path: str, name: str, variables: Mapping[str, str] = MappingProxyType({})) -> WSGIApplication:
    """Make the application of a PasteDeploy file, once its logging is set up.

    Args:
        path: of the file.
        name: of the section: ``[app:NAME]``, ``[pipeline:NAME]`` or ``[composite:NAME]``.
        variables: for what the file uses and does not define.

    Raises:
        AppLoadError: PasteDeploy is not installed, or the file has no such section.
        Exception: whatever the application's factory raises.
    """
    if loadapp is None:
        raise AppLoadError("--paste needs PasteDeploy; write pip install 'trio-wsgi[paste]'")
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(path, "utf-8")
    if parser.has_section("loggers"):  # the application's logging is set up as the file says; ours stays as it is
        defaults = {"here": str(Path(path).parent), "__file__": path, **variables}
        logging.config.fileConfig(path, defaults, disable_existing_loggers=False, encoding="utf-8")
    use = parser.get(SERVER, "use", fallback="")
    if use and not is_ours(use):  # nothing counts of what the file says to it: its threads are not ours
        log.info("[%s] of %s is passed over: it says use = %s, not egg:trio-wsgi#main", SERVER, path, use)
    _check_section(parser, path, name)
    app: WSGIApplication = loadapp(f"config:{quote(path)}", name=name, global_conf=dict(variables))
    return app


def _check_section(parser: configparser.ConfigParser, path: str, name: str) -> None:
    """Look for the application's section, where the file names it by itself."""
    known = [word.partition(":")[2] or "main" for word in parser.sections() if word.partition(":")[0] in _APPLICATIONS]
    if known and ":" not in name and name not in known:  # else PasteDeploy knows better what it is
        raise AppLoadError(f"{path} has no application {name!r}; it has {', '.join(known)}")
