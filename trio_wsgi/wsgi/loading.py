"""From ``module:attribute`` to the callable it names.

Laws:

* Nothing is evaluated: arguments of a factory are literals, attributes are looked up one by one.
* What cannot be called with environ and start_response alone, or is asynchronous, is refused before it is served. What
  Python's own code does not tell of a callable is not guessed: that one is taken.
* What the module's own code raises is kept as the cause, with its traceback; what we raise says what to
  write instead.
* `sys.path` is the caller's: the command line puts the working directory in front, as gunicorn does.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_VARARGS, getattr_static
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any, NamedTuple

from trio_wsgi.errors import AppLoadError
from trio_wsgi.wsgi.call import WSGIApplication

USUAL_NAMES = ("application", "app")  # looked for when the reference names no attribute

_APPLICATION = "a WSGI application: a callable that takes environ and start_response (PEP 3333)"
_MIDDLEWARE = "a callable that takes the application and returns one"
_TAKES_NONE = "takes no environ and start_response, as a WSGI application does"


class _Call(NamedTuple):
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


def load_app(reference: str) -> WSGIApplication:
    """Import the application.

    Args:
        reference: ``module:attribute``, where the attribute may be dotted (``module:site.wsgi``) or a call
            with literal arguments (``module:create_app("production", debug=False)``); or ``module`` alone,
            for its ``application`` or ``app``.

    Raises:
        AppLoadError: not found, not importable, or not callable with environ and start_response; the text names the
            fix. Exit with code 4.
    """
    found: WSGIApplication = _load_callable(reference, _APPLICATION)
    fault = _find_fault(found)
    if fault == _TAKES_NONE:
        name = reference if ":" in reference else f"{reference}:NAME"
        fault += "; it must return one" if reference.endswith(")") else f"; is it a factory? write {name}()"
    if fault:
        raise AppLoadError(f"{reference!r} {fault}")
    return found


def check_app(app: object) -> None:
    """Refuse what is known to be no WSGI application.

    Raises:
        TypeError: it cannot be called with environ and start_response, or answers asynchronously.
    """
    fault = _find_fault(app)
    if fault == _TAKES_NONE:
        fault += "; if it is a factory, hand over what it returns"
    if fault:
        raise TypeError(f"{app!r} {fault}")


def _load_callable(reference: str, wanted: str) -> Any:
    found = _resolve(reference)
    if not callable(found):
        raise AppLoadError(f"{reference!r} is a {_type_name(found)}, which cannot be called; name {wanted}")
    return found


def _find_fault(app: object) -> str:
    """What is known against an object as an application, to stand behind its name; empty where nothing is.

    The code is looked at, as a signature may be that of another function, which this one wraps.
    """
    if not callable(app):
        return f"is a {_type_name(app)}, and cannot be called: a WSGI application is, for each request (PEP 3333)"
    function, given = _find_function(app)
    if function is None:
        return ""
    code = function.__code__
    if code.co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR):
        return "is asynchronous, as ASGI applications are, and this server runs WSGI ones"
    if code.co_argcount - given < 2 and not code.co_flags & CO_VARARGS:
        return _TAKES_NONE
    optional = len(function.__defaults__ or ())
    if code.co_argcount - optional - given > 2 or code.co_kwonlyargcount > len(function.__kwdefaults__ or ()):
        return "asks for more than environ and start_response, which are all that a WSGI application gets"
    return ""


def _find_function(app: object) -> tuple[FunctionType | None, int]:
    """The Python function that a call runs, if that is all it does, and how many arguments are given beforehand."""
    if isinstance(app, FunctionType):
        return app, 0
    if isinstance(app, MethodType):
        return (app.__func__, 1) if isinstance(app.__func__, FunctionType) else (None, 0)
    if isinstance(app, type):  # made anew for each request, in whichever way it is made
        return None, 0
    call = getattr_static(type(app), "__call__", None)
    return (call, 1) if isinstance(call, FunctionType) else (None, 0)


def apply_middleware(app: WSGIApplication, references: Sequence[str]) -> WSGIApplication:
    """Wrap the application; the first reference is the outermost: it sees a request first.

    Args:
        references: each ``module:callable`` is called with the application and returns the next one.

    Raises:
        AppLoadError: a middleware cannot be loaded, fails when called, or returns what is no application.
    """
    for reference in reversed(references):
        try:
            make: Callable[[WSGIApplication], WSGIApplication] = _load_callable(reference, _MIDDLEWARE)
        except AppLoadError as error:
            raise AppLoadError(f"middleware {reference!r}: {error}") from error.__cause__
        try:
            app = make(app)
        except Exception as error:
            raise AppLoadError(f"middleware {reference!r} failed: {_describe(error)}") from error
        if fault := _find_fault(app):
            raise AppLoadError(f"middleware {reference!r}: what it returned {fault}")
    return app


def _resolve(reference: str) -> Any:
    module_name, colon, expression = reference.partition(":")
    if not module_name or (colon and not expression):
        raise AppLoadError(f"{reference!r} names no application; write module:attribute")
    if not colon and ("/" in module_name or not module_name.strip(".")):
        _refuse_directory(module_name)
    path, call = _parse(reference, expression) if colon else ((), None)
    found: Any = _import(reference, module_name)
    if not colon:
        for name in USUAL_NAMES:
            if hasattr(found, name):
                return getattr(found, name)
        if getattr(found, "__file__", None) is None:  # Python takes any directory for a package
            _refuse_directory(module_name)
        raise AppLoadError(
            f"module {module_name!r} has neither {' nor '.join(USUAL_NAMES)}; write {module_name}:NAME"
            + _near("", vars(found))
            + _tell_other(module_name)
        )
    where = module_name
    for name in path:
        try:
            found = getattr(found, name)
        except AttributeError:
            told = f"{where!r} has no {name!r}{_near(name, dir(found))}"
            raise AppLoadError(told + _tell_other(module_name)) from None
        where = f"{where}:{name}" if where == module_name else f"{where}.{name}"
    return found if call is None else _make(reference, found, call)


def _make(reference: str, factory: Any, call: _Call) -> Any:
    if not callable(factory):
        raise AppLoadError(
            f"{reference!r} calls a {_type_name(factory)}, which is no function; leave out the parentheses"
        )
    try:
        return factory(*call.arguments, **call.keywords)
    except AppLoadError:  # it says already what to do
        raise
    except (Exception, SystemExit) as error:
        raise AppLoadError(f"{reference!r} failed: {_describe(error)}") from error


def _parse(reference: str, expression: str) -> tuple[tuple[str, ...], _Call | None]:
    """The attribute names, and the call behind them if there is one."""
    wrong = f"{reference!r} is not module:attribute or module:factory(literals)"
    try:
        node = ast.parse(expression.strip(), mode="eval").body
    except SyntaxError:
        raise AppLoadError(f"{wrong}: {expression!r} is not an expression") from None
    call = None
    if isinstance(node, ast.Call):
        try:
            keywords = {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
            call = _Call(tuple(map(ast.literal_eval, node.args)), keywords)
        except ValueError:
            raise AppLoadError(f"{wrong}: its arguments are not literals such as 1, 'text' or True") from None
        if "None" in keywords:  # **mapping has no name
            raise AppLoadError(f"{wrong}: write its keywords one by one")
        node = node.func
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise AppLoadError(f"{wrong}: {expression!r} is neither a name nor a call")
    return (node.id, *reversed(names)), call


def _import(reference: str, name: str) -> Any:
    if "/" in name or name.endswith(".py"):
        raise AppLoadError(_advise_module(reference, name))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise AppLoadError(f"importing {name!r} failed: {_describe(error)}") from error
        if Path(name).is_file():  # for mod_wsgi it is called site.wsgi
            raise AppLoadError(_advise_module(reference, name)) from None
        raise AppLoadError(
            f"there is no module {error.name!r} in {Path.cwd()} or elsewhere on sys.path; "
            "start in its directory, or give --chdir or --pythonpath" + _tell_other(name)
        ) from error
    except (Exception, SystemExit) as error:
        raise AppLoadError(f"importing {name!r} failed: {_describe(error)}") from error


def _refuse_directory(name: str) -> None:
    """Tell who named a directory that is no package of Python's."""
    if Path(name).is_dir() and not Path(name, "__init__.py").is_file():
        words = shlex.join(["trio-wsgi", "files", name])
        raise AppLoadError(f"{name!r} is a directory; write {words} for its files, MODULE:APP for an application")


