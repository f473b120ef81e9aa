"""docs/structured-concurrency.md: every code block runs and does what the text says; no key or setting is made up."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from answers import read_answer
from asking import Environ, StartResponse, ask, request
from serving import serving
from waiting import until

import trio_wsgi
from trio_wsgi import Config, Outcome
from trio_wsgi.wsgi.response import LIMIT_RATE_KEY

PAGE = (Path(trio_wsgi.__file__).parent.parent / "docs" / "structured-concurrency.md").read_text()


def blocks(language: str) -> dict[str, str]:
    """The code of the page, by the heading above it."""
    found = {}
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        for code in re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
            heading = section.partition("\n")[0]
            assert heading not in found
            found[heading] = code
    return found


PROGRAMS = blocks("python")


async def leave(app: Callable[..., Any], names: dict[str, Any]) -> None:
    """Ask, and go away after 0.3 s."""
    async with serving(app, half_close="abort") as served:
        async with await served.connect() as stream:
            await stream.send_all(request())
            await trio.sleep(0.3)
        left_at = trio.current_time()
        assert (await served.record()).outcome is Outcome.CLIENT_GONE
        assert trio.current_time() - left_at < 2
        if "saved" in names:
            assert names["saved"] == ["order 1"]


async def check_call(app: Callable[..., Any], names: dict[str, Any]) -> None:
    assert (await ask(app)).answer.body == b"[('one', 3), ('three', 5)]"


async def check_deadlines(app: Callable[..., Any], names: dict[str, Any]) -> None:
    assert (await ask(app, app_timeout=0.1)).answer.status == 504
    assert (await ask(app, request("GET", "/report"), app_timeout=0.1)).answer.body == b"in time"


async def check_work(app: Callable[..., Any], names: dict[str, Any]) -> None:
    async with serving(app) as served:
        assert read_answer(await served.exchange(request())).status == 202
        await served.record()
        assert names["log"] == ["the request has ended"]
        await until(lambda: names["log"] == ["the request has ended", "mail to ada@example.org"])


async def check_hints(app: Callable[..., Any], names: dict[str, Any]) -> None:
    answer = (await ask(app)).answer
    assert (answer.interim, answer.body) == ([103], b"what takes its time")
    assert (await ask(app, request(version="1.0"))).answer.interim == []


CHECKS: dict[str, Callable[[Callable[..., Any], dict[str, Any]], Awaitable[None]]] = {
    "A client that goes away cancels its request": leave,
    "What must finish is shielded": leave,
    "Synchronous code calls Trio": check_call,
    "Deadlines": check_deadlines,
    "Work beside the answer": check_work,
    "Early hints": check_hints,
}


@pytest.mark.parametrize("heading", CHECKS)
async def test_an_application_of_the_page_does_what_the_text_says(heading: str) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(PROGRAMS[heading], f"<{heading}>", "exec"), names)
    with trio.fail_after(10):
        await CHECKS[heading](names["app"], names)


def test_the_program_of_the_page_prints_what_it_says() -> None:
    (heading,) = set(PROGRAMS) - set(CHECKS)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS[heading]],
        cwd=Path(trio_wsgi.__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stdout) == (0, blocks("text")[heading]), done.stderr


async def test_the_table_has_every_key_of_the_environ_and_no_other() -> None:
    keys: set[str] = {LIMIT_RATE_KEY}  # the application's to set

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        keys.update(key for key in environ if key.startswith("trio_wsgi.") or key == "wsgi.early_hints")
        start_response("200 OK", [])
        return []

    await ask(app)
    assert set(re.findall(r"^\| `((?:trio_)?wsgi\.\w+)`", PAGE, re.MULTILINE)) == keys


def test_every_setting_the_page_names_is_one() -> None:
    named = set(re.findall(r"--([a-z][a-z-]+)", PAGE))
    assert {name.replace("-", "_") for name in named} <= set(Config.__dataclass_fields__)
