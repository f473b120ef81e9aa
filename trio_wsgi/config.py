"""Every setting of the server, each written once.

Laws:

* `Config` is immutable, hashable and valid: whoever holds one need not check anything again.
* Flags, TOML keys, environment names, `--help`, `--print-config` and docs/configuration.md are made from
  these declarations and from nothing else.
* Seconds and bytes. A duration of ``none`` is `math.inf`.

To add a setting, add one field under its section, an example to tests/test_config.py, and write the page anew
(`reference`). The annotation chooses how it is read (`kind.KINDS`).
"""
# ruff: noqa: RUF009 - calls in dataclass defaults are what a declaration is made of

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trio_wsgi.address import Address, parse_address
from trio_wsgi.checks import (
    check_address,
    check_affinity,
    check_header_name,
    check_header_value,
    check_health_path,
    check_mode,
    check_mount,
    check_mounts_apart,
    check_networks,
    check_prefix,
    check_proxy_headers,
    check_reference,
    check_told,
    check_told_pair,
    check_umask,
    check_variable,
)
from trio_wsgi.errors import ConfigError
from trio_wsgi.kind import GIB, KIB, MIB, Account, File, Files, Mounts, Pairs, Seconds, Size, Strings
from trio_wsgi.rules.forwarded import BELIEVABLE
from trio_wsgi.rules.logline import DEFAULT_FORMAT, compile_format
from trio_wsgi.rules.ranges import DEFAULT_MAX_RANGES
from trio_wsgi.setting import Reach, Section, read_settings

BINDING = Section("Binding", "Where connections come from.")
PROCESSES = Section(
    "Processes", "Workers are fresh interpreters behind one supervisor, which owns the sockets.", reach=Reach.COMMAND
)
RELOADING = Section("Reloading", "For development, and for those who edit what is being served.", reach=Reach.COMMAND)
THREADS = Section("Threads", "The application runs in threads; downloads that are under way hold none.")
DEADLINES = Section("Deadlines", "None of them cuts a transfer that makes progress. 'none' switches a deadline off.")
TLS = Section("TLS", "Used where a certificate is named.")
PROXIES = Section("Behind proxies", "Whose word about the client is taken.")
LIMITS = Section("Limits", "What a client may send; beyond, the answer is a 4xx and the connection closes.")
WSGI = Section("WSGI", "The application and what it sees.")
RESPONSES = Section("Responses", "How what the application produces leaves.")
FILES = Section("Files", "How files leave: the application's own, and those of mounts.")
REQUESTS = Section("Requests", "How request bodies arrive.")
LOGGING = Section("Logging", reach=Reach.PROCESS)

