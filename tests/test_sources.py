"""Rules of sources: where a setting may come from, which source counts, and how an error names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trio_wsgi.config import Config, make_config
from trio_wsgi.errors import ConfigError
from trio_wsgi.sources import load_config

pytestmark = pytest.mark.usefixtures("empty_directory")


def load_toml(text: str, name: str = "site.toml") -> Config:
    Path(name).write_text(text)
    return load_config({}, {}, name).config


@pytest.mark.parametrize(
    ("flags", "environ", "words"),
    [
        ({"threads": "x"}, {}, "--threads: 'x' is not a whole number"),
        ({"http": ":8000"}, {}, "--http: ':8000' is not one of auto, h11, httptools (an address is given with --bind)"),
        ({"http": "httptool"}, {}, "(did you mean httptools?)"),
        ({"bind": ["::1"]}, {}, "--bind: '::1' has more than one colon; write an IPv6 address as [::1]:8000"),
        ({}, {"TRIO_WSGI_THREADS": "0"}, "TRIO_WSGI_THREADS: 0 is too low"),
        ({}, {"TRIO_WSGI_SENDFILE": "maybe"}, "TRIO_WSGI_SENDFILE: 'maybe' is neither yes nor no"),
        (
            {},
            {"TRIO_WSGI_THREAD": "1"},
            "TRIO_WSGI_THREAD: there is no such setting (did you mean TRIO_WSGI_THREADS?)",
        ),
        ({}, {"TRIO_WSGI_threads": "1"}, "did you mean TRIO_WSGI_THREADS?"),
        (
            {},
            {"TRIO_WSGI_LOG_FILE": "a", "TRIO_WSGI_ERROR_LOGFILE": "b"},
            "TRIO_WSGI_ERROR_LOGFILE: TRIO_WSGI_LOG_FILE is there, too (keep one)",
        ),
        ({}, {"TRIO_WSGI_BIND": "'a"}, 'TRIO_WSGI_BIND: "\'a" No closing quotation'),
        ({}, {"PORT": "http"}, "PORT: '0.0.0.0:http' has no port between 0 and 65535; write its number, such as 8000"),
        ({}, {"SENDFILE": "2"}, "SENDFILE: '2' is neither yes nor no"),
        ({}, {"TRIO_WSGI_CONFIG": "none.toml"}, "--config: none.toml cannot be read: No such file"),
    ],
)
def test_an_error_names_what_the_user_wrote(flags: dict[str, Any], environ: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as info:
        load_config(flags, environ)
    assert words in str(info.value)


def test_what_kubernetes_says_of_a_service_is_no_setting() -> None:
    """It gives these to every container beside a Service called trio-wsgi, or trio-wsgi-web; else PORT is a mistake."""
    service = {"SERVICE_HOST": "10.0.0.7", "SERVICE_PORT": "80", "SERVICE_PORT_HTTP": "80", "PORT": "tcp://10.0.0.7:80"}
    service |= {"PORT_80_TCP": "tcp://10.0.0.7:80", "PORT_80_TCP_PROTO": "tcp", "PORT_53_UDP_ADDR": "10.0.0.7"}
    for prefix in ("TRIO_WSGI_", "TRIO_WSGI_WEB_"):
        assert load_config({}, {prefix + name: text for name, text in service.items()}).config == Config()
    with pytest.raises(ConfigError, match="TRIO_WSGI_PORT: there is no such setting"):
        load_config({}, {"TRIO_WSGI_PORT": "8000"})


def test_precedence() -> None:
    """flags > TRIO_WSGI_* > file > PORT, SENDFILE > defaults."""

    def bind(flags: bool, variable: bool, file: bool, port: bool) -> tuple[tuple[str, ...], str]:
        Path("site.toml").write_text('bind = ["file:1", "file:2"]' if file else "")
        environ = {"TRIO_WSGI_BIND": "variable:1 variable:2"} if variable else {}
        environ |= {"PORT": "81"} if port else {}
        loaded = load_config({"bind": ["flag:1"]} if flags else {}, environ, "site.toml")
        return loaded.config.bind, loaded.origins["bind"]

    assert bind(True, True, True, True) == (("flag:1",), "--bind")
    assert bind(False, True, True, True) == (("variable:1", "variable:2"), "TRIO_WSGI_BIND")
    assert bind(False, False, True, True) == (("file:1", "file:2"), "site.toml")
    assert bind(False, False, False, True) == (("0.0.0.0:81",), "PORT")
    assert bind(False, False, False, False) == (("127.0.0.1:8000",), "default")


@pytest.mark.parametrize(("text", "value"), [("0", False), ("no", False), ("1", True), ("YES", True), ("", True)])
def test_sendfile_variable_is_heeded_as_by_gunicorn(text: str, value: bool) -> None:
    assert load_config({}, {"SENDFILE": text}).config.sendfile is value


def test_quoted_words_in_the_environment() -> None:
    loaded = load_config({}, {"TRIO_WSGI_ENV": "A='two words' B=2", "TRIO_WSGI_ACCESS_LOGFILE": ""})
    assert loaded.config.env == (("A", "two words"), ("B", "2"))
    assert loaded.config.access_logfile is None


@pytest.mark.parametrize("name", ["forwarded_allow_ips", "trusted_proxy_headers", "proxy_allow_from"])
def test_an_empty_list_of_who_is_believed_is_nobody_whichever_source_says_so(name: str) -> None:
    """As to gunicorn; whoever writes that is not to have this machine's processes believed after all."""
    Path("site.toml").write_text(f"{name.replace('_', '-')} = []")
    for loaded in (
        load_config({name: [""]}, {}),
        load_config({}, {f"TRIO_WSGI_{name.upper()}": ""}),
        load_config({}, {}, ini={name: ""}),
        load_config({}, {}, "site.toml"),
    ):
        assert getattr(loaded.config, name) == ()
        assert loaded.origins[name] != "default"
    assert getattr(make_config({name: ["", *getattr(Config(), name)]}), name) == getattr(Config(), name)


