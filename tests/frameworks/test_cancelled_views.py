"""A slow view of a framework, many queries long, stops when its client goes: nothing of the framework is in the way.

The view knows nothing of the server; what it asks for data asks whether anybody still waits, as a database wrapper can.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import flask
import pytest
import trio
from asking import App, error_lines, request
from django.conf import settings as django_settings
from serving import serving

from trio_wsgi import Outcome

PROMPT = 0.2  # seconds
TRIES = 5  # the best one counts, for the sake of busy machines


class Database:
    """Slow, and every query of it first asks whether anybody still wants the rows."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.queries = 0
        self.closed_at = 0.0

    def query(self) -> int:
        trio.from_thread.check_cancelled()
        self.entered.set()
        time.sleep(0.02)
        self.queries += 1
        return self.queries

    def close(self, *_: object) -> None:
        """The framework's clean-up at the end of a request."""
        self.closed_at = time.monotonic()


def flask_app(database: Database) -> App:
    app = flask.Flask("slow")
    app.teardown_request(database.close)

    @app.errorhandler(Exception)
    def failed(error: Exception) -> str:
        return "the framework's own answer to a failure"

    @app.get("/")
    def devices() -> str:
        return "\n".join(str(database.query()) for _ in range(500))

    return app


def django_app(database: Database) -> App:
    from django.core.handlers.wsgi import WSGIHandler
    from django.http import HttpResponse
    from django.test.utils import override_settings
    from django.urls import path

    def devices(asked: Any) -> HttpResponse:
        try:
            return HttpResponse("\n".join(str(database.query()) for _ in range(500)))
        finally:
            database.close()

    if not django_settings.configured:
        django_settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="of no use")
        import django

        django.setup()
    handler = WSGIHandler()
    urls = type("Urls", (), {"urlpatterns": [path("", devices)]})

    def app(environ: Any, start_response: Any) -> Any:
        with override_settings(ROOT_URLCONF=urls):
            return handler(environ, start_response)

    return app


@pytest.mark.parametrize("make", [flask_app, django_app])
async def test_a_slow_view_stops_within_200_ms_of_its_clients_going(
    make: Callable[[Database], App], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(TRIES):
        database = Database()
        with trio.fail_after(20):
            async with serving(make(database), half_close="abort") as served:
                async with await served.connect() as stream:
                    await stream.send_all(request())
                    await trio.to_thread.run_sync(database.entered.wait, 10)
                    await trio.sleep(0.25)
                left_at = time.monotonic()
                assert (await served.record()).outcome is Outcome.CLIENT_GONE
        assert database.queries < 400
        assert error_lines(caplog) == []
        if database.closed_at - left_at < PROMPT:
            return
    raise AssertionError(f"it took {database.closed_at - left_at} s")