_BEFORE_IMPORT = "it counts before an application is imported: do it in your program"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of one server.

    Args:
        every setting by its name, checked: a wrong type or a value out of bounds is refused. Beside what the
        annotations say (tuples, bytes, seconds, `math.inf`), lists, tables, sizes such as ``"64k"`` and durations
        such as ``"none"`` are taken and become that; type checkers let them pass in `run`, which takes anything.

    Raises:
        ConfigError: names the setting, the value and the fix; show it to the operator.
    """

    # Binding
    bind: Strings = BINDING.setting(
        ("127.0.0.1:8000",),
        "Address to listen at: HOST:PORT, [IPV6]:PORT, :PORT, unix:PATH, fd://N or fd://NAME. Repeatable. "
        "Port 0 lets the kernel choose. Without any, the sockets that systemd hands over are served; without those, "
        "PORT in the environment means 0.0.0.0:$PORT.",
        flags=("-b",),
        metavar="ADDRESS",
        check=check_address,
        familiar="PORT",
        familiar_form="0.0.0.0:{}",
    )
    backlog: int = BINDING.setting(2048, "Connections the kernel queues while we are not accepting.", low=1, high=65535)
    reuse_port: bool = BINDING.setting(
        False, "Give each worker a TCP socket of its own, among which the kernel spreads connections (SO_REUSEPORT)."
    )
    unix_socket_perms: str = BINDING.setting(
        "",
        "Permissions of unix sockets, in octal, such as 660. Without it, what umask leaves.",
        metavar="MODE",
        check=check_mode,
    )
    unix_socket_owner: str = BINDING.setting(
        "",
        "Owner of unix sockets: USER, USER:GROUP or :GROUP. Without it, user and group.",
        metavar="USER:GROUP",
        check=check_told,
    )
    http: str = BINDING.setting(
        "auto",
        "What parses HTTP: httptools (the extra 'fast') is quicker, both are held to the same strictness, but that "
        "httptools takes only tokens and quoted strings in chunk extensions, and no white "
        "space. auto: httptools where it is installed.",
        choices=("auto", "h11", "httptools"),
        no_choice="an address is given with --bind",  # uWSGI's --http
    )
    health_path: str = BINDING.setting(
        "",
        "Path that the server itself answers: 200 while it serves, 503 once it drains. Empty: none.",
        metavar="/PATH",
        check=check_health_path,
    )

    # Processes
    workers: int = PROCESSES.setting(
        1,
        "Worker processes. 0: serve in this process, without a supervisor (HUP reads certificates anew, and no code).",
        flags=("-w",),
        high=1000,
        no_choice="an application is named without a flag",  # uWSGI's -w
        familiar="WEB_CONCURRENCY",
        instead="use the command; several processes of your own can share a port by reuse_port",
    )
    timeout: Seconds = PROCESSES.setting(
        30.0,
        "Longest silence of a worker's event loop: then its stacks are logged and it is replaced. Requests and "
        "downloads may take as long as they like.",
        flags=("-t",),
        low=1,
        instead="it is for workers that hang; requests have app_timeout",
    )
    boot_timeout: Seconds = PROCESSES.setting(120.0, "For a worker to import the application and listen.", low=0.1)
    max_requests: int = PROCESSES.setting(
        0, "Requests after which a worker is replaced; nothing under way is cut. 0: never."
    )
    max_requests_jitter: int = PROCESSES.setting(
        0,
        "Up to so many requests more, at random, so that workers are not all replaced at once.",
    )
    max_rss: Size = PROCESSES.setting(
        0,
        "Resident memory of a worker beyond which it is replaced; nothing under way is cut. 0: no limit.",
    )
    cpu_affinity: str = PROCESSES.setting(
        "off",
        "Which CPU a worker is pinned to: off, auto (one each, in turn), or a list such as 0,2-3 to take them from.",
        metavar="auto|off|LIST",
        check=check_affinity,
        reach=Reach.PROCESS,
        instead="call os.sched_setaffinity in your program",
    )
    pid: str | None = PROCESSES.setting(
        None,
        "File for the process id of the supervisor.",
        flags=("-p",),
        metavar="FILE",
        check=check_told,
        reach=Reach.PROCESS,
    )
    user: Account | None = PROCESSES.setting(
        None,
        "User that the application runs as. Sockets are bound and logs opened before, the application is imported "
        "afterwards; a supervisor stays who it is.",
        flags=("-u",),
        metavar="USER",
        check=check_told,
        reach=Reach.PROCESS,
        instead="do it in your program; unix sockets have unix_socket_owner",
    )
    group: Account | None = PROCESSES.setting(
        None,
        "Group that the application runs as; without it, the user's.",
        flags=("-g",),
        metavar="GROUP",
        check=check_told,
        reach=Reach.PROCESS,
        instead="do it in your program; unix sockets have unix_socket_owner",
    )
    umask: str = PROCESSES.setting(
        "",
        "Permissions that files we make do not have, in octal, such as 027. Without it, inherited.",
        flags=("-m",),
        metavar="MODE",
        check=check_umask,
        reach=Reach.PROCESS,
        instead="do it in your program; unix sockets have unix_socket_perms",
    )

    # Reloading
    reload: bool = RELOADING.setting(
        False,
        "Replace the workers when a file that the application has imported changes. For development.",
    )
    reload_extra_file: Strings = RELOADING.setting(
        (), "Further file, or glob, to watch under --reload. Repeatable.", metavar="GLOB", check=check_told
    )
    script_reloading: bool = RELOADING.setting(
        False,
        "Look at each request whether the application's file has changed, and reload it if so.",
        instead="it has no name: use the command",
    )
    reload_mechanism: str = RELOADING.setting(
        "module",
        "How script_reloading does it: module imports it anew in place, process answers this request with the old "
        "code and Refresh: 0, and replaces the worker.",
        choices=("module", "process"),
    )

    # Threads
    threads: int = THREADS.setting(8, "Threads that run the application.", low=1, high=10_000)
    queue_size: int = THREADS.setting(
        1024,
        "Requests that may wait for a thread. Beyond, the answer is 503 with Retry-After. 0: none waits.",
        metavar="N",
    )
    connection_limit: int = THREADS.setting(
        10_000,
        "Open connections. At the limit we stop accepting and the kernel queues; nobody is reset.",
        low=1,
    )

    # Deadlines
    header_timeout: Seconds = DEADLINES.setting(
        30.0,
        "For a new connection to begin its first request; then for each request head, from its first byte to its end.",
        low=0.001,
    )
    body_timeout: Seconds = DEADLINES.setting(60.0, "Longest wait for the next bytes of a request body.", low=0.001)
    write_timeout: Seconds = DEADLINES.setting(
        60.0,
        "Longest time in which the client's kernel takes no byte of the response. It does so in large steps: for a "
        "reader of a few hundred bytes per second they are minutes apart. On Linux also for a client that vanishes "
        "while the application works for it: its request is cancelled once its system answers nothing for so long.",
        low=0.001,
    )
    keep_alive: Seconds = DEADLINES.setting(
        75.0,
        "A connection may idle between requests. Longer than the load balancer's. 0 switches keep-alive off.",
    )
    linger_timeout: Seconds = DEADLINES.setting(
        5.0,
        "Reading on what was left of a body, or after the last answer, so that a client that still sends can see it. 0"
        ": close at once.",
        high=3600,
    )
    app_timeout: Seconds = DEADLINES.setting(
        math.inf,
        "For the application to work on one request (504), not counting its waits for the client. A request that "
        "ignores its cancellation is given up 5 s later.",
        low=0.001,
    )
    app_timeout_header: str = DEADLINES.setting(
        "",
        "Header that shortens app_timeout for its request, in seconds. Only where the clients, or the proxy that "
        "sets it, are trusted.",
        metavar="NAME",
        check=check_header_name,
    )
    queue_timeout: Seconds = DEADLINES.setting(30.0, "For a request to wait for a thread (503).", low=0.001)
    graceful_timeout: Seconds = DEADLINES.setting(
        30.0, "For requests and downloads under way to finish after TERM. 0: cut at once; none: wait for all."
    )

    drain_max: Seconds = DEADLINES.setting(
        3600.0, "For downloads that still move at the end of graceful_timeout to finish. 0: no limit."
    )
    drain_min_rate: Size = DEADLINES.setting(
        1 * KIB, "Bytes per second that a download must move to outlive graceful_timeout."
    )

    # TLS
    certfile: Files = TLS.setting(
        (),
        "PEM file of a certificate with its chain. Repeatable: the client's server name (SNI) chooses, the first is "
        "for all other names.",
        check=check_told,
    )
    keyfile: Files = TLS.setting(
        (), "PEM file of its key, in the order of certfile. Without it, the key is in certfile.", check=check_told
    )
    ca_certs: File | None = TLS.setting(
        None,
        "PEM file of the authorities whose client certificates are accepted, and of the lists (CRL) of those they have "
        "revoked.",
        check=check_told,
    )
    cert_reqs: str = TLS.setting(
        "none", "Whether clients must show a certificate.", choices=("none", "optional", "required")
    )
    ciphers: str = TLS.setting(
        "", "Ciphers for TLS 1.2, in OpenSSL's form. Without it, OpenSSL's good ones.", metavar="LIST"
    )
    tls_min: str = TLS.setting("1.2", "Least version of TLS.", choices=("1.2", "1.3"))
    handshake_timeout: Seconds = TLS.setting(10.0, "For a TLS handshake, and for a PROXY header.", low=0.001)

    # Behind proxies
    forwarded_allow_ips: Strings = PROXIES.setting(
        ("127.0.0.1", "::1"),
        "Address or network of a proxy whose Forwarded and X-Forwarded-* headers are believed, or * for all. "
        "Repeatable, or separated by commas; empty: nobody. What others send of them is dropped. Peers on unix sockets "
        "are believed.",
        metavar="ADDRESS",
        check=check_networks,
        may_be_empty=True,
        familiar="FORWARDED_ALLOW_IPS",
    )
    trusted_proxy_headers: Strings = PROXIES.setting(
        BELIEVABLE,
        "Header that those proxies set. Repeatable, or separated by commas. What is left out comes from their clients, "
        "and is dropped. Name only what your proxy does set; empty: none is believed.",
        metavar="NAME",
        check=check_proxy_headers,
        may_be_empty=True,
    )
    proxy_protocol: bool = PROXIES.setting(
        False, "Connections begin with a PROXY header, version 1 or 2, that names the client."
    )
    proxy_allow_from: Strings = PROXIES.setting(
        ("127.0.0.1", "::1"),
        "Address or network of a proxy whose PROXY header is believed, or * for all; others are turned away. "
        "Repeatable, or separated by commas; empty: nobody. Peers on unix sockets are believed.",
        metavar="ADDRESS",
        check=check_networks,
        may_be_empty=True,
    )

    # Limits
    limit_request_line: Size = LIMITS.setting(8190, "Bytes of a request line (414).", low=64, high=MIB)
    limit_request_fields: int = LIMITS.setting(100, "Header fields of a request (431).", low=1, high=32768)
    limit_request_field_size: Size = LIMITS.setting(
        8190, "Bytes of one header field (431).", flags=("--limit-request-field_size",), low=64, high=MIB
    )
    limit_request_body: Size = LIMITS.setting(GIB, "Bytes of a request body (413). 0: unlimited.")

    # WSGI
    url_prefix: str = WSGI.setting(
        "",
        "Path under which the application lives, such as /app; becomes SCRIPT_NAME. Not percent-encoded.",
        metavar="/PATH",
        check=check_prefix,
    )
    url_scheme: str = WSGI.setting(
        "http", "Scheme the application sees: wsgi.url_scheme. With a certificate, https.", choices=("http", "https")
    )
    var: Pairs = WSGI.setting((), "Variable for the WSGI environ. Repeatable.", check=check_variable)
    env: Pairs = WSGI.setting(
        (),
        "Variable for the process environment, set before the application is imported. Repeatable.",
        flags=("-e",),
        check=check_told_pair,
        reach=Reach.COMMAND,
        instead=_BEFORE_IMPORT,
    )
    pass_authorization: bool = WSGI.setting(True, "Whether the application sees the Authorization header.")
    middleware: Strings = WSGI.setting(
        (),
        "Callable that takes the application and returns one. Repeatable; the first is the outermost.",
        metavar="MODULE:CALLABLE",
        check=check_reference,
    )
    chdir: str | None = WSGI.setting(
        None,
        "Directory to change to before the application is imported.",
        metavar="DIR",
        check=check_told,
        reach=Reach.COMMAND,
        instead=_BEFORE_IMPORT,
    )
    pythonpath: str = WSGI.setting(
        "",
        "Directories to import from first, separated by commas.",
        metavar="DIR,DIR",
        check=check_told,
        reach=Reach.COMMAND,
        instead=_BEFORE_IMPORT,
    )

    # Responses
    write_policy: str = RESPONSES.setting(
        "block",
        "What write() does when the client does not take the data now: block waits, raise raises "
        "BlockingIOError, buffer keeps all of it until the application returns. Per request: "
        "environ['trio_wsgi.write_policy'].",
        choices=("block", "raise", "buffer"),
    )
    write_buffer_size: Size = RESPONSES.setting(
        MIB, "Memory for one response under 'buffer'; the rest goes to a temporary file."
    )
    output_buffering: Size = RESPONSES.setting(
        0,
        "How far an iterating application may run ahead of a slow client. 0: a block leaves before the next.",
    )
    ident: str = RESPONSES.setting(
        "trio-wsgi",
        "The Server header, unless the application sets one. Empty: none.",
        check=check_header_value,
    )
    expose_tracebacks: bool = RESPONSES.setting(False, "Show the traceback in the 500 page. For development only.")

    optimize_send_headers: bool = RESPONSES.setting(
        False,
        "Close the application's iterable after its head where no body is sent (HEAD, 304), instead of running it "
        "to its end.",
    )

    # Files
    sendfile: bool = FILES.setting(
        True,
        "Files leave by sendfile(2). Switch it off where the file system breaks it; SENDFILE=0 does so, too.",
        familiar="SENDFILE",
    )
    allow_ranges: bool = FILES.setting(True, "Answer Range requests for files, unless the application did so itself.")
    max_ranges: int = FILES.setting(
        DEFAULT_MAX_RANGES, "Ranges in one request; with more of them the whole file is sent.", low=1, high=1000
    )
    file_validators: bool = FILES.setting(True, "Give files an ETag and Last-Modified where the application sets none.")

    static: Mounts = FILES.setting(
        (),
        "Directory to serve under a URL, before the application and without its threads. Repeatable; the longest "
        "URL wins. What is beyond ASCII in the URL is percent-encoded.",
        metavar="/URL=DIR",
        check=check_mount,
    )
    static_index: Strings = FILES.setting(
        ("index.html",), "File that answers for its directory. Repeatable.", metavar="NAME", check=check_told
    )
    static_expires: Seconds = FILES.setting(
        math.inf, "For how long files of mounts may be cached (Cache-Control). none: nothing is said of it."
    )
    static_listing: bool = FILES.setting(False, "Show the entries of a directory that has no index.")
    follow_symlinks: bool = FILES.setting(False, "Follow symlinks that lead out of a directory that is served.")
    accel: Mounts = FILES.setting(
        (),
        "Directory in which the application may name files to be sent. It names them in X-Accel-Redirect by this "
        "internal path, or in X-Sendfile by their own. Repeatable.",
        metavar="/PATH/=DIR",
        check=check_mount,
    )
    limit_rate: Size = FILES.setting(
        0,
        "Bytes per second of one response. 0: no limit. Per response: X-Accel-Limit-Rate, or "
        "environ['trio_wsgi.limit_rate'].",
    )
    limit_rate_after: Size = FILES.setting(0, "Bytes of a response that go out before limit_rate holds.")
    min_send_rate: Size = FILES.setting(
        0, "Bytes per second that a client must take on average over min_send_grace; a slower one is cut. 0: none."
    )
    min_send_grace: Seconds = FILES.setting(30.0, "Over how long min_send_rate is measured.", low=1, high=86400)

    # Requests
    request_buffering: bool = REQUESTS.setting(
        True,
        "Read the whole body before taking a thread, so that slow uploads hold none. Off: it is streamed.",
    )
    half_close: str = REQUESTS.setting(
        "abort",
        "A client that ends its sending side while the application works, or a disk makes it wait for 5 seconds: abort "
        "takes it for gone and cancels the request, serve answers it.",
        choices=("abort", "serve"),
    )
    body_buffer_size: Size = REQUESTS.setting(
        512 * KIB, "Memory for one request body; the rest goes to a temporary file."
    )
    temp_path: File | None = REQUESTS.setting(
        None, "Directory for temporary files. Without it, the system's.", metavar="DIR", check=check_told
    )
    temp_limit: Size = REQUESTS.setting(10 * GIB, "Bytes one request or response may put on disk. 0: unlimited.")

    # Logging
    access_logfile: File | None = LOGGING.setting(
        None,
        "File for the access log; '-' is stdout. Without it, none.",
        check=check_told,
        instead="give the logger trio_wsgi.access a handler, and the level INFO",
    )
    access_logformat: str = LOGGING.setting(
        DEFAULT_FORMAT,
        "Format of the access log: gunicorn's atoms, and outcome, reason, sent, promised, rate. Where it begins with "
        "{, what clients send is escaped as in JSON. Times begin with the first byte of a request, or, where it was "
        "asked ahead, when its turn has come.",
        metavar="FORMAT",
        check=compile_format,
        reach=Reach.SERVER,
    )
    error_logfile: File = LOGGING.setting(
        "-",
        "File for the error log; '-' is stderr.",
        flags=("--log-file",),
        check=check_told,
        instead="give the logger trio_wsgi.error a handler",
    )
    log_level: str = LOGGING.setting(
        "info",
        "Least severity in the error log.",
        choices=("debug", "info", "warning", "error", "critical"),
        instead="give the logger trio_wsgi.error a level",
    )

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            object.__setattr__(self, name, setting.accept(getattr(self, name), name))
        try:
            check_mounts_apart(self.static)
        except ValueError as error:
            raise ConfigError("static", str(error)) from None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """`bind`, parsed."""
        return tuple(map(parse_address, self.bind))

    @property
    def scheme(self) -> str:
        """What clients speak, to the application: https where there is a certificate, else what `url_scheme` says."""
        return "https" if self.certfile else self.url_scheme

    @property
    def wire_scheme(self) -> str:
        """What is spoken at our addresses: https where there is a certificate."""
        return "https" if self.certfile else "http"

    def check_reach(self, reach: Reach) -> None:
        """Refuse what would have no effect where no more of trio-wsgi is used than this.

        Raises:
            ConfigError: names the setting, and what to do instead.
        """
        where = "a server in a program of your own" if reach is Reach.SERVER else "an application that is handed over"
        for name, setting in SETTINGS.items():
            value = getattr(self, name)
            if setting.reach > reach and setting.says(value):
                raise ConfigError(name, f"{setting.show(value)} has no effect on {where}", setting.instead)

    def for_server(self) -> Config:
        """What is left for a server to do in a process that has seen to the rest: that is back at its default."""
        done = {name: each.default for name, each in SETTINGS.items() if each.reach > Reach.SERVER}
        return self.replace(**done, middleware=())

    def placed(self) -> Config:
        """A copy whose paths count from the directory of now, where they are opened when that may be another."""
        return self.replace(**{name: each.place(getattr(self, name)) for name, each in SETTINGS.items()})

    def replace(self, **changes: Any) -> Config:
        """A copy with other values.

        Raises:
            ConfigError: as `make_config`.
        """
        return dataclasses.replace(self, **SETTINGS.accept(changes))


SETTINGS = read_settings(Config)


def make_config(values: Mapping[str, Any]) -> Config:
    """A Config from a mapping whose keys nobody has checked.

    Args:
        values: names, with dashes or underscores, and Python or TOML values.

    Raises:
        ConfigError: no such setting (with the nearest name), or a value that cannot be used.
    """
    return Config(**SETTINGS.accept(values))
