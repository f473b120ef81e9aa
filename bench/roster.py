"""Which contestants are here: packages in the servers' environment, programs on the PATH, what can be compiled.

Laws:
- A contestant that is not here is absent with a reason, and nobody else is held up by it.
- Without an environment to look in there is no roster: that is the user's mistake.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.contestants import Contestant
from bench.server import find_program

LIST_PACKAGES = (
    "import json, importlib.metadata as m;"
    "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions() if d.metadata['Name']}))"
)
REFERENCE = Path(__file__).parent / "reference"


@dataclass(frozen=True, slots=True)
class Present:
    """A contestant that can run."""

    contestant: Contestant
    version: str
    program: str = ""  # path, where it has one


class Absent(Exception):
    """Why a contestant cannot run here."""


def take_roll(contestants: Iterable[Contestant], python: str, folder: Path) -> tuple[list[Present], dict[str, str]]:
    """Look for all of them.

    Args:
        python: the interpreter in whose environment the Python servers are looked for.
        folder: where yardsticks are compiled to.

    Returns:
        those who are here, and why the others are not, by name.
    """
    packages = list_packages(python)
    present, absent = [], {}
    for contestant in contestants:
        try:
            present.append(find(contestant, packages, folder))
        except Absent as reason:
            absent[contestant.name] = str(reason)
    return present, absent


def find_python(venv: Path | None) -> str:
    """The interpreter of the servers that are written in Python: that of an environment, else our own.

    Raises:
        ValueError: there is none in the environment.
    """
    if venv is None:
        return sys.executable
    python = venv / "bin/python"
    if not python.exists():
        raise ValueError(f"--venv {venv}: there is no bin/python in it; name a virtual environment")
    return str(python)


def list_packages(python: str) -> dict[str, str]:
    """Version by name, in lower case, of what is installed beside an interpreter."""
    done = subprocess.run([python, "-c", LIST_PACKAGES], check=True, capture_output=True, timeout=60)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def read_python_version(python: str) -> str:
    """Of the servers' interpreter, such as CPython 3.11.7."""
    code = "import platform as p; print(p.python_implementation(), p.python_version())"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def find(contestant: Contestant, packages: dict[str, str], folder: Path) -> Present:
    missing = [package for package in contestant.packages if package not in packages]
    if missing:
        raise Absent("not installed: " + ", ".join(missing))
    if contestant.source:
        return Present(contestant, f"{contestant.source}, compiled by cc -O2", compile_source(contestant, folder))
    if contestant.program:
        path = find_program(contestant.program)
        if path is None:
            raise Absent(f"not on the PATH: {contestant.program}")
        return Present(contestant, read_program_version(path), path)
    return Present(contestant, ", ".join(f"{name} {packages[name]}" for name in contestant.packages))


def compile_source(contestant: Contestant, folder: Path) -> str:
    compiler = find_program("cc")
    if compiler is None:
        raise Absent("no C compiler: cc")
    program = folder / contestant.name
    words = [compiler, "-O2", "-pthread", "-o", str(program), str(REFERENCE / contestant.source)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise Absent("does not compile: " + (done.stderr.strip().splitlines() or ["no reason given"])[0])
    return str(program)


def read_program_version(path: str) -> str:
    """The last word of what it says to -v, such as nginx/1.22.1."""
    done = subprocess.run([path, "-v"], check=False, capture_output=True, text=True, timeout=10)
    return ((done.stdout + done.stderr).split() or ["of unknown version"])[-1]
