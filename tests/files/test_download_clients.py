"""Downloads by the clients people use: curl, wget, aria2c, httpx; checksums, sizes, tiny buffers (PAINS 7, 8, 14)."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from downloads import MIB, blocking_client, connected, file_app, known_bytes, make_file, make_sparse
from serving import command, serving
from tools import require_tool

GIB = 1 << 30


async def run(program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """Run one of the tools to its end."""
    with trio.fail_after(60):
        return await trio.run_process([require_tool(program), *arguments], check=check, capture_stdout=True)


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    return make_file(tmp_path / "data.bin", 24 * MIB + 12345)


def serve_data(tmp_path: Path, headers: Sequence[tuple[str, str]] = (), **settings: Any) -> Any:
    return serving(file_app(lambda _: (tmp_path / "data.bin").open("rb"), headers), **settings)


COMMANDS = {
    "curl": ["curl", "-sS", "-o", "{out}", "{url}"],
    "curl --http1.0": ["curl", "-sS", "--http1.0", "-o", "{out}", "{url}"],
    "curl -C - (nothing there yet)": ["curl", "-sS", "-C", "-", "-o", "{out}", "{url}"],
    "wget": ["wget", "-q", "-O", "{out}", "{url}"],
    "aria2c -x4": ["aria2c", "-q", "-x4", "-s4", "-k1M", "-d", "/", "-o", "{out}", "{url}"],
}


@pytest.mark.parametrize(
    "settings", [{}, {"sendfile": False}, {"allow_ranges": False}], ids=["", "copied", "no ranges"]
)
@pytest.mark.parametrize("client", COMMANDS)
async def test_the_file_arrives_whole(tmp_path: Path, data: bytes, client: str, settings: dict[str, Any]) -> None:
    """Real clients, real files; aria2c goes on with one connection where there are no ranges."""
    out = tmp_path / "out"
    async with serve_data(tmp_path, **settings) as served:
        program, *arguments = (part.format(out=out, url=served.url + "/data.bin") for part in COMMANDS[client])
        await run(program, *arguments)
    assert hashlib.sha256(out.read_bytes()).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize(
    ("program", "arguments"),
    [("curl", ["-sS", "-C", "-", "-o"]), ("wget", ["-q", "--continue", "-O"])],
    ids=["curl -C -", "wget --continue"],
)
async def test_a_broken_download_is_continued(tmp_path: Path, data: bytes, program: str, arguments: list[str]) -> None:
    """The file's own Range support, through the app's own view."""
    out = tmp_path / "out"
    out.write_bytes(data[: 5 * MIB + 3])
    async with serve_data(tmp_path) as served:
        await run(program, *arguments, str(out), served.url + "/data.bin")
        assert [(record.status, record.body_sent) for record in served.records] == [(206, len(data) - 5 * MIB - 3)]
    assert out.read_bytes() == data


@pytest.mark.parametrize(
    ("program", "arguments", "code"),
    [("curl", ["-sS", "-o"], 18), ("wget", ["-q", "-t1", "-O"], None)],
    ids=["curl", "wget"],
)
async def test_clients_can_tell_that_bytes_are_missing(
    tmp_path: Path, data: bytes, program: str, arguments: list[str], code: int | None
) -> None:
    """PAINS 22: more promised than there is. curl's 18 is "partial file"; wget tries again, and says so."""
    headers = [("Content-Length", str(len(data) + 1))]
    async with serve_data(tmp_path, headers) as served:
        result = await run(program, *arguments, str(tmp_path / "out"), served.url + "/data.bin", check=False)
    assert result.returncode == code if code else result.returncode != 0


