"""Rules of the command as it is installed: what it prints, what it logs, and with which code it ends."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from serving import clean_environment, command
from waiting import wait_until

import trio_wsgi

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Kind", "a header")])
    if environ["PATH_INFO"] == "/large":
        return [b"x" * 20_000_000]
    if environ["PATH_INFO"] == "/fails":
        raise ValueError("the application's own")
    return [b"hello"]
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "command_app.py").write_text(APP)
    return tmp_path


def console_script(*words: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """The installed `trio-wsgi`."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("TRIO_WSGI_", "PORT"))}
    return subprocess.run(
        [Path(sys.executable).parent / "trio-wsgi", *words],
        capture_output=True,
        text=True,
        timeout=20,
        cwd=cwd,
        env=clean | {"PYTHONPATH": str(Path(trio_wsgi.__file__).parent.parent)} | environ,
    )


def test_print_config_is_toml_that_check_config_takes(site: Path) -> None:
    printed = console_script("--print-config", "--threads", "3", cwd=site)
    assert (printed.returncode, printed.stderr) == (0, "")
    (site / "site.toml").write_text(printed.stdout)
    checked = console_script("-c", "site.toml", "--check-config", "command_app:app", cwd=site)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "threads from site.toml" in checked.stdout
    assert checked.stdout.endswith("ok\n")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_the_log_says_is_so(site: Path, workers: int) -> None:
    """An end that is waited for without a limit; https, to the application, of a port that has no certificate."""
    words = ["command_app:app", "-b", "127.0.0.1:0", "--graceful-timeout", "none", "--url-scheme", "https"]
    with command(*words, cwd=site, workers=workers) as run:
        assert run.url.startswith("http://")
        assert urllib.request.urlopen(run.url, timeout=10).read() == b"hello"
        run.send_signal(signal.SIGTERM)
        assert run.wait() == 0
        assert "SIGTERM: finishing what is under way, for as long as it takes\n" in run.log
    checked = console_script("--check-config", *words, cwd=site)
    assert "listen at: http://127.0.0.1:0\n" in checked.stdout


def test_a_setting_of_the_environment_that_is_none_is_named_with_the_nearest(site: Path) -> None:
    """One left over from an older version, or misspelt, is not passed over."""
    done = console_script("--check-config", "command_app:app", cwd=site, TRIO_WSGI_THREAD="3")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "TRIO_WSGI_THREAD" in done.stderr
    assert "did you mean" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--version"], 0, ""),
        (["--threads", "0", "command_app:app"], 1, "--threads"),
        (["command_app:ap"], 4, "'command_app' has no 'ap'"),
        (["no_such_module:app"], 4, "there is no module 'no_such_module'"),
    ],
)
def test_exit_codes(words: list[str], code: int, told: str, site: Path) -> None:
    """gunicorn's: 0 clean, 1 usage, 4 the application cannot be loaded."""
    done = console_script("-b", "127.0.0.1:0", *words, cwd=site)
    assert done.returncode == code, done.stderr
    assert told in "".join(done.stderr.splitlines()[-1:])
    assert ("Traceback" in done.stderr) == ("no module" in told)  # what could not be imported says where


