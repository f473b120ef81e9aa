"""The examples for Flask and Django, served by the command as their docstrings say: downloads resume half-way."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest
from serving import command

CONTENT = os.urandom(300_000)
NAME = "a b ü.bin"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / NAME).write_bytes(CONTENT)
    (tmp_path / "secret").write_text("secret")
    return tmp_path / "files"


def resumes(client: httpx.Client, url: str) -> None:
    """RFC 9110 §13.1.5: the second half, if it is still the same file."""
    whole = client.get(url)
    assert (whole.status_code, whole.content) == (200, CONTENT)
    assert "attachment" in whole.headers["Content-Disposition"]
    rest = client.get(url, headers={"Range": "bytes=200000-", "If-Range": whole.headers["ETag"]})
    assert (rest.status_code, rest.content) == (206, CONTENT[200_000:])
    assert client.get(url, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304


def test_flask_private_files(directory: Path) -> None:
    words = ("-b", "127.0.0.1:0", "examples.flask_private_files:app", "--accel", f"/protected/={directory}")
    given = {"PRIVATE_FILES": str(directory), "PRIVATE_SECRET": "for all workers"}
    with command(*words, **given) as running, httpx.Client(base_url=running.url) as client:
        assert client.post("/login", data={"password": "guessed"}).status_code == 403
        (link,) = client.post("/login", data={"password": "open-sesame"}).text.split()
        for url in (link, link.replace("/files/", "/accel/")):
            resumes(client, url)
            assert client.get(url[:-3]).status_code == 403
            assert client.get(url.partition("?")[0]).status_code == 403
            assert client.get(url.replace("%20b", "%20c")).status_code == 403


def test_flask_private_files_takes_no_secret_that_each_worker_would_make_up(directory: Path) -> None:
    """A link that one worker gives would be refused by the others."""
    words = ("--check-config", "examples.flask_private_files:app")
    with command(*words, wait=False, PRIVATE_FILES=str(directory)) as running:
        assert running.wait() == 4
        assert "set PRIVATE_SECRET" in running.log


def test_django_downloads(directory: Path) -> None:
    words = ("-b", "127.0.0.1:0", "examples.django_downloads.downloads:application")
    with command(*words, DOWNLOADS=str(directory)) as running, httpx.Client(base_url=running.url) as client:
        assert client.get("/").text == NAME + "\n"
        resumes(client, f"/files/{NAME}")
        for outside in ("/files/%2e%2e%2fsecret", "/files/nothing", "/files/.%2f..%2f.."):
            assert client.get(outside).status_code == 404
