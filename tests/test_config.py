"""Rules of settings: each is declared once and read the same from a flag, a variable, TOML and Python."""

from __future__ import annotations

import dataclasses
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsgi import reference
from trio_wsgi.address import Address, parse_address
from trio_wsgi.config import SETTINGS, Config, make_config
from trio_wsgi.errors import ConfigError
from trio_wsgi.kind import parse_seconds, parse_size, show_seconds, show_size
from trio_wsgi.setting import Setting
from trio_wsgi.sources import Loaded, load_config

# For every setting: a text that is not the default, and the value it means.
EXAMPLES: dict[str, tuple[str, Any]] = {
    "bind": ("unix:/run/a.sock", ("unix:/run/a.sock",)),
    "backlog": ("5", 5),
    "reuse_port": ("yes", True),
    "unix_socket_perms": ("660", "660"),
    "unix_socket_owner": ("www:www", "www:www"),
    "http": ("h11", "h11"),
    "health_path": ("/health", "/health"),
    "workers": ("4", 4),
    "timeout": ("1m", 60.0),
    "boot_timeout": ("9", 9.0),
    "max_requests": ("1000", 1000),
    "max_requests_jitter": ("50", 50),
    "max_rss": ("512m", 512 << 20),
    "cpu_affinity": ("0,2-3", "0,2-3"),
    "pid": ("/run/a.pid", "/run/a.pid"),
    "user": ("www", "www"),
    "group": ("www", "www"),
    "umask": ("027", "027"),
    "reload": ("yes", True),
    "reload_extra_file": ("a*.html", ("a*.html",)),
    "script_reloading": ("yes", True),
    "reload_mechanism": ("process", "process"),
    "threads": ("3", 3),
    "queue_size": ("0", 0),
    "connection_limit": ("77", 77),
    "header_timeout": ("1.5", 1.5),
    "body_timeout": ("500ms", 0.5),
    "write_timeout": ("none", math.inf),
    "keep_alive": ("0", 0.0),
    "linger_timeout": ("2s", 2.0),
    "app_timeout": ("9s", 9.0),
    "app_timeout_header": ("X-Time", "X-Time"),
    "queue_timeout": ("1", 1.0),
    "graceful_timeout": ("5m", 300.0),
    "drain_max": ("0", 0.0),
    "drain_min_rate": ("4k", 4096),
    "certfile": ("a.pem", ("a.pem",)),
    "keyfile": ("a.key", ("a.key",)),
    "ca_certs": ("ca.pem", "ca.pem"),
    "cert_reqs": ("required", "required"),
    "ciphers": ("ECDHE+AESGCM", "ECDHE+AESGCM"),
    "tls_min": ("1.3", "1.3"),
    "handshake_timeout": ("3", 3.0),
    "forwarded_allow_ips": ("10.0.0.0/8", ("10.0.0.0/8",)),
    "trusted_proxy_headers": ("x-forwarded-for", ("x-forwarded-for",)),
    "proxy_protocol": ("yes", True),
    "proxy_allow_from": ("*", ("*",)),
    "limit_request_line": ("4k", 4096),
    "limit_request_fields": ("50", 50),
    "limit_request_field_size": ("9000", 9000),
    "limit_request_body": ("2 GiB", 2 << 30),
    "url_prefix": ("/app", "/app"),
    "url_scheme": ("https", "https"),
    "var": ("A=b=c", (("A", "b=c"),)),
    "env": ("MODE=on", (("MODE", "on"),)),
    "pass_authorization": ("no", False),
    "middleware": ("a.b:c", ("a.b:c",)),
    "chdir": ("/srv", "/srv"),
    "pythonpath": ("a,b", "a,b"),
    "write_policy": ("buffer", "buffer"),
    "write_buffer_size": ("64KB", 65536),
    "output_buffering": ("1m", 1 << 20),
    "ident": ("", ""),
    "expose_tracebacks": ("yes", True),
    "optimize_send_headers": ("yes", True),
    "sendfile": ("0", False),
    "allow_ranges": ("no", False),
    "max_ranges": ("5", 5),
    "file_validators": ("no", False),
    "static": ("/s=/srv", ("/s=/srv",)),
    "static_index": ("home.html", ("home.html",)),
    "static_expires": ("5m", 300.0),
    "static_listing": ("yes", True),
    "follow_symlinks": ("yes", True),
    "accel": ("/p/=/srv", ("/p/=/srv",)),
    "limit_rate": ("64k", 65536),
    "limit_rate_after": ("1m", 1 << 20),
    "min_send_rate": ("1k", 1024),
    "min_send_grace": ("10", 10.0),
    "request_buffering": ("off", False),
    "half_close": ("serve", "serve"),
    "body_buffer_size": ("1K", 1024),
    "temp_path": ("/var/tmp", "/var/tmp"),
    "temp_limit": ("0", 0),
    "access_logfile": ("-", "-"),
    "access_logformat": ("%(h)s", "%(h)s"),
    "error_logfile": ("error.log", "error.log"),
    "log_level": ("debug", "debug"),
}


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load_toml(text: str, name: str = "site.toml") -> Config:
    Path(name).write_text(text)
    return load_config({}, {}, name).config