def test_print_config_into_a_pipe_that_is_closed_is_quiet(site: Path) -> None:
    """`trio-wsgi --print-config | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "trio_wsgi", "--print-config"],
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=20,
        env=os.environ | {"PYTHONPATH": str(Path(trio_wsgi.__file__).parent.parent)},
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def run_redirected(site: Path, redirections: str, *words: str) -> subprocess.Popen[str]:
    """The command, as a shell starts it with these redirections."""
    script = f'exec "$0" -m trio_wsgi "$@" {redirections}'
    return subprocess.Popen(
        ["sh", "-c", script, sys.executable, *words],
        stderr=subprocess.PIPE,
        text=True,
        cwd=site,
        env={key: value for key, value in clean_environment().items() if key != "PYTHONUNBUFFERED"},
    )


@pytest.mark.parametrize("word", ["--version", "--print-config"])
def test_what_cannot_be_printed_is_told(word: str, site: Path) -> None:
    with run_redirected(site, ">/dev/full", word) as done:
        _, errors = done.communicate(timeout=20)
    assert errors == "trio-wsgi: error: standard output: it takes nothing: No space left on device\n"
    assert done.returncode == 1


def test_without_standard_streams_no_socket_takes_their_place(site: Path) -> None:
    """What an application prints would go to a client. And a clean end is one, whether anything can be printed."""
    words = ["-b", f"unix:{site}/s", "-w", "1", "--log-file", "errors", "command_app:app"]
    with run_redirected(site, "<&- >&-", *words) as run:
        try:
            wait_until(lambda: (site / "errors").exists() and "listening" in (site / "errors").read_text())
            worker = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().strip()
            for pid, fd in itertools.product((run.pid, worker), (0, 1)):
                taken_by = Path(os.readlink(f"/proc/{pid}/fd/{fd}"))  # noqa: PTH115
                # Since 3.5 libffi keeps its own file open, from before anything of ours runs; it is read only.
                assert str(taken_by) == os.devnull or taken_by.name.startswith("libffi.so")
            run.terminate()
            _, errors = run.communicate(timeout=20)
            assert (run.returncode, errors) == (0, "")
        finally:
            run.kill()


def test_a_clean_end_is_one_although_what_the_application_printed_goes_nowhere(site: Path) -> None:
    (site / "prints.py").write_text("print('x')\ndef app(environ, start_response): ...\n")
    words = ["-b", f"unix:{site}/s", "-w", "0", "--log-file", "errors", "prints:app"]
    with run_redirected(site, ">/dev/full", *words) as run:
        try:
            wait_until(lambda: (site / "errors").exists() and "listening" in (site / "errors").read_text())
            run.terminate()
            _, errors = run.communicate(timeout=20)
            assert (run.returncode, errors) == (0, "")
        finally:
            run.kill()


# -- the access log ----------------------------------------------------------------------------------------------------


def send(port: int, request: bytes, *, read: bool = True, reset: bool = False) -> None:
    """One connection; with neither it stands until the server closes it."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        client.connect(("127.0.0.1", port))
        client.sendall(request)
        if reset:
            client.recv(10)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif read:
            while client.recv(65536):
                pass
        else:
            time.sleep(1)


def test_every_request_is_logged_once_with_its_outcome(site: Path) -> None:
    """PAINS 44: aborted and failed ones, too; gunicorn's atoms and ours."""
    log = site / "access.log"
    form = "%(h)s %(l)s %(u)s %(m)s %(U)s|%(q)s %(H)s %(s)s %(B)s %({host}i)s %({x-kind}o)s %({wsgi.url_scheme}e)s %%"
    arguments = ["--header-timeout", "0.3", "--body-timeout", "0.3", "--write-timeout", "0.3", "-b", "127.0.0.1:0"]
    logging = ["--access-logfile", str(log), "--access-logformat", form + " %(outcome)s %(sent)s/%(promised)s"]
    with command("command_app:app", *arguments, *logging, cwd=site) as run:
        send(run.port, b"GET /ok?a=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        send(run.port, b"HEAD /head HTTP/1.0\r\n\r\n")
        send(run.port, b"GET /fails HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        send(run.port, b"NONSENSE\r\n\r\n")
        send(run.port, b"GET /two-hosts HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        send(run.port, b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n", reset=True)
        send(run.port, b"GET /slow-head HTTP/1.1\r\nHost:")
        send(run.port, b"POST /slow-body HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc")
        send(run.port, b"GET /large?stalled HTTP/1.1\r\nHost: h\r\n\r\n", read=False)
        patience = time.monotonic() + 5
        while len(log.read_text().splitlines()) < 9 and time.monotonic() < patience:
            time.sleep(0.02)
        lines = log.read_text().splitlines()
    words = [(line.split(" %")[0].removeprefix("127.0.0.1 - - "), line.split()[-2]) for line in lines]
    assert words[0] == ("GET /ok|a=1 HTTP/1.1 200 5 h a header http", "finished")
    assert words[1] == ("HEAD /head| HTTP/1.0 200 0 - a header http", "finished")
    assert words[2][0].startswith("GET /fails| HTTP/1.1 500 ")
    assert [outcome for _, outcome in words[2:]] == [
        "app-error",
        "refused",
        "refused",
        "client-gone",
        "header-timeout",
        "body-timeout",
        "write-timeout",
    ]
    assert "/20000000" in lines[5]
