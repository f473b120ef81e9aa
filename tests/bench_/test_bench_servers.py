"""The bench against real processes: a server of ours, servers that lie, and the whole command (issue 6)."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from workers import is_alive

from bench import bout, contestants, driver, report, run
from bench.client import Failed, open_client
from bench.contestants import Contestant
from bench.driver import Ground, Turn
from bench.proc import find_tree, open_watch, read_cpu_of_tree, read_usage
from bench.roster import Present, take_roll
from bench.samples import Samples, make_file
from bench.scenarios import BY_NAME
from bench.server import Server, Setting, open_server

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return Samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def server(samples: Samples) -> Iterator[Server]:
    """trio-wsgi as the bench runs it."""
    setting = Setting(sys.executable, "", "bench.app:app", samples.folder)
    with open_server(contestants.BY_NAME["trio-wsgi"], setting) as running:
        yield running


def run_client(server: Server, name: str, **settings: object) -> dict[str, object]:
    with open_client(name, [], {"port": server.port, "seconds": 0.3} | settings) as client:
        client.wait_ready()
        client.go()
        return client.wait_result()


def test_downloads_are_counted_to_the_byte(server: Server, samples: Samples) -> None:
    length = samples.length("100k")
    facts = run_client(server, "load", targets=["/file/100k"], connections=3, length=length)
    requests, received = facts["requests"], facts["received"]
    assert isinstance(requests, int)
    assert isinstance(received, int)
    assert requests >= 3
    assert requests * length <= received <= (requests + 3) * length
    assert facts["failures"] == {}


@pytest.mark.parametrize(("route", "block"), [("stream", 512), ("stream", 65536), ("write", 1000)])
def test_streams_are_counted_without_their_framing(server: Server, route: str, block: int) -> None:
    target = f"/{route}?total=100001&block={block}"
    assert run_client(server, "load", targets=[target], connections=1, length=100_001)["requests"]


def test_ranges_of_the_application(server: Server, samples: Samples) -> None:
    samples.path("100k")
    settings = {"fields": ["Range: bytes=1000-1999\r\n"], "status": 206, "length": 1000}
    for target in ("/ranged/100k", "/file/100k"):
        assert run_client(server, "load", targets=[target], connections=1, **settings)["requests"]


def test_uploads_arrive_whole(server: Server) -> None:
    body = 3_000_001
    facts = run_client(server, "load", targets=["/upload"], connections=2, body=body, length=len(str(body)))
    assert facts["requests"]


def test_slow_readers_and_the_good_client_beside_them(server: Server, samples: Samples) -> None:
    make_file(samples.folder / "4m", 4 << 20)
    crowd = {"port": server.port, "target": "/file/4m", "count": 20, "rate": 16_384, "seconds": 2.5, "buffer": 16_384}
    good = {"port": server.port, "target": "/hello", "interval": 0.05, "seconds": 1.0, "patience": 10.0}
    with open_client("slow", [], crowd) as slow, open_client("probe", [], good) as probe:
        assert slow.wait_ready() == {"served": 20, "asked": 20, "failure": ""}
        assert probe.wait_ready() == {"failure": ""}
        slow.go()
        probe.go()
        assert probe.wait_result()["requests"] == 20
        stayed = slow.wait_result()
    assert stayed["alive"] == stayed["moving"] == 20
    assert stayed["received"] <= 20 * 16_384 * 5  # nobody reads faster than told


def test_a_failed_exchange_names_its_reason(server: Server) -> None:
    with pytest.raises(Failed, match="status 404 instead of 200"):
        run_client(server, "load", targets=["/nothing"], connections=1)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("status", "status 500 instead of 200"),
        ("short", "102399 bytes instead of 102400"),
        ("cut", "1000 bytes instead of 102400"),
        ("wrong", "the bytes are not those that were asked for"),
        ("dies", "died: ended with exit code 7|RemoteDisconnected|Connection"),
    ],
)
def test_a_contestant_that_lies_fails_with_the_reason(samples: Samples, kind: str, reason: str) -> None:
    liar = Contestant("liar", f"{{python}} {HERE}/lying_server.py {{port}} {kind}")
    finding = driver.run_bout(Turn(BY_NAME["file100k-8"], Present(liar, "1"), False, 1), build_ground(samples), 0.2)
    assert finding.figures == {}
    assert any(part in finding.failure for part in reason.split("|")), finding.failure


@pytest.mark.parametrize(("kind", "reason"), [("right", ""), ("wrong", "the bytes are not those that were asked for")])
def test_an_upload_must_arrive_whole(samples: Samples, kind: str, reason: str) -> None:
    """The application answers with the number of bytes it has read: the digits must be right, not only as many."""
    liar = Contestant("liar", f"{{python}} {HERE}/lying_server.py {{port}} {kind}")
    finding = driver.run_bout(Turn(BY_NAME["upload1m-8"], Present(liar, "1"), False, 1), build_ground(samples), 0.2)
    assert finding.failure.endswith(reason)
    assert bool(finding.figures) == (kind == "right")


@pytest.mark.parametrize("scenario", ["small-8", "own-app-8", "file100k-8"])
def test_who_lets_its_clients_wait_in_vain_fails(
    samples: Samples, monkeypatch: pytest.MonkeyPatch, scenario: str
) -> None:
    """By wrk, where it is installed, as by our own client."""
    monkeypatch.setattr(bout, "PATIENCE", 1.0)
    liar = Contestant("liar", f"{{python}} {HERE}/lying_server.py {{port}} hangs")
    ground = replace(build_ground(samples), own=("/hello", ""))
    finding = driver.run_bout(Turn(BY_NAME[scenario], Present(liar, "1"), False, 2), ground, 2.5)
    assert finding.figures == {}
    assert re.search("did not come to its end within 1 s|no byte for the last 2", finding.failure), finding.failure


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ({"requests": 0}, "no request was answered"),
        ({"requests": 18, "read": 20}, "20 read"),
        ({"timeout": 3, "status": 1}, "1 status, 3 timeout"),
        ({"read": 8}, None),  # connections that are not kept for ever
    ],
)
def test_errors_that_wrk_saw_are_the_servers_but_for_a_few_kept_connections_that_ended(
    errors: dict[str, int], said: str | None
) -> None:
    facts = dict.fromkeys(("connect", "read", "status", "timeout", "write"), 0) | {"requests": 1000} | errors
    with pytest.raises(Failed, match=f"^wrk saw errors: {said}$") if said else contextlib.nullcontext():
        bout.check_errors(facts)


@pytest.mark.parametrize("seconds", [0.9 * driver.BRIEF, 2.5])
def test_a_client_that_hears_nothing_to_the_end_of_its_window_has_waited_in_vain(
    samples: Samples, seconds: float
) -> None:
    """Also where the window is the shortest there is."""
    liar = Contestant("liar", f"{{python}} {HERE}/lying_server.py {{port}} hangs")
    setting = Setting(sys.executable, "", "", samples.folder)
    with open_server(liar, setting) as server, pytest.raises(Failed, match="no byte for the last"):
        run_client(server, "load", targets=["/file/100k"], connections=1, seconds=seconds)


def test_a_contestant_that_does_not_start_fails_with_its_last_words(samples: Samples) -> None:
    dumb = Contestant("dumb", "{python} -c 'raise SystemExit(\"no such option\")'")
    finding = driver.run_bout(Turn(BY_NAME["small-8"], Present(dumb, "1"), False, 1), build_ground(samples), 0.2)
    assert finding.failure == "did not start: no such option"


def build_ground(samples: Samples) -> Ground:
    return Ground(sys.executable, "bench.app:app", 8, samples, None)


def test_who_is_not_installed_is_absent_with_a_reason(tmp_path: Path) -> None:
    known = contestants.BY_NAME
    rows = [
        known["trio-wsgi"],
        replace(known["waitress"], packages=("no-such-package",)),
        replace(known["nginx"], program="no-such-program"),
    ]
    present, absent = take_roll(rows, sys.executable, tmp_path)
    assert [each.contestant.name for each in present] == ["trio-wsgi"]
    assert absent == {"waitress": "not installed: no-such-package", "nginx": "not on the PATH: no-such-program"}


BURNS = """
import os, sys, time
def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until: pass
if os.fork() == 0:
    burn(0.2)
    if os.fork() == 0:
        burn(0.2)
        os._exit(0)
    os.wait()
    os._exit(0)
