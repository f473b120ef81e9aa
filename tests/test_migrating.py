"""docs/migrating.md and the hints for flags of other servers: complete, and nothing in them is made up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from answers import read_answer
from asking import Environ, StartResponse, ask, hello, request, tell
from gunicorn.config import KNOWN_SETTINGS
from serving import serving

import trio_wsgi
from trio_wsgi import foreign
from trio_wsgi.cli import main
from trio_wsgi.config import SETTINGS, Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.flags import build_parser, parse_arguments
from trio_wsgi.foreign import find_hint
from trio_wsgi.sources import load_config

PAGE = (Path(trio_wsgi.__file__).parent.parent / "docs" / "migrating.md").read_text()
OURS = set(build_parser()._option_string_actions)
FOREIGN = [(flag, hint) for flags, hint in foreign._HINTS.items() for flag in flags.split()]
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]+")
WAITRESS = {  # Adjustments of waitress 3.0.2
    "host", "port", "ipv4", "ipv6", "listen", "threads", "trusted_proxy", "trusted_proxy_count",
    "trusted_proxy_headers", "log_untrusted_proxy_headers", "clear_untrusted_proxy_headers", "url_scheme",
    "url_prefix", "backlog", "recv_bytes", "send_bytes", "outbuf_overflow", "outbuf_high_watermark", "inbuf_overflow",
    "connection_limit", "cleanup_interval", "channel_timeout", "log_socket_errors", "max_request_header_size",
    "max_request_body_size", "expose_tracebacks", "ident", "asyncore_loop_timeout", "asyncore_use_poll",
    "unix_socket", "unix_socket_perms", "sockets", "channel_request_lookahead", "server_name",
}  # fmt: skip
MOD_WSGI = {  # nginx mod_wsgi's README
    "wsgi_python_optimize", "wsgi_python_executable", "wsgi_python_home", "wsgi_enable_subinterpreters",
    "wsgi_pass_authorization", "wsgi_allow_ranges", "wsgi_script_reloading", "wsgi_reload_mechanism",
    "wsgi_optimize_send_headers", "wsgi_output_buffering", "wsgi_write_buffering", "wsgi_write_buffer_size",
    "wsgi_temp_path", "wsgi_var", "wsgi_use_main_interpreter", "wsgi_middleware", "wsgi_pass",
}  # fmt: skip


def rows(section: str) -> list[tuple[str, str, str]]:
    """The rows of the tables under a heading of level 2."""
    (text,) = (part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE) if part.startswith(f"{section}\n"))
    found = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if "|" in line]
    return [(first, second, third) for first, second, third in found if first.startswith("`")]


SECTIONS = ("gunicorn", "uWSGI", "waitress", "nginx mod_wsgi")


@pytest.mark.parametrize("section", SECTIONS)
def test_every_flag_of_ours_in_a_table_exists(section: str) -> None:
    table = rows(section)
    assert len(table) >= 15
    for _, here, remark in table:
        assert set(FLAG.findall(here + " " + remark)) <= OURS
        assert here == "" or here.startswith(("`--", "the word "))


def test_every_flag_after_the_tables_exists() -> None:
    after = PAGE.rpartition("\n\n")[2]
    assert len(FLAG.findall(after)) > 10
    assert set(FLAG.findall(after)) <= OURS


async def test_the_middleware_that_drops_connection_does() -> None:
    """The code on the page, around an application that sends the header."""
    (code,) = re.findall(r"```python\n# no_connection.py\n(.*?)```", PAGE, re.DOTALL)
    defined: dict[str, Any] = {}
    exec(code, defined)

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
        return [b"hello"]

    for wrap, status in ((lambda app: app, 500), (defined["wrap"], 200)):
        async with serving(wrap(app)) as served:
            assert read_answer(await served.exchange(request())).status == status


async def test_what_is_said_of_prefixes_mounts_methods_and_names_is_so(tmp_path: Path) -> None:
    """Where uWSGI and waitress do otherwise: what is not below a prefix, or not in a mount, never comes to the app."""
    stripped = (await ask(tell, request("GET", "/cart"), var=(("SCRIPT_NAME", "/shop"),))).answer
    told = json.loads(stripped.body)
    assert (told["SCRIPT_NAME"], told["PATH_INFO"], "REMOTE_HOST" in told) == ("/shop", "/cart", False)
    assert (await ask(tell, request("GET", "/cart"), url_prefix="/shop")).answer.status == 404
    for method, status in (("GET", 404), ("PUT", 405)):
        asked = request(method, "/media/upload")
        assert (await ask(hello, asked, static=(f"/media={tmp_path}",))).answer.status == status
    assert json.loads((await ask(tell, request("get"))).answer.body)["REQUEST_METHOD"] == "get"


def test_every_setting_of_gunicorn_has_a_row() -> None:
    named = [first.strip("`") for first, _, _ in rows("gunicorn")]
    assert sorted(named) == sorted(setting.name for setting in KNOWN_SETTINGS)


def names(section: str) -> list[str]:
    """What the first column of a section names, cell by cell."""
    return [name for first, _, _ in rows(section) for name in re.findall(r"`(.*?)`", first)]


def test_every_setting_of_waitress_has_a_row() -> None:
    named = [name for name in names("waitress") if " " not in name]
    assert sorted(named) == sorted(WAITRESS)


def test_every_directive_of_mod_wsgi_has_a_row() -> None:
    named = [first.strip("`") for first, _, _ in rows("nginx mod_wsgi")]
    assert sorted(named) == sorted(MOD_WSGI)


def test_what_has_the_same_name_is_said_to_be_the_same() -> None:
    """A setting of ours that is called as gunicorn's stands in its row."""
    for name, here, _ in rows("gunicorn"):
        if name.strip("`") in Config.__dataclass_fields__:
            assert here.strip("`").lstrip("-").replace("-", "_") == name.strip("`")


