"""Listeners as `--bind` opens them: those that can be had, those that are refused, and clients that come in."""

from __future__ import annotations

import re
import socket
from contextlib import AbstractContextManager
from typing import Any

import pytest

from trio_wsgi import ConfigError
from trio_wsgi.address import parse_address
from trio_wsgi.net.listeners import Listener, open_listeners, resolve


def listening(*texts: str, backlog: int = 8, **options: Any) -> AbstractContextManager[list[Listener]]:
    """Listen at these addresses while the block runs; `options` are those of `open_listeners`."""
    return open_listeners(resolve(map(parse_address, texts)), backlog, **options)


def refuse(*texts: str, why: str, **options: Any) -> None:
    """They cannot be listened at; `why` is a part of what is said."""
    with pytest.raises(ConfigError, match=re.escape(why)), listening(*texts, **options):
        raise AssertionError


def reach(listener: Listener) -> bool:
    """Whether a client comes in there."""
    name = listener.sock.getsockname()
    with socket.socket(listener.sock.family) as client:
        client.connect(name)
        accepted, _ = listener.sock.accept()
        accepted.close()
    return True
