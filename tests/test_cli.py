"""Rules of the command: what its flags mean, what a mistake is told, and with which code it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import run

from trio_wsgi.config import SETTINGS, Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.process.prepare import prepare_process
from trio_wsgi.sources import load_config
from trio_wsgi.version import __version__

APP = """
import os
print("mode", os.environ.get("CLI_TEST_MODE"), "in", os.path.basename(os.getcwd()))
def app(environ, start_response): ...
def wrap(app):
    print("wrapped")
    return app
"""


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with an application; what a command changes of the process is undone."""
    (tmp_path / "cli_test_app.py").write_text(APP)
    (tmp_path / "cli_test_broken.py").write_text("import no_such_dependency\n")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(os.environ)
    for variable in before:
        if variable.startswith("TRIO_WSGI_") or variable in ("PORT", "SENDFILE"):
            monkeypatch.delenv(variable)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)
    for name in ("cli_test_app", "cli_test_broken"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("words", "code"), [(["nosuch:app"], 4), (["--no-such-flag"], 1)])
def test_the_exit_code_tells_even_where_standard_error_takes_nothing(words: list[str], code: int) -> None:
    """A full disk, or nobody who reads: whoever restarts goes by the code."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "trio_wsgi", "--bind=127.0.0.1:0", "--workers=0", *words], stderr=full, check=False
        )
    assert done.returncode == code


@pytest.mark.parametrize(("words", "code"), [("nosuch:app", 4), ("--no-such-flag", 1)])
def test_errors_go_nowhere_where_standard_error_is_closed(words: str, code: int) -> None:
    """And not to standard output, which may be somebody's data."""
    script = f'exec "$0" -m trio_wsgi --bind=127.0.0.1:0 --workers=0 {words} 2>&-'
    done = subprocess.run(["sh", "-c", script, sys.executable], stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (code, b"")


def test_help_shows_every_flag_with_its_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PAINS 10 of the peers: waitress tells of a send_bytes of 18000, and has 1."""
    monkeypatch.setenv("COLUMNS", "100")
    code, out, err = run(capsys, "--help")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    for setting in SETTINGS.values():
        for flag in (*setting.flags, setting.flag):
            assert re.search(rf"(^|\s){flag}[\s,]", text), flag
        assert setting.help.split(".")[0] in text
        assert f"{setting.section.title}: " in text
    assert "(default: 30 s)" in text
    assert "(default: 1g)" in text
    assert "--sendfile, --no-sendfile" in text
    assert "--bind ADDRESS" in text
    assert '"%(r)s" %(s)s' in text
    assert all(len(line) <= 100 for line in out.splitlines())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"trio-wsgi {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--thread", "3", "a:b"], "--thread: there is no such flag (did you mean --threads?)"),
        (["--thread=3", "a:b"], "--thread: there is no such flag (did you mean --threads?)"),
        (["--no-sendfil"], "--no-sendfil: there is no such flag (did you mean --no-sendfile?)"),
        (
            ["--head", "3"],
            "--head: there is no such flag",
        ),  # no abbreviations: a later flag would change their meaning
        (["-Z"], "-Z: there is no such flag"),
        (["--threads"], "argument --threads: expected one argument (see trio-wsgi --help)"),
        (["--threads", "many", "a:b"], "--threads: 'many' is not a whole number (the default is 8)"),
        (["--keep-alive", "-1", "a:b"], "--keep-alive: '-1' is not a duration"),
        (["--bind", "a:b:c", "a:b"], "--bind: 'a:b:c' has more than one colon"),
        (["-e", "A", "a:b"], "--env: 'A' has no equals sign; write KEY=VALUE"),
        (["--access-logformat", "%(hh)s", "a:b"], "--access-logformat: %(hh)s is not an atom; did you mean %(h)s?"),
        (["a:b", "c:d"], "'c:d' is one word too many"),
        ([], "no application is named (write trio-wsgi MODULE:APP)"),
        (["-c", "none.toml", "a:b"], "--config: none.toml cannot be read: No such file"),
        (["--chdir", "nowhere", "a:b"], "chdir: cannot change to 'nowhere': No such file"),
        (["--temp-path", "nowhere", "a:b"], "temp_path: 'nowhere' is no writable directory"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (1, "")
    assert err.startswith("trio-wsgi: error: ")
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["-b", "a:1", "--bind", "b:2"], {"bind": ("a:1", "b:2")}),
        (["-e", "A=1", "--env", "B=2", "-e", "A=3"], {"env": (("A", "3"), ("B", "2"))}),
        (["--no-sendfile"], {"sendfile": False}),
        (["--no-sendfile", "--sendfile"], {}),
        (["--limit-request-field_size", "100"], {"limit_request_field_size": 100}),
        (["--limit-request-field-size", "100"], {"limit_request_field_size": 100}),
        (["--access-logfile", "-"], {"access_logfile": "-"}),
        (["--write-timeout=none", "--keep-alive=0"], {"write_timeout": float("inf"), "keep_alive": 0.0}),
    ],
)
def test_flags(words: list[str], values: dict[str, object], capsys: pytest.CaptureFixture[str], site: Path) -> None:
    """Seen through --print-config, whose output is read back."""
    code, out, err = run(capsys, "--print-config", *words)
    assert (code, err) == (0, "")
    (site / "printed.toml").write_text(out)
    assert load_config({}, {}, "printed.toml").config == Config().replace(**values)


def test_print_config_tells_where_each_value_came_from(
    capsys: pytest.CaptureFixture[str], site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "site.toml").write_text("backlog = 9\nthreads = 9")
    monkeypatch.setenv("TRIO_WSGI_THREADS", "4")
    monkeypatch.setenv("PORT", "81")
    code, out, _ = run(capsys, "-c", "site.toml", "--print-config", "--log-level", "debug", "a:b")
    assert code == 0
    lines = out.splitlines()
    assert "backlog = 9  # site.toml" in lines
    assert "threads = 4  # TRIO_WSGI_THREADS" in lines
    assert 'bind = ["0.0.0.0:81"]  # PORT' in lines
    assert 'log-level = "debug"  # --log-level' in lines
    assert "keep-alive = 75.0  # default" in lines
    assert "# temp-path is not set  # default" in lines
    assert len([line for line in lines if "  # " in line]) == len(SETTINGS)


def test_check_config_prepares_the_process_and_loads_the_application(
    capsys: pytest.CaptureFixture[str], site: Path
) -> None:
    words = ["--chdir=other", "--pythonpath=..", "-e", "CLI_TEST_MODE=on", "--middleware=cli_test_app:wrap"]
    code, out, err = run(capsys, "--check-config", *words, "cli_test_app")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "ok"
    assert "mode on in other" in out
    assert "wrapped" in out
    assert "application: cli_test_app is a builtins.function" in out
    assert "listen at: http://127.0.0.1:8000" in out


@pytest.mark.parametrize("words", [["a:b"], ["--print-config"], ["--paste", "a.ini"], ["files", "."]])
def test_a_working_directory_that_is_no_more_is_told_in_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str], site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "gone").mkdir()
    monkeypatch.chdir(site / "gone")
    (site / "gone").rmdir()
    told = "trio-wsgi: error: working directory: it cannot be named: No such file or directory (start in another)\n"
    assert run(capsys, *words) == (1, "", told)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_working_directory_that_may_not_be_searched_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], site: Path
) -> None:
    site.chmod(0o700)
    os.seteuid(65534)
    try:
        code, _, err = run(capsys, "a:b")
    finally:
        os.seteuid(0)
    assert code == 1
    assert err.startswith("trio-wsgi: error: working directory: it cannot be looked into for pyproject.toml: ")
    assert err.count("\n") == 1


def test_levels_of_the_log_may_be_written_in_capitals(capsys: pytest.CaptureFixture[str]) -> None:
    """gunicorn's users do."""
    _, out, _ = run(capsys, "--print-config", "--log-level", "WARNING")
    assert 'log-level = "warning"  # --log-level' in out.splitlines()


def test_check_config_asks_for_what_is_to_read_http(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no worker could boot without is no `ok`."""
    monkeypatch.setattr("trio_wsgi.net.fastcodec.httptools", None)
    code, out, err = run(capsys, "--check-config", "--http", "httptools", "cli_test_app:app")
    assert (code, out) == (1, "")
    assert err.startswith("trio-wsgi: error: http: httptools is not installed (pip install")
    assert run(capsys, "--check-config", "cli_test_app:app")[0] == 0


def test_check_config_without_an_application(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--check-config")
    assert code == 0
    assert "none imported" in out


@pytest.mark.parametrize("check", [["--check-config"], []])
def test_an_application_that_cannot_be_loaded_is_exit_code_4_with_its_traceback(
    check: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *check, "--bind", "127.0.0.1:0", "cli_test_broken:app")
    assert code == 4
    assert "Traceback" in err
    assert 'cli_test_broken.py", line 1' in err
    assert "ModuleNotFoundError: No module named 'no_such_dependency'" in err


def test_a_missing_module_is_told_with_its_traceback_and_the_fix_in_the_last_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What cannot be imported shows its traceback, and exits with 4."""
    code, _, err = run(capsys, "--check-config", "no_such_module:app")
    assert code == 4
    assert "ModuleNotFoundError: No module named 'no_such_module'" in err
    assert "there is no module 'no_such_module'" in err.splitlines()[-1]


def test_the_working_directory_is_imported_from(site: Path) -> None:
    prepare_process(Config(pythonpath="other"))
    assert sys.path[:2] == [str(site / "other"), str(site)]
    prepare_process(Config())
    assert sys.path[:2] == [str(site), str(site / "other")]
    with pytest.raises(ConfigError):
        prepare_process(Config(chdir="cli_test_app.py"))
