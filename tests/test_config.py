"""Rules of settings: each is declared once and read the same from a flag, a variable, TOML and Python."""

from __future__ import annotations

import dataclasses
import math
import pickle
from pathlib import Path
from typing import Any

import pytest

from trio_wsgi.address import Address
from trio_wsgi.config import SETTINGS, Config, make_config
from trio_wsgi.errors import ConfigError
from trio_wsgi.setting import Setting
from trio_wsgi.sources import load_config

pytestmark = pytest.mark.usefixtures("empty_directory")

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
            Path("site.toml").write_text(f"{key} = {setting.kind.toml(value)}")
            assert getattr(load_config({}, {}, "site.toml").config, setting.name) == value

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


def test_what_may_be_opened_later_is_placed_in_the_directory_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each setting that names files or directories, but for those that are found before an application is imported."""
    before_import = {"pid", "chdir", "pythonpath"}
    monkeypatch.chdir(tmp_path)
    for name, setting in SETTINGS.items():
        if {"FILE", "DIR"}.intersection(setting.metavar.replace("=", ",").split(",")) and name not in before_import:
            here, there = ("/s=here", f"/s={tmp_path}/here") if "=" in setting.metavar else ("here", f"{tmp_path}/here")
            placed = Config(**{name: here}).placed()
            assert getattr(placed, name) == ((there,) if setting.kind.repeatable else there)
            assert placed.placed() == placed
    assert Config(access_logfile="-").placed() == Config(access_logfile="-")
