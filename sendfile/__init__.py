"""Send bytes and pieces of open files on Trio sockets, by sendfile(2) where there is one.

``send_some``, ``send_all`` and their ``nowait`` siblings serve one connection; a ``Pump`` serves thousands of
slow ones in one task. It knows nothing of HTTP. See README.md.
"""

from __future__ import annotations

from sendfile.delivery import DiskStalled, Stalled, Transfer
from sendfile.pump import Pump
from sendfile.rate import MinRate, Rate, TooSlow
from sendfile.send import STEP, FileTooShort, send_all, send_nowait, send_some, send_some_nowait
from sendfile.span import FileSpan, HasFileno, Part, Parts
from sendfile.tls import PIECE, TlsSender

__all__ = [
    "PIECE",
    "STEP",
    "DiskStalled",
    "FileSpan",
    "FileTooShort",
    "HasFileno",
    "MinRate",
    "Part",
    "Parts",
    "Pump",
    "Rate",
    "Stalled",
    "TlsSender",
    "TooSlow",
    "Transfer",
    "send_all",
    "send_nowait",
    "send_some",
    "send_some_nowait",
]
