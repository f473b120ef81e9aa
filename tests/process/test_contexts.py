"""Rules of context variables: what an application sets as it is imported is not shared by its requests."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from serving import Command, command
from waiting import wait_until

PLAIN = """
import contextvars, decimal, sys
seen = contextvars.ContextVar("seen")
seen.set([])
decimal.getcontext().prec = 4

def app(environ, start_response):
    names = seen.get(None)
    if names is not None:
        names.append(environ["QUERY_STRING"])
    before = decimal.getcontext().prec
    decimal.getcontext().prec = 9
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{names} {before}".encode()]

def make(global_config):
    return app

if __name__ == "__main__":
    import trio_wsgi
    sys.exit(trio_wsgi.run(app, bind="127.0.0.1:0"))
"""

FLASK = """
from flask import Flask, g, request

app = Flask(__name__)
app.app_context().push()  # as tutorials do it, for what is to be set up at import

@app.get("/")
def index():
    before = getattr(g, "user", None)
    g.user = request.args["user"]
    return f"{before} then {g.user}"
"""

PASTE = """
[app:main]
paste.app_factory = plain_app:make

[server:main]
use = egg:trio-wsgi#main
bind = 127.0.0.1:0
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "plain_app.py").write_text(PLAIN)
    (tmp_path / "flask_app.py").write_text(FLASK)
    (tmp_path / "site.ini").write_text(PASTE)
    return tmp_path


def get(run: Command, query: str) -> str:
    with urllib.request.urlopen(f"{run.url}/?{query}") as response:
        return str(response.read().decode())


@pytest.mark.parametrize(
    ("workers", "program", "words"),
    [
        (1, ("-m", "trio_wsgi"), ("-b", "127.0.0.1:0", "plain_app:app")),
        (0, ("-m", "trio_wsgi"), ("-b", "127.0.0.1:0", "plain_app:app")),
        (0, ("plain_app.py",), ()),
        (0, ("-m", "pyramid.scripts.pserve"), ("site.ini",)),
    ],
    ids=["worker", "standalone", "run", "pserve"],
)
def test_a_request_sees_nothing_that_was_set_at_import(
    site: Path, workers: int, program: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """A copy of that context would be one of references, and all requests share what those lead to."""
    with command(*words, cwd=site, workers=workers, program=program) as run:
        assert [get(run, name) for name in ("ada", "bob")] == ["None 28", "None 28"]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_app_context_of_flask_that_is_pushed_at_import_is_no_users(site: Path, workers: int) -> None:
    """With it, `flask.g` and the sessions of extensions would go from one user to the next."""
    with command("-b", "127.0.0.1:0", "flask_app:app", cwd=site, workers=workers) as run:
        assert [get(run, f"user={name}") for name in ("ada", "bob")] == ["None then ada", "None then bob"]


SHARED = "import contextvars\nseen = contextvars.ContextVar('seen', default='nothing')\n"
SCRIPT = """
import shared
found = shared.seen.get()
shared.seen.set("{version}")
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{version} found {{found}}, sees {{shared.seen.get()}}".encode()]
"""


def test_no_version_of_a_script_sees_what_another_has_set(site: Path) -> None:
    """script_reloading: neither the requests nor the next import."""
    (site / "shared.py").write_text(SHARED)
    script = site / "script.py"
    script.write_text(SCRIPT.format(version=1))
    with command("-b", "127.0.0.1:0", "--script-reloading", "script:app", cwd=site) as run:
        assert get(run, "") == "1 found nothing, sees nothing"
        for version in (2, 3):
            script.write_text(SCRIPT.format(version=version))
            wait_until(lambda: f"{version} found" in get(run, ""))  # noqa: B023
            assert get(run, "") == f"{version} found nothing, sees nothing"
