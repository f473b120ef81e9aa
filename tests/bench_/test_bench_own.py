"""What a user brings to the bench: an application, a file; and what is said where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import run
from bench.client import ROOT
from bench.driver import APP

MINE = """
def app(environ, start_response):
    known = environ["PATH_INFO"] == "/mine"
    start_response("200 OK" if known else "404 Not Found", [("Content-Length", "4")])
    return [b"mine"]
"""

RAISING = """
def app(environ, start_response):
    if environ["PATH_INFO"] != "/hello":
        raise RuntimeError("no database")
    return quiet(environ, start_response)

def quiet(environ, start_response):
    if environ["PATH_INFO"] == "/hello":
        print("Not Found: /hello", file=environ["wsgi.errors"], flush=True)
    start_response("404 Not Found", [("Content-Length", "0")])
    return []
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "bench_mine.py").write_text(MINE)
    (tmp_path / "apps" / "bench_broken.py").write_text("import no_such_module_at_all")
    return tmp_path


def measure(folder: Path, *words: str) -> int:
    words += ("--contestants", "trio-wsgi", "--rounds", "1", "--seconds", "0.3")
    return run.main([*words, "--files", str(folder / "samples"), "--output", str(folder / "results.json")])


def test_an_application_on_pythonpath_and_a_file_beside_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application is asked for what it knows, the file is served by ours; the report tells what was asked for."""
    monkeypatch.setenv("PYTHONPATH", str(folder / "apps"))
    (folder / "mine.bin").write_bytes(bytes(1000))
    words = ("--app", "bench_mine:app", "--target", "/mine", "--file", str(folder / "mine.bin"))
    assert measure(folder, *words, "--only", "own-app-1,own-file-1,small-1") == 0
    results = json.loads((folder / "results.json").read_text())
    assert [(each["scenario"], each["failure"]) for each in results["findings"]] == [
        ("small-1", ""),
        ("own-app-1", ""),
        ("own-file-1", ""),
    ]
    settings = results["settings"]
    assert settings["application"] == APP
    assert settings["your application"] == "bench_mine:app, asked for /mine"
    assert settings["your file"] == f"{folder / 'mine.bin'}, 1,000 bytes"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, "is no header; write 'Name: value'") for text in ["Authorization", "a b: c", ": c", "A: b\r\nC: d"]),
        ("X: \u20ac", "'X: \u20ac': headers are sent in ASCII; encode it as your app decodes it"),
    ],
)
def test_what_is_no_header_is_told(text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--app", APP, "--header", text])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--app", "no_such_module_at_all:app"], "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        (["--app", "bench_broken:app"], "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        (["--app", "bench_mine:nothing"], "has no attribute 'nothing'"),
        (["--app", "bench_mine:MINE"], "has no attribute 'MINE'"),
        (["--app", "bench_mine:__name__"], "no callable"),
        (["--app", "bench_mine"], "write MODULE:APP"),
        (
            ["--app", "bench_mine:app()"],
            "write MODULE:APP; what a call makes has no name until a module says app = call()",
        ),
        (["--app", "bench_mine:app", "--target", "mine"], "--target mine: write it from its first slash on"),
        (["--app", "bench_mine:app", "--target", "/\u00e9"], "'/\u00e9': that cannot be sent as it is; write /%C3%A9"),
        (["--app", "bench_mine:app", "--target", "/a b"], "'/a b': that cannot be sent as it is; write /a%20b"),
        (["--app", "bench_mine:app", "--target", "/a#b"], "'/a#b': that cannot be sent as it is; write /a%23b"),
        (["--app", "bench_mine:app", "--target", ""], "write it from its first slash on"),
        (["--target", "/mine"], "name it by --app"),
        (["--header", "Authorization: x"], "--header 'Authorization: x' is for your own app"),
        (["--only", "own-app-1"], "own-app-1 needs --app"),
        (["--only", "small-1,own-file-8"], "own-file-8 needs --file"),
        (["--only", "own-file", "--app", "bench_mine:app"], "own-file-1 needs --file"),
        (
            ["--only", "slow-100", "--strace"],
            "--strace counts calls of requests, and none of these scenarios shows them",
        ),
        (["--only", "small-1,"], "nothing is called ''"),
        (["--only", ""], "nothing is called ''"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_measured(
    folder: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(folder / "apps"))
    assert measure(folder, *words) == 2
    line = capsys.readouterr().err
    assert line.startswith("bench: ")
    assert line.count("\n") == 1
    assert said in line
    assert not (folder / "results.json").exists()


def test_an_application_that_fails_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of its server goes with the server: its last line stands in the results."""
    monkeypatch.setenv("PYTHONPATH", str(folder / "apps"))
    (folder / "apps" / "bench_raising.py").write_text(RAISING)
    assert measure(folder, "--app", "bench_raising:app", "--only", "own-app-1") == 1
    results = json.loads((folder / "results.json").read_text())
    assert "application" not in results["settings"]  # of the bench, as nobody was asked for it
    said = "/: status 500 instead of 200; its last words: RuntimeError: no database"
    assert [each["failure"] for each in results["findings"]] == [said]


def test_what_is_said_before_a_scenario_explains_no_failure_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server is asked for /hello until it is ready, and many applications say that there is no such page."""
    monkeypatch.setenv("PYTHONPATH", str(folder / "apps"))
    (folder / "apps" / "bench_raising.py").write_text(RAISING)
    assert measure(folder, "--app", "bench_raising:quiet", "--only", "own-app-1") == 1
    results = json.loads((folder / "results.json").read_text())
    assert [each["failure"] for each in results["findings"]] == ["/: status 404 instead of 200"]


def test_folders_in_which_modules_are_looked_for_are_told_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The working directory is one of them, and so is the bench's, which whoever is elsewhere has on PYTHONPATH."""
    monkeypatch.chdir(folder / "apps")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{folder / 'apps'}:/srv/shop")
    assert measure(folder, "--app", "no_such_module_at_all:app") == 2
    assert capsys.readouterr().err.endswith(f"; modules are looked for in {ROOT}:{folder / 'apps'}:/srv/shop\n")


def test_all_that_begins_with_a_name_is_what_the_user_has_brought(folder: Path) -> None:
    options = run.build_parser().parse_args(["--only", "own", "--app", APP])
    assert {each.own for each in run.choose_scenarios(options)} == {"app"}


def test_who_can_do_nothing_of_what_was_chosen_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are here, all the same."""
    words = ["--only", "file100k-8", "--contestants", "trio-h11-inline", "--output", str(folder / "results.json")]
    assert run.main(words) == 1
    assert "nothing was measured: none of it is for trio-h11-inline" in capsys.readouterr().err
