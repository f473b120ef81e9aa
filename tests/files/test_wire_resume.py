"""Downloads that were broken off go on, by the programs that people use, and leave by sendfile."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from answers import read_answer
from asking import request
from downloads import MIB, blocking_client, known_bytes
from mounted import ask
from serving import Command, command, read_all
from threeways import serving_three, three_settings
from tools import require_tool
from waiting import wait_until

SIZE = 64 * MIB + 12_345
HALF = SIZE // 2 + 77

THREE = """
from pathlib import Path
from threeways import three_ways
app = three_ways(Path({site!r}))
"""

FLASK = """
from flask import Flask, send_file
app = Flask(__name__)

@app.get("/f")
def f():
    return send_file({path!r}, conditional=True, mimetype="application/octet-stream")

@app.get("/plain")
def plain():
    return send_file({path!r}, conditional=False, etag=False, mimetype="application/octet-stream")
"""

DJANGO = """
import django
from django.conf import settings
settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x", DEBUG=False, MIDDLEWARE=[
    "django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware"])
django.setup()
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse
from django.urls import path
urlpatterns = [path("f", lambda request: FileResponse(open({path!r}, "rb"), as_attachment=True, filename="f.bin"))]
app = get_wsgi_application()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("resume") / "site"
    directory.mkdir()
    with (directory / "f").open("wb") as file:
        for seed in range(65):
            file.write(known_bytes(MIB if seed < 64 else 12_345, seed))
    return directory


@pytest.fixture(scope="module")
def checksum(site: Path) -> str:
    return checksum_of(site / "f")


@pytest.fixture(scope="module")
def running(site: Path) -> Iterator[Command]:
    """The command with the file in all three ways."""
    (site.parent / "three.py").write_text(THREE.format(site=str(site)))
    settings = three_settings(site)
    tests = str(Path(__file__).parent.parent)
    flags = [
        "--static",
        settings["static"][0],
        "--accel",
        settings["accel"][0],
        "--pythonpath",
        f"{site.parent},{tests}",
    ]
    with command("three:app", "-b", "127.0.0.1:0", *flags, cwd=site.parent) as running:
        yield running


