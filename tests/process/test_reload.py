"""Rules of `--reload` (issue 5, PAINS 42): what has the workers replaced, and that no mistake in a file ends it.

Both ways of noticing are held to the same: by watchfiles, and by polling where it is not installed.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Command, command
from waiting import wait_until
from workers import ask, end, wait_log, worker_pids

from trio_wsgi.process.imported import build_messages
from trio_wsgi.process.messages import Imported, format_message, parse_message

APP = """
import os
import reload_part

with open("page.html") as page:
    PAGE = page.read()

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/late":
        import reload_late
        return [reload_late.WORD.encode()]
    return [f"{WORD} {reload_part.WORD} {PAGE} {os.environ.get('WORD')}".encode()]
"""
CONFIG = '[tool.trio-wsgi]\nenv = {{ WORD = "{word}" }}\n'
WITHOUT_WATCHFILES = (
    "import sys; sys.modules['watchfiles'] = None; from trio_wsgi.cli import main; sys.exit(main(sys.argv[1:]))"
)


class Site:
    """An application in several files, and the words they say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.words = {"app": "app1", "part": "part1", "page": "page1", "config": "config1", "late": "late1"}
        for name in self.words:
            self.save(name)

    def save(self, name: str, text: str | None = None) -> None:
        """Save one of the files as editors do; whole, unless `text` says otherwise."""
        word = self.words[name]
        path, source = {
            "app": ("reload_app.py", f"WORD = {word!r}\n{APP}"),
            "part": ("reload_part.py", f"WORD = {word!r}\n"),
            "late": ("reload_late.py", f"WORD = {word!r}\n"),
            "page": ("page.html", word),
            "config": ("pyproject.toml", CONFIG.format(word=word)),
        }[name]
        draft = self.folder / "draft~"
        draft.write_text(source if text is None else text)
        draft.rename(self.folder / path)

    def change(self, name: str, word: str) -> None:
        self.words[name] = word
        self.save(name)

    def said(self) -> str:
        """What the application answers when it runs what is in the files."""
        return " ".join(self.words[name] for name in ("app", "part", "page", "config"))


@contextlib.contextmanager
def reloading(folder: Path, how: str, *arguments: str, wait: bool = True) -> Iterator[Command]:
    program = ("-c", WITHOUT_WATCHFILES) if how == "polling" else ("-m", "trio_wsgi")
    words = ["reload_app:app", "--reload", "--reload-extra-file", "*.html", *arguments]
    with command(*words, cwd=folder, workers=1, program=program, wait=wait) as run:
        yield run
        assert end(run, signal.SIGTERM) == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["watchfiles", "polling"])
def test_a_change_is_served_by_new_workers_and_a_mistake_by_the_old_ones(tmp_path: Path, how: str) -> None:
    site = Site(tmp_path)
    with reloading(tmp_path, how, "-b", "127.0.0.1:0") as run:
        assert ask(run) == site.said()
        before = worker_pids(run)
        site.change("part", "part2")
        wait_until(lambda: ask(run) == site.said())
        wait_until(lambda: not set(before) & set(worker_pids(run)))  # fresh interpreters, not modules in place
        assert f"{tmp_path}/reload_part.py has changed" in run.log
        site.save("part", "def (:\n")
        wait_log(run, "nothing changes, as the application cannot boot")
        assert ask(run) == site.said()
        site.change("part", "part3")
        wait_until(lambda: ask(run) == site.said())
        assert run.log.count("SyntaxError: invalid syntax\n") == 1  # shown, once


@pytest.mark.slow
def test_whatever_the_application_was_made_of_is_watched(tmp_path: Path) -> None:
    """Its files, those that match a pattern, the configuration, and what a request imports."""
    site = Site(tmp_path)
    with reloading(tmp_path, "watchfiles", "-b", "127.0.0.1:0") as run:
        for name in ("app", "page", "config"):
            site.change(name, f"{name}2")
            wait_until(lambda: ask(run) == site.said())
        assert ask(run, "/late") == "late1"
        wait_until(lambda: late_is_replaced(run, site))
        site.save("config", "[tool.trio-wsgi]\nthreds = 1\n")
        wait_log(run, "threds in ")
        assert ask(run) == site.said()


def late_is_replaced(run: Command, site: Site) -> bool:
    """Whether a change of the late module was served; it is told up the channel within a second or so."""
    site.change("late", site.words["late"] + "x")
    wanted = site.words["late"]
    with contextlib.suppress(AssertionError):
        wait_until(lambda: ask(run, "/late") == wanted, timeout=3)
    return ask(run, "/late") == wanted


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


BROKEN = {
    "raises": ("part", "1 / 0\n", "ZeroDivisionError"),
    "ends the process": ("app", "import os\nos._exit(7)\n", "ended while it booted: exit code 7"),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["watchfiles", "polling"])
def test_the_first_start_waits_for_the_fix_too(tmp_path: Path, how: str) -> None:
    """Who connects meanwhile is answered then. Exit codes 3 and 4 are for those who do not develop."""
    site = Site(tmp_path)
    (tmp_path / "reload_part.py").unlink()
    port = free_port()
    with reloading(tmp_path, how, "-b", f"127.0.0.1:{port}", wait=False) as run:
        wait_log(run, "waiting for a file to change")
        assert "No module named 'reload_part'" in run.log
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        client.request("GET", "/")
        for number, (name, text, told) in enumerate(BROKEN.values(), 1):
            if (tmp_path / "reload_part.py").exists():
                site.save("part")
            site.save(name, text)
            wait_log(run, told)
            wait_log(run, "nothing changes", number)
        site.save("part")
        site.save("app")
        with contextlib.closing(client):
            assert client.getresponse().read().decode() == site.said()


@pytest.mark.slow
def test_what_ends_it_ends_it_while_it_waits(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.save("app", "1 / 0\n")
    with reloading(tmp_path, "polling", "-b", "127.0.0.1:0", wait=False) as run:
        wait_log(run, "waiting for a file to change")
        os.kill(run.process.pid, signal.SIGHUP)  # as a changed file: it is tried again
        wait_log(run, "nothing changes, as the application cannot boot")
        assert run.log.count("Traceback") == 2


def test_files_are_told_in_short_lines() -> None:
    """Thousands of them: half a message goes over an upgrade, and none is lost."""
    files = [f"/srv/site/lib/python3/site-packages/package_{number}/módulo.py" for number in range(5000)]
    messages = list(build_messages(files, 12.5))
    lines = [format_message(message) for message in messages]
    assert max(map(len, lines)) < 4096
    told: list[str] = []
    for line in lines:
        message = parse_message(line)
        assert isinstance(message, Imported)
        assert message.since == 12.5
        told += message.files
    assert told == sorted(files)
