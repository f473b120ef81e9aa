"""Who takes part: one row each, with its command line and what it can do.

Laws:
- One worker process, eight threads where there are threads, no access log, limits of connections and their times out
  of the way (20,000 of them; a minute or more); everything else as its authors ship it.
- A row tells facts only. What a scenario needs is in the scenario, how a server is run is in `server.py`.
- Nobody reads settings but those of its row: files that a server looks for in the working directory are turned off by
  name, for that is the application's; variables that servers read (`VARIABLES`) are kept from all of them.

Commands are templates: {python}, {program}, {port}, {app}, {threads}, {files} (the folder of sample files),
{folder} (empty, for this run), {config} (the file made of `config`), {cert}, {key}.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Can(StrEnum):
    """What a contestant can do, and a scenario may need."""

    HELLO = "answer /hello"
    FILES = "send /file/NAME"
    APP = "run the application: streams, uploads"
    STATIC = "serve /static/NAME without the application"
    RANGES = "answer Range for /file/NAME by itself"
    TLS = "speak TLS"
    RELOAD = "replace its workers while it serves"


WSGI = frozenset({Can.HELLO, Can.FILES, Can.APP})


@dataclass(frozen=True, slots=True)
class Contestant:
    """One row of the table.

    Attributes:
        name: as it is called on the command line and in the report.
        command: how to start it in the foreground, `listen` included as {listen}.
        listen: the arguments that name the address.
        packages: Python distributions that must be installed; the first one's version is reported.
        program: a program that must be on the PATH.
        source: a C file of reference/ from which {program} is compiled.
        static: arguments for a mount of {files} at /static.
        tls: what stands instead of `listen` to speak TLS.
        config: text of a configuration file.
        reload: the signal to the first process that replaces the workers, by name.
        group: where it is shown: "ours", "python", "native", "file server", "yardstick".
        tags: scenarios with the same tag run it; without any, all that it can do.
    """

    name: str
    command: str
    listen: str = ""
    can: frozenset[Can] = WSGI
    packages: tuple[str, ...] = ()
    program: str = ""
    source: str = ""
    static: str = ""
    tls: str = ""
    config: str = ""
    reload: str = ""
    group: str = "python"
    tags: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        by_field = {Can.STATIC: self.static, Can.TLS: self.tls, Can.RELOAD: self.reload}
        object.__setattr__(self, "can", self.can | {ability for ability, text in by_field.items() if text})


VARIABLES = (  # in which servers look for settings of theirs: patterns of names
    *("TRIO_WSGI_*", "GUNICORN_*", "UWSGI_*", "GRANIAN_*", "GEVENT_*"),
    *("PORT", "WEB_CONCURRENCY", "SENDFILE", "FORWARDED_ALLOW_IPS"),
    *("LISTEN_*", "NOTIFY_SOCKET", "WATCHDOG_*"),  # of systemd, for whoever started the bench
)
GUNICORN = (  # a module that names no setting keeps it from ./gunicorn.conf.py
    "{python} -m gunicorn --config python:bench --workers 1 --keep-alive 75 --backlog 4096 --worker-connections 20000"
    " --log-level error {listen} {static} "
)
OURS = (  # an empty file keeps it from ./pyproject.toml
    "{python} -m trio_wsgi --config /dev/null --workers 1 --threads {threads} --connection-limit 20000 --backlog 4096"
    " --log-level warning {listen} {static} "
)
OURS_CAN = WSGI | {Can.RANGES}
UWSGI = (
    "{python} -m bench.launch uwsgi --master --die-on-term --processes 1 --threads {threads} --enable-threads"
    " --need-app --disable-logging --socket-timeout 60 --listen 4096 {listen} {static} "
)
NGINX = """
daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 60000;
error_log stderr error;
pid {folder}/nginx.pid;
events {{ worker_connections 25000; }}
http {{
    access_log off;
    sendfile on;
    default_type application/octet-stream;
    keepalive_requests 100000000;
    client_max_body_size 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096 {listen};
        location = /hello {{ default_type text/plain; return 200 "Hello, world!"; }}
        location /file/ {{ alias "{files}/"; {more} }}
        location /static/ {{ alias "{files}/"; {more} }}
    }}
}}
"""
NGINX_CAN = frozenset({Can.HELLO, Can.FILES, Can.RANGES, Can.STATIC})
NGINX_TLS = "ssl; ssl_certificate {cert}; ssl_certificate_key {key}"

CONTESTANTS = (
    Contestant(
        "trio-wsgi",
        OURS + "--http h11 {app}",
        "--bind 127.0.0.1:{port}",
        OURS_CAN,
        ("trio-wsgi",),
        static="--static /static={files}",
        tls="--bind 127.0.0.1:{port} --certfile {cert} --keyfile {key}",
        reload="HUP",
        group="ours",
    ),
    Contestant(
        "trio-wsgi-httptools",
        OURS + "--http httptools {app}",
        "--bind 127.0.0.1:{port}",
        OURS_CAN,
        ("trio-wsgi", "httptools"),
        static="--static /static={files}",
        group="ours",
        tags=frozenset({"small", "files", "streams"}),
    ),
    Contestant(
        "trio-wsgi-streamed",
        OURS + "--http h11 --no-request-buffering {app}",
        "--bind 127.0.0.1:{port}",
        OURS_CAN,
        ("trio-wsgi",),
        group="ours",
        tags=frozenset({"uploads"}),
    ),
    Contestant(
        "gunicorn-sync",
        GUNICORN + "-k sync {app}",
        "--bind 127.0.0.1:{port}",
        packages=("gunicorn",),
        tls="--bind 127.0.0.1:{port} --certfile {cert} --keyfile {key}",
        reload="HUP",
    ),
    Contestant(
        "gunicorn-gthread",
        GUNICORN + "-k gthread --threads {threads} {app}",
        "--bind 127.0.0.1:{port}",
        packages=("gunicorn",),
        tls="--bind 127.0.0.1:{port} --certfile {cert} --keyfile {key}",
        reload="HUP",
    ),
    Contestant(
        "gunicorn-gevent",
        GUNICORN + "-k gevent {app}",
        "--bind 127.0.0.1:{port}",
        packages=("gunicorn", "gevent"),
        tls="--bind 127.0.0.1:{port} --certfile {cert} --keyfile {key}",
        reload="HUP",
    ),
    Contestant(
        "gevent.pywsgi",
        "{python} -m bench.launch gevent {listen} {app}",
        "127.0.0.1:{port}",
        packages=("gevent",),
        tls="127.0.0.1:{port},{cert},{key}",
    ),
    Contestant(
        "waitress",
        "{python} -m waitress --threads {threads} --connection-limit 20000 --asyncore-use-poll"
        " --backlog 4096 {listen} {app}",
        "--listen 127.0.0.1:{port}",
        packages=("waitress",),
    ),
    Contestant(
        "cheroot",
        "{python} -m bench.launch cheroot {listen} {app} {threads}",
        "127.0.0.1:{port}",
        packages=("cheroot",),
    ),
    Contestant(
        "uwsgi",
        UWSGI + "--module {app}",
        "--http11-socket 127.0.0.1:{port}",
        packages=("uwsgi",),
        static="--static-map /static={files}",
        tls="--https-socket 127.0.0.1:{port},{cert},{key}",
        reload="HUP",
        group="native",
    ),
    Contestant(
        "uwsgi-close",  # without keep-alive: with it, uWSGI does not tell where a body of unknown length ends
        UWSGI + "--module {app}",
        "--http-socket 127.0.0.1:{port}",
        packages=("uwsgi",),
        group="native",
        tags=frozenset({"streams"}),
    ),
    Contestant(
        "uwsgi-offload",  # without keep-alive; slow readers that come all at once are cut off with and without it
        UWSGI + "--offload-threads 2 --module {app}",
        "--http-socket 127.0.0.1:{port}",
        packages=("uwsgi",),
        static="--static-map /static={files}",
        group="native",
        tags=frozenset({"files", "slow", "cold"}),
    ),
    Contestant(
        "granian",
        "{python} -m granian --interface wsgi --no-ws --workers 1 --blocking-threads {threads} --backlog 4096"
        " --backpressure 20000 --http1-header-read-timeout 60000 --log-level error {listen} {static} {app}",
        "--host 127.0.0.1 --port {port}",
        packages=("granian",),
        static="--static-path-route /static --static-path-mount {files}",
        tls="--host 127.0.0.1 --port {port} --ssl-certificate {cert} --ssl-keyfile {key}",
        reload="HUP",
        group="native",
    ),
    Contestant(
        "bjoern",
        "{python} -m bench.launch bjoern {listen} {app}",
        "127.0.0.1:{port}",
        packages=("bjoern",),
        group="native",
    ),
    Contestant(
        "pyruvate",
        "{python} -m bench.launch pyruvate {listen} {app} {threads}",
        "127.0.0.1:{port}",
        packages=("pyruvate",),
        group="native",
    ),
    Contestant(
        "nginx",
        "{program} -p {folder} -c {config}",
        can=NGINX_CAN,
        program="nginx",
        config=NGINX.replace("{more}", ""),
        tls=NGINX_TLS,
        reload="HUP",
        group="file server",
    ),
    *(
        Contestant(
            f"nginx-{way}",
            "{program} -p {folder} -c {config}",
            can=NGINX_CAN,
            program="nginx",
            config=NGINX.replace("{more}", directive),
            group="file server",
            tags=frozenset({tag}),
        )
        for way, directive, tag in (
            ("nopush", "tcp_nopush on;", "files"),  # as Debian ships it, and as guides have it where files are sent
            ("aio", "aio threads;", "cold"),
        )
    ),
    Contestant(
        "sendfile-loop",
        "{program} {port} {files}",
        can=frozenset({Can.FILES}),
        source="sendfile_loop.c",
        group="yardstick",
        tags=frozenset({"files"}),
    ),
    *(
        Contestant(
            f"trio-h11-{way}",
            f"{{python}} -m bench.reference.trio_h11_loop {{port}} {way}",
            can=frozenset({Can.HELLO}),
            packages=("trio", "h11"),
            group="yardstick",
            tags=frozenset({"small"}),
        )
        for way in ("inline", "thread")
    ),
)
QUICK = frozenset({"trio-wsgi", "gunicorn-gthread", "gunicorn-gevent", "waitress", "granian", "nginx"})  # of --quick
SUBJECT = "trio-wsgi"  # whom the report compares the others with
BY_NAME = {contestant.name: contestant for contestant in CONTESTANTS}


def find_group(name: str) -> str:
    """Where a contestant is shown; one that has left the table since it was measured is of the group "former"."""
    return BY_NAME[name].group if name in BY_NAME else "former"
