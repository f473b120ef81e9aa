"""The rooms of the project: who may import whom, and what may be called where (DESIGN.md says why).

Only the text of the modules is read (`ast`); nothing is imported. Relative imports count, and so do those
under `if TYPE_CHECKING`. A law is a function from a module to its violations, each of which tells file and
line.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GROUND = ("address", "cpulist", "errors", "forks", "record", "version")
SETTINGS = ("checks", "config", "flags", "foreign", "kind", "owner", "pasteini", "reference", "setting", "sources")
ROOMS = ("rules", "disk", "wsgi", "net", "process")
ROOF = ("__init__", "__main__", "cli")
LEAVES = ("integrations",)  # above the roof: nobody imports them, they are known by name
ORDER = (GROUND, ("rules",), ("disk",), ("wsgi",), SETTINGS, ("net",), ("process",), ROOF, LEAVES)
FLOORS = {name: floor for floor, names in enumerate(ORDER) for name in names}

RUN_TIME = {"trio", "h11", "trio_wsgi", "sendfile"}
TYPES_ONLY = {"_typeshed"}  # type checkers have it, Python has not
OPTIONAL = {"sniffio", "anyio", "httptools", "paste", "watchfiles"}  # only inside `try`
FRAMEWORKS = {"django": {"django"}, "flask": {"flask", "click"}}  # each in its own part of integrations/
BRIDGE = "trio_wsgi.wsgi.bridge"  # the one module of wsgi/ that knows the event loop
FORBIDDEN_IMPORTS = {
    "rules": {"trio", "h11", "socket", "threading", "select", "selectors", "asyncio", "logging", "subprocess"},
    "disk": {"trio", "h11", "socket"},
    "wsgi": {"trio", "h11", "socket"},
    "process": {"h11"},
}
# All that rules/, disk/ and wsgi/ know of sendfile: what to send and where it lies, not how it is sent.
SENDFILE_NOUNS = {"FileSpan", "HasFileno", "Part", "file_system_type"}
FORBIDDEN_CALLS = {  # in rules/: files, output, clocks
    *("open", "print", "input"),
    *(f"time.{name}" for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "sleep")),
    *(f"datetime.{name}" for name in ("now", "utcnow", "today")),
    *("date.today", "os.open", "Path.open", "io.open"),
}
LATE_IMPORTS: set[tuple[str, str]] = set()  # (module, imported): none


@dataclass(frozen=True)
class Module:
    name: str  # "trio_wsgi.net.wire"
    file: str  # for the message
    tree: ast.Module
    is_package: bool

    @property
    def room(self) -> str:
        """Its folder, or its own name at the top of trio_wsgi: a key of FLOORS; "" outside trio_wsgi."""
        top, *rest = self.name.split(".")
        if top != "trio_wsgi":
            return ""
        return rest[0] if rest else "__init__"

    @property
    def part(self) -> str:
        """The name in its folder, such as "django" for all that is in integrations/django/; "" at the top."""
        return "".join(self.name.split(".")[2:3])

    def tells(self, node: ast.AST, what: str) -> str:
        return f"{self.file}:{getattr(node, 'lineno', 1)}: {what}"


def read_modules(*folders: str) -> dict[str, Module]:
    found = {}
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found[name] = Module(name, str(path.relative_to(ROOT)), tree, is_package)
    return found


MODULES = read_modules("trio_wsgi", "sendfile")
BENCH = read_modules("bench")


def imports(module: Module, within: ast.AST | None = None) -> Iterator[tuple[ast.stmt, str]]:
    """Each import statement with the full name of what it imports, `from a import b` as "a.b"."""
    for node in ast.walk(within or module.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.name.split(".")
                package = parts[: len(parts) - node.level + module.is_package]
                base = ".".join([*package, *([base] if base else [])])
            yield from ((node, f"{base}.{alias.name}") for alias in node.names)


def imported_module(name: str, known: Iterable[str]) -> str | None:
    """The module of ours behind an imported name: itself, or the module it is an attribute of."""
    return name if name in known else parent if (parent := name.rpartition(".")[0]) in known else None


def keeps_floors(module: Module) -> Iterator[str]:
    """errors ← rules ← disk ← wsgi ← config ← net ← process ← cli: a floor imports what is below or beside."""
    for node, name in imports(module):
        top, _, rest = name.partition(".")
        if module.room and module.room not in FLOORS:
            continue  # reported by test_no_module_stands_outside_the_rooms
        if top == "trio_wsgi":
            target = rest.split(".")[0]
            floor = FLOORS.get(target, FLOORS["__init__"])  # an attribute of the package itself: the roof
            if not module.room:
                yield module.tells(node, f"{module.name} imports {name}, but knows nothing of trio_wsgi")
            elif floor > FLOORS[module.room]:
                yield module.tells(node, f"{module.room} imports {name}, which is on a floor above")


def keeps_to_its_room(module: Module) -> Iterator[str]:
    forbidden = FORBIDDEN_IMPORTS.get(module.room, set()) - ({"trio"} if module.name == BRIDGE else set())
    for node, name in imports(module):
        if name.split(".")[0] in forbidden:
            yield module.tells(node, f"{module.room} may not import {name}")
        top, last = name.split(".")[0], name.split(".")[-1]
        if module.room in {"rules", "disk", "wsgi"} and top == "sendfile" and last not in SENDFILE_NOUNS:
            yield module.tells(node, f"{module.room} may know what sendfile sends, not how: {name}")


def has_few_dependencies(module: Module) -> Iterator[str]:
    allowed = {"trio", "sendfile"} if module.name.startswith("sendfile") else RUN_TIME
    if module.room in LEAVES:
        allowed = allowed | FRAMEWORKS.get(module.part, set())
    tried = {node for part in ast.walk(module.tree) if isinstance(part, ast.Try) for node in ast.walk(part)}
    for node, name in imports(module):
        top = name.split(".")[0]
        if top in sys.stdlib_module_names | allowed | TYPES_ONLY or (top in OPTIONAL and node in tried):
            continue
        yield module.tells(node, f"{name} is not a run-time dependency")


def is_sync_where_threads_run(module: Module) -> Iterator[str]:
    if module.room in {"rules", "disk", "wsgi"} and module.name != BRIDGE:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
                yield module.tells(node, f"{module.room} runs outside the event loop: no async, no await")


def computes_only(module: Module) -> Iterator[str]:
    """rules/ gives the same answer to the same question: it opens nothing, prints nothing, reads no clock."""
    if module.room != "rules":
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if ".".join(called.split(".")[-2:]) in FORBIDDEN_CALLS:
                yield module.tells(node, f"rules may not call {called}()")
    for node, name in imports(module):
        if name in FORBIDDEN_CALLS:
            yield module.tells(node, f"rules may not import {name}")


def imports_at_the_top(module: Module) -> Iterator[str]:
    for function in ast.walk(module.tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node, name in imports(module, function):
                if (module.name, name) not in LATE_IMPORTS:
                    yield module.tells(node, f"{name} is imported inside {function.name}()")


def opens_with_a_docstring(module: Module) -> Iterator[str]:
    if ast.get_docstring(module.tree) is None:
        yield module.tells(module.tree, "a module opens with a docstring that states its laws")


Law = Callable[[Module], Iterator[str]]
LAWS: list[Law] = [
    keeps_floors,
    keeps_to_its_room,
    has_few_dependencies,
    is_sync_where_threads_run,
    computes_only,
    imports_at_the_top,
    opens_with_a_docstring,
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_every_module(law: Law) -> None:
    """PAINS 49 (trio#45), among others: `sendfile` knows nothing of the server, and is for every Trio program."""
    broken = [line for module in MODULES.values() for line in law(module)]
    assert not broken, "\n" + "\n".join(broken)


def test_bench_drives_servers_from_outside() -> None:
    broken = [
        module.tells(node, f"bench imports {name}: it drives servers as processes")
        for module in BENCH.values()
        for node, name in imports(module)
        if name.split(".")[0] in {"trio_wsgi", "sendfile"}
    ]
    assert not broken, "\n" + "\n".join(broken)


def test_no_import_cycles() -> None:
    graph = {
        module.name: {
            target
            for _, name in imports(module)
            if (target := imported_module(name, MODULES)) and target != module.name
        }
        for module in MODULES.values()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " ← ".join(error.args[1]))


def test_no_module_stands_outside_the_rooms() -> None:
    package = ROOT / "trio_wsgi"
    folders = {path.name for path in package.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    assert folders == {*ROOMS, *LEAVES}
    strays = {path.stem for path in package.glob("*.py")} - {*GROUND, *SETTINGS, *ROOF}
    assert not strays, f"which room do these belong to? {sorted(strays)}"


def test_every_folder_is_packaged() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packaged = set(settings["tool"]["setuptools"]["packages"])
    folders = {module.name for module in MODULES.values() if module.is_package}
    assert packaged == folders
    assert {folder.split(".")[1] for folder in folders if "." in folder} == {*ROOMS, *LEAVES}


@pytest.mark.parametrize(
    ("law", "name", "source", "expected"),
    [
        (keeps_floors, "trio_wsgi.config", "from trio_wsgi.rules.paths import split_prefix", None),
        (keeps_floors, "trio_wsgi.errors", "import trio_wsgi.config", "floor above"),
        (keeps_floors, "trio_wsgi.wsgi.call", "from trio_wsgi.config import Config", "floor above"),
        (keeps_floors, "trio_wsgi.net.wire", "from trio_wsgi.process import worker", "floor above"),
        (keeps_floors, "trio_wsgi.net.wire", "from ..process.worker import spawn", "floor above"),
        (keeps_floors, "trio_wsgi.net.wire", "from .. import process", "floor above"),
        (keeps_floors, "trio_wsgi.net.wire", "from . import transport", None),
        (keeps_floors, "trio_wsgi.net.wire", "from trio_wsgi import serve", "floor above"),
        (keeps_floors, "trio_wsgi.cli", "from trio_wsgi.process import supervisor", None),
        (keeps_floors, "trio_wsgi.cli", "from trio_wsgi.integrations.paste import load_app", "floor above"),
        (keeps_floors, "trio_wsgi.integrations.flask", "from trio_wsgi.cli import main", None),
        (has_few_dependencies, "trio_wsgi.integrations.flask", "import flask", None),
        (has_few_dependencies, "trio_wsgi.integrations.django.apps", "import flask", "not a run-time dependency"),
        (has_few_dependencies, "trio_wsgi.cli", "import flask", "not a run-time dependency"),
        (keeps_floors, "sendfile.pump", "import trio_wsgi.errors", "knows nothing"),
        (keeps_to_its_room, "trio_wsgi.rules.ranges", "import socket", "may not import"),
        (keeps_to_its_room, "trio_wsgi.wsgi.call", "from trio import run", "may not import"),
        (keeps_to_its_room, BRIDGE, "import trio", None),
        (keeps_to_its_room, BRIDGE, "import h11", "may not import"),
        (keeps_to_its_room, "trio_wsgi.wsgi.call", "from sendfile import FileSpan", None),
        (keeps_to_its_room, "trio_wsgi.wsgi.call", "from sendfile import send_all", "not how"),
        (has_few_dependencies, "sendfile.pump", "import h11", "not a run-time dependency"),
        (has_few_dependencies, "trio_wsgi.net.pool", "import anyio", "not a run-time dependency"),
        (has_few_dependencies, "trio_wsgi.net.pool", "try:\n import anyio\nexcept ImportError: ...", None),
        (is_sync_where_threads_run, "trio_wsgi.wsgi.call", "async def f(): ...", "no async"),
        (computes_only, "trio_wsgi.rules.headers", "now = datetime.datetime.now()", "may not call"),
        (computes_only, "trio_wsgi.rules.headers", "from time import monotonic", "may not import"),
        (computes_only, "trio_wsgi.net.wire", "open('x')", None),
        (imports_at_the_top, "trio_wsgi.cli", "def f():\n    import trio", "imported inside f()"),
        (opens_with_a_docstring, "trio_wsgi.cli", "import trio", "docstring"),
    ],
)
def test_a_planted_violation_is_found(law: Law, name: str, source: str, expected: str | None) -> None:
    found = list(law(Module(name, "planted.py", ast.parse(source), is_package=False)))
    if expected is None:
        assert found == []
    else:
        assert len(found) == 1
        assert found[0].startswith("planted.py:")
        assert expected in found[0]
