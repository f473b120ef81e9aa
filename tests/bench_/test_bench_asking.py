"""Requests to a user's own application with a method, headers, a body and a status of their choice (`--method` …)."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from bench import bout, run
from bench.driver import APP
from bench.scenarios import slow

BODY = random.Random(7).randbytes(3000)
LARGE = random.Random(7).randbytes(2_500_000)  # more than what an upload sends again and again
TAKING = """
import hashlib

def app(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    asked = environ["REQUEST_METHOD"], environ.get("CONTENT_TYPE"), hashlib.sha256(body).hexdigest()
    allowed = (environ["HTTP_HOST"], environ.get("HTTP_AUTHORIZATION")) == ("shop.test", "Bearer a: b")
    right = allowed and asked == (METHOD, "application/json", DIGEST)
    start_response("201 Created" if right else "400 Bad Request", [("Content-Length", "400000")])
    return [b"ok" * 200_000]

def delete(environ, start_response):
    deleted = environ["REQUEST_METHOD"] == "DELETE"
    start_response("204 No Content" if deleted else "405 Method Not Allowed", [])
    return []
"""


HEADERS = ["--header", "Content-Type: application/json"]
HEADERS += ["--header", "host: shop.test", "--header", "Authorization: Bearer a: b"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(slow, "LEAST_SECONDS", 1.0)
    write_app(tmp_path, "PUT", BODY)
    return tmp_path


def write_app(folder: Path, method: str, body: bytes) -> None:
    """An application that answers 201 to this and nothing else; and the body as a file."""
    facts = f"METHOD, DIGEST = {method!r}, {hashlib.sha256(body).hexdigest()!r}\n"
    (folder / "bench_taking.py").write_text(facts + TAKING)
    (folder / "order.json").write_bytes(body)


@pytest.fixture(params=["wrk", "own"])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whose requests they are: wrk's, or those of our own client, which is taken where there is no wrk."""
    if request.param == "own":
        monkeypatch.setattr(bout.shutil, "which", lambda _: None)
    elif bout.shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")
    return str(request.param)


def measure(folder: Path, *words: str) -> dict[str, Any]:
    """The results of a short run of trio-wsgi alone."""
    words += ("--contestants", "trio-wsgi", "--rounds", "1", "--seconds", "0.3", "--files", str(folder / "samples"))
    run.main([*words, "--output", str(folder / "results.json")])
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def list_failures(results: dict[str, Any]) -> list[str]:
    return [finding["failure"] for finding in results["findings"]]


def test_every_request_is_made_as_the_user_says(folder: Path, client: str) -> None:
    """By everybody who asks: the check, wrk or our own client, slow readers and the good client."""
    words = ["--app", "bench_taking:app", "--method", "PUT", "--body", str(folder / "order.json"), "--status", "201"]
    words += [*HEADERS, "--only", "own-app-8" if client == "wrk" else "own-app"]
    results = measure(folder, *words)
    assert list_failures(results) == [""] * (1 if client == "wrk" else 4)
    figures = results["findings"][0]["figures"]
    assert figures["throughput"] == pytest.approx(figures["requests_per_second"] * (len(BODY) + 400_000), rel=0.1)
    assert results["settings"]["your application"] == (
        "bench_taking:app, asked for / by PUT with the 3,000 bytes of order.json,"
        " Content-Type, Host, Authorization, answered with 201"
    )


def test_a_large_body_arrives_whole(folder: Path, client: str) -> None:
    """And by POST, where no method is named: other bytes at any place would be answered with 400."""
    write_app(folder, "POST", LARGE)
    words = ["--app", "bench_taking:app", "--body", str(folder / "order.json"), "--status", "201"]
    words += [*HEADERS, "--only", "own-app-1"]
    assert list_failures(measure(folder, *words)) == [""]


def test_an_answer_without_a_body_is_one(folder: Path, client: str) -> None:
    """204 ends with its head, though it does not say so; a method does without a body."""
    words = ["--app", "bench_taking:delete", "--method", "DELETE", "--status", "204", "--only", "own-app-8"]
    results = measure(folder, *words)
    assert list_failures(results) == [""]
    assert results["findings"][0]["figures"]["requests"] > 20


def test_a_status_that_is_an_error_to_wrk_may_be_what_is_wanted(folder: Path) -> None:
    words = ["--app", "bench_taking:delete", "--status", "405", "--only", "own-app-8"]
    assert list_failures(measure(folder, *words)) == [""]


def test_another_status_is_a_failure(folder: Path) -> None:
    words = ["--app", "bench_taking:delete", "--method", "DELETE", "--only", "own-app-8"]
    assert list_failures(measure(folder, *words)) == ["/: status 204 instead of 200"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "G ET"], "'G ET' is no method; write one such as PUT"),
        (["--method", "HEAD"], "HEAD: its answers have no body that could be counted"),
        (["--status", "100"], "'100' is no status of an answer; write one such as 201"),
        (["--status", "ok"], "'ok' is no status of an answer"),
        (["--header", "content-length: 3"], "is told by the bench; name a file by --body"),
    ],
)
def test_what_cannot_be_asked_is_told(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--app", APP, *words])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "PUT"], "bench: --method PUT is for your own app: name it by --app\n"),
        (["--body", "/etc/hostname"], "bench: --body /etc/hostname is for your own app: name it by --app\n"),
        (["--status", "201"], "bench: --status 201 is for your own app: name it by --app\n"),
        (["--app", APP, "--body", "/nowhere"], "bench: --body /nowhere: there is no such file\n"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(words) == 2
    assert capsys.readouterr().err == said