async def test_many_files_over_one_httpx_connection(tmp_path: Path, data: bytes) -> None:
    """Keep-alive after file answers (PAINS 6): whole, cut, empty and small answers after each other."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        file = (tmp_path / "data.bin").open("rb")
        headers = [("X-Port", environ["REMOTE_PORT"])]
        if path == "/cut":
            file.seek(1000)
            headers.append(("Content-Length", "77"))
        elif path == "/end":
            file.seek(0, 2)
        start_response("200 OK", headers)
        return environ["wsgi.file_wrapper"](file) if path != "/hello" else (file.close(), [b"hello"])[1]

    expected = {"/whole": data, "/cut": data[1000:1077], "/end": b"", "/hello": b"hello"}
    async with serving(app) as served, httpx.AsyncClient(base_url=served.url) as client:
        ports = set()
        for path in [*expected, *reversed(expected)] * 2:
            response = await client.get(path)
            assert response.content == expected[path]
            assert (await client.head(path)).headers["content-length"] == str(len(expected[path]))
            ports.add(response.headers["x-port"])
        assert len(ports) == 1


async def test_checksums_through_tiny_buffers(tmp_path: Path, sendfile: bool) -> None:
    """PAINS 7, 14 (gunicorn#1155, bjoern#144): what the kernel did not take is neither lost nor sent twice."""
    data = make_file(tmp_path / "data.bin", 6 * MIB)
    async with serve_data(tmp_path, sendfile=sendfile) as served, trio.open_nursery() as nursery:

        async def download(piece: int) -> None:
            with trio.fail_after(30):
                async with await served.connect(receive_buffer=2048) as stream:
                    await stream.send_all(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
                    received = bytearray()
                    while chunk := await stream.receive_some(piece):
                        received += chunk
            assert received.endswith(b"\r\n\r\n" + data), len(received)

        for piece in (1500, 4096, 65_536):
            nursery.start_soon(download, piece)


@pytest.mark.parametrize("offset", [2 * GIB - 10, 4 * GIB - 10, 4 * GIB + 5, (1 << 40) + 7])
async def test_offsets_beyond_four_gib(tmp_path: Path, offset: int) -> None:
    """PAINS 8, 18 (Debian 894512, mod_wsgi#172): 64 bits everywhere; the middle of a terabyte."""
    marks = known_bytes(100_000)
    path = make_sparse(tmp_path / "huge.bin", offset + len(marks) + 1000, {offset: marks})

    def open_file(_: object) -> Any:
        file = path.open("rb")
        file.seek(offset)
        return file

    async with serving(file_app(open_file)) as served, connected(served) as client:
        assert (await client.ask()).body == marks + bytes(1000)
        assert (await client.ask(headers=[("Range", "bytes=-1010")])).body == marks[-10:] + bytes(1000)


@pytest.mark.parametrize("first", [2 * GIB - 10, 4 * GIB + 5])
async def test_ranges_beyond_four_gib_by_curl(tmp_path: Path, first: int) -> None:
    """PAINS 8: the file is answered whole, curl asks for bytes far into it."""
    marks = known_bytes(1000)
    path = make_sparse(tmp_path / "huge.bin", 6 * GIB, {first: marks})
    async with serving(file_app(lambda _: path.open("rb"))) as served:
        result = await run("curl", "-sS", "-r", f"{first}-{first + 999}", served.url + "/")
    assert result.stdout == marks


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A directory on tmpfs where there is one: it makes up the zeros of a sparse file for nothing."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else tmp_path) as directory:
        yield Path(directory)


@pytest.mark.slow
def test_five_gib(memory_path: Path) -> None:
    """PAINS 8, 16: curl gets a 5 GiB file whole, and its marks beyond 4 GiB are where they belong."""
    size, beyond, last = 5 * GIB + 321, b"beyond four", b"the very last bytes of the file"
    make_sparse(memory_path / "huge.bin", size, {4 * GIB + 1: beyond, size - len(last): last})
    (memory_path / "app.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return environ['wsgi.file_wrapper'](open('huge.bin', 'rb'))\n"
    )
    with command("app:app", "-b", "127.0.0.1:0", cwd=memory_path) as running:
        curl = [require_tool("curl"), "-sS", "-o", "/dev/null", "-w", "%{size_download}", running.url]
        assert subprocess.run(curl, stdout=subprocess.PIPE, timeout=50, check=True).stdout == str(size).encode()
        with blocking_client(running.port) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            file = sock.makefile("rb", buffering=0)
            while file.readline() != b"\r\n":
                pass
            discard(sock, 4 * GIB + 1)
            assert file.read(len(beyond)) == beyond
            discard(sock, size - (4 * GIB + 1) - len(beyond) - len(last))
            assert sock.recv(len(last), socket.MSG_WAITALL) == last
            assert sock.recv(1) == b""


def discard(sock: socket.socket, count: int) -> None:
    """Receive and forget `count` bytes; the kernel does not even copy them (tcp(7), MSG_TRUNC)."""
    buffer = bytearray(4 * MIB)
    while count:
        taken = sock.recv_into(buffer, min(count, len(buffer)), socket.MSG_TRUNC)
        assert taken
        count -= taken


@pytest.mark.parametrize("way", ["--no-sendfile", "SENDFILE=0", "default"])
def test_without_sendfile_the_same_bytes(tmp_path: Path, way: str) -> None:
    """PAINS 15 (bjoern#84): the switch changes how bytes move, and nothing that a client sees."""
    data = make_file(tmp_path / "data.bin", 3 * MIB)
    (tmp_path / "app.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    file = open('data.bin', 'rb')\n"
        "    file.read(10)\n"
        "    return environ['wsgi.file_wrapper'](file)\n"
    )
    options = ["--no-sendfile"] if way == "--no-sendfile" else []
    environ = {"SENDFILE": "0"} if way == "SENDFILE=0" else {}
    with command("app:app", "-b", "127.0.0.1:0", *options, cwd=tmp_path, **environ) as running:
        whole = httpx.get(running.url)
        part = httpx.get(running.url, headers={"Range": "bytes=5-14"})
    assert whole.content == data[10:]
    assert whole.headers["content-length"] == str(len(data) - 10)
    assert {"etag", "last-modified", "accept-ranges"} <= set(whole.headers)
    assert (part.status_code, part.content) == (206, data[15:25])


async def test_two_hundred_downloads_at_once(tmp_path: Path) -> None:
    """PAINS 16: many at full speed, through one loop: each gets its own bytes."""
    files = {f"/{n}": make_file(tmp_path / str(n), 300_000 + n, seed=n) for n in range(20)}

    def open_file(environ: dict[str, Any]) -> Any:
        return (tmp_path / environ["PATH_INFO"][1:]).open("rb")

    async with serving(file_app(open_file), threads=2) as served, trio.open_nursery() as nursery:

        async def download(target: str) -> None:
            async with connected(served) as client:
                reply = await client.ask(target, seconds=30)
            assert reply.whole
            assert reply.body == files[target]

        for target in [*files] * 10:
            nursery.start_soon(download, target)
    assert len(os.listdir("/proc/self/fd")) < 100  # noqa: PTH208 - nothing leaked