def _advise_module(reference: str, name: str) -> str:
    """What to write for a path in place of a module, and to do before where Python does not import such a file."""
    if name.endswith(".ini"):
        return f"{name!r} is no Python; write --paste FILE for PasteDeploy's, and what is in uWSGI's as flags or TOML"
    path, told = Path(name).absolute(), f"{name!r} is a path"
    module, folder = path.name.removesuffix(".py"), path.parent
    if "." in module or not (path.suffix == ".py" or path.is_dir()):
        module = re.sub(r"\W", "_", path.name)
        told += f", and Python imports only .py; {shlex.join(['ln', '-s', path.name, f'{folder / module}.py'])}, then"
    else:
        told += ";"
    while (folder / "__init__.py").is_file():
        module, folder = f"{folder.name}.{module}", folder.parent
    words = [module + reference.removeprefix(name)]
    if folder != Path.cwd():
        words = ["--chdir", str(folder), *words]  # --pythonpath would do, but files are often beside the application's
    return f"{told} write the module: {shlex.join(words)}"


def _tell_other(name: str) -> str:
    """Which file a module is, where the working directory has another of its name, which Python had taken before."""
    top = name.partition(".")[0]
    meant = next((each for each in (Path(f"{top}.py"), Path(top, "__init__.py")) if each.is_file()), None)
    if meant is None or top not in sys.modules:
        return ""
    file = getattr(sys.modules[top], "__file__", None)
    if file is not None and Path(file).exists() and meant.samefile(file):
        return ""
    where = f"is {file}" if file else "is Python's own"
    return f"; {top!r} {where}, and {meant} in {Path.cwd()} was not looked at: rename that"


def _near(name: str, names: Sequence[str] | dict[str, Any]) -> str:
    public = [other for other in names if not other.startswith("_")]
    near = difflib.get_close_matches(name, public, n=3) or (public if len(public) <= 8 else [])
    return f"; it has {', '.join(near)}" if near else ""


def _type_name(value: Any) -> str:
    return type(value).__name__


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
