"""Servers are measured with the settings of their row in the table, whatever the user's folder and environment say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import contestants
from bench.roster import Absent, find, list_packages
from bench.server import Setting, build_environment, open_server

SHOP = """
import pathlib
PRICES = pathlib.Path("prices.txt").read_bytes()

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", str(len(PRICES)))])
    return [PRICES]
"""
VARIABLES = {
    "TRIO_WSGI_CERTFILE": "/no/such.pem",
    "GUNICORN_CMD_ARGS": "--certfile /no/such.pem",
    "UWSGI_CHDIR": "/no/such/folder",
    "GRANIAN_RUNTIME_MODE": "none",
    "WEB_CONCURRENCY": "many",
    "SENDFILE": "perhaps",
}


@pytest.mark.parametrize("name", ["trio-wsgi", "gunicorn-gthread", "uwsgi", "granian", "waitress"])
def test_what_the_user_has_set_for_servers_is_not_measured(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these settings ends a server that reads it. The application finds its files in the folder."""
    row = contestants.BY_NAME[name]
    try:
        find(row, list_packages(sys.executable), tmp_path)
    except Absent as reason:
        pytest.skip(str(reason))
    (tmp_path / "bench_shop.py").write_text(SHOP)
    (tmp_path / "prices.txt").write_text("1.20")
    (tmp_path / "gunicorn.conf.py").write_text('certfile = "/no/such.pem"')
    (tmp_path / "pyproject.toml").write_text('[tool.trio-wsgi]\ncertfile = "/no/such.pem"')
    monkeypatch.chdir(tmp_path)
    for variable, value in VARIABLES.items():
        monkeypatch.setenv(variable, value)
    with open_server(row, Setting(sys.executable, "", "bench_shop:app", tmp_path)) as server:
        server.check_alive()


def test_the_application_has_the_rest_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is a setting of servers goes by its whole name, or by the beginning that is theirs."""
    given = {"SHOP_PORT": "1", "DATABASE_URL": "2", "PORT": "3", "GUNICORN_CMD_ARGS": "4", "NOTIFY_SOCKET": "5"}
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    environment = build_environment()
    assert {name for name in given if name in environment} == {"SHOP_PORT", "DATABASE_URL"}
