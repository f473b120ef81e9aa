"""`python -m bench` names its commands, and each of them tells what it takes."""

from __future__ import annotations

import sys

import pytest

from bench import __main__ as bench


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code; argparse ends its help with SystemExit."""
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    try:
        return bench.main()
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize("word", bench.HELP)
def test_the_help_names_every_command(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, word) == 0
    out = capsys.readouterr().out
    for name in bench.COMMANDS:
        assert f"  python -m bench {name} " in out


@pytest.mark.parametrize("name", bench.COMMANDS)
def test_a_command_tells_what_it_takes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where what it needs is not installed: None in sys.modules makes an import fail."""
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "bench.plots", raising=False)
    assert run(monkeypatch, name, "--help") == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: python -m bench {name}")
    assert err == ""
    assert ("needs matplotlib: pip install -e '.[bench]'" in out) == (name == "plots")


def test_plots_without_matplotlib_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "bench.plots", raising=False)
    assert run(monkeypatch, "plots", "results.json", "folder") == 1
    assert capsys.readouterr().err == "bench: plots needs matplotlib: pip install -e '.[bench]'\n"


def test_who_names_no_command_hears_which_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "frobnicate") == 2
    said = "bench: there is no command 'frobnicate'; there are run, list, report, compare, plots\n"
    assert capsys.readouterr() == ("", said)


def test_an_environment_that_is_none_is_told_by_every_command_that_takes_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("run", "list"):
        assert run(monkeypatch, name, "--venv", "/nowhere") == 2
        assert capsys.readouterr() == (
            "",
            "bench: --venv /nowhere: there is no bin/python in it; name a virtual environment\n",
        )