def refusal(**values: Any) -> ConfigError:
    with pytest.raises(ConfigError) as info:
        make_config(values)
    return info.value


def test_every_setting_has_an_example() -> None:
    assert list(EXAMPLES) == list(SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))
class TestEverySetting:
    """A declaration says enough for every way of giving it."""

    def test_flag(self, setting: Setting) -> None:
        text, value = EXAMPLES[setting.name]
        loaded = load_config({setting.name: [text] if setting.kind.repeatable else text}, {})
        assert getattr(loaded.config, setting.name) == value
        assert loaded.origins[setting.name] == setting.flag

    def test_environment(self, setting: Setting) -> None:
        text, value = EXAMPLES[setting.name]
        loaded = load_config({}, {setting.variable: text})
        assert getattr(loaded.config, setting.name) == value
        assert loaded.origins[setting.name] == setting.variable

    def test_toml_reads_back_what_it_shows(self, setting: Setting) -> None:
        _, value = EXAMPLES[setting.name]
        for key in (setting.name, setting.name.replace("_", "-")):
            assert getattr(load_toml(f"{key} = {setting.kind.toml(value)}"), setting.name) == value

    def test_python(self, setting: Setting) -> None:
        _, value = EXAMPLES[setting.name]
        config = make_config({setting.name: value})
        assert getattr(config, setting.name) == value
        assert Config().replace(**{setting.name: value}) == config != Config()

    def test_shown_text_reads_back(self, setting: Setting) -> None:
        _, value = EXAMPLES[setting.name]
        assert setting.parse(setting.show(value), "again") == value

    def test_wrong_type_is_refused_by_name(self, setting: Setting) -> None:
        error = refusal(**{setting.name: [[]]})
        assert error.setting == setting.name
        assert "[[]]" in error.why

    def test_default_is_valid_and_help_is_a_sentence(self, setting: Setting) -> None:
        assert setting.accept(setting.default, "default") == setting.default
        assert setting.help[0].isupper()
        assert setting.help.endswith(".")


def test_config_is_immutable_hashable_and_travels() -> None:
    config = Config(env=(("A", "b"),), bind=("127.0.0.1:0",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.threads = 2  # type: ignore[misc]
    assert hash(config) == hash(config.replace())
    assert pickle.loads(pickle.dumps(config)) == config


def test_python_values_are_made_immutable() -> None:
    config = make_config({"bind": "127.0.0.1:0", "env": {"A": "1", "B": "2"}, "middleware": ["a:b"], "keep_alive": 2})
    assert config.bind == ("127.0.0.1:0",)
    assert config.env == (("A", "1"), ("B", "2"))
    assert config.middleware == ("a:b",)
    assert config.keep_alive == 2.0
    assert config.addresses == (Address("tcp", "127.0.0.1", 0),)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"threads": 0}, "threads: 0 is too low (write a value from 1 to 10000)"),
        ({"threads": True}, "True is not a whole number (the default is 8)"),
        ({"threads": "8"}, "threads: '8' is a text; write 8, without quotes"),
        ({"threads": "eight"}, "'eight' is not a whole number"),
        ({"sendfile": "no"}, "'no' is a text; write false, without quotes"),
        ({"sendfile": "maybe"}, "'maybe' is neither true nor false"),
        ({"threads": 2.0}, "2.0 is not a whole number"),
        ({"backlog": 70_000}, "70000 is too high (write a value from 1 to 65535)"),
        ({"header_timeout": 0}, "0 is too low (write 0.001 or more; none: no deadline)"),
        ({"header_timeout": "soon"}, "'soon' is not a duration; write seconds, such as 30 or 1.5, or none"),
        ({"header_timeout": math.nan}, "nan is not a number of seconds"),
        ({"linger_timeout": "none"}, "none is too high (write a value from 0 to 3600)"),
        ({"keep_alive": -1}, "-1 is too low"),
        ({"limit_request_body": "1 potato"}, "'1 potato' is not a size; write bytes"),
        ({"limit_request_body": -1}, "-1 is too low"),
        ({"sendfile": 1}, "1 is neither true nor false"),
        (
            {"log_level": "inf"},
            "'inf' is not one of debug, info, warning, error, critical (did you mean info?)",
        ),
        ({"url_prefix": "app/"}, "'app/' is not a path prefix; write it as /app"),
        ({"middleware": ["mod"]}, "'mod' does not name a callable; write module:callable"),
        ({"var": {"wsgi.input": "x"}}, "'wsgi.input' belongs to the server (PEP 3333)"),
        ({"env": {"A": 1}}, "not a text; put it in quotes"),
        ({"env": ["A"]}, "has no equals sign; write KEY=VALUE"),
        ({"ident": "a\r\nSet-Cookie: b"}, "cannot be a header's value"),
        ({"bind": []}, "bind: it is empty (name at least one"),
        ({"thread": 1}, "thread: there is no such setting (did you mean threads?)"),
        ({"keep-aliv": 1}, "keep-aliv: there is no such setting (did you mean keep_alive?)"),
        ({"zzz": 1}, "zzz: there is no such setting"),
    ],
)
def test_a_wrong_value_is_told_the_fix(values: dict[str, Any], words: str) -> None:
    assert words in str(refusal(**values))


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
        ({}, {"PORT": "http"}, "PORT: '0.0.0.0:http' has no port between 0 and 65535"),
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
    Path("site.toml").write_text("backlog = 7")
    assert load_config({}, {"TRIO_WSGI_CONFIG": "site.toml"}).config == Config(backlog=7)


