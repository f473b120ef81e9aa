"""The command as a process of its own: `trio-wsgi`, `python -m trio_wsgi`."""

from __future__ import annotations

import sys
from typing import NoReturn

from trio_wsgi import cli
from trio_wsgi.process.leaving import LastWait


def main() -> NoReturn:
    """Run the command, and end the process."""
    wait = LastWait()
    try:
        wait.code = cli.main(allow=wait.allow)
    finally:
        wait.begin()
    sys.exit(wait.code)


if __name__ == "__main__":
    main()
