"""What an application may return for a body, and what it may not (PEP 3333, "Specification Details")."""

from __future__ import annotations

from typing import Any

import pytest
from asking import PLAIN, Environ, StartResponse, ask, error_lines

from trio_wsgi import Outcome


@pytest.mark.parametrize(
    "body", [b"", "", (), [], iter(()), {}], ids=["bytes", "text", "tuple", "list", "iterator", "dict"]
)
async def test_an_iterable_of_nothing_is_an_empty_body(body: Any) -> None:
    """An empty string gives nothing when it is iterated, and is what some applications return with a 204 or 302."""

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("302 Found", [("Location", "/")])
        return body

    asked = await ask(app)
    assert (asked.answer.status, asked.answer.body) == (302, b"")
    assert asked.record.outcome is Outcome.FINISHED


@pytest.mark.parametrize("body", [b"bytes", "text", None, 5, bytearray(b"bytes")], ids=repr)
async def test_what_is_no_iterable_of_bytes_is_an_error(body: Any, caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", PLAIN)
        return body

    assert (await ask(app)).answer.status == 500
    assert "it must be an iterable of bytes, such as a list" in error_lines(caplog)[0]


@pytest.mark.parametrize("rate", [-1, True, "5", 1.5, 10**400], ids=lambda rate: f"{rate!r:.10}")
async def test_a_rate_that_is_none_is_an_error_of_the_application(rate: Any, caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        environ["trio_wsgi.limit_rate"] = rate
        start_response("200 OK", PLAIN)
        return [b"body"]

    assert (await ask(app)).answer.status == 500
    assert "it must be bytes per second, 0 for no limit" in error_lines(caplog)[0]
