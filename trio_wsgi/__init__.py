"""trio-wsgi: a WSGI server on Trio and h11 that hands out big files from the kernel.

    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(trio_wsgi.serve, app, trio_wsgi.Config(bind=("127.0.0.1:0",)))

Everything a program needs is here; the rooms below may change.
"""

from __future__ import annotations

from trio_wsgi.address import Address
from trio_wsgi.config import Config
from trio_wsgi.errors import AppError, AppLoadError, ClientError, ClientGone, ClientStalled, ConfigError
from trio_wsgi.net.certificates import Tls, open_tls
from trio_wsgi.net.observe import Observer
from trio_wsgi.net.pool import ThreadCounts
from trio_wsgi.net.server import Server, serve
from trio_wsgi.net.status import ConnectionStatus, State, Statistics, Transfer
from trio_wsgi.process.standalone import run
from trio_wsgi.record import Outcome, RequestRecord
from trio_wsgi.version import __version__

__all__ = [
    "Address",
    "AppError",
    "AppLoadError",
    "ClientError",
    "ClientGone",
    "ClientStalled",
    "Config",
    "ConfigError",
    "ConnectionStatus",
    "Observer",
    "Outcome",
    "RequestRecord",
    "Server",
    "State",
    "Statistics",
    "ThreadCounts",
    "Tls",
    "Transfer",
    "__version__",
    "open_tls",
    "run",
    "serve",
]