def checksum_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(*arguments: str) -> str:
    done = subprocess.run(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def halved(site: Path, to: Path) -> Path:
    with (site / "f").open("rb") as file:
        to.write_bytes(file.read(HALF))
    return to


@pytest.mark.slow
def test_curl_goes_on(way: str, running: Command, site: Path, checksum: str, tmp_path: Path) -> None:
    """curl -C -: only the rest is sent; and once it is whole, a 416 or nothing is no harm."""
    part = halved(site, tmp_path / "part")
    command_line = [require_tool("curl"), "-sS", "-C", "-", "-o", str(part), "-w", "%{http_code} %{size_download}"]
    assert run(*command_line, f"{running.url}/{way}/f") == f"206 {SIZE - HALF}"
    assert checksum_of(part) == checksum
    assert run(*command_line, f"{running.url}/{way}/f").startswith("416 ")
    assert checksum_of(part) == checksum


@pytest.mark.slow
def test_wget_goes_on(way: str, running: Command, site: Path, checksum: str, tmp_path: Path) -> None:
    """wget --continue, twice: the rest, then nothing to do."""
    part = halved(site, tmp_path / "f")
    for _ in range(2):
        run(require_tool("wget"), "--continue", "--no-proxy", "-P", str(tmp_path), f"{running.url}/{way}/f")
        assert checksum_of(part) == checksum


@pytest.mark.slow
def test_aria2_takes_it_in_pieces(way: str, running: Command, checksum: str, tmp_path: Path) -> None:
    """aria2c -x8: eight connections, each with ranges of its own."""
    run(
        require_tool("aria2c"), "-x8", "-s8", "--min-split-size=1M", "--no-conf", "--console-log-level=warn",
        "--summary-interval=0", "--file-allocation=none", "-d", str(tmp_path), "-o", "got", f"{running.url}/{way}/f",
    )  # fmt: skip
    assert checksum_of(tmp_path / "got") == checksum


@pytest.mark.slow
async def test_what_was_replaced_is_not_mixed(way: str, tmp_path: Path) -> None:
    """A client that goes on with If-Range gets the whole new file; curl -C - without it has a 206 of the new one."""
    (tmp_path / "f").write_bytes(known_bytes(MIB))
    async with serving_three(tmp_path) as served:
        tag = (await ask(served, f"/{way}/f", method="HEAD")).value("etag")
        (tmp_path / "new").write_bytes(known_bytes(MIB, seed=9))
        (tmp_path / "new").replace(tmp_path / "f")
        answer = await ask(served, f"/{way}/f", "Range: bytes=500000-", f"If-Range: {tag}")
        assert (answer.status, answer.body == known_bytes(MIB, seed=9)) == (200, True)


# -- frameworks -------------------------------------------------------------------------------------------------------


def traced(app: str, site: Path, tmp_path: Path, ask: list[tuple[str, str]]) -> tuple[list[bytes], str]:
    """The raw answers to (target, Range) of an app as the command, under strace, and what strace saw of the file."""
    (tmp_path / "traced.py").write_text(app.format(path=str(site / "f")))
    trace = tmp_path / "trace"
    with command("traced:app", "-b", "127.0.0.1:0", cwd=tmp_path) as running:
        strace = subprocess.Popen(
            [require_tool("strace"), "-f", "-y", "-qq", "-e", "trace=sendfile,read,pread64,readv,preadv,mmap",
             "-o", str(trace), "-p", str(running.process.pid)], stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            wait_until(lambda: _is_traced(running.process.pid), "strace has attached")
            answers = []
            for target, wanted in ask:
                with blocking_client(running.port) as sock:
                    sock.sendall(request("GET", target, *([f"Range: {wanted}"] if wanted else [])))
                    answers.append(read_all(sock))
        finally:
            strace.terminate()
            strace.communicate(timeout=10)
    return answers, trace.read_text(errors="replace")


def _is_traced(pid: int) -> bool:
    """Whether every thread of the process is."""
    statuses = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return all(re.search(r"^TracerPid:\t[1-9]", status, re.MULTILINE) for status in statuses)


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "app"), [("flask", FLASK), ("django", DJANGO)])
def test_frameworks_resume_by_sendfile(framework: str, app: str, site: Path, tmp_path: Path) -> None:
    """Flask's send_file cuts by itself, Django's FileResponse leaves it to us: either way no byte is read by Python."""
    ranges = [(HALF, SIZE - 1), (1000, 1999), (0, MIB - 1)]
    asked = [("/f", f"bytes={HALF}-"), ("/f", "bytes=1000-1999"), ("/f", f"bytes=0-{MIB - 1}"), ("/f", "")]
    answers, trace = traced(app, site, tmp_path, asked)
    data = (site / "f").read_bytes()
    for raw, (first, last) in zip(answers, [*ranges, (0, SIZE - 1)], strict=True):
        answer = read_answer(raw)
        assert answer.status == (206 if (first, last) in ranges else 200)
        assert answer.body == data[first : last + 1]
        if answer.status == 206:
            assert answer.value("content-range") == f"bytes {first}-{last}/{SIZE}"
    of_file = [line for line in trace.splitlines() if f"<{site / 'f'}>" in line]
    sent = [line for line in of_file if "sendfile(" in line]
    offsets = [int(found[1]) for line in sent if (found := re.search(r">, \[(\d+)", line))]
    assert {HALF, 1000, 0} <= set(offsets)
    read = [line for line in of_file if "sendfile" not in line and not re.search(r", 1, \d+\) += 1$", line)]
    assert read == [], f"{framework}: the file was read, not only sent"


@pytest.mark.slow
@pytest.mark.parametrize("app", [FLASK, DJANGO], ids=["flask", "django"])
def test_frameworks_resume_half_way(app: str, site: Path, checksum: str, tmp_path: Path) -> None:
    """curl -C - after half of the file; what Flask or Django promise is kept to the byte."""
    (tmp_path / "half.py").write_text(app.format(path=str(site / "f")))
    with command("half:app", "-b", "127.0.0.1:0", cwd=tmp_path) as running:
        part = halved(site, tmp_path / "part")
        curl = [require_tool("curl"), "-sS", "-C", "-", "-o", str(part), "-w", "%{http_code} %{size_download}"]
        assert run(*curl, f"{running.url}/f") == f"206 {SIZE - HALF}"
        assert checksum_of(part) == checksum