ADDRESSES: list[tuple[str, Address]] = [
    ("127.0.0.1:8080", Address("tcp", "127.0.0.1", 8080)),
    ("localhost:0", Address("tcp", "localhost", 0)),
    ("tcp://a.example:1", Address("tcp", "a.example", 1)),
    ("localhost", Address("tcp", "localhost", 8000)),
    (":8080", Address("tcp", "0.0.0.0", 8080)),
    ("8080", Address("tcp", "127.0.0.1", 8080)),
    ("[::1]:8080", Address("tcp", "::1", 8080)),
    ("[::]", Address("tcp", "::", 8000)),
    ("unix:/run/a.sock", Address("unix", path="/run/a.sock")),
    ("unix:///run/a.sock", Address("unix", path="/run/a.sock")),
    ("unix:a.sock", Address("unix", path="a.sock")),
    ("unix:@name", Address("unix", path="@name")),
    ("fd://3", Address("fd", fd=3)),
    ("fd://web", Address("fd", name="web")),
    ("fd://app.socket", Address("fd", name="app.socket")),
]


@pytest.mark.parametrize(("text", "address"), ADDRESSES)
def test_address(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", ":", "a:", "a:b", "a:65536", "a:-1", "::1", "::1:80", "[::1", "[::1]x", "[a]:1", "unix:", "fd://", "fd://x:y",
     "fd://x\n", "fd://\u00e4", "fd://" + "x" * 256,
     "http://a:1", "a b:1", "/run/a.sock", "a:\uff11", "a:1\n"],
)  # fmt: skip
def test_wrong_address_is_told_the_fix(text: str) -> None:
    with pytest.raises(ValueError, match="write "):
        parse_address(text)


def test_address_url() -> None:
    assert parse_address("[::1]:1").url("https") == "https://[::1]:1"
    assert parse_address("unix:/a").url() == "unix:/a"


@given(st.integers(min_value=0, max_value=1 << 60))
def test_shown_size_reads_back(size: int) -> None:
    assert parse_size(show_size(size)) == size


@given(st.floats(min_value=0.001, max_value=1e9) | st.just(math.inf))
def test_shown_duration_reads_back(seconds: float) -> None:
    assert parse_seconds(show_seconds(seconds)) == seconds


@given(st.text())
def test_reading_numbers_ends_in_a_value_or_a_value_error(text: str) -> None:
    for parse in (parse_size, parse_seconds, SETTINGS["threads"].kind.parse, parse_address):
        try:
            parse(text)
        except ValueError:
            continue


@given(st.dictionaries(st.text(min_size=1), st.text()), st.lists(st.text()), st.text())
def test_printed_toml_reads_back(env: dict[str, str], middleware: list[str], prefix: str) -> None:
    """What --print-config prints is a file -c reads as the same settings."""
    try:
        config = make_config({"env": env, "middleware": middleware, "pythonpath": prefix, "error_logfile": prefix})
    except ConfigError:
        config = make_config({"pythonpath": prefix})
    origins = dict.fromkeys(SETTINGS, "flag")
    Path("printed.toml").write_text(reference.format_toml(Loaded(config, origins)), "utf-8")
    assert load_config({}, {}, "printed.toml").config == config


def test_configuration_page_names_the_variables_of_others() -> None:
    page = reference.format_markdown()
    for setting in (each for each in SETTINGS.values() if each.familiar):
        assert f"`{setting.familiar}` (`{setting.flag}`)" in page


def test_configuration_page_is_current() -> None:
    page = Path(__file__).parent.parent / "docs" / "configuration.md"
    assert page.read_text("utf-8") == reference.format_markdown(), (
        "write it again: python -m trio_wsgi.reference > docs/configuration.md"
    )