def test_the_file_of_the_page_is_read(tmp_path: Path) -> None:
    (toml,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "shop.toml").write_text(toml)
    config = load_config({}, {}, str(tmp_path / "shop.toml")).config
    assert (config.workers, config.keep_alive, config.env) == (4, 65.0, (("MODE", "production"),))


def test_the_console_of_the_page_is_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Commands that fail are run; what they print is on the next line."""
    console = re.findall(r"^\$ trio-wsgi (.*)\n(trio-wsgi: .*)$", PAGE, re.MULTILINE)
    assert len(console) == 2
    for words, printed in console:
        assert main(words.split()) == 1
        assert capsys.readouterr().err == f"{printed}\n"


# -- flags -------------------------------------------------------------------------------------------------------------


def test_a_foreign_flag_is_none_of_ours() -> None:
    assert not {flag for flag, _ in FOREIGN} & OURS


def test_a_foreign_flag_has_one_hint() -> None:
    assert len(FOREIGN) == len(dict(FOREIGN))


@pytest.mark.parametrize(("flag", "hint"), FOREIGN)
def test_a_hint_names_flags_that_exist(flag: str, hint: str) -> None:
    assert set(FLAG.findall(hint)) <= OURS
    assert find_hint(flag) == find_hint(flag.lstrip("-").replace("-", "_")) == hint


def test_every_flag_of_gunicorn_is_ours_or_has_a_hint() -> None:
    theirs = {flag for setting in KNOWN_SETTINGS for flag in setting.cli or ()}
    assert len(theirs) > 60
    assert not {flag for flag in theirs if flag not in OURS and not find_hint(flag)}


def test_every_key_of_a_gunicorn_file_is_ours_or_has_a_hint(tmp_path: Path) -> None:
    """Whoever copies them into TOML is told what to write, and not what some other word looks like."""
    file = tmp_path / "shop.toml"
    for name in {setting.name for setting in KNOWN_SETTINGS} - set(SETTINGS):
        file.write_text(f'{name} = "x"')
        with pytest.raises(ConfigError, match=rf"^{name} in .*: there is no such setting \((?!did you mean)") as told:
            load_config({}, {}, str(file))
        assert set(FLAG.findall(told.value.hint)) <= OURS


@pytest.mark.parametrize("section", ["uWSGI", "waitress"])
def test_every_name_in_a_table_is_a_flag_of_ours_or_has_a_hint(section: str) -> None:
    flags = {f"--{name.replace('_', '-')}" for name in names(section) if " " not in name}
    assert len(flags) > 30
    assert not {flag for flag in flags if flag not in OURS and not find_hint(flag)}


@pytest.mark.parametrize(
    ("line", "values"),
    [  # as people write them in Procfiles, Containerfiles, units and tutorials
        (
            "-w 4 -b :8000 --threads 8 --timeout 60 --access-logfile - --max-requests 1000 app:app",
            {
                "workers": 4,
                "bind": (":8000",),
                "threads": 8,
                "timeout": 60.0,
                "access_logfile": "-",
                "max_requests": 1000,
            },
        ),
        ("app:app -w4 -b0.0.0.0:80 -t 30", {"workers": 4, "bind": ("0.0.0.0:80",), "timeout": 30.0}),
        ("app:app --log-file -", {"error_logfile": "-"}),
        ("--bind unix:/run/app.sock -m 007 app:app", {"bind": ("unix:/run/app.sock",), "umask": "007"}),
        ("--workers=2 --max-requests=500 --max-requests-jitter=50 a.wsgi", {"workers": 2, "max_requests_jitter": 50}),
        ("-u www -g www -p /run/app.pid app:app", {"user": "www", "group": "www", "pid": "/run/app.pid"}),
        ("--certfile a.pem --keyfile a.key -b :443 app:app", {"certfile": ("a.pem",), "keyfile": ("a.key",)}),
        ("-b 0.0.0.0:80 -b [::]:80 --reuse-port app:app", {"bind": ("0.0.0.0:80", "[::]:80"), "reuse_port": True}),
        ("--reload --reload-extra-file a.html app:app", {"reload": True, "reload_extra_file": ("a.html",)}),
        ("-e A=1 --env B=2 --chdir /srv --pythonpath /lib app:app", {"env": (("A", "1"), ("B", "2")), "chdir": "/srv"}),
        ("--graceful-timeout 90 --keep-alive 5 app:app", {"graceful_timeout": 90.0, "keep_alive": 5.0}),
        ("--forwarded-allow-ips=* --proxy-protocol app:app", {"forwarded_allow_ips": ("*",), "proxy_protocol": True}),
        ("--no-sendfile --log-level debug --backlog 512 app:app", {"sendfile": False, "backlog": 512}),
        ("--limit-request-line 0x app:app", None),
    ],
)
def test_a_command_line_of_gunicorn_means_the_same(line: str, values: dict[str, object] | None) -> None:
    """PAINS 50 (mcp-context-forge#2358): max-requests, jitter, graceful-timeout and the rest have the same names."""
    if values is None:
        with pytest.raises(ConfigError):
            load_config(parse_arguments(build_parser(), line.split())[1], {})
        return
    options, flags = parse_arguments(build_parser(), line.split())
    config = load_config(flags, {}).config
    assert options.app in {"app:app", "a.wsgi"}
    assert {name: getattr(config, name) for name in values} == values


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("-k gevent app:app", "-k: there is no such flag (there is one kind of worker"),
        ("-k=gthread app:app", "-k: there is no such flag (there is one kind of worker"),
        ("--worker-class=gthread app:app", "--worker-class: there is no such flag (there is one kind of worker"),
        ("app:app -D", "-D: there is no such flag (it stays in the foreground"),
        ("--name shop app:app", "--name: there is no such flag (give the service its name"),
        ("--worker-tmp-dir /dev/shm app:app", "--worker-tmp-dir: there is no such flag (leave it out"),
        ("--statsd-host localhost:8125 app:app", "(count in the access log"),
        ("--host 0.0.0.0 --port 80 app:app", "--host: there is no such flag (write --bind HOST:PORT)"),
        (
            "-c gunicorn.conf.py app:app",
            "gunicorn.conf.py is no TOML file (write the settings of gunicorn.conf.py in TOML",
        ),
        ("-c python:conf app:app", "python:conf is no TOML file"),
        (
            "--http :8000 app:app",
            "--http: ':8000' is not one of auto, h11, httptools (an address is given with --bind)",
        ),
        ("--https :8443,a.crt,a.key app:app", "(write --bind, --certfile and --keyfile)"),
        ("-s /run/app.sock app:app", "-s: there is no such flag (write --bind)"),
        ("-M app:app", "-M: there is no such flag (leave it out: it is so here)"),
        ("-H /venv app:app", "-H: there is no such flag (start the trio-wsgi that is installed in the environment)"),
        ("-w app:app", "--workers: 'app:app' is not a whole number (the default is 1; an application is named without"),
        ("-d app.log app:app", "-d: there is no such flag (it stays in the foreground"),
        ("-l 100 app:app", "-l: there is no such flag (write --backlog)"),
        ("-z 30 app:app", "-z: there is no such flag (see --header-timeout,"),
        ("-C 660 app:app", "-C: there is no such flag (write --unix-socket-perms)"),
        ("-L app:app", "-L: there is no such flag (leave it out: without --access-logfile"),
        ("--gevent 100 app:app", "--gevent: there is no such flag (there is one kind of worker"),
        ("--import tasks app:app", "--import: there is no such flag (write it into the module of the application"),
        ("--log-master app:app", "--log-master: there is no such flag (leave it out: no process waits for its log)"),
        ("--module shop --callable app", "(write the application as module:attribute)"),
        ("--callable app", "--callable: there is no such flag (write the application as module:attribute)"),
        ("--check-static /srv app:app", "--check-static: there is no such flag (wrap the application in a middleware"),
        ("--casefold-http-method app:app", "(leave it out: every token is a method, and handed on as it was sent)"),
        ("--limit-post 1000 app:app", "--limit-post: there is no such flag (write --limit-request-body)"),
        ("--mount /shop=app:app", "--mount: there is no such flag (write --url-prefix"),
        ("--listen 100 app:app", "--listen: there is no such flag (write --bind ADDRESS; for a number of connections,"),
        ("--listen=*:8080 --no-ipv6 app:app", "--listen: there is no such flag (write --bind ADDRESS"),
        (
            "--proxy-protocol off app:app",
            "--proxy-protocol: it takes no 'off' (write --no-proxy-protocol)",
        ),
        (
            "--proxy-protocol auto app:app",
            "--proxy-protocol: it takes no 'auto' (leave it out: it reads both versions)",
        ),
        ("--pidfile a.pid app:app", "--pidfile: there is no such flag (write --pid)"),
        ("--chmod-socket=660 app:app", "--chmod-socket: there is no such flag (write --unix-socket-perms)"),
        ("--pyhome /venv app:app", "(start the trio-wsgi that is installed in the environment)"),
        ("--insecure-bind :80 app:app", "--insecure-bind: there is no such flag (write --bind, for TLS;"),
        ("--no-ipv6 app:app", "--no-ipv6: there is no such flag (write --bind HOST:PORT"),
    ],
)
def test_what_is_not_there_is_told_with_what_to_do(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
