"""The examples. The demo application holds PEP 3333 (`wsgiref.validate`) and RFC 9110 under another server.

The standard library's server serves it, so a failure here is the application's and not trio-wsgi's.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import ModuleType
from urllib.parse import quote
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.validate import validator

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = {"random.bin": os.urandom(300_000), "empty": b"", "Grüße.txt": b"hello"}


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """The log belongs to the test's own report."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, content in NAMES.items():
        (folder / name).write_bytes(content)
        os.utime(folder / name, (1_700_000_000, 1_700_000_000))
    return folder


@pytest.fixture(scope="module")
def port(files: Path) -> Iterator[int]:
    demo = load(EXAMPLES / "demo" / "app.py")
    vars(demo).update(FILES=files, TICK=0.0, TICKS=3)
    with make_server("127.0.0.1", 0, validator(demo.app), handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.msg, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path", "status", "contains"),
    [
        ("GET", "/", 200, b"random.bin"),
        ("GET", "/", 200, quote("Grüße.txt").encode()),
        ("GET", "/hello", 200, b"Hello"),
        ("GET", "/stream", 200, b"line  3 of 3"),
        ("GET", "/write", 200, b"line  3 of 3"),
        ("GET", "/environ?a=1", 200, b"'a=1'"),
        ("GET", "/nowhere", 404, b"no such page"),
        ("GET", "/files/nothing", 404, b"no such page"),
        ("GET", "/files/../app.py", 404, b"no such page"),  # a path never becomes a file name
        ("GET", "/files/%2e%2e%2fapp.py", 404, b"no such page"),
        ("GET", "/files/", 404, b"no such page"),
        ("DELETE", "/hello", 405, b"GET, HEAD"),  # RFC 9110 §15.5.6
        ("GET", "/upload", 405, b"POST, PUT"),
    ],
)
def test_page(port: int, method: str, path: str, status: int, contains: bytes) -> None:
    got, headers, body = ask(port, method, path)
    assert got == status
    assert contains in body
    assert (status == 405) == ("Allow" in headers)


@pytest.mark.parametrize("name", NAMES)
def test_file_arrives_with_its_length_name_and_date(port: int, name: str) -> None:
    status, headers, body = ask(port, "GET", f"/files/{quote(name)}")
    assert (status, body) == (200, NAMES[name])
    assert headers["Content-Length"] == str(len(body))
    assert parsedate_to_datetime(headers["Last-Modified"]).timestamp() == 1_700_000_000
    if name.isascii():
        assert headers["Content-Disposition"] == f'attachment; filename="{name}"'
    else:  # RFC 6266 §5: the plain name for old clients, the true one in `filename*`
        assert headers["Content-Disposition"] == "inline; filename=\"Gr__e.txt\"; filename*=UTF-8''Gr%C3%BC%C3%9Fe.txt"


def test_head_of_a_file_has_the_head_of_get(port: int) -> None:  # RFC 9110 §9.3.2
    _, expected, _ = ask(port, "GET", "/files/random.bin")
    status, headers, body = ask(port, "HEAD", "/files/random.bin")
    assert (status, body) == (200, b"")
    for field in ("Content-Length", "Content-Type", "Last-Modified", "Content-Disposition"):
        assert headers[field] == expected[field]


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("size", [0, 1, 200_000])
def test_upload_reports_size_and_checksum(port: int, method: str, size: int) -> None:
    body = os.urandom(size)
    status, _, text = ask(port, method, "/upload", body)
    assert status == 200
    assert f"{size:,} bytes" in text.decode()
    assert hashlib.sha256(body).hexdigest() in text.decode()


def test_sample_files_match_their_checksums(tmp_path: Path) -> None:
    maker = load(EXAMPLES / "demo" / "make_files.py")
    maker.make_big.__defaults__ = (100_000,)
    maker.main(tmp_path)
    lines = (tmp_path / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    assert set(sums) == {path.name for path in tmp_path.iterdir()} - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert (tmp_path / "big.bin").read_bytes().endswith(b"last bytes of a large file\n")


class FullEverySecondTime:
    """A client whose buffer is full at each second write."""

    def __init__(self) -> None:
        self.lines: list[dict[str, object]] = []
        self.asked = 0

    def write(self, line: bytes) -> None:
        self.asked += 1
        if self.asked % 2 == 0:
            raise BlockingIOError
        self.lines.append(json.loads(line))


def test_raise_producer_merges_what_was_refused_and_loses_no_frame() -> None:
    example = load(EXAMPLES / "raise_producer.py")
    vars(example).update(FRAMES_PER_SECOND=1000, SAMPLES=10)
    client, log = FullEverySecondTime(), io.StringIO()
    producer = example.Producer(client.write)
    example.run(producer, lambda timeout: False, 0.021, log)
    assert producer.looked_at == 21
    assert [line["frames"] for line in client.lines] == [1, *[2] * 10]
    assert (producer.lines, producer.refused, producer.merged) == (11, 10, 10)
    assert "0 frames had no room" in log.getvalue()


def test_raise_producer_sets_its_policy_before_start_response() -> None:
    example = load(EXAMPLES / "raise_producer.py")
    vars(example).update(FRAMES_PER_SECOND=1000, SAMPLES=10)
    environ = {"QUERY_STRING": "seconds=0.003", "wsgi.errors": io.StringIO()}
    sent: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]]) -> Callable[[bytes], None]:
        assert environ["trio_wsgi.write_policy"] == "raise"
        return sent.append

    assert list(example.app(environ, start_response)) == []
    assert len(sent) == 3


@pytest.mark.parametrize("maker", ["demo/make_files.py", "video/make_film.py"])
def test_whoever_runs_a_maker_without_a_word_is_told_which(maker: str) -> None:
    """And reads no traceback."""
    done = subprocess.run([sys.executable, EXAMPLES / maker], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("name the ")
    assert f": python examples/{maker} " in done.stderr
