"""python -m bench [run | report | plots | list]: each command is a module, imported when it is asked for.

Laws:
- Without a command, run.
- Only `plots` needs more than the standard library (matplotlib, in the extra "bench").
"""

from __future__ import annotations

import importlib
import sys

COMMANDS = {"run": "bench.run", "report": "bench.report", "plots": "bench.plots", "list": "bench.listing"}


def main() -> int:
    words = sys.argv[1:] if sys.argv[1:2] and sys.argv[1] in COMMANDS else ["run", *sys.argv[1:]]
    name, *arguments = words
    try:
        command = importlib.import_module(COMMANDS[name])
    except ModuleNotFoundError as error:
        print(f"bench: {name} needs {error.name}: pip install -e '.[bench]'", file=sys.stderr)
        return 1
    code: int = command.main(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
