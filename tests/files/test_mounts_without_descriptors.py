"""Who runs out of descriptors is not to say that a file, or a disk, is broken: the client may ask again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from answers import read_answer
from asking import error_lines, greet, request
from faults import no_descriptor_left
from mounted import app, have_nothing_at_hand
from serving import Served, receive_all, serving

from trio_wsgi.record import RequestRecord

LIMIT = "this process may open no more files; raise the limit of open files (ulimit -n)"


async def ask_without_descriptors(served: Served, sent: bytes, method: str) -> RequestRecord:
    """A client that is connected already, and what is left is not enough for a file."""
    with trio.fail_after(10):
        async with await served.connect() as stream:
            await served.wait_connections(1)
            with no_descriptor_left():
                await stream.send_all(sent)
                answer = read_answer(await receive_all(stream), method)
    assert (answer.status, answer.values("retry-after")) == (503, ["1"])
    (record,) = served.records
    return record


def assert_named(record: RequestRecord) -> None:
    assert record.outcome.value == "server-error"
    assert LIMIT in record.reason


@pytest.mark.parametrize("at_hand", [True, False], ids=["at hand", "waited for"])
async def test_a_mount_answers_503_and_names_the_limit(
    at_hand: bool, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As whatever else fails for what the system lacks."""
    if not at_hand:
        have_nothing_at_hand(monkeypatch)
    async with serving(app, static=(f"/s={site}",)) as served:
        assert_named(await ask_without_descriptors(served, request("GET", "/s/style.css"), "GET"))


async def test_a_file_that_the_app_names_is_answered_so_and_the_log_names_the_limit(
    site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """X-Accel-Redirect: the server opens it, so the application has done nothing wrong."""

    def names(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("X-Accel-Redirect", "/p/style.css")])
        return []

    async with serving(names, accel=(f"/p={site}",)) as served:
        record = await ask_without_descriptors(served, request(), "GET")
        assert record.outcome.value == "finished"
    assert [line for line in error_lines(caplog) if LIMIT in line and "/p/style.css" in line]


async def test_an_upload_that_cannot_be_kept_for_it_does_not_blame_the_directory(tmp_path: Path) -> None:
    """There may be room enough in temp_path."""
    async with serving(greet, temp_path=str(tmp_path), body_buffer_size=1000) as served:
        assert_named(await ask_without_descriptors(served, request("POST", body=b"x" * 5000), "POST"))
        assert str(tmp_path) not in served.records[0].reason
