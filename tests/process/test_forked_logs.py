"""Rules of what a forked child logs: it is written as anybody's, once, and waits for nothing of its parent's."""

from __future__ import annotations

import logging
import os
import re
import select
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from forking import Children, open_children
from serving import command
from waiting import wait_until

from trio_wsgi import Config
from trio_wsgi.process.logs import open_logs

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

error_log = logging.getLogger("trio_wsgi.error")

APP = """
import logging, multiprocessing, os, time
from multiprocessing.util import Finalize
fork = multiprocessing.get_context("fork")

def work(errors):
    while not os.path.exists("answered"):
        time.sleep(0.01)
    print("printed by", os.getpid(), file=errors)
    logging.getLogger("trio_wsgi.error").warning("logged by %d", os.getpid())
    logging.getLogger("shop").warning("in its own log")
    errors.write("half")
    Finalize(None, lambda: print(" and at exit of", os.getpid(), file=errors), exitpriority=1)

def app(environ, start_response):
    print("before the fork", file=environ["wsgi.errors"])
    child = fork.Process(target=work, args=(environ["wsgi.errors"],))
    child.start()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(child.pid).encode()]
"""


@pytest.fixture
def children() -> Iterator[Children]:
    with open_children() as opened:
        yield opened


@pytest.mark.parametrize("workers", [0, 1], ids=["standalone", "worker"])
def test_what_a_process_of_a_view_says_is_in_the_log(workers: int, tmp_path: Path) -> None:
    """After the answer to its request, at its exit, by `wsgi.errors` and by logging; and no line twice."""
    (tmp_path / "forking.py").write_text(APP)
    with command("-b", "127.0.0.1:0", "forking:app", cwd=tmp_path, workers=workers) as run:
        with urllib.request.urlopen(run.url, timeout=30) as response:
            pid = response.read().decode()
        (tmp_path / "answered").touch()
        wait_until(lambda: "at exit of" in run.log)
        mine = [line.rpartition("] ")[2] for line in run.log.splitlines() if f"[{pid}]" in line or "own" in line]
        assert mine == [
            f"printed by {pid}", f"logged by {pid}", "in its own log", f"half and at exit of {pid}"
        ]  # fmt: skip
        assert run.log.count("before the fork") == 1


def test_what_waits_when_a_child_is_forked_is_its_parents(children: Children, tmp_path: Path) -> None:
    """The child writes its own lines, at once, though its parent's writer is stuck."""
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    config = Config(error_logfile=str(tmp_path / "pipe"))
    with open_logs(config):
        for number in range(5000):
            error_log.error("%d of its parent", number)
        children.fork(lambda: error_log.error("of a child"))
        said = b""
        while said.count(b"\n") < 5001:
            assert select.select([reading], [], [], 10)[0], said[-500:]
            said += os.read(reading, 65536)
        assert children.told() == "None"
    os.close(reading)
    lines = [line.rpartition(b"] ")[2].decode() for line in said.splitlines()]
    assert Counter(lines) == Counter([*(f"{number} of its parent" for number in range(5000)), "of a child"])


def test_a_child_does_not_wait_for_a_queue_that_its_parent_has_locked(children: Children, tmp_path: Path) -> None:
    """Another thread may hold that lock as the child is forked; nobody unlocks it there."""
    path = tmp_path / "log"
    with open_logs(Config(error_logfile=str(path))) as logs:
        (writer,) = logs._writers
        with writer._lines.mutex:
            children.fork(lambda: error_log.error("of a child"))
        assert children.told() == "None"
        assert "of a child" in path.read_text()


def test_lines_of_a_childs_threads_and_children_are_whole(children: Children, tmp_path: Path) -> None:
    """They take turns; a child of the child has turns of its own, whoever had one when it was forked."""
    path = tmp_path / "log"

    def log_lines() -> None:
        for number in range(300):
            error_log.error("%d %s", number, "x" * 2000)

    def look() -> list[int]:
        threads = [threading.Thread(target=log_lines) for _ in range(3)]
        for thread in threads:
            thread.start()
        pids = []
        for _ in range(10):
            pids.append(pid := os.fork())
            if pid == 0:
                error_log.error("0 grandchild")
                os._exit(0)
        for thread in threads:
            thread.join()
        return [os.waitpid(pid, 0)[1] for pid in pids]

    with open_logs(Config(error_logfile=str(path))):
        children.fork(look)
        assert children.told() == str([0] * 10)
    texts = re.findall(r"(?m)^\[.*?\] \[\d+\] \[ERROR\] \d+ (x{2000}|grandchild)$", path.read_text())
    assert Counter(texts) == {"x" * 2000: 900, "grandchild": 10}


def test_a_child_leaves_the_logs_without_a_wait(children: Children, tmp_path: Path) -> None:
    """As it does that goes out through all that the server has begun; its parent writes on."""
    path = tmp_path / "log"
    with ExitStack() as stack:
        stack.enter_context(open_logs(Config(error_logfile=str(path))))
        error_log.error("before")

        def look() -> list[logging.Handler]:
            error_log.error("of a child")
            stack.close()
            return error_log.handlers

        children.fork(look)
        assert children.told() == "[]"
        error_log.error("after")
    assert {line.rpartition("] ")[2] for line in path.read_text().splitlines()} == {"before", "of a child", "after"}


def test_a_child_that_serves_itself_logs_where_it_says(children: Children, tmp_path: Path) -> None:
    """And not in its parent's log as well."""

    def look() -> None:
        with open_logs(Config(error_logfile=str(tmp_path / "child"))):
            error_log.error("served")
        error_log.error("not any more")

    with open_logs(Config(error_logfile=str(tmp_path / "parent"))):
        children.fork(look)
        assert children.told() == "None"
    assert (tmp_path / "child").read_text().endswith("] served\n")
    assert re.findall(r"\] ([\w ]+)\n", (tmp_path / "parent").read_text()) == ["not any more"]
