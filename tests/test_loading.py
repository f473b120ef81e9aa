"""Rules of naming an application: what each reference loads, and what each wrong one is told."""

from __future__ import annotations

import itertools
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from trio_wsgi.errors import AppLoadError
from trio_wsgi.wsgi.loading import apply_middleware, load_app

SOURCE = """
import functools
def application(environ, start_response): ...
def other(environ, start_response): ...
def factory(*args, **kwargs):
    def made(environ, start_response): ...
    made.got = args, kwargs
    return made
def broken(): raise LookupError("no database")
def made_wrongly(): return broken
@functools.wraps(broken)
def wrapper(*args): ...
class Pages:
    def __init__(self, environ=None, start_response=None): ...
    def serve(self, environ, start_response, more=None): ...
pages = Pages()
pages_app = functools.partial(Pages.serve, pages)  # a call that Python's code tells nothing of
pages_app.__name__ = "pages_app"
class Starlet:
    async def __call__(self, scope, receive, send): ...
class Bare:
    def __call__(self): ...
starlet, bare = Starlet(), Bare()
async def asgi(environ, start_response): ...
async def streaming(environ, start_response): yield b""
def connection(scope, receive, send): ...
def keyed(environ, start_response, *, request): ...
def quits(): raise SystemExit(3)
class site:
    @staticmethod
    def wsgi(environ, start_response): ...
number = 3
def outer(app): return lambda environ, start_response: [b"outer", *app(environ, start_response)]
def inner(app): return lambda environ, start_response: [b"inner", *app(environ, start_response)]
def nothing(app): return None
def gives_factory(app): return lambda: app
def fails(app): raise RuntimeError("boom")
"""
_names = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of a name nobody has imported."""
    name = f"loading_{next(_names)}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    (tmp_path / f"{name}_app.py").write_text("def app(environ, start_response): ...\nprivate = 1\n")
    (tmp_path / f"{name}_none.py").write_text("def main(): ...\n")
    (tmp_path / f"{name}_factory.py").write_text("def app(config=None): ...\n")
    (tmp_path / f"{name}_bad.py").write_text("import json\nimport there_is_no_such_module\n")
    (tmp_path / f"{name}_syntax.py").write_text("def (:\n")
    (tmp_path / f"{name}_exit.py").write_text("raise SystemExit('run me as a script')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield name


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("{m}", "application"),
        ("{m}_app", "app"),
        ("{m}:other", "other"),
        ("{m}:site.wsgi", "wsgi"),
        ("{m}:factory()", "made"),
        ("{m}: factory ( )", "made"),
        ("{m}:wrapper", "broken"),  # its signature is that of what it wraps, and no application's
        ("{m}:Pages", "Pages"),
        ("{m}:pages.serve", "serve"),
        ("{m}:pages_app", "pages_app"),
    ],
)
def test_reference_names_a_callable(module: str, reference: str, name: str) -> None:
    assert load_app(reference.format(m=module)).__name__ == name


def test_factory_takes_literals(module: str) -> None:
    app = load_app(module + ":factory('a', -1, [True], debug=None, names={'x': 1})")
    assert app.got == (("a", -1, [True]), {"debug": None, "names": {"x": 1}})  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("", ["write module:attribute"]),
        ("{m}:", ["write module:attribute"]),
        (":app", ["write module:attribute"]),
        ("no_such_thing:app", ["no module 'no_such_thing'", "--chdir or --pythonpath"]),
        ("{m}.sub:app", ["no module '{m}.sub'"]),
        ("..{m}:app", ["importing '..{m}' failed: TypeError"]),
        ("{m}_bad:app", ["importing '{m}_bad' failed: ModuleNotFoundError", "there_is_no_such_module"]),
        ("{m}_syntax:app", ["importing '{m}_syntax' failed: SyntaxError"]),
        ("{m}_exit:app", ["failed: SystemExit: run me as a script"]),
        ("{m}_none", ["neither application nor app", "write {m}_none:NAME", "it has main"]),
        ("{m}:aplication", ["'{m}' has no 'aplication'", "it has application"]),
        ("{m}:site.wsg", ["'{m}:site' has no 'wsg'", "it has wsgi"]),
        ("{m}:number", ["is a int, which cannot be called", "PEP 3333"]),
        ("{m}:broken", ["'{m}:broken' takes no environ", "is it a factory? write {m}:broken()"]),
        ("{m}:outer", ["'{m}:outer' takes no environ", "is it a factory? write {m}:outer()"]),
        ("{m}:made_wrongly()", ["'{m}:made_wrongly()' takes no environ", "it must return one"]),
        ("{m}_factory", ["is it a factory? write {m}_factory:NAME()"]),
        ("{m}:starlet", ["'{m}:starlet' is asynchronous, as ASGI applications are"]),
        ("{m}:asgi", ["is asynchronous"]),
        ("{m}:streaming", ["is asynchronous"]),
        ("{m}:connection", ["asks for more than environ and start_response"]),
        ("{m}:keyed", ["asks for more than environ and start_response"]),
        ("{m}:Pages.serve", ["asks for more than environ and start_response"]),  # nobody gives it a self
        ("{m}:bare", ["takes no environ"]),
        ("{m}:number()", ["leave out the parentheses"]),
        ("{m}:broken()", ["failed: LookupError: no database"]),
        ("{m}:quits()", ["failed: SystemExit: 3"]),
        ("{m}:factory(open)", ["arguments are not literals"]),
        ("{m}:factory(**dict)", ["arguments are not literals"]),
        ("{m}:factory(**{{'a': 1}})", ["keywords one by one"]),
        ("{m}:factory()()", ["is neither a name nor a call"]),
        ("{m}:a b", ["is not an expression"]),
        ("{m}:[1][0]", ["is neither a name nor a call"]),
    ],
)
def test_a_wrong_reference_is_told_the_fix(module: str, reference: str, words: list[str]) -> None:
    with pytest.raises(AppLoadError) as info:
        load_app(reference.format(m=module))
    for word in words:
        assert word.format(m=module) in str(info.value)


def test_nothing_is_evaluated(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AppLoadError):
        load_app(module + ":factory(print('evaluated'))")
    assert capsys.readouterr().out == ""


def test_the_traceback_of_the_module_is_kept(module: str) -> None:
    with pytest.raises(AppLoadError) as info:
        load_app(f"{module}_bad:app")
    text = "".join(traceback.format_exception(info.value))
    assert f"{module}_bad.py" in text
    assert "line 2" in text


def test_the_first_middleware_is_the_outermost(module: str) -> None:
    app = apply_middleware(lambda environ, start_response: [b"app"], [f"{module}:outer", f"{module}:inner"])
    assert app({}, None) == [b"outer", b"inner", b"app"]


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("{m}:nothing", "what it returned is a NoneType, and cannot be called"),
        ("{m}:gives_factory", "what it returned takes no environ"),
        ("{m}:fails", "failed: RuntimeError: boom"),
        ("{m}:none", "has no 'none'"),
        ("{m}_no:wrap", "there is no module"),
        ("{m}_bad:wrap", "importing "),
        ("{m}:number", "is a int, which cannot be called; name a callable that takes the application and returns one"),
    ],
)
def test_a_wrong_middleware_is_named(module: str, reference: str, words: str) -> None:
    with pytest.raises(AppLoadError, match=rf"^middleware '{reference.format(m=module)}'") as info:
        apply_middleware(load_app(module), [reference.format(m=module)])
    assert words in str(info.value)
    assert ("_bad" in reference) == ("there_is_no_such_module" in str(info.value.__cause__))  # its traceback is shown


@pytest.mark.parametrize("reference", ["queue:app", "queue", "queue.views:app", "sendfile:app", "sys:app"])
def test_a_module_whose_name_python_uses_itself_is_told_to_be_renamed(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is imported is another file, or none; the operator's own is as it should be but for its name."""
    monkeypatch.chdir(tmp_path)
    name = reference.partition(":")[0].partition(".")[0]
    with pytest.raises(AppLoadError) as before:
        load_app(reference)
    assert "rename" not in str(before.value)
    (tmp_path / f"{name}.py").write_text("def app(environ, start_response): ...\n")
    with pytest.raises(AppLoadError) as told:
        load_app(reference)
    where = "is Python's own" if name == "sys" else f"is {sys.modules[name].__file__}"
    assert str(told.value).endswith(f"; {name!r} {where}, and {name}.py in {tmp_path} was not looked at: rename that")
