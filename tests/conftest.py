"""What holds for all tests.

"PAINS" in docstrings is a list of what users of other servers complain of, and of what was seen in trying these out; a
name behind it, such as gunicorn#2669, is the thread on GitHub that tells of it.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest
import serving
from authority import remove_shared_authority
from riding import ride_at_once

# How long an example takes says more of the machine's other guests than of us.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.load_profile("here")

# A shell's script has what it starts in the background ignore Ctrl-C, and so all that we start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory of a test, in which no pyproject.toml says anything."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["h11", "httptools"])
def each_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both engines are held to the same rules: `pytestmark = pytest.mark.usefixtures("each_engine")`."""
    monkeypatch.setitem(serving.DEFAULTS, "http", request.param)


@pytest.fixture(params=["loop", "lane"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules hold where the loop hands requests to a thread, and where clients ride in the lane."""
    if request.param == "lane":
        ride_at_once(monkeypatch)


def pytest_sessionfinish() -> None:
    remove_shared_authority()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests stay to the end: the garbage collector looks through none of them, however often it runs."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What was captured may hold anything that applications log; the processes that share the tests speak UTF-8."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system starts no more threads for Trio (RLIMIT_NPROC, a limit of pids); those that are there go on."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("trio._threads.start_thread_soon", refuse)
