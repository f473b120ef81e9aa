"""What other servers call things: their flags and settings that we do not have, each with what to do instead.

Laws:

* A name stands here only if we have no such flag; what we call the same needs no hint.
* Names are looked up as people write them: `--worker-class`, `worker_class` and `-k` are one.
* Every flag of ours that a hint names exists (a test holds it).
"""

from __future__ import annotations

_PLACEMENT = "it stays in the foreground, where systemd, a container or a process manager looks after it"
_LOGGING = "the application may set logging up itself: the loggers are trio_wsgi.error and trio_wsgi.access"
_STRICT = "what breaks HTTP's grammar is refused: it is how requests are smuggled"
_HTTP = "this server speaks HTTP/1.1 alone; let a proxy in front speak the rest"
_WSGI = "applications are WSGI alone"
_STATS = "count in the access log, whose lines tell outcome, bytes and seconds"
_SOCKET = "signals do that"
_APP = "write the application as module:attribute"
_NAME = "give the service its name where it is started"
_IMPORTED = "write it into the module of the application, which each worker imports itself"
_EXIT = "register it with atexit, in the module of the application"
_STARTER = "let whoever starts the server do it, such as systemd (ExecStartPre=, ExecStopPost=)"
_OUTSIDE = "let systemd or a container do it"
_DIRTY = "long work belongs into a queue, or into a request that nobody's deadline ends"
_GONE = "leave it out: a client that goes is a line, and no traceback"