def test_of_variables_of_others_that_are_empty_one_says_something() -> None:
    assert load_config({}, {"FORWARDED_ALLOW_IPS": ""}).config.forwarded_allow_ips == ()
    assert load_config({}, {"PORT": ""}).config == Config()  # as good as none


@pytest.mark.parametrize(
    ("name", "text", "threads"),
    [
        ("site.toml", "threads = 2", 2),
        ("site.toml", "[trio-wsgi]\nthreads = 2\n[other]\nx = 1", 2),
        ("site.toml", "[tool.trio-wsgi]\nthreads = 2", 2),
        ("site.toml", "[tool.trio_wsgi]\nthreads = 2", 2),
        ("site.toml", "", 8),
        ("pyproject.toml", "[tool.trio-wsgi]\nthreads = 2\n[project]\nname = 'x'", 2),
    ],
)
def test_file_forms(name: str, text: str, threads: int) -> None:
    assert load_toml(text, name).threads == threads


def test_every_long_flag_is_a_variable() -> None:
    assert load_config({}, {"TRIO_WSGI_LOG_FILE": "a.log"}).config == Config(error_logfile="a.log")


@pytest.mark.parametrize("key", ["log-file", "log_file", "error-logfile"])
def test_every_long_flag_is_a_key(key: str) -> None:
    assert load_toml(f"{key} = 'a.log'") == Config(error_logfile="a.log")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("threads = ", "site.toml is not TOML"),
        ("threads = '2'", "threads in site.toml: '2' is a text; write 2, without quotes"),
        ("[trio-wsgi]\nthread = 2", "thread in site.toml: there is no such setting (did you mean threads?)"),
        ("[tool.other]\nx = 1", "tool in site.toml: there is no such setting (settings stand at the top, in"),
        ("[server]\nthreads = 2", "server in site.toml: there is no such setting (settings stand at the top, in"),
        ("worker_class = 'gthread'", "worker_class in site.toml: there is no such setting (there is one kind of"),
        ("log-file = 'a'\nerror-logfile = 'b'", "error-logfile in site.toml: it is written twice"),
        ("keep-alive = 1\nkeep_alive = 2", "keep_alive in site.toml: it is written twice"),
        (
            "threads = 3\n[trio-wsgi]\nbacklog = 2",
            "threads in site.toml: it stands outside of [trio-wsgi] (move it into that table)",
        ),
        ("thread = 3\n[tool.trio_wsgi]\nbacklog = 2", "thread in site.toml: it stands outside of [tool.trio_wsgi]"),
        ("[trio-wsgi]\nbacklog = 2\n[env]\nA = 'b'", "env in site.toml: it stands outside of [trio-wsgi]"),
        ("[trio-wsgi]\n[tool.trio-wsgi]", "[trio-wsgi] in site.toml: [tool.trio-wsgi] is there, too (keep one)"),
        ("[trio-wsgi]\n[trio_wsgi]", "[trio_wsgi] in site.toml: [trio-wsgi] is there, too (keep one)"),
    ],
)
def test_a_wrong_file_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as info:
        load_toml(text)
    assert words in str(info.value)


def test_pyproject_is_read_by_default_and_only_when_it_has_our_table() -> None:
    assert load_config({}, {}).config == Config()
    Path("pyproject.toml").write_text("[project]\nname = 'x'")
    assert load_config({}, {}).config == Config()
    with pytest.raises(ConfigError, match=r"no table \[tool.trio-wsgi\]"):
        load_config({}, {}, "pyproject.toml")
    Path("pyproject.toml").write_text("[tool.trio-wsgi]\nthreads = 2")
    assert load_config({}, {}).origins["threads"] == "pyproject.toml"
    Path("pyproject.toml").write_text("threads = ")
    with pytest.raises(ConfigError, match=r"^working directory: pyproject.* is not TOML"):  # there is no --config
        load_config({}, {})
    Path("site.toml").write_text("backlog = 7")
    assert load_config({}, {"TRIO_WSGI_CONFIG": "site.toml"}).config == Config(backlog=7)
