"""Rules of script_reloading (issue 5): who gets which version of the application; what becomes of one that fails."""

from __future__ import annotations

import http.client
import itertools
import logging
import os
import sys
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from answers import Answer, read_answer
from asking import error_lines, exchange_open, request
from serving import Command, Served, command, serving
from waiting import wait_until

from trio_wsgi.errors import AppLoadError
from trio_wsgi.wsgi import script
from trio_wsgi.wsgi.script import load_script

_names = itertools.count()


class Site:
    """An application in a file of its own, with a name nobody has imported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"script_{next(_names)}"
        self.file = folder / f"{self.name}.py"

    def write(self, body: str, **names: object) -> None:
        """Save the file as editors do: another one takes its name."""
        draft = self.folder / "draft"
        draft.write_text(body.format(**names))
        draft.rename(self.file)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        del sys.modules[name]


def no_replacement(reason: str) -> None:
    raise AssertionError(f"asked to be replaced: {reason}")


@asynccontextmanager
async def following(
    reference: str, *middleware: str, mechanism: str = "module", replace: Callable[[str], None] = no_replacement
) -> AsyncIterator[Served]:
    """Serve a reference with script_reloading."""
    app = await trio.to_thread.run_sync(load_script, reference, middleware, mechanism, replace)
    async with serving(app) as served:
        yield served


async def answer(served: Served, method: str = "GET") -> Answer:
    return read_answer(await exchange_open(served, request(method)), method)


async def body(served: Served) -> str:
    return (await answer(served)).body.decode()


SAYS = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"{word}"]
"""


# -- module ------------------------------------------------------------------------------------------------------------


