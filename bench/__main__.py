"""python -m bench [run | list | report | compare | plots]: each command is a module, imported when it is asked for.

Laws:
- Without a command, run.
- Only `plots` needs more than the standard library (matplotlib, in the extra "bench"); its help needs nothing.
"""

from __future__ import annotations

import importlib
import sys
from typing import NamedTuple


class Command(NamedTuple):
    module: str
    words: str  # that follow its name
    about: str


COMMANDS = {
    "run": Command("bench.run", "[OPTION...]", "measure; what is done where no command is named"),
    "list": Command("bench.listing", "", "tell the scenarios, and which contestants are here"),
    "report": Command("bench.report", "RESULTS.json", "write results as a page of Markdown, to stdout"),
    "compare": Command("bench.compare", "BEFORE.json AFTER.json", "tell what is better or worse in another run"),
    "plots": Command("bench.plots", "RESULTS.json FOLDER", "draw results as pictures; needs matplotlib"),
}
HELP = ("-h", "--help")


def main() -> int:
    words = sys.argv[1:]
    if words[:1] and words[0] in HELP:
        print(format_help())
        return 0
    name, *arguments = ["run", *words] if not words or words[0].startswith("-") else words
    if name not in COMMANDS:
        print(f"bench: there is no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        command = importlib.import_module(COMMANDS[name].module)
    except ModuleNotFoundError as error:
        needs = f"{name} needs {error.name}: pip install -e '.[bench]'"
        if not set(HELP).isdisjoint(arguments):
            print(f"usage: {format_usage(name)}\n\n{COMMANDS[name].about}\n\n{needs}")
            return 0
        print(f"bench: {needs}", file=sys.stderr)
        return 1
    code: int = command.main(arguments)
    return code


def format_help() -> str:
    width = max(map(len, map(format_usage, COMMANDS)))
    lines = [f"  {format_usage(name):{width}}  {command.about}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["Measure WSGI servers side by side.", "", *lines, "", "What a command takes: python -m bench COMMAND --help"]
    )


def format_usage(name: str) -> str:
    return f"python -m bench {name} {COMMANDS[name].words}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