os.wait()
burn(0.2)
print("burnt", flush=True)
sys.stdin.read()
"""


def test_cpu_of_a_tree_is_counted_once_with_those_that_have_ended() -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", BURNS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        with open_watch(process.pid, interval=0.02) as watch:
            assert process.stdout is not None
            assert process.stdout.readline() == b"burnt\n"
            assert find_tree(process.pid) == [process.pid]
        total = read_cpu_of_tree(process.pid)
        assert 0.55 <= total < 1.1  # three times 0.2 s; counted twice it would be more than 1.2 with the start
        assert watch.cpu <= total
        assert watch.peak_threads >= 1
        assert read_usage(process.pid).memory > 1 << 20
        process.kill()


def test_the_tree_of_who_has_gone_is_empty() -> None:
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    process.wait()
    assert find_tree(process.pid) == []


def test_nothing_of_a_server_is_left_running(samples: Samples) -> None:
    stubborn = "import signal, time, http.server as h; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    # The child ignores TERM; the parent ends by it. Both are in one session, which is ended.
    code = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1], sys.argv[2]]); p.wait()"
    child = (
        stubborn
        + "import sys; h.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), h.BaseHTTPRequestHandler).serve_forever()"
    )
    row = Contestant("stubborn", f'{{python}} -c "{code}" "{child}" {{port}}')
    with open_server(row, Setting(sys.executable, "", "", samples.folder)) as running:
        tree = find_tree(running.pid)
        assert len(tree) == 2
    deadline = time.monotonic() + 10
    while any(find_tree(pid) and is_alive(pid) for pid in tree) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(is_alive(pid) for pid in tree)


def is_called(pid: int, name: str) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return name in Path(f"/proc/{pid}/comm").read_text()
    return False


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_the_command_measures_keeps_and_reports(
    tmp_path: Path, samples: Samples, capsys: pytest.CaptureFixture[str]
) -> None:
    samples.path("100k")
    output = tmp_path / "results.json"
    done = run_bench(
        *("--only", "small-8,file100k-8", "--contestants", "trio-wsgi", "--rounds", "1", "--seconds", "0.3"),
        *("--files", str(samples.folder), "--output", str(output)),
    )
    assert done.returncode == 0, done.stderr
    assert "[   2/2," in done.stderr
    findings = json.loads(output.read_text())["findings"]
    assert [finding["failure"] for finding in findings] == ["", ""]
    for finding in findings:
        assert finding["figures"]["requests_per_second"] > 0
        assert 0 < finding["figures"]["cpu_per_request"] < 1
        assert finding["figures"]["memory"] > 1 << 20
    assert "## Where we lose" in done.stdout
    assert report.main([str(output)]) == 0
    assert capsys.readouterr().out == done.stdout


@pytest.mark.slow
def test_a_user_brings_an_application_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.bin").write_bytes(bytes(range(256)) * 1000)
    output = tmp_path / "results.json"
    done = run_bench(
        *("--app", "bench.app:app", "--target", "/hello", "--file", str(tmp_path / "mine.bin")),
        *("--only", "own-app-1,own-file-1", "--contestants", "trio-wsgi", "--rounds", "1", "--seconds", "0.3"),
        *("--files", str(tmp_path / "samples"), "--output", str(output)),
    )
    assert done.returncode == 0, done.stderr
    figures = {each["scenario"]: each["figures"] for each in json.loads(output.read_text())["findings"]}
    assert list(figures) == ["own-app-1", "own-file-1"]
    assert all(each["cpu_share"] for each in figures.values())


def test_mistakes_are_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = tmp_path / "nothing"
    (tmp_path / "no-results.json").write_text('{"format": 1}')
    assert run.main(["--only", "nothing"]) == 2
    assert run.main(["--file", str(nothing)]) == 2
    assert run.main(["--venv", str(nothing)]) == 2
    assert run.main(["--output", str(nothing / "results.json")]) == 2
    assert run.main(["--add", "--output", str(tmp_path / "no-results.json")]) == 2
    assert report.main(["/nowhere.json"]) == 1
    assert report.main([str(tmp_path / "no-results.json")]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 7
    assert said[0].startswith("bench: nothing is called 'nothing'; there are small-1")
    for line, words in zip(said[1:4], ("--file", "--venv", "--output"), strict=True):
        assert line.startswith(f"bench: {words} {nothing}")
    assert "No such file" in said[5]
    assert said[4] == said[6] == f"bench: {tmp_path / 'no-results.json'} is not a results file of this bench"
    for words in (["--rounds", "-1"], ["--seconds", "0"], ["--seconds", "nan"], ["--threads", "x"]):
        with pytest.raises(SystemExit):
            run.main(words)


def test_term_ends_the_run_and_its_server_and_keeps_what_was_found(tmp_path: Path, samples: Samples) -> None:
    """As Ctrl-C does: a second run goes on with `--add`, and loses nothing of the first one either."""
    samples.path("100k")
    words = ["--only", "file100k-8", "--contestants", "sendfile-loop", "--seconds", "0.3"]
    words += ["--files", str(samples.folder), "--output", str(tmp_path / "results.json")]
    assert run_bench(*words, "--rounds", "1").returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", *words, "--rounds", "1", "--seconds", "60", "--add"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not (tree := [pid for pid in find_tree(process.pid) if is_called(pid, "sendfile-loop")]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted: nothing was measured"
    assert not any(map(is_alive, tree))
    assert len(json.loads((tmp_path / "results.json").read_text())["findings"]) == 1


def test_an_interrupt_in_the_very_start_of_a_server_leaves_none_behind(
    samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It strikes once there is somebody to end, and not between the process and whoever knows of it."""
    started = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            started.append(self.pid)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    sleeper = Contestant("sleeper", "sleep 60")
    try:
        setting = Setting(sys.executable, "", "", samples.folder)
        with pytest.raises(KeyboardInterrupt), run.heeding_ends(), open_server(sleeper, setting):
            pass
        assert not any(map(is_alive, started))
    finally:
        for pid in filter(is_alive, started):
            os.kill(pid, signal.SIGKILL)


def test_samples_are_the_same_each_time_and_every_mebibyte_is_another(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        make_file(tmp_path / folder / "sample", (3 << 20) + 5)
    one, two = ((tmp_path / folder / "sample").read_bytes() for folder in ("one", "two"))
    assert one == two
    assert len(one) == (3 << 20) + 5
    blocks = [one[at : at + (1 << 20)] for at in range(0, 3 << 20, 1 << 20)]
    assert all(a != b for a, b in itertools.combinations(blocks, 2))
