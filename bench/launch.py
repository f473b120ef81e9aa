"""Starts, in this process, the servers that have no command that could be given an application and all limits.

    python -m bench.launch NAME HOST:PORT[,CERT,KEY] MODULE:APP [THREADS]
    python -m bench.launch uwsgi ARGUMENTS...

Laws:
- Nothing is set that its authors have not set, but for the limits that `contestants.py` names for all; this file is
  as short as their tutorials.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any


def run_gevent(host: str, port: int, app: Any, _: int, *tls: str) -> None:
    files = dict(zip(("certfile", "keyfile"), tls, strict=False))
    pywsgi = importlib.import_module("gevent.pywsgi")
    pywsgi.WSGIServer((host, port), app, backlog=4096, log=None, **files).serve_forever()


def run_bjoern(host: str, port: int, app: Any, _: int) -> None:
    importlib.import_module("bjoern").run(app, host, port, listen_backlog=4096)


def run_cheroot(host: str, port: int, app: Any, threads: int) -> None:
    """Its command has no argument for the limit of kept connections, which is ten."""
    wsgi = importlib.import_module("cheroot.wsgi")
    server = wsgi.Server((host, port), app, threads, max=threads, request_queue_size=4096, timeout=75)
    server.keep_alive_conn_limit = 20_000
    server.safe_start()  # as its command does


def run_pyruvate(host: str, port: int, app: Any, threads: int) -> None:
    importlib.import_module("pyruvate").serve(app, f"{host}:{port}", threads)


RUNNERS = {"gevent": run_gevent, "bjoern": run_bjoern, "cheroot": run_cheroot, "pyruvate": run_pyruvate}


def become_uwsgi(arguments: list[str]) -> None:
    """Its program stands beside this interpreter, or on the PATH."""
    beside = str(Path(sys.executable).parent)
    program = shutil.which("uwsgi", path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))
    if program is None:
        sys.exit("uwsgi is not installed")
    os.execv(program, ["uwsgi", *arguments])


def main() -> None:
    if sys.argv[1] == "uwsgi":
        become_uwsgi(sys.argv[2:])
    name, listen, target, *threads = sys.argv[1:]
    address, *tls = listen.split(",")
    host, _, port = address.rpartition(":")
    module, _, attribute = target.partition(":")
    app = getattr(importlib.import_module(module), attribute)
    RUNNERS[name](host, int(port), app, int(threads[0]) if threads else 1, *tls)


if __name__ == "__main__":
    main()
