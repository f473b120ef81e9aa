"""Send bytes and pieces of open files on Trio sockets, by sendfile(2) where there is one.

``send_some``, ``send_all`` and their ``nowait`` siblings serve one connection; a ``Pump`` serves thousands of
slow ones in one task. It knows nothing of HTTP. See README.md.
"""

from __future__ import annotations

from sendfile.alarms import DiskStalled, Stalled
from sendfile.delivery import Transfer
from sendfile.parts import Part, Parts
from sendfile.pump import Pump
from sendfile.rate import MinRate, Rate, TooSlow
from sendfile.send import send_all, send_nowait, send_some, send_some_nowait
from sendfile.span import FileSpan, HasFileno
from sendfile.step import STEP, FileTooShort
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
