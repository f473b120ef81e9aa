"""Rules of refusals: what can never work is refused at the start, and told what to write."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from serving import clean_environment

from trio_wsgi.cli import main
from trio_wsgi.config import SETTINGS, Config, make_config
from trio_wsgi.errors import ConfigError
from trio_wsgi.sources import load_config

pytestmark = pytest.mark.usefixtures("empty_directory")


QUOTES = "is a number, where a text is wanted; put it in quotes as you have written it"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("umask = 0o027", f"umask in site.toml: 23 {QUOTES}"),
        ("unix-socket-perms = 0o660", f"unix-socket-perms in site.toml: 432 {QUOTES}"),
        ("user = 1000", f"user in site.toml: 1000 {QUOTES}"),
        ("tls-min = 1.2", f"tls-min in site.toml: 1.2 {QUOTES}"),
        ("pythonpath = ['a', 'b']", "pythonpath in site.toml: ['a', 'b'] is not a text (write \"DIR,DIR\")"),
        ("static = { '/s' = 'st' }", 'is not a list of texts (write "/URL=DIR")'),
        ("logconfig_dict = { version = 1 }", "the application may set logging up itself"),
    ],
)
def test_a_key_of_the_wrong_kind_is_told_how_to_write_it(text: str, words: str) -> None:
    Path("site.toml").write_text(text)
    with pytest.raises(ConfigError) as told:
        load_config({}, {}, "site.toml")
    assert words in str(told.value)


def test_a_number_in_quotes_is_what_was_meant() -> None:
    """What the message asks for is taken."""
    assert make_config({"umask": "0o027", "user": "1000"}) == Config(umask="0o027", user="1000")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"app_timeout": None}, "where there is to be no deadline, write math.inf or 'none' (the default is inf)"),
        ({"app_timeout_header": "a b"}, "'a b' cannot be a header's name; write a token such as X-Timeout"),
        ({"app_timeout_header": "a:b"}, "'a:b' cannot be a header's name"),
        ({"app_timeout_header": "h\u00e9llo"}, "cannot be a header's name"),
        ({"var": {"trio_wsgi.x": "5"}}, "'trio_wsgi.x' belongs to the server"),
        ({"static": ["/s=a", "/t=b", "/s=c"]}, "static: '/s=c' and '/s=a' are at one URL; give each its own"),
        ({"static": ["/a%20b=a", "/a%20b/=b"]}, "are at one URL"),
        ({"static": ["/s/../t=a"]}, "'/s/../t=a' has a dot segment"),
        ({"static": ["/s/%2e=a"]}, "has a dot segment"),
        ({"accel": ["/s/./t=a"]}, "has a dot segment"),
        ({"static": ["/\u00e9=a"]}, "has a URL beyond ASCII; percent-encode it: /%C3%A9=a"),
        ({"url_prefix": "/app/../b"}, "'/app/../b' has a dot segment"),
        ({"url_prefix": "/my%20app"}, "'/my%20app' is percent-encoded; write it as the application is to see it"),
        ({"forwarded_allow_ips": "10.0.0.7, proxy"}, "'proxy' is no address or network; write 10.0.0.7, 10.0.0.0/8"),
        ({"forwarded_allow_ips": "10.0.0.7 10.0.0.8"}, "write 10.0.0.7, 10.0.0.0/8 or *, with commas between"),
        ({"trusted_proxy_headers": "forwarded x-forwarded-for"}, "x-forwarded-prefix, forwarded, with commas between"),
        ({"umask": "x"}, "umask: 'x' is no octal mode; write three digits from 0 to 7, such as 027"),
        ({"unix_socket_perms": "x"}, "such as 660"),
        ({"trusted_proxy_headers": "Forwarded,X-Real-IP"}, "'X-Real-IP' is not one of them; write some of x-forw"),
        ({"cpu_affinity": "0,5-2"}, "cpu_affinity: '5-2' runs backwards; write 2-5"),
        ({"cpu_affinity": "all"}, "cpu_affinity: 'all' names no CPUs; write auto, off or a list such as 0,2-3"),
        ({"access_logformat": "%(hh)s"}, "access_logformat: %(hh)s is not an atom; did you mean %(h)s?"),
        ({"user": ""}, "user: '' is empty; name one, or leave it out (write \"USER\")"),
        ({"group": ""}, "group: '' is empty; name one, or leave it out (write \"GROUP\")"),
        ({"error_logfile": ""}, "error_logfile: '' is empty; name one, or leave it out (the default is \"-\")"),
        ({"certfile": [""]}, "certfile: [''] is empty; name one, or leave it out"),
        ({"bind": "a:1,b:2"}, "'a:1,b:2' has a comma; give each address a --bind of its own"),
    ],
)
def test_a_value_that_could_never_work_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as told:
        make_config(values)
    assert words in str(told.value)


TOLD = {"FILE", "DIR", "USER", "GROUP", "GLOB", "NAME", "ADDRESS", "KEY"}  # what is told to the system, in a metavar
NOT_TOLD = {"app_timeout_header", "forwarded_allow_ips", "trusted_proxy_headers", "proxy_allow_from", "var"}


@pytest.mark.parametrize(
    ("character", "words"),
    [
        ("\0", "has a NUL, which ends every text of the system; leave it out"),
        ("\ud800", "has '\\ud800', and names and paths are utf-8 here; leave it out"),
    ],
)
def test_what_the_system_cannot_be_told_is_refused(character: str, words: str) -> None:
    """By each setting that becomes a path, the name of somebody or a variable: who uses it would fail in odd ways."""
    seen = set()
    for name, setting in SETTINGS.items():
        shape = setting.metavar or setting.kind.metavar
        if name in NOT_TOLD or not TOLD.intersection(re.findall("[A-Z]+", shape)):
            continue
        before = {"bind": "unix:/", "static": "/s=", "accel": "/s=", "env": "A="}.get(name, "")
        with pytest.raises(ConfigError) as told:
            make_config({name: f"{before}a{character}"})
        assert told.value.setting == name
        assert words in str(told.value) or (character == "\0" and name in {"bind", "env"}), told.value
        seen.add(name)
    assert len(seen) >= 18


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("threads = " + "9" * 5000, "site.toml is not TOML: Exceeds the limit"),
        ("x = " + "[" * 3000, "site.toml is not TOML: maximum recursion depth exceeded"),
        ("timeout = 1" + "0" * 400, "is more than can be counted"),
        ("bind = 'fd://2147483648'", "'fd://2147483648' is beyond all descriptors"),
        ("bind = 'fd://" + "9" * 5000 + "'", "is beyond all descriptors"),
    ],
)
def test_what_is_too_much_for_python_or_the_system_is_refused_by_name(text: str, words: str) -> None:
    """Neither a file of settings nor a value in it is an error of ours."""
    Path("site.toml").write_text(text)
    with pytest.raises(ConfigError) as told:
        load_config({}, {}, "site.toml")
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("toml", "flags", "told"),
    [
        ("chdir = '/\u65e5'", [], "chdir in site.toml: '/\\u65e5' has '\\u65e5', and names and paths are ascii here"),
        ("static = '/\u65e5=/tmp'", [], "has a URL beyond ASCII; percent-encode it: /%E6%97%A5=/tmp"),
        ("", ["--static", "/\u65e5=/tmp"], "has a URL beyond ASCII; percent-encode it: /%E6%97%A5=/tmp"),
        ("", ["--static", os.fsdecode(b"/\xff=/tmp")], "has a URL beyond ASCII; percent-encode it: /%FF=/tmp"),
    ],
)
def test_a_locale_that_cannot_say_a_name_is_to_blame_for_it(toml: str, flags: list[str], told: str) -> None:
    """The message speaks of the setting, and of no codec; what is to be percent-encoded is so in any locale."""
    Path("site.toml").write_text(toml, "utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "trio_wsgi", "--check-config", "-c", "site.toml", *flags],
        env=clean_environment() | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr.count("\n")) == (1, 1)
    assert told in run.stderr


def test_what_is_near_to_those_is_taken() -> None:
    taken = {"static": ["/s=a", "/s/t=b", "/S=c", "/..a=d"], "url_prefix": "/100%", "app_timeout_header": "X_Time"}
    assert make_config(taken).static == ("/s=a", "/s/t=b", "/S=c", "/..a=d")
    assert make_config({"accel": ["/=a", "/=b"]}).accel == ("/=a", "/=b")  # X-Sendfile names a file by its own path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--paste-global", "a=b", "app:app"], "--paste-global: there is no --paste that it could be for"),
        (
            ["--", "app:app", "--check-config"],
            "--check-config: behind -- it is a word like others (write it before --)",
        ),
        (["--user", "", "app:app"], "--user: '' is empty; name one, or leave it out"),
        (["--config=", "app:app"], "--config: '' names no file (write a TOML file, or leave it out)"),
        (["files", "", "--check-config"], "files: '' names no directory (name one; this one is a dot)"),
        (["files", ".", "--static", "/=/tmp", "--check-config"], "static: '/=/tmp' and '/="),
    ],
)
def test_a_command_line_that_could_never_work_is_refused(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_what_standard_output_cannot_take_is_one_line() -> None:
    """A name of a file need not be UTF-8, and TOML must be."""
    run = subprocess.run(
        [sys.executable, "-m", "trio_wsgi", "--print-config", "--chdir", os.fsdecode(b"d\xff")],
        env=clean_environment() | {"PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        "trio-wsgi: error: standard output: it takes no '\\udcff', which is not utf-8 "
        "(set PYTHONIOENCODING=utf-8:surrogateescape)\n"
    )
