"""What `write()` does when the client is slower than the app: three policies behind one verb.

Laws:

* **block** (the default, and PEP 3333 to the letter): returns when the kernel has taken everything.
* **raise**: never waits. A block is taken whole, or refused whole with `BlockingIOError`, so that trying again is safe.
* **buffer**: never waits for the client. All goes to memory, then to a temporary file; nothing is sent before the app
  returns, so the length is exact and an app that fails half-way has sent nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trio_wsgi.errors import AppError

ENVIRON_KEY = "trio_wsgi.write_policy"


class WritePolicy(enum.Enum):
    """The names that `--write-policy` and `environ["trio_wsgi.write_policy"]` know."""

    BLOCK = "block"
    RAISE = "raise"
    BUFFER = "buffer"


@dataclass(frozen=True, slots=True)
class Buffering:
    """The settings that say where a response's bytes may wait. Sizes in bytes."""

    write_policy: str = "block"
    write_buffer_size: int = 1024 * 1024  # of written data in memory, before it goes to a file
    temp_path: str | None = None
    temp_limit: int = 0  # of one response on disk; 0: no limit
    output_buffering: int = 0  # that an iterable may run ahead of the client


def choose_policy(environ: Mapping[str, Any], default: str) -> WritePolicy:
    """The policy for one request: what the app put into the environ, else the configured one.

    Raises:
        AppError: the environ names a policy that does not exist.
    """
    name = environ.get(ENVIRON_KEY, default)
    try:
        return WritePolicy(name)
    except ValueError:
        names = ", ".join(repr(policy.value) for policy in WritePolicy)
        raise AppError(f"environ[{ENVIRON_KEY!r}] is {name!r}: it must be one of {names}") from None
