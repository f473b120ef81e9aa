"""Django's FileResponse, served by the real command (PAINS 1: gunicorn#2669; 36: Django leaks what is not closed)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from downloads import make_file
from serving import command
from waiting import wait_until

SIZE = 700_001


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, bytes]]:
    path = tmp_path_factory.mktemp("django") / "data.bin"
    data = make_file(path, SIZE)
    with (
        command(
            "django_downloads_site:app",
            "-b",
            "127.0.0.1:0",
            "--threads",
            "2",
            cwd=Path(__file__).parent,
            FILE=str(path),
        ) as running,
        httpx.Client(base_url=running.url) as client,
    ):
        yield client, data


CASES = {
    "/whole": (0, SIZE),
    "/seek/0": (0, SIZE),
    "/seek/65537": (65_537, SIZE),
    f"/seek/{SIZE - 1}": (SIZE - 1, SIZE),
    f"/seek/{SIZE}": (SIZE, SIZE),
    "/read": (10, SIZE),
    "/length/100/77": (100, 177),
    f"/length/0/{SIZE}": (0, SIZE),
    "/length/5/0": (5, 5),
    "/wrapped": (0, SIZE),
    "/memory": (0, SIZE),
    "/streamed": (0, SIZE),
    "/static/data.bin": (0, SIZE),
}


@pytest.mark.parametrize("url", CASES)
def test_what_django_means_is_what_arrives(site: tuple[httpx.Client, bytes], url: str) -> None:
    """Bytes, not headers: from the file's position, up to the Content-Length that Django has worked out."""
    client, data = site
    first, end = CASES[url]
    for _ in range(2):  # the second one over the same connection: nothing was left over
        response = client.get(url)
        assert response.status_code == 200
        assert response.content == data[first:end]
        if url != "/streamed":
            assert response.headers["content-length"] == str(end - first)


@pytest.mark.parametrize("url", CASES)
def test_head(site: tuple[httpx.Client, bytes], url: str) -> None:
    """The headers of GET and no body."""
    client, _ = site
    get, head = client.get(url), client.head(url)
    assert head.content == b""
    if url != "/streamed":
        ignored = {"date"}
        assert {k: v for k, v in head.headers.items() if k not in ignored} == {
            k: v for k, v in get.headers.items() if k not in ignored
        }


@pytest.mark.parametrize("url", ["/whole", "/wrapped", "/static/data.bin", "/seek/0"])
@pytest.mark.parametrize(
    ("spec", "first", "last"), [("0-9", 0, 9), ("699990-", 699_990, SIZE - 1), ("-5", SIZE - 5, SIZE - 1)]
)
def test_ranges(site: tuple[httpx.Client, bytes], url: str, spec: str, first: int, last: int) -> None:
    """Django has none of its own for a FileResponse; ours give the very bytes (PAINS 3, 19)."""
    client, data = site
    response = client.get(url, headers={"Range": f"bytes={spec}"})
    assert response.status_code == 206
    assert response.content == data[first : last + 1]
    assert response.headers["content-range"] == f"bytes {first}-{last}/{SIZE}"


def test_revalidation(site: tuple[httpx.Client, bytes]) -> None:
    """django.views.static.serve answers If-Modified-Since itself; for the others the validators are ours."""
    client, _ = site
    for url in ("/whole", "/static/data.bin"):
        first = client.get(url)
        names = {"etag": "If-None-Match", "last-modified": "If-Modified-Since"}
        headers = {names[name]: value for name, value in first.headers.items() if name in names}
        again = client.get(url, headers=headers)
        assert (again.status_code, again.content) == (304, b"")


def test_everything_is_closed_and_finished_in_app_threads(site: tuple[httpx.Client, bytes]) -> None:
    """PAINS 36: FileResponse hooks its own close() onto the file, and sends request_finished from there."""
    client, _ = site
    for url in CASES:
        client.get(url)
        client.head(url)
    wait_until(lambda: ", 0 open, " in client.get("/state").text)
    assert client.get("/state").text.endswith("finished in ['trio-wsgi app']")