# Names as flags; several that mean the same stand together, separated by spaces.
_HINTS = {
    # gunicorn
    "-k --worker-class --gevent --async --ugreen --asyncio": (
        "there is one kind of worker, with threads; see --workers and --threads"
    ),
    "--worker-connections": "write --connection-limit",
    "--preload --preload-app": "every worker imports the application itself, so that a reload brings new code",
    "-D -d --daemon --daemonize --background": _PLACEMENT,
    "-n --name --proc-name --default-proc-name --process-name --title": _NAME,
    "--wsgi-app": _APP,
    "--pidfile --pidfile2 --safe-pidfile --safe-pidfile2": "write --pid",
    "--accesslog": "write --access-logfile",
    "--access-log-format --log-format --logformat": "write --access-logformat",
    "--errorlog": "write --error-logfile",
    "--loglevel": "write --log-level",
    "--raw-env": "write --env KEY=VALUE; in TOML, env is a table",
    "--raw-paste-global-conf": "write --paste-global KEY=VALUE",
    "--tmp-upload-dir": "write --temp-path",
    "--proxy-allow-ips": "write --proxy-allow-from",
    "--ssl-context": "see --tls-min, --ciphers and --cert-reqs",
    "--on-starting --on-exit --on-dirty-starting": _STARTER,
    "--when-ready": "systemd is told, where the service is Type=notify",
    "--on-reload --nworkers-changed --worker-int --pre-exec": "there is no hook for it",
    "--worker-abort": "leave it out: the stacks of a worker that hangs are in the error log",
    "--pre-fork --post-fork --post-worker-init": _IMPORTED,
    "--worker-exit --child-exit": _EXIT,
    "--pre-request --post-request": "write it as middleware, and name that with --middleware",
    "--worker-tmp-dir": "leave it out: signs of life need no files here",
    "-R --enable-stdio-inheritance --capture-output": "leave it out: what the application prints is passed on",
    "--initgroups": "leave it out: --user brings the groups of that user",
    "--spew": "the signal PWR writes where each thread is",
    "--logger-class --log-config --log-config-json --logconfig --logconfig-dict --logconfig-json --log-config-file "
    "--logging": _LOGGING,
    "--log-syslog --log-syslog-to --log-syslog-prefix --log-syslog-facility --syslog --syslog-addr --syslog-prefix "
    "--syslog-facility --logger --req-logger --logger-req --log-socket": (
        "let journald read our output, or pipe it to logger(1)"
    ),
    "--disable-redirect-access-to-syslog": "leave it out: nothing goes to syslog",
    "--statsd-host --statsd-prefix --dogstatsd-tags --enable-backlog-metric --metrics --stats --stats-server "
    "--stats-http": _STATS,
    "--ssl-version --ssl-protocols": "write --tls-min",
    "--do-handshake-on-connect --suppress-ragged-eofs": "leave it out: a thread is taken once the request is there",
    "--permit-obsolete-folding --permit-unconventional-http-version --strip-header-spaces": _STRICT,
    "--permit-unconventional-http-method --casefold-http-method": (
        "leave it out: every token is a method, and handed on as it was sent"
    ),
    "--forwarder-headers --header-map": "leave it out: header names with underscores are dropped",
    "--secure-scheme-headers": "see --forwarded-allow-ips and --trusted-proxy-headers",
    "--reload-engine": "leave it out: watchfiles is used where it is installed",
    "--root-path": "write --url-prefix",
    "--http-parser": "write --http",
    "--protocol --uwsgi-allow-from --uwsgi-allow-ips --uwsgi-socket --fastcgi-socket --scgi-socket --ajp": _HTTP,
    "--http-protocols --http2-cleartext --http2-initial-window-size --http2-max-concurrent-streams "
    "--http2-max-frame-size --http2-max-header-list-size --http2 --http3 --quic-bind": _HTTP,
    "--asgi-loop --asgi-lifespan --asgi-disconnect-grace-period --websocket-max-message-size --lifespan --loop "
    "--websocket-ping-interval --interface --ws --websockets": _WSGI,
    "--control-socket --control-socket-mode --no-control-socket --control-socket-disable --master-fifo": _SOCKET,
    "--dirty-app --dirty-apps --dirty-workers --dirty-threads --dirty-timeout --dirty-graceful-timeout "
    "--dirty-post-fork --dirty-worker-init --dirty-worker-exit": _DIRTY,
    # waitress
    "--listen": "write --bind ADDRESS; for a number of connections, --backlog",  # the latter is uWSGI's
    "--host --port": "write --bind HOST:PORT",
    "--unix-socket --uds --fd": "write --bind unix:PATH, or --bind fd://N",
    "--call --factory --app-factory": "write module:factory()",
    "--outbuf-overflow --send-bytes": "leave it out: the kernel's buffer is ours; see also --write-buffer-size",
    "--outbuf-high-watermark": "see --output-buffering",
    "--inbuf-overflow": "write --body-buffer-size",
    "--recv-bytes --asyncore-loop-timeout --asyncore-use-poll --no-asyncore-use-poll --cleanup-interval": (
        "leave it out: there is nothing to tune there"
    ),
    "--channel-request-lookahead": "leave it out: a client that goes is noticed while its request is processed",
    "--channel-timeout --timeout-keep-alive --http-keepalive --keepalive --keepalive-timeout": "write --keep-alive",
    "--max-request-header-size": (
        "see --limit-request-field-size, which is for each field, --limit-request-fields and --limit-request-line"
    ),
    "--max-request-body-size --limit-max-request-size": "write --limit-request-body",
    "--trusted-proxy --trusted-proxy-count --clear-untrusted-proxy-headers --no-clear-untrusted-proxy-headers "
    "--log-untrusted-proxy-headers --no-log-untrusted-proxy-headers --proxy-headers --forwarded-allow-from": (
        "see --forwarded-allow-ips"
    ),
    "--log-socket-errors --no-log-socket-errors --ignore-sigpipe --ignore-write-errors --write-errors-tolerance "
    "--write-errors-exception-only --disable-write-exception": _GONE,
    "--server-name": "leave it out: the Host header tells it",
    "--ipv4 --ipv6 --no-ipv4 --no-ipv6": "write --bind HOST:PORT, or --bind [IPV6]:PORT",
    "--sockets": "write --bind fd://N",
    # uWSGI
    "--processes": "write --workers",
    "-M -i -T --master --single-interpreter --enable-threads --lazy-apps --need-app --vacuum --die-on-term "
    "--thunder-lock --lazy --strict": ("leave it out: it is so here"),
    "-s --http-socket --socket": "write --bind",
    "--https --https-socket": "write --bind, --certfile and --keyfile",
    "--abstract-socket": "write --bind unix:@NAME",
    "--chown-socket": "write --unix-socket-owner",
    "-C --chmod-socket": "write --unix-socket-perms",
    "--wsgi-file --module --callable --wsgi --target --file": _APP,
    "--mount --manage-script-name": "write --url-prefix; several applications are put together by middleware",
    "--harakiri": "write --app-timeout; --timeout is for workers that hang",
    "-z --socket-timeout --http-timeout": "see --header-timeout, --body-timeout and --write-timeout",
    "--harakiri-verbose": "leave it out: the stack of a thread that does not end is in the error log",
    "--offload-threads": "leave it out: no file that is on its way holds a thread",
    "--static-map --static-path-mount --static-path-route --static-path": (
        "write --static /URL=DIR; all below the URL is the mount's then"
    ),
    "--static-map2": "write --static /URL=DIR/URL",
    "--check-static": "wrap the application in a middleware such as WhiteNoise; a mount takes from it all below a URL",
    "--static-gzip --static-gzip-all --static-gzip-dir --static-gzip-prefix --static-gzip-ext --static-gzip-suffix": (
        "leave it out: a file's sibling, such as page.html.gz, is sent to whoever takes it"
    ),
    "--static-path-expires": "write --static-expires",
    "--file-serve-mode": "leave it out: files leave from here; see also --accel",
    "--post-buffering": "see --request-buffering",
    "--limit-post": "write --limit-request-body",
    "--logto --logto2": "write --error-logfile, and --access-logfile",
    "-L --disable-logging": "leave it out: without --access-logfile there is no line for each request",
    "--touch-logreopen --touch-logrotate --log-reopen": "send the signal USR1",
    "--log-maxsize --log-truncate": "let logrotate do it, and send the signal USR1",
    "--log-x-forwarded-for": "see --forwarded-allow-ips",
    "--cheaper --cheaper-initial --cheaper-step --cheaper-algo --cheaper-overload": (
        "see --workers; the signals TTIN and TTOU change their number"
    ),
    "--mules --mule --spooler": "long work belongs into a queue with workers of its own",
    "--cron": "let systemd, or cron itself, start it",
    "--attach-daemon --smart-attach-daemon": "let systemd start it",
    "--emperor": "let systemd start a server for each application",
    "--buffer-size": "see --limit-request-line and --limit-request-field-size",
    "-H --virtualenv --home --venv --pyhome": "start the trio-wsgi that is installed in the environment",
    "--pp --python-path": "write --pythonpath",
    "--chdir2": "write --chdir",
    "--py-autoreload --py-auto-reload --python-autoreload --python-auto-reload --touch-reload --touch-workers-reload "
    "--touch-chain-reload": "write --reload, or send HUP",
    "--reload-on-rss --evil-reload-on-rss --workers-max-rss": "write --max-rss with the unit: 512 there is 512m here",
    "--reload-mercy --worker-reload-mercy": "write --graceful-timeout",
    "--auto-procname --procname --procname-prefix --procname-prefix-spaced --procname-append --procname-master": _NAME,
    "--exec-pre-app --exec-as-root --exec-as-user --exec-asap --exec-post-app": _STARTER,
    "--import --shared-import --eval": _IMPORTED,
    "--log-master --threaded-logger": "leave it out: no process waits for its log",
    "--limit-as": "see --max-rss; a limit of the system is set by systemd or a container",
    "--chroot --max-fd --prio --cgroup": _OUTSIDE,
    "--post-buffering-bufsize": "write --body-buffer-size",
    "--enable-proxy-protocol": "write --proxy-protocol",
    "--add-header --del-header --route": "write it as middleware, and name that with --middleware",
    "-l --listen-queue": "write --backlog",
    "--uid": "write --user",
    "--gid": "write --group",
    "--plugin --plugins": "leave it out: there are none",
    "--ini --yaml --yml --xml --json": "write settings in TOML and name the file with --config",
    # uvicorn, hypercorn, granian, Flask
    "--access-log": "write --access-logfile -",
    "--error-log": "write --error-logfile FILE",
    "--insecure-bind": "write --bind, for TLS; plain HTTP is a server of its own",
    "--keyfile-password": "it takes no password: let the key be in plain form, and only root read it",
    "--read-timeout": "see --header-timeout and --body-timeout",
    "--env-file": "write --env KEY=VALUE",
    "--blocking-threads --runtime-threads --runtime-blocking-threads --runtime-mode --task-impl": "see --threads",
    "--backpressure": "see --queue-size and --connection-limit",
    "--limit-concurrency": "see --connection-limit and --queue-size",
    "--limit-max-requests --workers-lifetime --max-worker-lifetime": "write --max-requests",
    "--ssl-certfile --ssl-certificate --cert": "write --certfile",
    "--ssl-keyfile --key": "write --keyfile",
    "--ssl-ca-certs --ssl-ca": "write --ca-certs",
    "--ssl-ciphers": "write --ciphers",
    "--ssl-client-verify --verify-mode": "write --cert-reqs required",
    "--timeout-graceful-shutdown --workers-kill-timeout --shutdown-timeout": "write --graceful-timeout",
    "--reload-dir --reload-paths --reload-include --reload-extra-files --extra-files": "write --reload-extra-file GLOB",
    "--app-dir --working-dir": "write --chdir, or --pythonpath",
    "--debug --debugger": "see --reload and --expose-tracebacks",
}

_BY_NAME = {flag.lstrip("-"): hint for flags, hint in _HINTS.items() for flag in flags.split()}


def find_hint(name: str) -> str:
    """What to do instead of a flag or setting of another server; empty when nobody calls anything so.

    Args:
        name: such as ``--worker-class``, ``-k`` or ``worker_class``.
    """
    return _BY_NAME.get(name.lstrip("-").replace("_", "-"), "")
