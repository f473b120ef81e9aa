"""`trio-wsgi files DIR`: a directory is served at once, and every flag of the command means what it always does."""

from __future__ import annotations

import http.client
import os
import signal
import sys
from pathlib import Path

import pytest
from serving import Command, command

from trio_wsgi.cli import main

ADDRESS = ("-b", "127.0.0.1:0")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "a=b ü"
    (site / "sub").mkdir(parents=True)
    (site / "big.bin").write_bytes(bytes(range(256)) * 40)
    (site / ".secret").write_text("no")
    (tmp_path / "outside").write_text("no")
    return site


def ask(
    running: Command, target: str, method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
    try:
        connection.request(method, target, headers=headers)
        response = connection.getresponse()
        return response.status, response.msg, response.read()
    finally:
        connection.close()


def test_a_directory_is_served_listed_and_logged(site: Path) -> None:
    with command("files", site.name, *ADDRESS, cwd=site.parent) as running:
        status, headers, page = ask(running, "/")
        assert (status, headers["Content-Length"]) == (200, str(len(page)))
        assert b'href="big.bin"' in page
        assert b'href="sub/"' in page
        assert b"secret" not in page
        assert ask(running, "/big.bin", Range="bytes=10000-")[::2] == (206, (bytes(range(256)) * 40)[10000:])
        assert ask(running, "/sub")[1]["Location"] == "/sub/"
        assert ask(running, "/.secret")[0] == 404
        assert ask(running, "/../outside")[0] == 404
        assert ask(running, "/", "POST")[0] == 405
        status, headers, _ = ask(running, "*", "OPTIONS")  # of the server as a whole (RFC 9110 §9.3.7)
        assert (status, headers["Allow"]) == (204, "GET, HEAD, OPTIONS")
        running.send_signal(signal.SIGTERM)
        assert running.wait() == 0
        assert f"listening at {running.url}" in running.log
        assert '"GET /big.bin HTTP/1.1" 206' in running.log


def test_settings_and_their_sources_mean_what_they_always_do(site: Path, tmp_path: Path) -> None:
    """Flags before and after the words, --chdir, more mounts; nothing that was said is overruled."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "here.txt").write_text("other")
    flags = ("--no-static-listing", "--static", f"/more={other}", "--chdir", str(other))
    with command(*ADDRESS, "files", *flags, site.name, cwd=tmp_path, TRIO_WSGI_ACCESS_LOGFILE="access.log") as running:
        assert ask(running, "/")[0] == 404
        assert ask(running, "/more/here.txt")[2] == b"other"
        assert ask(running, "/big.bin", "HEAD")[0] == 200
        running.send_signal(signal.SIGTERM)
        assert running.wait() == 0
        assert '"HEAD ' not in running.log
    assert '"HEAD ' in (other / "access.log").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["files"], "files: no directory is named (write trio-wsgi files DIR)"),
        (["files", "--threads", "3"], "files: no directory is named"),
        (["files", "nowhere"], "files: 'nowhere': No such file or directory (name a directory)"),
        (["files", "plain"], "files: 'plain': Not a directory"),
        (["files", ".", "more"], "'more' is one word too many"),
        (["files", ".", "--thread", "3"], "--thread: there is no such flag (did you mean --threads?)"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "plain").touch()
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("trio-wsgi: error: ")
    assert told in err
    assert err.count("\n") == 1


def test_a_module_called_files_is_still_an_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "files.py").write_text("def app(environ, start_response): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["--check-config", "files:app"]) == 0
    assert "application: files:app is a builtins.function" in capsys.readouterr().out
    sys.modules.pop("files")


def test_help_and_check_config_tell_of_it(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["--help"]) == 0
    assert "trio-wsgi files DIR [options]" in capsys.readouterr().out
    assert main(["files", os.fspath(site), "--check-config", "--print-config"]) == 0
    out = capsys.readouterr().out
    assert f"directory: {site}" in out
    assert 'access-logfile = "-"  # files' in out