async def test_the_request_after_a_change_is_served_by_the_new_code(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Also within one second and at the same size, where Python takes the old bytecode for new."""
    caplog.set_level(logging.INFO, "trio_wsgi.error")
    site.write(SAYS, word="one")
    async with following(f"{site.name}:app") as served:
        assert await body(served) == "one"
        seconds = site.file.stat().st_mtime_ns // 10**9 * 10**9
        for turn, word in enumerate(("two", "six", "ten"), 1):
            site.write(SAYS, word=word)
            os.utime(site.file, ns=(seconds, seconds + turn))
            assert await body(served) == word
            assert await body(served) == word
    assert [line for line in error_lines(caplog, logging.INFO) if "script_" in line] == [
        f"{site.file} has changed: loaded anew"
    ] * 3


async def test_a_file_that_changes_while_it_is_first_imported_is_looked_at_again(site: Site) -> None:
    late = "import os\nos.utime(__file__)\n"
    site.write(late + SAYS, word="one")
    async with following(f"{site.name}:app") as served:
        site.write(SAYS, word="two")
        assert await body(served) == "two"


async def test_a_missing_file_changes_nothing(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Between two steps of an editor that saves there may be none."""
    site.write(SAYS, word="one")
    async with following(f"{site.name}:app") as served:
        away = site.file.rename(site.folder / "away")
        assert await body(served) == "one"
        away.rename(site.file)
        assert await body(served) == "one"
        site.file.unlink()
        site.write(SAYS, word="two")
        assert await body(served) == "two"
    assert error_lines(caplog) == []


BROKEN = {
    "syntax": ("def app(:\n", "SyntaxError"),
    "raises": ("1 / 0\n", "ZeroDivisionError"),
    "raises late": (SAYS.format(word="new") + "\nraise LookupError('no database')\n", "LookupError"),
    "exits": ("import sys\nsys.exit('run me as a script')\n", "SystemExit"),
    "no app": ("number = 1\n", "has no 'app'"),
    "no callable": ("app = 1\n", "which cannot be called"),
    "not text": ("\0", "null bytes"),
    "missing module": ("import there_is_none_of_this_name\n", "there_is_none_of_this_name"),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_while_the_new_code_does_not_load_the_old_goes_on(
    site: Site, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so once for each change; the next change is tried."""
    source, told = BROKEN[case]
    site.write(SAYS, word="old")
    async with following(f"{site.name}:app") as served:
        module = sys.modules[site.name]
        site.file.write_text(source)
        assert [await body(served) for _ in range(3)] == ["old"] * 3
        assert sys.modules[site.name] is module
        (line,) = error_lines(caplog)
        assert line.startswith(f"{site.file} has changed and cannot be loaded; the old code goes on")
        assert told in caplog.text
        assert "Traceback" in caplog.text
        site.write(SAYS, word="fixed")
        assert await body(served) == "fixed"
        assert len(error_lines(caplog)) == 1


MIXTURE = """
import time
with open({count!r}, "a") as told:
    told.write("x")
first = {number}
time.sleep(0.05)  # whoever looks now sees half a module
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    seen = first
    time.sleep(0.002)
    import {name} as known  # waits while another thread imports it
    return [b"%d %d %d" % (seen, last, known.last - known.first)]
last = {number}
"""


async def test_concurrent_requests_see_one_version_each(site: Site) -> None:
    """Eight clients ask without a pause while the file changes; each change is imported once, by one thread."""
    count = site.folder / "count"
    site.write(MIXTURE, number=0, count=str(count), name=site.name)
    seen: list[list[int]] = [[] for _ in range(8)]

    async def client(numbers: list[int]) -> None:
        while True:
            first, last, apart = map(int, (await body(served)).split())
            assert (first, apart) == (last, 0)
            numbers.append(first)

    async with following(f"{site.name}:app") as served, trio.open_nursery() as nursery:
        for numbers in seen:
            nursery.start_soon(client, numbers)
        for number in range(1, 8):
            site.write(MIXTURE, number=number, count=str(count), name=site.name)
            with trio.fail_after(30):
                while not all(numbers and numbers[-1] == number for numbers in seen):  # noqa: ASYNC110
                    await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    assert count.read_text() == "x" * 8
    assert all(numbers == sorted(numbers) for numbers in seen)  # nobody goes back


WAITS = """
import os, time
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"{word}-"
    while not os.path.exists({go!r}):
        time.sleep(0.005)
    yield b"{word}"
"""


async def test_a_response_under_way_is_finished_by_the_code_that_began_it(site: Site) -> None:
    go = site.folder / "go"
    site.write(WAITS, word="one", go=str(go))
    async with following(f"{site.name}:app") as served, await served.connect() as stream:
        await stream.send_all(request())
        begun = b""
        with trio.fail_after(10):
            while b"one-" not in begun:
                begun += await stream.receive_some()
        site.write(SAYS, word="two")
        assert await body(served) == "two"
        go.touch()
        with trio.fail_after(10):
            async for data in stream:
                begun += data
        assert read_answer(begun).body == b"one-one"


async def test_middleware_is_applied_to_every_version(site: Site) -> None:
    """In its order; one that lives in the application's own file is the new one."""
    wraps = """
def wraps(app):
    return lambda environ, start_response: [b"{word}(", *app(environ, start_response), b")"]
"""
    (site.folder / f"{site.name}_outer.py").write_text(wraps.format(word="outer"))
    site.write(SAYS + wraps, word="one")
    async with following(f"{site.name}:app", f"{site.name}_outer:wraps", f"{site.name}:wraps") as served:
        assert await body(served) == "outer(one(one))"
        site.write(SAYS + wraps, word="two")
        assert await body(served) == "outer(two(two))"
        site.write(SAYS + "wraps = 1\n", word="six")
        assert await body(served) == "outer(two(two))"


async def test_a_factory_is_called_anew(site: Site) -> None:
    factory = "def make(word):\n    {first}\n" + "    def app(environ, start_response):\n"
    factory += "        start_response('200 OK', [])\n        return [b'{word} ' + word.encode()]\n    return app\n"
    site.write(factory, first="pass", word="one")
    async with following(f"{site.name}:make('given')") as served:
        assert await body(served) == "one given"
        site.write(factory, first="1 / 0", word="two")
        assert await body(served) == "one given"
        site.write(factory, first="pass", word="six")
        assert await body(served) == "six given"


async def test_a_module_of_a_package_is_replaced_there_too(site: Site) -> None:
    package = site.folder / f"{site.name}_package"
    package.mkdir()
    (package / "__init__.py").touch()
    site.file = package / "inner.py"
    site.write(SAYS, word="one")
    async with following(f"{package.name}.inner:app") as served:
        assert await body(served) == "one"
        for source, word in ((SAYS.format(word="two"), "two"), ("1 / 0", "two"), ("app = 1", "two")):
            site.file.write_text(source)
            assert await body(served) == word
            assert sys.modules[package.name].inner is sys.modules[f"{package.name}.inner"]


def test_an_application_without_a_source_file_cannot_be_followed() -> None:
    with pytest.raises(AppLoadError, match="module 'time' has no source file; leave out --script-reloading"):
        load_script("time:sleep", (), "module", no_replacement)


def test_an_application_in_an_archive_cannot_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its path says .py, but is no file's: no request would find it changed."""
    archive = tmp_path / "site.zip"
    with zipfile.ZipFile(archive, "w") as site:
        site.writestr("script_zipped.py", "def app(environ, start_response): ...")
    monkeypatch.syspath_prepend(str(archive))
    with pytest.raises(AppLoadError, match=r"'script_zipped' is in an archive, .*: use --reload, which follows those"):
        load_script("script_zipped:app", (), "module", no_replacement)


# -- process -----------------------------------------------------------------------------------------------------------


class Asked:
    """Who is asked for another worker: on the event loop, as `trio.current_time` knows."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def __call__(self, reason: str) -> None:
        assert trio.current_time()
        self.reasons.append(reason)


async def test_the_old_code_answers_and_the_worker_asks_to_be_replaced_once(site: Site) -> None:
    asked = Asked()
    site.write(SAYS, word="old")
    async with following(f"{site.name}:app", mechanism="process", replace=asked) as served:
        assert (await answer(served)).values("refresh") == []
        assert asked.reasons == []
        for number, word in enumerate(("new", "newer"), 1):
            site.write(SAYS, word=word)
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(_answered_by_the_old, served)
            assert asked.reasons == [f"{site.file} has changed"] * number


async def _answered_by_the_old(served: Served) -> None:
    told = await answer(served)
    assert (told.body, told.value("refresh"), told.closes) == (b"old", "0", True)


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("GET", [], ["0"]),
        ("HEAD", [], []),
        ("POST", [], []),  # the browser would ask with GET
        ("GET", [("refresh", "5")], ["5"]),  # the application knows better
    ],
)
async def test_who_is_told_to_ask_again(
    site: Site, method: str, headers: list[tuple[str, str]], expected: list[str]
) -> None:
    source = SAYS.replace('("Content-Type", "text/plain")', '("Content-Type", "text/plain"), *{headers}')
    site.write(source, word="old", headers=headers)
    asked = Asked()
    async with following(f"{site.name}:app", mechanism="process", replace=asked) as served:
        site.write(source, word="new", headers=headers)
        told = await answer(served, method)
        assert told.values("refresh") == expected
        assert len(asked.reasons) == 1


async def test_nobody_asks_again_for_ever(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new version that does not boot would have all browsers ask without end."""
    monkeypatch.setattr(script, "REFRESH_FOR", 0.0)
    asked = Asked()
    site.write(SAYS, word="old")
    async with following(f"{site.name}:app", mechanism="process", replace=asked) as served:
        site.write("def (:\n")
        told = await answer(served)
        assert (told.body, told.values("refresh"), len(asked.reasons)) == (b"old", [], 1)


async def test_wrong_headers_are_still_the_applications_fault(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """PEP 3333: a list of pairs of str."""
    wrong = SAYS.replace('[("Content-Type", "text/plain")]', "{headers}")
    site.write(wrong, word="old", headers="None")
    async with following(f"{site.name}:app", mechanism="process", replace=Asked()) as served:
        site.write(wrong, word="new", headers="()")
        assert (await answer(served)).status == 500
    assert "AppError" in error_lines(caplog)[0]


def _environ() -> dict[str, Any]:
    return {"REQUEST_METHOD": "GET"}


def test_a_file_that_does_not_change_costs_a_look(site: Site) -> None:
    """No hop to the loop, no thread: it works where there is neither."""
    site.write(SAYS, word="one")
    for mechanism in ("module", "process"):
        app = load_script(f"{site.name}:app", (), mechanism, no_replacement)
        assert app(_environ(), lambda status, headers, exc_info=None: None) == [b"one"]


# -- the command -------------------------------------------------------------------------------------------------------


def get(run: Command) -> tuple[str, str | None]:
    """The body, and what Refresh says."""
    connection = http.client.HTTPConnection("127.0.0.1", run.port, timeout=30)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.read().decode(), response.getheader("refresh")
    finally:
        connection.close()


CONFIGURES_LOGS = """
import logging.config
logging.config.dictConfig({{"version": 1, "root": {{"level": "INFO"}}}})  # and, by its default, no other logger

def app(environ, start_response):
    raise LookupError("{word}")
"""


def test_new_code_that_configures_its_logging_leaves_ours_on(site: Site) -> None:
    site.write(CONFIGURES_LOGS, word="old")
    arguments = ["--script-reloading", "--access-logfile", "-", "-b", "127.0.0.1:0"]
    with command(f"{site.name}:app", *arguments, cwd=site.folder) as run:
        for count, word in enumerate(("old", "new"), 1):
            site.write(CONFIGURES_LOGS, word=word)
            assert get(run)[0].startswith("500 ")
            wait_until(lambda word=word: f"LookupError: {word}" in run.log)  # type: ignore[misc]
            wait_until(lambda count=count: run.log.count("GET / HTTP/1.1") == count)  # type: ignore[misc]


@pytest.mark.slow
def test_the_command_replaces_a_worker_whose_file_has_changed(site: Site) -> None:
    """Gracefully, and again when what did not boot has been mended."""
    site.write(SAYS, word="old")
    arguments = ["--script-reloading", "--reload-mechanism", "process", "-b", "127.0.0.1:0"]
    with command(f"{site.name}:app", *arguments, cwd=site.folder, workers=1) as run:
        assert get(run) == ("old", None)
        site.write(SAYS, word="new")
        assert get(run) == ("old", "0")
        wait_until(lambda: get(run) == ("new", None))
        assert f"asks for a successor: {site.file} has changed" in run.log
        site.write("def (:\n")
        assert get(run) == ("new", "0")
        wait_until(lambda: "worker 1 cannot boot" in run.log)
        site.write(SAYS, word="mended")
        wait_until(lambda: get(run) == ("mended", None))


def test_the_command_reloads_in_place(site: Site) -> None:
    site.write(SAYS, word="old")
    (site.folder / f"{site.name}_outer.py").write_text(
        "def wraps(app):\n    return lambda *a: [b'<', *app(*a), b'>']\n"
    )
    arguments = ["--script-reloading", "--middleware", f"{site.name}_outer:wraps", "-b", "127.0.0.1:0"]
    with command(f"{site.name}:app", *arguments, cwd=site.folder) as run:
        assert get(run) == ("<old>", None)
        site.write(SAYS, word="new")
        assert get(run) == ("<new>", None)
        wait_until(lambda: f"{site.file} has changed: loaded anew" in run.log)
